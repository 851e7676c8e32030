//! An event that somebody else has locked for longer than a batch should take.
//!
//! Its commands must not hold up those for other events, so its lock is taken if it is free and not waited for.
//! But where several replicas rush one event its lock is hardly ever free, and whoever only looks in now and then would
//! starve beside those who queue for it. So it is waited for again, less often each time: who has the lock may be a session
//! that is stuck, and may be replicas that hand it to one another.

use std::time::Duration;

use tokio::time::Instant;

/// After how long an event is waited for again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How often that pause is doubled: up to 4 s.
const DOUBLINGS: u32 = 4;
/// How often it is looked at in between.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug)]
pub(super) struct Busy {
    timeouts: u32,
    wait_again: Instant,
    look_again: Instant,
}

impl Busy {
    /// It was waited for in vain, perhaps not for the first time.
    pub(super) fn timed_out(before: Option<Self>, now: Instant) -> Self {
        let timeouts = before.map_or(0, |busy| busy.timeouts);
        let wait_again = now + FIRST_PAUSE * (1 << timeouts.min(DOUBLINGS));
        Self { timeouts: timeouts.saturating_add(1), wait_again, look_again: now }
    }

    /// It was looked at in vain.
    pub(super) fn looked(&mut self, now: Instant) {
        self.look_again = now + LOOK_PAUSE;
    }

    /// Whether its lock may be waited for now.
    pub(super) fn may_wait(&self, now: Instant) -> bool {
        now >= self.wait_again
    }

    /// Since when its lock may be waited for.
    pub(super) fn wait_due(&self) -> Instant {
        self.wait_again
    }

    /// Whether it is time to look whether its lock is free.
    pub(super) fn may_look(&self, now: Instant) -> bool {
        now >= self.look_again
    }

    /// When it is looked at or waited for next, if not now.
    pub(super) fn next(&self, now: Instant) -> Instant {
        if self.wait_again > now { self.look_again.min(self.wait_again) } else { self.look_again }
    }

    /// Whether it was last found busy longer ago than that.
    pub(super) fn was_before(&self, now: Instant, memory: Duration) -> bool {
        now >= self.look_again + memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_event_is_waited_for_less_often_each_time_and_every_4_seconds_in_the_end() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let busy = Busy::timed_out(None, at(0));
        assert!(!busy.may_wait(at(249)) && busy.may_wait(at(250)));
        let busy = Busy::timed_out(Some(busy), at(250));
        assert!(!busy.may_wait(at(749)) && busy.may_wait(at(750)));
        let busy = Busy::timed_out(Some(busy), at(750));
        assert!(!busy.may_wait(at(1_749)) && busy.may_wait(at(1_750)));
        let mut busy = Busy::timed_out(Some(busy), at(1_750));
        assert!(!busy.may_wait(at(3_749)) && busy.may_wait(at(3_750)));
        for _ in 0..100 {
            busy = Busy::timed_out(Some(busy), at(10_000));
            assert!(!busy.may_wait(at(13_999)) && busy.may_wait(at(14_000)));
        }
    }

    #[test]
    fn a_busy_event_is_looked_at_at_once_and_then_every_20_milliseconds() {
        let now = Instant::now();
        let mut busy = Busy::timed_out(None, now);
        assert!(busy.may_look(now));
        busy.looked(now);
        assert!(!busy.may_look(now) && busy.next(now) == now + LOOK_PAUSE && busy.may_look(busy.next(now)));
    }
}
