//! Register, cancel, check in.

use std::time::Duration;

use booking_service::domain::command::{Action, Actor, Command, Register, WhenFull};
use booking_service::domain::decide::Outcome;
use booking_service::domain::event::{Event, EventState};
use booking_service::domain::refusal::Refusal;
use booking_service::domain::registration::RegistrationState;

use super::{Desk, ask, cancel, check_in, confirm, entry, expire_hold, join, reason, register, registration};
use crate::world::{NOON, NOTHING, OWNER, attendee, event, event_id, seconds, user};

const A_MICROSECOND: Duration = Duration::from_micros(1);

#[test]
fn a_party_of_five_does_not_fit_into_four_seats() {
    let mut desk = Desk::with_seats(10);
    desk.registers(3, 6);
    assert_eq!(
        desk.does(attendee(1), register(1, 5)),
        Err(Refusal::EventFull { event_id: event_id(0), seats: 5, seats_remaining: 4, waitlist_size: 0 })
    );
    assert_eq!(desk.free(), 4);
    desk.registers(2, 4);
    assert_eq!(desk.free(), 0);
}

#[test]
fn a_full_event_refuses_or_queues_as_the_caller_wishes() {
    let mut desk = Desk::with_seats(1);
    desk.registers(1, 1);
    assert_eq!(reason(desk.does(attendee(2), register(2, 1))), "EVENT_FULL");
    let ask = Register { when_full: WhenFull::JoinWaitlist, ..ask(2, 1) };
    assert_eq!(entry(desk.does(attendee(2), Action::Register(ask))).position, 1);
}

#[test]
fn the_last_seat_in_a_batch_goes_to_who_came_first() {
    let mut desk = Desk::with_seats(1);
    let verdicts = desk.together((1..=3).map(|n| (attendee(n), register(n, 1))));
    let [first, rest @ ..] = verdicts.as_slice() else { panic!("three verdicts") };
    assert_eq!(registration(first.clone()).user_id, user(1));
    assert!(rest.iter().all(|verdict| reason(verdict.clone()) == "EVENT_FULL"));
}

#[test]
fn a_party_above_the_events_largest_is_invalid_even_if_it_fits() {
    let mut desk = Desk::at(Event { max_seats_per_registration: 2, ..event(0, 10) });
    assert_eq!(reason(desk.does(attendee(1), register(1, 3))), "VALIDATION_FAILED");
    desk.registers(1, 2);
}

#[test]
fn a_user_has_one_active_registration() {
    let mut desk = Desk::with_seats(5);
    let first = desk.registers(1, 1);
    let refusal =
        Refusal::AlreadyRegistered { event_id: event_id(0), user_id: user(1), registration_id: first.id };
    assert_eq!(desk.does(attendee(1), register(1, 1)), Err(refusal.clone()));
    assert_eq!(desk.does(attendee(1), join(1, 1)), Err(refusal));
    assert_eq!(desk.free(), 4);
}

#[test]
fn of_two_registrations_of_one_user_in_a_batch_one_is_made() {
    let mut desk = Desk::with_seats(5);
    let verdicts = desk.together([(attendee(1), register(1, 1)), (attendee(1), register(1, 2))]);
    assert_eq!(reason(verdicts[1].clone()), "ALREADY_REGISTERED");
    assert_eq!(desk.free(), 4);
}

#[test]
fn after_a_cancel_the_user_may_register_again_also_in_the_same_batch() {
    let mut desk = Desk::with_seats(1);
    let first = desk.registers(1, 1);
    let verdicts = desk.together([(attendee(1), cancel(&first)), (attendee(1), register(1, 1))]);
    let second = registration(verdicts[1].clone());
    assert_ne!(second.id, first.id);
    desk.is(&first, RegistrationState::Cancelled);
    desk.is(&second, RegistrationState::Confirmed);
    desk.cancels(&second).expect("cancelled");
    desk.registers(1, 1);
}

#[test]
fn a_cancel_that_is_sent_twice_frees_once() {
    let mut desk = Desk::with_seats(5);
    let first = desk.registers(1, 2);
    desk.registers(2, 3);
    let once = registration(desk.cancels(&first));
    assert_eq!(once.state, RegistrationState::Cancelled);
    assert_eq!(desk.free(), 2);
    desk.passes(seconds(5));
    assert_eq!(registration(desk.cancels(&first)), once, "the same answer, the same times");
    assert_eq!(desk.free(), 2);
}

#[test]
fn two_cancels_of_one_registration_in_a_batch_free_once() {
    let mut desk = Desk::with_seats(2);
    let first = desk.registers(1, 1);
    desk.registers(2, 1);
    let verdicts = desk.together([(attendee(1), cancel(&first)), (OWNER, cancel(&first))]);
    assert_eq!(verdicts[0], verdicts[1]);
    assert_eq!(desk.free(), 1);
}

#[test]
fn a_registration_that_does_not_exist_is_not_found() {
    let mut desk = Desk::with_seats(1);
    for action in [
        Action::Confirm { registration_id: NOTHING },
        Action::CancelRegistration { registration_id: NOTHING },
        Action::CheckIn { registration_id: NOTHING },
    ] {
        assert_eq!(reason(desk.does(OWNER, action)), "REGISTRATION_NOT_FOUND");
    }
}

#[test]
fn a_registration_is_not_found_under_another_event() {
    let mut desk = Desk::with_seats(1);
    let row = desk.registers(1, 1);
    desk.store.events.insert(event_id(1), event(1, 1));
    desk.store.versions.insert(event_id(1), 1);
    // Both in one batch: the row is at hand, but not for the other event.
    let at = |n, action| Command { event_id: event_id(n), actor: OWNER, action };
    let verdicts = desk.store.run(&[at(0, confirm(&row)), at(1, cancel(&row))]).verdicts;
    assert_eq!(reason(verdicts[1].clone()), "REGISTRATION_NOT_FOUND");
    desk.is(&row, RegistrationState::Confirmed);
}

#[test]
fn an_event_that_does_not_exist_is_not_found() {
    let mut desk = Desk::with_seats(1);
    desk.store.events.clear();
    assert_eq!(desk.does(attendee(1), register(1, 1)), Err(Refusal::EventNotFound { event_id: event_id(0) }));
}

#[test]
fn nobody_registers_for_a_draft_or_a_cancelled_event() {
    let mut draft = Desk::at(Event { state: EventState::Draft, ..event(0, 5) });
    let owner = Register { user_id: OWNER.id, ..ask(0, 1) };
    assert_eq!(reason(draft.does(OWNER, Action::Register(owner))), "EVENT_NOT_PUBLISHED");
    assert_eq!(reason(draft.does(attendee(1), register(1, 1))), "EVENT_NOT_FOUND");

    let mut cancelled = Desk::at(Event { state: EventState::Cancelled, ..event(0, 5) });
    assert_eq!(reason(cancelled.does(attendee(1), register(1, 1))), "EVENT_CANCELLED");
    assert_eq!(reason(cancelled.does(attendee(1), join(1, 1))), "EVENT_CANCELLED");
}

#[test]
fn registration_opens_at_its_time_and_not_before() {
    let opens = NOON + seconds(60);
    let mut desk = Desk::at(Event { registration_open_time: Some(opens), ..event(0, 5) });
    desk.store.now = opens - A_MICROSECOND;
    let start_time = desk.event().start_time;
    let refusal =
        Refusal::RegistrationClosed { event_id: event_id(0), opens: Some(opens), closes: start_time };
    assert_eq!(desk.does(attendee(1), register(1, 1)), Err(refusal.clone()));
    assert_eq!(desk.does(attendee(1), join(1, 1)), Err(refusal));
    desk.store.now = opens;
    desk.registers(1, 1);
}

#[test]
fn registration_closes_at_the_start_unless_told_otherwise() {
    let mut desk = Desk::with_seats(5);
    let start_time = desk.event().start_time;
    desk.store.now = start_time - A_MICROSECOND;
    desk.registers(1, 1);
    desk.store.now = start_time;
    assert_eq!(
        desk.does(attendee(2), register(2, 1)),
        Err(Refusal::RegistrationClosed { event_id: event_id(0), opens: None, closes: start_time })
    );
}

#[test]
fn registration_may_go_on_until_the_end() {
    let end_time = event(0, 5).end_time;
    let mut desk = Desk::at(Event { registration_close_time: Some(end_time), ..event(0, 5) });
    desk.store.now = end_time - A_MICROSECOND;
    desk.registers(1, 1);
    desk.store.now = end_time;
    assert_eq!(reason(desk.does(attendee(2), register(2, 1))), "REGISTRATION_CLOSED");
}

#[test]
fn seats_can_be_given_back_until_the_event_is_over() {
    let mut desk = Desk::with_seats(2);
    let early = desk.registers(1, 1);
    let late = desk.registers(2, 1);
    desk.store.now = desk.event().end_time - A_MICROSECOND;
    desk.cancels(&early).expect("the event is not over");
    desk.store.now = desk.event().end_time;
    assert_eq!(reason(desk.cancels(&late)), "STATE_CONFLICT");
    desk.cancels(&early).expect("what was cancelled is answered, also afterwards");
    assert_eq!(desk.free(), 1);
}

#[test]
fn a_party_is_checked_in_once_and_the_door_is_told_of_the_second_time() {
    let mut desk = Desk::with_seats(1);
    let row = desk.registers(1, 1);
    desk.passes(seconds(1));
    let Ok(Outcome::CheckedIn { registration: first, already: false }) = desk.does(OWNER, check_in(&row))
    else {
        panic!("checked in for the first time")
    };
    assert_eq!((first.state, first.check_in_time), (RegistrationState::CheckedIn, Some(desk.store.now)));
    desk.passes(seconds(1));
    let second = desk.does(OWNER, check_in(&row));
    assert_eq!(second, Ok(Outcome::CheckedIn { registration: first, already: true }));
    assert_eq!(desk.free(), 0);
}

#[test]
fn a_party_that_is_in_cannot_cancel() {
    let mut desk = Desk::with_seats(1);
    let row = desk.registers(1, 1);
    desk.does(OWNER, check_in(&row)).expect("checked in");
    assert_eq!(
        desk.cancels(&row),
        Err(Refusal::RegistrationState { registration_id: row.id, state: RegistrationState::CheckedIn })
    );
    assert_eq!(desk.free(), 0);
}

#[test]
fn only_a_confirmed_party_is_let_in() {
    let mut desk = Desk::with_seats(3);
    let held = desk.holds(1, 1, seconds(60));
    assert_eq!(reason(desk.does(OWNER, check_in(&held))), "STATE_CONFLICT");
    let cancelled = desk.registers(2, 1);
    desk.cancels(&cancelled).expect("cancelled");
    assert_eq!(reason(desk.does(OWNER, check_in(&cancelled))), "STATE_CONFLICT");
    desk.passes(seconds(60));
    desk.does(Actor::SYSTEM, expire_hold(&held)).expect("expired");
    assert_eq!(reason(desk.does(OWNER, check_in(&held))), "STATE_CONFLICT");
}

#[test]
fn nobody_is_checked_in_after_the_event_but_who_was_in_is_answered() {
    let mut desk = Desk::with_seats(2);
    let late = desk.registers(1, 1);
    let there = desk.registers(2, 1);
    desk.store.now = desk.event().end_time - A_MICROSECOND;
    desk.does(OWNER, check_in(&there)).expect("the event is on");
    desk.store.now = desk.event().end_time;
    assert_eq!(reason(desk.does(OWNER, check_in(&late))), "STATE_CONFLICT");
    let again = desk.does(OWNER, check_in(&there));
    assert!(matches!(again, Ok(Outcome::CheckedIn { already: true, .. })), "{again:?}");
}
