//! The change log as it grows: one tailer per replica, however many listen.

mod tailer;
mod watchers;

pub use tailer::{Feed, Horizon};
pub use watchers::{Seen, Watched};
