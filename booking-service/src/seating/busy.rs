//! Events that somebody else has locked for longer than a batch should take.
//!
//! Their commands must not hold up those for other events, so their locks are taken if they are free and not waited for.
//! But where several replicas rush one event its lock is hardly ever free, and whoever only looks in now and then would
//! starve beside those who queue for it. So it is waited for again a few times, less often each time; who then still has
//! the lock is no replica at work but a session that is stuck.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// After how long an event is waited for again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How often it is waited for again.
const WAITS: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct BusyEvents(HashMap<Uuid, Busy>);

#[derive(Clone, Copy, Debug)]
struct Busy {
    timeouts: u32,
    wait_again: Instant,
}

impl BusyEvents {
    pub(super) fn contains(&self, event_id: Uuid) -> bool {
        self.0.contains_key(&event_id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the event's lock may be waited for now.
    pub(super) fn may_wait_for(&self, event_id: Uuid, now: Instant) -> bool {
        self.0.get(&event_id).is_none_or(|busy| busy.timeouts <= WAITS && now >= busy.wait_again)
    }

    /// One of these was waited for in vain.
    pub(super) fn timed_out(&mut self, events: &[Uuid], now: Instant) {
        for event_id in events {
            let busy = self.0.entry(*event_id).or_insert(Busy { timeouts: 0, wait_again: now });
            busy.wait_again = now + FIRST_PAUSE * (1 << busy.timeouts.min(WAITS));
            busy.timeouts = busy.timeouts.saturating_add(1);
        }
    }

    /// Forgets events that nobody asks for any more.
    pub(super) fn retain(&mut self, asked_for: impl Fn(Uuid) -> bool) {
        self.0.retain(|event_id, _| asked_for(*event_id));
    }

    /// The lock was granted.
    pub(super) fn granted(&mut self, event_id: Uuid) {
        self.0.remove(&event_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_event_is_waited_for_less_often_each_time_and_then_no_more() {
        let (event, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut busy = BusyEvents::default();
        busy.timed_out(&[event], at(0));
        assert!(busy.may_wait_for(other, at(0)));
        assert!(!busy.may_wait_for(event, at(249)) && busy.may_wait_for(event, at(250)));
        busy.timed_out(&[event], at(250));
        assert!(!busy.may_wait_for(event, at(749)) && busy.may_wait_for(event, at(750)));
        busy.timed_out(&[event], at(750));
        assert!(!busy.may_wait_for(event, at(1_749)) && busy.may_wait_for(event, at(1_750)));
        busy.timed_out(&[event], at(1_750));
        assert!(!busy.may_wait_for(event, at(1_000_000)));
        busy.granted(event);
        assert!(busy.may_wait_for(event, at(1_000_000)) && busy.is_empty());
    }
}
