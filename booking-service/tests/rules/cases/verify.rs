//! What VerifyEvent finds when rows and counters do not agree.

use booking_service::domain::event::{Event, QueueDiscipline};
use booking_service::domain::verify::{Counted, verify};

use crate::world::event;

/// Ten seats: 3 held, 2 confirmed, 1 checked in, 2 offered, 2 free; a party of 3 waits, and behind it one of 4.
fn sound() -> (Event, Counted) {
    let event = Event { seats_remaining: 2, waitlist_size: 2, next_position: 5, version: 9, ..event(0, 10) };
    let counted = Counted {
        seats_held: 3,
        seats_confirmed: 2,
        seats_checked_in: 1,
        seats_offered: 2,
        waiting_entries: 2,
        users_registered_twice: 0,
        users_queued_twice: 0,
        users_registered_and_queued: 0,
        last_position: 4,
        head_seats: Some(3),
        smallest_waiting: Some(3),
        changes: 9,
        last_version: 9,
        first_version: 1,
    };
    (event, counted)
}

/// The names of what is found when this is changed.
fn found(change: impl FnOnce(&mut Event, &mut Counted)) -> Vec<&'static str> {
    let (mut event, mut counted) = sound();
    change(&mut event, &mut counted);
    verify(&event, &counted, true).into_iter().map(|finding| finding.check).collect()
}

#[test]
fn what_agrees_gives_no_findings() {
    assert_eq!(found(|_, _| {}), [""; 0]);
}

#[test]
fn a_seat_that_is_missing_or_too_many_is_found_wherever_it_is() {
    let add_up = ["capacity_is_remaining_plus_taken"];
    assert_eq!(found(|event, _| event.seats_remaining -= 1), add_up);
    assert_eq!(found(|_, counted| counted.seats_held += 1), add_up);
    assert_eq!(found(|_, counted| counted.seats_confirmed -= 1), add_up);
    assert_eq!(found(|_, counted| counted.seats_checked_in += 1), add_up);
    assert_eq!(found(|_, counted| counted.seats_offered -= 1), add_up);
    assert_eq!(found(|event, _| event.capacity += 1), add_up);
}

#[test]
fn seats_beyond_the_capacity_are_found() {
    let oversold = |event: &mut Event, counted: &mut Counted| {
        event.seats_remaining = -1;
        counted.seats_confirmed += 3;
    };
    assert_eq!(found(oversold), ["seats_remaining_in_range"]);
}

#[test]
fn a_queue_that_is_miscounted_is_found() {
    assert_eq!(found(|event, _| event.waitlist_size += 1), ["waitlist_size_is_waiting_entries"]);
    assert_eq!(found(|_, counted| counted.waiting_entries += 1), ["waitlist_size_is_waiting_entries"]);
}

#[test]
fn a_user_who_is_there_twice_is_found() {
    assert_eq!(found(|_, counted| counted.users_registered_twice = 1), ["one_active_registration_per_user"]);
    assert_eq!(found(|_, counted| counted.users_queued_twice = 1), ["one_active_entry_per_user"]);
    assert_eq!(
        found(|_, counted| counted.users_registered_and_queued = 1),
        ["nobody_is_registered_and_queued"]
    );
}

#[test]
fn a_place_that_would_be_given_again_is_found() {
    assert_eq!(found(|event, _| event.next_position = 4), ["next_position_is_beyond_all"]);
}

#[test]
fn a_gap_in_the_log_is_found_and_a_beginning_that_retention_removed_is_none() {
    assert_eq!(found(|_, counted| counted.changes = 8), ["change_log_is_gapless"]);
    let trimmed = |_: &mut Event, counted: &mut Counted| {
        counted.changes = 3;
        counted.first_version = counted.last_version - 2;
    };
    assert_eq!(found(trimmed), [""; 0]);
    let torn = |event: &mut Event, counted: &mut Counted| {
        trimmed(event, counted);
        counted.changes = 2;
    };
    assert_eq!(found(torn), ["change_log_is_gapless"]);
    assert_eq!(found(|event, _| event.version = 10), ["version_is_last_change"]);
}

#[test]
fn somebody_who_waits_for_free_seats_is_found() {
    let name = ["nobody_waits_for_free_seats"];
    assert_eq!(found(|_, counted| counted.head_seats = Some(2)), name);
    let skipping = |event: &mut Event, counted: &mut Counted| {
        event.queue_discipline = QueueDiscipline::SkipAhead;
        counted.smallest_waiting = Some(2);
    };
    assert_eq!(found(skipping), name);
    assert_eq!(found(|_, counted| counted.smallest_waiting = Some(1)), [""; 0], "a strict queue may idle");
    let (event, mut counted) = sound();
    counted.head_seats = Some(1);
    assert_eq!(verify(&event, &counted, false), [], "an event that is over serves nobody");
}
