//! Waiting, and what freed seats become.

use booking_service::domain::command::{Action, Actor, EventPatch, Join, Register, WhenFull};
use booking_service::domain::decide::Outcome;
use booking_service::domain::event::{Event, QueueDiscipline, WaitlistPolicy};
use booking_service::domain::refusal::Refusal;
use booking_service::domain::registration::{Labels, RegistrationState};
use booking_service::domain::waitlist::EntryState;

use super::{
    Desk, ask, cancel, entry, expire_hold, join, leave, reason, register, register_or_queue, registration,
    told,
};
use crate::world::{NOTHING, OWNER, attendee, event, event_id, seconds, user};

fn skipping(capacity: i32) -> Desk {
    Desk::at(Event { queue_discipline: QueueDiscipline::SkipAhead, ..event(0, capacity) })
}

fn capacity(capacity: i32) -> Action {
    Action::Update(Box::new(EventPatch { capacity: Some(capacity), ..EventPatch::default() }))
}

#[test]
fn one_cannot_queue_for_what_one_can_have() {
    let mut desk = Desk::with_seats(3);
    desk.registers(9, 1);
    assert_eq!(
        desk.does(attendee(1), join(1, 2)),
        Err(Refusal::SeatsAvailable { event_id: event_id(0), seats_remaining: 2 })
    );
    assert_eq!(desk.queues(1, 3).state, EntryState::Waiting, "a party that does not fit may wait");
}

#[test]
fn a_user_has_one_place_in_the_queue() {
    let mut desk = Desk::with_seats(1);
    desk.registers(1, 1);
    let place = desk.queues(2, 1);
    let refusal = Refusal::AlreadyWaitlisted { event_id: event_id(0), user_id: user(2), entry_id: place.id };
    assert_eq!(desk.does(attendee(2), join(2, 1)), Err(refusal.clone()));
    assert_eq!(desk.does(attendee(2), register_or_queue(2, 1)), Err(refusal));
    assert_eq!(desk.event().waitlist_size, 1);
}

#[test]
fn nobody_passes_a_strict_queue() {
    let mut desk = Desk::with_seats(4);
    desk.registers(1, 2);
    desk.queues(2, 3);
    assert_eq!(
        desk.does(attendee(3), register(3, 1)),
        Err(Refusal::EventFull { event_id: event_id(0), seats: 1, seats_remaining: 2, waitlist_size: 1 })
    );
    assert_eq!(desk.queues(3, 1).position, 2, "who comes later waits behind, although the seats are there");
}

#[test]
fn a_newcomer_who_fits_passes_those_who_do_not_when_skipping_is_allowed() {
    let mut desk = skipping(4);
    desk.registers(1, 2);
    let large = desk.queues(2, 3);
    assert_eq!(reason(desk.does(attendee(3), join(3, 2))), "SEATS_AVAILABLE");
    desk.registers(3, 2);
    desk.stands(&large, EntryState::Waiting);
    assert_eq!(reason(desk.does(attendee(4), register(4, 1))), "EVENT_FULL");
}

#[test]
fn one_freed_seat_promotes_one() {
    let mut desk = Desk::with_seats(2);
    let first = desk.registers(1, 1);
    desk.registers(2, 1);
    let waiting: Vec<_> = (3..6).map(|n| desk.queues(n, 1)).collect();
    desk.cancels(&first).expect("cancelled");
    desk.stands(&waiting[0], EntryState::Promoted);
    desk.stands(&waiting[1], EntryState::Waiting);
    desk.stands(&waiting[2], EntryState::Waiting);
    let promoted = desk.active(3).expect("has seats now");
    assert_eq!(promoted.state, RegistrationState::Confirmed);
    assert_eq!(promoted.confirm_time, Some(desk.store.now));
    assert_eq!(promoted.waitlist_entry_id, Some(waiting[0].id));
    assert_eq!(desk.entry(waiting[0].id).registration_id, Some(promoted.id));
    assert_eq!((desk.free(), desk.event().waitlist_size), (0, 2));
}

#[test]
fn two_withdrawals_at_once_promote_two_different_people() {
    let mut desk = Desk::with_seats(2);
    let leaving = [desk.registers(1, 1), desk.registers(2, 1)];
    let waiting: Vec<_> = (3..6).map(|n| desk.queues(n, 1)).collect();
    desk.together([(attendee(1), cancel(&leaving[0])), (attendee(2), cancel(&leaving[1]))]);
    desk.stands(&waiting[0], EntryState::Promoted);
    desk.stands(&waiting[1], EntryState::Promoted);
    desk.stands(&waiting[2], EntryState::Waiting);
}

#[test]
fn no_walk_in_takes_the_seat_between_a_cancel_and_the_promotion() {
    let mut desk = Desk::with_seats(1);
    let first = desk.registers(1, 1);
    let waiting = desk.queues(2, 1);
    let verdicts = desk.together([(attendee(1), cancel(&first)), (attendee(3), register(3, 1))]);
    assert_eq!(reason(verdicts[1].clone()), "EVENT_FULL");
    desk.stands(&waiting, EntryState::Promoted);
}

#[test]
fn a_party_that_is_promoted_may_cancel_and_the_next_one_comes_in() {
    let mut desk = Desk::with_seats(1);
    let first = desk.registers(1, 1);
    desk.queues(2, 1);
    let third = desk.queues(3, 1);
    desk.cancels(&first).expect("cancelled");
    let promoted = desk.active(2).expect("promoted").clone();
    desk.cancels(&promoted).expect("cancelled");
    desk.stands(&third, EntryState::Promoted);
}

#[test]
fn parties_come_in_until_the_next_one_does_not_fit() {
    let mut desk = Desk::with_seats(6);
    let first = desk.registers(1, 6);
    let waiting: Vec<_> = [(2, 3), (3, 1), (4, 3), (5, 1)].map(|(n, seats)| desk.queues(n, seats)).into();
    desk.cancels(&first).expect("cancelled");
    desk.stands(&waiting[0], EntryState::Promoted);
    desk.stands(&waiting[1], EntryState::Promoted);
    desk.stands(&waiting[2], EntryState::Waiting);
    desk.stands(&waiting[3], EntryState::Waiting);
    assert_eq!(desk.free(), 2, "seats stand idle until the head fits");
}

#[test]
fn a_strict_queue_waits_for_its_head_however_many_fit_behind() {
    let mut desk = Desk::with_seats(4);
    let leaving = [desk.registers(1, 2), desk.registers(2, 2)];
    let head = desk.queues(3, 4);
    let behind = desk.queues(4, 1);
    desk.cancels(&leaving[0]).expect("cancelled");
    desk.stands(&head, EntryState::Waiting);
    desk.stands(&behind, EntryState::Waiting);
    desk.cancels(&leaving[1]).expect("cancelled");
    desk.stands(&head, EntryState::Promoted);
    desk.stands(&behind, EntryState::Waiting);
}

#[test]
fn a_skipping_queue_serves_the_first_that_fits_and_then_the_first_that_fits_the_rest() {
    let mut desk = skipping(4);
    let first = desk.registers(1, 3);
    desk.registers(9, 1);
    let waiting: Vec<_> =
        [(2, 4), (3, 2), (4, 2), (5, 1), (6, 1)].map(|(n, seats)| desk.queues(n, seats)).into();
    desk.cancels(&first).expect("cancelled");
    let states: Vec<_> = waiting.iter().map(|row| desk.entry(row.id).state).collect();
    let (waits, promoted) = (EntryState::Waiting, EntryState::Promoted);
    assert_eq!(states, [waits, promoted, waits, promoted, waits]);
}

#[test]
fn when_the_head_leaves_those_behind_come_in_at_once() {
    let mut desk = Desk::with_seats(3);
    desk.registers(1, 1);
    let head = desk.queues(2, 3);
    let behind = [desk.queues(3, 1), desk.queues(4, 1), desk.queues(5, 1)];
    let left = entry(desk.does(attendee(2), leave(&head)));
    assert_eq!((left.state, left.update_time), (EntryState::Left, desk.store.now));
    desk.stands(&behind[0], EntryState::Promoted);
    desk.stands(&behind[1], EntryState::Promoted);
    desk.stands(&behind[2], EntryState::Waiting);
    assert_eq!((desk.free(), desk.event().waitlist_size), (0, 1));
}

#[test]
fn leaving_twice_leaves_once() {
    let mut desk = Desk::with_seats(1);
    desk.registers(1, 1);
    let place = desk.queues(2, 1);
    desk.queues(3, 1);
    let once = desk.does(attendee(2), leave(&place));
    desk.passes(seconds(1));
    assert_eq!(desk.does(attendee(2), leave(&place)), once);
    assert_eq!(desk.event().waitlist_size, 1);
}

#[test]
fn who_joins_again_gets_a_new_place_at_the_end() {
    let mut desk = Desk::with_seats(1);
    let first = desk.registers(1, 1);
    let old = desk.queues(2, 1);
    let other = desk.queues(3, 1);
    let verdicts = desk.together([(attendee(2), leave(&old)), (attendee(2), join(2, 1))]);
    let new = entry(verdicts[1].clone());
    assert!(new.id != old.id && new.position > other.position, "{new:?}");
    desk.cancels(&first).expect("cancelled");
    desk.stands(&other, EntryState::Promoted);
    desk.stands(&new, EntryState::Waiting);
}

#[test]
fn a_place_is_never_given_twice_even_if_the_last_one_left() {
    let mut desk = Desk::with_seats(1);
    desk.registers(1, 1);
    let positions: Vec<i64> = (2..7)
        .map(|n| {
            let place = desk.queues(n, 1);
            desk.does(attendee(n), leave(&place)).expect("left");
            place.position
        })
        .collect();
    assert_eq!(positions, [1, 2, 3, 4, 5]);
}

#[test]
fn places_are_in_order_of_arrival_also_within_a_batch() {
    let mut desk = Desk::with_seats(1);
    desk.registers(1, 1);
    let arrivals = [7, 3, 9, 2];
    let verdicts = desk.together(arrivals.map(|n| (attendee(n), register_or_queue(n, 1))));
    let places: Vec<_> = verdicts.into_iter().map(entry).map(|row| (row.user_id, row.position)).collect();
    assert_eq!(places, [(user(7), 1), (user(3), 2), (user(9), 3), (user(2), 4)]);
}

#[test]
fn more_capacity_goes_to_the_queue_first() {
    let mut desk = Desk::with_seats(2);
    desk.registers(1, 2);
    let waiting = [desk.queues(2, 2), desk.queues(3, 2), desk.queues(4, 1)];
    let told = told(desk.does(OWNER, capacity(5)));
    assert_eq!((told.seats_remaining, told.waitlist_size), (1, 2), "the answer knows of the promotion");
    assert_eq!(reason(desk.does(attendee(5), register(5, 1))), "EVENT_FULL");
    desk.stands(&waiting[0], EntryState::Promoted);
    desk.stands(&waiting[1], EntryState::Waiting);
    desk.stands(&waiting[2], EntryState::Waiting);
}

#[test]
fn a_queue_that_stops_being_strict_is_served_at_once() {
    let mut desk = Desk::with_seats(3);
    desk.registers(1, 1);
    let waiting = [desk.queues(2, 3), desk.queues(3, 2)];
    let patch = EventPatch { queue_discipline: Some(QueueDiscipline::SkipAhead), ..EventPatch::default() };
    desk.does(OWNER, Action::Update(Box::new(patch))).expect("updated");
    desk.stands(&waiting[0], EntryState::Waiting);
    desk.stands(&waiting[1], EntryState::Promoted);
}

#[test]
fn a_smaller_largest_party_leaves_those_who_wait_as_they_are() {
    let mut desk = Desk::with_seats(4);
    let first = desk.registers(1, 4);
    let large = desk.queues(2, 4);
    let patch = EventPatch { max_seats_per_registration: Some(1), ..EventPatch::default() };
    desk.does(OWNER, Action::Update(Box::new(patch))).expect("updated");
    desk.cancels(&first).expect("cancelled");
    desk.stands(&large, EntryState::Promoted);
}

#[test]
fn an_event_that_is_over_promotes_nobody() {
    let mut desk = Desk::with_seats(1);
    desk.store.now = desk.event().start_time - seconds(1);
    let held = desk.holds(1, 1, seconds(10));
    let waiting = desk.queues(2, 1);
    desk.store.now = desk.event().end_time;
    desk.does(Actor::SYSTEM, expire_hold(&held)).expect("expired");
    assert_eq!(desk.free(), 1);
    desk.stands(&waiting, EntryState::Waiting);
    desk.does(attendee(2), leave(&waiting)).expect("one may still leave");
}

#[test]
fn the_queue_is_served_after_registration_has_closed() {
    let mut desk = Desk::with_seats(1);
    let first = desk.registers(1, 1);
    let waiting = desk.queues(2, 1);
    desk.store.now = desk.event().start_time + seconds(1);
    desk.cancels(&first).expect("cancelled");
    desk.stands(&waiting, EntryState::Promoted);
}

#[test]
fn who_got_seats_or_has_left_cannot_leave() {
    let mut desk = Desk::with_seats(1);
    let first = desk.registers(1, 1);
    let waiting = desk.queues(2, 1);
    desk.cancels(&first).expect("cancelled");
    assert_eq!(
        desk.does(attendee(2), leave(&waiting)),
        Err(Refusal::EntryState { entry_id: waiting.id, state: EntryState::Promoted })
    );
    let nothing = Action::Leave { entry_id: NOTHING };
    assert_eq!(reason(desk.does(OWNER, nothing)), "WAITLIST_ENTRY_NOT_FOUND");
}

#[test]
fn labels_go_with_the_entry_to_the_registration() {
    let labels = Labels::from([("seat".to_owned(), "aisle".to_owned())]);
    let mut desk = Desk::with_seats(2);
    let leaving = [desk.registers(1, 1), desk.registers(2, 1)];
    let queued = Register { when_full: WhenFull::JoinWaitlist, labels: labels.clone(), ..ask(3, 1) };
    desk.does(attendee(3), Action::Register(queued)).expect("queued");
    let joined = Join { user_id: user(4), seats: 1, labels: labels.clone(), request: None };
    desk.does(attendee(4), Action::Join(joined)).expect("queued");
    for row in &leaving {
        desk.cancels(row).expect("cancelled");
    }
    assert_eq!(desk.active(3).map(|row| &row.labels), Some(&labels));
    assert_eq!(desk.active(4).map(|row| &row.labels), Some(&labels));
}

#[test]
fn a_long_queue_of_mixed_parties_is_served_in_order_by_one_batch() {
    let mut desk = Desk::with_seats(60);
    let leaving: Vec<_> = (0..6).map(|n| desk.registers(n, 10)).collect();
    let waiting: Vec<_> =
        (10_u32..310).map(|n| desk.queues(n, 1 + i32::try_from(n % 7).expect("small"))).collect();
    // Half of the first forty leave while all the seats become free.
    let left: Vec<_> = waiting.iter().take(40).step_by(2).collect();
    let cancels = leaving.iter().map(|row| (OWNER, cancel(row)));
    let leaves = left.iter().map(|row| (OWNER, leave(row)));
    let verdicts = desk.together(leaves.chain(cancels));
    assert!(verdicts.iter().all(Result::is_ok));

    let mut free = 60;
    let mut line = waiting.iter().filter(|row| left.iter().all(|gone| gone.id != row.id)).peekable();
    while let Some(row) = line.next_if(|row| row.seats <= free) {
        free -= row.seats;
        desk.stands(row, EntryState::Promoted);
    }
    assert_eq!(desk.free(), free);
    line.for_each(|row| desk.stands(row, EntryState::Waiting));
}

#[test]
fn a_promoted_user_is_registered_for_the_rest_of_the_batch() {
    let mut desk = Desk::with_seats(1);
    let first = desk.registers(1, 1);
    desk.queues(2, 1);
    let verdicts = desk.together([
        (attendee(1), cancel(&first)),
        (attendee(2), register(2, 1)),
        (attendee(1), register_or_queue(1, 1)),
    ]);
    assert_eq!(reason(verdicts[1].clone()), "ALREADY_REGISTERED");
    assert_eq!(entry(verdicts[2].clone()).position, 2);
    assert!(desk.active(2).is_some());
    assert_eq!(registration(verdicts[0].clone()).state, RegistrationState::Cancelled);
}

#[test]
fn of_however_many_seats_more_a_portion_of_the_queue_is_in_memory_at_a_time_and_all_of_it_comes_in_at_once() {
    let one_or_two = |n: u32| 1 + i32::try_from(n % 2).unwrap();
    for discipline in [QueueDiscipline::Strict, QueueDiscipline::SkipAhead] {
        for policy in [WaitlistPolicy::Promote, WaitlistPolicy::Offer] {
            for seats in [&one_or_two as &dyn Fn(u32) -> i32, &|_| 3] {
                let event = Event {
                    max_seats_per_registration: 3,
                    waitlist_policy: policy,
                    queue_discipline: discipline,
                    ..event(0, 3)
                };
                let (whole, all) = raised(event.clone(), 1_000_000, seats);
                assert!(
                    whole.iter().filter(|state| **state != EntryState::Waiting).count() > 100 && all > 100
                );
                for portion in [1, 7, 50] {
                    let (in_portions, most) = raised(event.clone(), portion, seats);
                    assert!(in_portions == whole, "portions of {portion}, {discipline:?}, {policy:?}");
                    // For each of three sizes: what was given back, the portion and its last party, and one to look at.
                    assert!(
                        most <= 3 * usize::try_from(3 + portion + 3 + 1).unwrap(),
                        "{most} for {portion}"
                    );
                }
            }
        }
    }
}

/// What becomes of 300 parties when 350 seats more come behind a cancellation, and how many of them were in memory at once.
fn raised(event: Event, portion: i32, seats: &dyn Fn(u32) -> i32) -> (Vec<EntryState>, usize) {
    let mut desk = Desk::at(event);
    desk.store.portion = portion;
    let first = desk.registers(0, 3);
    let entries: Vec<_> = (1..=300).map(|n| desk.queues(n, seats(n))).collect();
    let verdicts = desk.together([(attendee(0), cancel(&first)), (OWNER, capacity(353))]);
    let Ok(Outcome::Event(answer)) = &verdicts[1] else { panic!("{verdicts:?}") };
    assert_eq!(answer.event, *desk.event(), "as it stands in the end");
    (entries.iter().map(|entry| desk.entry(entry.id).state).collect(), desk.store.most_heads)
}
