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
            } else {
                if self.0.len() >= MOST {
                    self.0.clear();
                }
                self.0.insert(event_id);
            }
        }
    }

    /// Whether this event's last batch had nothing to write.
    pub(super) fn contains(&self, event_id: Uuid) -> bool {
        self.0.contains(&event_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_sold_out_until_something_is_written_for_it() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut sold_out = SoldOut::default();
        assert!(!sold_out.contains(one));
        sold_out.learn([one, other].into_iter(), false);
        sold_out.learn([one].into_iter(), true);
        assert!(!sold_out.contains(one) && sold_out.contains(other));
    }

    #[test]
    fn no_more_events_are_remembered_than_there_is_room_for() {
        let mut sold_out = SoldOut::default();
        for n in 0..25_000 {
            sold_out.learn([Uuid::from_u128(n)].into_iter(), false);
            assert!(sold_out.0.len() <= MOST && sold_out.contains(Uuid::from_u128(n)));
        }
    }
}
