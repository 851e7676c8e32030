//! Events that somebody else changed while a batch had only read them, a moment ago: most likely another replica is at
//! work on them, too, and will be again. There, who locks first does not work in vain.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::bounded::remember;

/// For how long it is remembered: what each runner does in vain once a second costs nothing.
const MEMORY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Contended(HashMap<Uuid, Instant>);

impl Contended {
    /// One of these was changed by somebody else, or is locked by them.
    pub(super) fn learn(&mut self, events: impl Iterator<Item = Uuid>, now: Instant) {
        for event_id in events {
            remember(&mut self.0, event_id, now + MEMORY);
        }
    }

    /// Whether that was a moment ago.
    pub(super) fn contains(&mut self, event_id: Uuid, now: Instant) -> bool {
        let is_recent = self.0.get(&event_id).map(|&until| now < until);
        if is_recent == Some(false) {
            self.0.remove(&event_id);
        }
        is_recent == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::bounded::MOST;
    use super::*;

    #[test]
    fn an_event_is_contended_for_a_second() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut contended = Contended::default();
        let now = Instant::now();
        assert!(!contended.contains(one, now));
        contended.learn([one].into_iter(), now);
        assert!(contended.contains(one, now) && !contended.contains(other, now));
        assert!(!contended.contains(one, now + MEMORY));
        assert!(contended.0.is_empty());
    }

    #[test]
    fn no_more_events_are_remembered_than_there_is_room_for() {
        let mut contended = Contended::default();
        let now = Instant::now();
        for n in 0..25_000 {
            contended.learn([Uuid::from_u128(n)].into_iter(), now);
            assert!(contended.0.len() <= MOST && contended.contains(Uuid::from_u128(n), now));
        }
    }
}
