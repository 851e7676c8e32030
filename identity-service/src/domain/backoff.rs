//! How failed sign-ins slow the next ones down.

use std::time::Duration;

use time::OffsetDateTime;

use super::{Error, Result};

/// What is remembered about the failures of one account, or of one client address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many there were in a row.
    pub count: u32,
    /// When the newest one happened.
    pub last: Option<OffsetDateTime>,
    /// Until when no attempt is judged.
    pub blocked_until: Option<OffsetDateTime>,
}

impl Failures {
    /// How long attempts are still refused unseen; `None` if they are judged.
    #[must_use]
    pub fn blocked_for(&self, now: OffsetDateTime) -> Option<Duration> {
        Duration::try_from(self.blocked_until? - now).ok().filter(|wait| !wait.is_zero())
    }

    /// Refuses an attempt that is not to be judged, or not to be answered.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] while blocked.
    pub fn must_not_block(&self, now: OffsetDateTime) -> Result<()> {
        match self.blocked_for(now) {
            Some(retry_after) => Err(Error::TooManyAttempts { retry_after }),
            None => Ok(()),
        }
    }
}

/// The rule: some failures are free, then each one blocks for twice as long as the one before, up to a limit.
/// Time heals: one failure after the other is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// How many failures in a row are answered before the first pause. At least 1.
    pub free: u32,
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// For every whole such time since the newest failure, one failure is forgiven. Not zero. Longer than the
    /// longest pause where somebody who tries again after each pause is to stay at the longest one.
    pub forgive: Duration,
}

impl Backoff {
    /// Counts one more failure at `now`. The caller has seen that the key is not blocked.
    #[must_use]
    pub fn count(&self, before: Failures, now: OffsetDateTime) -> Failures {
        let quiet = before.last.and_then(|last| Duration::try_from(now - last).ok()).unwrap_or_default();
        let forgiven = quiet.as_millis().checked_div(self.forgive.as_millis()).unwrap_or_default();
        let remembered = before.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        let count = remembered.saturating_add(1);
        Failures { count, last: Some(now), blocked_until: self.pause(count).map(|pause| now + pause) }
    }

    /// The pause after the `count`th failure in a row.
    fn pause(&self, count: u32) -> Option<Duration> {
        let doublings = count.checked_sub(self.free)?;
        let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
        Some(self.first.saturating_mul(factor).min(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2026-01-01 12:00 UTC);
    const RULE: Backoff = Backoff {
        free: 3,
        first: Duration::from_secs(1),
        longest: Duration::from_secs(60),
        forgive: Duration::from_secs(600),
    };

    #[test]
    fn the_pause_doubles_after_the_free_failures_up_to_the_limit() {
        let mut now = START;
        let mut failures = Failures::default();
        let mut pauses = Vec::new();
        for _ in 0..11 {
            failures = RULE.count(failures, now);
            let pause = failures.blocked_for(now).unwrap_or_default();
            pauses.push(pause.as_secs());
            now += pause;
            assert_eq!(failures.blocked_for(now), None, "judged again when the pause is over");
        }
        assert_eq!(pauses, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn failures_are_forgiven_one_by_one() {
        let many = Failures { count: 30, last: Some(START), blocked_until: None };
        for (quiet_seconds, count) in
            [(0, 31), (599, 31), (600, 30), (1200, 29), (18_000, 1), (1_000_000_000, 1)]
        {
            assert_eq!(RULE.count(many, START + Duration::from_secs(quiet_seconds)).count, count);
        }
        assert_eq!(RULE.count(many, START - Duration::from_secs(600)).count, 31, "a clock that steps back");
    }

    proptest! {
        #[test]
        fn no_count_overflows_and_no_pause_is_longer_than_the_limit(count in any::<u32>()) {
            let before = Failures { count, last: Some(START), blocked_until: None };
            let after = RULE.count(before, START);
            prop_assert!(after.count >= count);
            prop_assert!(after.blocked_for(START).unwrap_or_default() <= RULE.longest);
        }
    }
}
