//! Events whose last batch had nothing to write: most likely they are sold out, and what comes next is refused as well.
//!
//! That is only a guess, and costs one statement where it is wrong.

use std::collections::HashSet;

use uuid::Uuid;

/// How many are remembered. Beyond that all are forgotten: they are soon learned again.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct SoldOut(HashSet<Uuid>);

impl SoldOut {
    /// What became of a batch for these events.
    pub(super) fn learn(&mut self, events: impl Iterator<Item = Uuid>, wrote: bool) {
        for event_id in events {
            if wrote {
                self.0.remove(&event_id);
            } else if self.0.len() < MOST || self.0.contains(&event_id) {
                self.0.insert(event_id);
            } else {
                self.0.clear();
            }
        }
    }

    /// Whether this event's last batch had nothing to write.
    pub(super) fn contains(&self, event_id: Uuid) -> bool {
        self.0.contains(&event_id)
    }
}
