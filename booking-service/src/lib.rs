//! booking.
pub mod domain;
