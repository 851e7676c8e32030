//! The invariant, proved from the rows.

use super::event::{Event, QueueDiscipline};

/// Sums and counts over the rows of one event, read in one snapshot together with the event itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Seats of HELD registrations.
    pub seats_held: i64,
    /// Seats of CONFIRMED registrations.
    pub seats_confirmed: i64,
    /// Seats of CHECKED_IN registrations.
    pub seats_checked_in: i64,
    /// Seats of OFFERED entries.
    pub seats_offered: i64,
    /// WAITING entries.
    pub waiting_entries: i64,
    /// Users with more than one active registration.
    pub users_registered_twice: i64,
    /// Users with more than one active queue entry.
    pub users_queued_twice: i64,
    /// Users with an active registration and an active queue entry.
    pub users_registered_and_queued: i64,
    /// The highest position given.
    pub last_position: i64,
    /// Seats of the first WAITING entry, if any.
    pub head_seats: Option<i64>,
    /// The smallest party that waits, if any.
    pub smallest_waiting: Option<i64>,
    /// Rows of the change log.
    pub changes: i64,
    /// The last version in the change log.
    pub last_version: i64,
    /// The first version in the change log: more than 1 where retention has removed the beginning.
    pub first_version: i64,
}

/// Something that should hold and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check's name, in snake_case.
    pub check: &'static str,
    /// What was found.
    pub detail: String,
}

/// Compares the event's counters with its rows. Nothing found: the event is consistent.
pub fn verify(event: &Event, counted: &Counted, serves_queue: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut check = |name: &'static str, holds: bool, detail: String| {
        if !holds {
            findings.push(Finding { check: name, detail });
        }
    };

    let taken =
        counted.seats_held + counted.seats_confirmed + counted.seats_checked_in + counted.seats_offered;
    check(
        "capacity_is_remaining_plus_taken",
        i64::from(event.capacity) == i64::from(event.seats_remaining) + taken,
        format!("capacity {}, seats_remaining {}, taken {taken}", event.capacity, event.seats_remaining),
    );
    check(
        "seats_remaining_in_range",
        (0..=event.capacity).contains(&event.seats_remaining),
        format!("seats_remaining {} of capacity {}", event.seats_remaining, event.capacity),
    );
    check(
        "waitlist_size_is_waiting_entries",
        i64::from(event.waitlist_size) == counted.waiting_entries,
        format!("waitlist_size {}, waiting entries {}", event.waitlist_size, counted.waiting_entries),
    );
    check(
        "one_active_registration_per_user",
        counted.users_registered_twice == 0,
        format!("{} users have several", counted.users_registered_twice),
    );
    check(
        "one_active_entry_per_user",
        counted.users_queued_twice == 0,
        format!("{} users have several", counted.users_queued_twice),
    );
    check(
        "nobody_is_registered_and_queued",
        counted.users_registered_and_queued == 0,
        format!("{} users are", counted.users_registered_and_queued),
    );
    check(
        "next_position_is_beyond_all",
        event.next_position > counted.last_position,
        format!("next_position {}, last position {}", event.next_position, counted.last_position),
    );
    check(
        "version_is_last_change",
        event.version == counted.last_version,
        format!("version {}, last change {}", event.version, counted.last_version),
    );
    check(
        "change_log_is_gapless",
        counted.changes == counted.last_version - counted.first_version + 1,
        format!(
            "{} changes from version {} to {}",
            counted.changes, counted.first_version, counted.last_version
        ),
    );
    let next = match event.queue_discipline {
        QueueDiscipline::Strict => counted.head_seats,
        QueueDiscipline::SkipAhead => counted.smallest_waiting,
    };
    if let Some(seats) = next.filter(|_| serves_queue) {
        check(
            "nobody_waits_for_free_seats",
            seats > i64::from(event.seats_remaining),
            format!("{} seats are free and the next party is of {seats}", event.seats_remaining),
        );
    }
    findings
}
