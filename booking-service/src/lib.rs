//! booking.
pub mod domain;
pub mod grpc;
pub mod seating;
pub mod simulate;
pub mod store;
