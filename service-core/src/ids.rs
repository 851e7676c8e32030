//! Identifiers as a parameter.

use std::sync::{Arc, Mutex, PoisonError};

use uuid::{ContextV7, Timestamp, Uuid};

use crate::clock::Clock;

/// Makes identifiers. Whatever creates a row takes one of these.
pub trait IdSource: Send + Sync + 'static {
    /// A new identifier, never given before.
    fn new_id(&self) -> Uuid;
}

/// UUIDs of version 7: they begin with the time in milliseconds, so that new rows are neighbours in an index, and end
/// in randomness. Those of one source are strictly increasing, also within a millisecond and when the clock steps back.
pub struct UuidV7 {
    clock: Arc<dyn Clock>,
    context: Mutex<ContextV7>,
}

impl UuidV7 {
    /// A source that takes its time from `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, context: Mutex::new(ContextV7::new()) }
    }
}

impl std::fmt::Debug for UuidV7 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UuidV7")
    }
}

impl IdSource for UuidV7 {
    fn new_id(&self) -> Uuid {
        let now = self.clock.now();
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        Uuid::new_v7(Timestamp::from_unix(&*context, seconds, now.nanosecond()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::macros::datetime;

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn ids_increase_while_the_clock_stands_still_or_steps_back() {
        let clock = Arc::new(ManualClock::new(datetime!(2026-01-01 12:00 UTC)));
        let ids = UuidV7::new(clock.clone());
        let mut made: Vec<Uuid> = (0..2_000).map(|_| ids.new_id()).collect();
        clock.set(datetime!(2026-01-01 11:00 UTC));
        made.extend((0..2_000).map(|_| ids.new_id()));
        clock.advance(Duration::from_secs(7_200));
        made.push(ids.new_id());
        assert!(made.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn an_id_begins_with_its_time() {
        let clock = Arc::new(ManualClock::new(datetime!(2026-01-01 12:00 UTC)));
        let id = UuidV7::new(clock).new_id();
        assert_eq!(id.get_version_num(), 7);
        let expected = datetime!(2026-01-01 12:00 UTC).unix_timestamp();
        assert_eq!(id.get_timestamp().map(|t| t.to_unix().0), u64::try_from(expected).ok());
    }
}
