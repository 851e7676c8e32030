//! What an event's times and sizes have to satisfy among each other.

use service_core::validation::Violations;
use time::OffsetDateTime;

use super::event::Event;

/// The largest party that any event may allow.
pub const LARGEST_PARTY: i32 = 100;
/// The largest capacity.
pub const LARGEST_CAPACITY: i32 = 1_000_000;

/// Records what is wrong with the event's times and sizes.
///
/// `starts_anew` asks that the start lies in the future: for a new event, and whenever the start changes.
pub fn check(event: &Event, starts_anew: bool, now: OffsetDateTime, violations: &mut Violations) {
    if starts_anew && event.start_time <= now {
        violations.add("event.start_time", "must be in the future");
    }
    if event.end_time <= event.start_time {
        violations.add("event.end_time", "must be after start_time");
    }
    if event.registration_close_time.is_some_and(|closes| closes > event.end_time) {
        violations.add("event.registration_close_time", "must not be after end_time");
    }
    if event.registration_open_time.is_some_and(|opens| opens >= event.closes()) {
        violations.add(
            "event.registration_open_time",
            "must be before registration_close_time, which is start_time unless set",
        );
    }
    if event.max_seats_per_registration > event.capacity {
        violations.add("event.max_seats_per_registration", "must not exceed capacity");
    }
}
