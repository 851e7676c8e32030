//! An event in numbers.

use booking_service::domain::stats::{EventStats, Tally};

fn stats() -> EventStats {
    EventStats {
        capacity: 8,
        seats_remaining: 3,
        confirmed: Tally { count: 1, seats: 2 },
        held: Tally { count: 1, seats: 2 },
        checked_in: Tally { count: 1, seats: 1 },
        cancelled: 4,
        expired: 5,
        waiting: Tally { count: 0, seats: 0 },
        offered: Tally { count: 0, seats: 0 },
        first_registration_time: None,
        last_registration_time: None,
    }
}

#[test]
fn free_seats_are_idle_only_while_somebody_waits() {
    assert_eq!(stats().idle_seats(), 0);
    assert_eq!(EventStats { waiting: Tally { count: 1, seats: 4 }, ..stats() }.idle_seats(), 3);
}

#[test]
fn holds_and_offers_do_not_fill_an_event() {
    assert!((stats().filled_percent() - 37.5).abs() < 1e-9);
    let offered = EventStats { offered: Tally { count: 1, seats: 3 }, seats_remaining: 0, ..stats() };
    assert!((offered.filled_percent() - 37.5).abs() < 1e-9);
}
