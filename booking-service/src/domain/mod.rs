//! The rules: pure functions over plain values. No async, no clock, no input or output; what the database knows comes in
//! as [`facts::Facts`], what has to be written goes out as [`effects::Effects`].

pub mod authority;
pub mod change;
pub mod command;
pub mod decide;
pub mod effects;
pub mod event;
pub mod facts;
pub mod queue;
pub mod refusal;
pub mod registration;
pub mod schedule;
pub mod stats;
pub mod verify;
pub mod waitlist;
mod word;
