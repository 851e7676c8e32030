//! How often each of many may do something.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// How often those are forgotten who have all of their pace again.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Counts each one apart: some times at once, and then again and again after a while.
#[derive(Debug)]
pub struct Pace<Who: Clone + Eq + Hash> {
    limiter: DefaultKeyedRateLimiter<Who>,
    forgot: Mutex<Instant>,
}

impl<Who: Clone + Eq + Hash> Pace<Who> {
    /// So many times at once, and so many a second from then on.
    #[must_use]
    pub fn new(at_once: NonZeroU32, per_second: NonZeroU32) -> Self {
        let limiter = RateLimiter::keyed(Quota::per_second(per_second).allow_burst(at_once));
        Self { limiter, forgot: Mutex::new(Instant::now()) }
    }

    /// Counts one time.
    ///
    /// # Errors
    /// After which time it may be, if not now.
    pub fn take(&self, who: &Who) -> Result<(), Duration> {
        self.forget_the_quiet();
        self.limiter.check_key(who).map_err(|refused| refused.wait_time_from(DefaultClock::default().now()))
    }

    fn forget_the_quiet(&self) {
        // Whoever finds it locked leaves it to the one who has it.
        let Ok(mut forgot) = self.forgot.try_lock() else { return };
        if forgot.elapsed() >= FORGET_EVERY {
            *forgot = Instant::now();
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_one_has_some_times_at_once_and_then_a_second_to_wait() {
        let of = |n| NonZeroU32::new(n).unwrap();
        let pace = Pace::new(of(3), of(1));
        for _ in 0..3 {
            assert_eq!(pace.take(&'a'), Ok(()));
        }
        let wait = pace.take(&'a').unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        assert_eq!(pace.take(&'b'), Ok(()));
    }
}
