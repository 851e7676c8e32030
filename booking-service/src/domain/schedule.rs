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
    check_sound(event, starts_anew, now, |_| true, violations);
}

/// Like [`check`], for an event of which some fields are wrong by themselves already: a rule that looks at a field that
/// is not `sound` is left out.
pub fn check_sound(
    event: &Event,
    starts_anew: bool,
    now: OffsetDateTime,
    sound: impl Fn(&str) -> bool,
    violations: &mut Violations,
) {
    // What each rule looks at; it complains about the first.
    let (start, end) = ("event.start_time", "event.end_time");
    let (opens, closes) = ("event.registration_open_time", "event.registration_close_time");
    let (party, capacity) = ("event.max_seats_per_registration", "event.capacity");
    let mut rule = |fields: &[&'static str], broken: bool, description: &str| {
        if let Some(field) = fields.first()
            && broken
            && fields.iter().all(|field| sound(field))
        {
            violations.add(*field, description);
        }
    };

    rule(&[start], starts_anew && event.start_time <= now, "must be in the future");
    rule(&[end, start], event.end_time <= event.start_time, "must be after start_time");
    rule(
        &[closes, end],
        event.registration_close_time.is_some_and(|closes| closes > event.end_time),
        "must not be after end_time",
    );
    let opens_late = event.registration_open_time.is_some_and(|opens| opens >= event.closes());
    let before_close = "must be before registration_close_time, which is start_time unless set";
    match event.registration_close_time {
        Some(_) => rule(&[opens, closes], opens_late, before_close),
        None => rule(&[opens, closes, start], opens_late, before_close),
    }
    rule(&[party, capacity], event.max_seats_per_registration > event.capacity, "must not exceed capacity");
}
