//! booking.
pub mod domain;
pub mod store;
