//! The change log as it grows: one tailer per replica, however many listen.

mod ends;
mod tailer;
mod watchers;

pub(crate) use ends::Ends;
pub use tailer::{Feed, Horizon};
pub use watchers::{Seen, Watched};
