//! Requests that are sent again.

use booking_service::domain::command::{Action, Actor, Command, Join, Register, RequestKey, WhenFull};
use booking_service::domain::event::Event;
use booking_service::domain::refusal::Refusal;
use booking_service::domain::registration::{Labels, RegistrationState};
use booking_service::domain::waitlist::EntryState;
use uuid::Uuid;

use super::{Desk, ask, cancel, entry, reason, registration};
use crate::world::{NOON, OWNER, SERVICE, attendee, event, event_id, seconds, user};

const REQUEST: Uuid = Uuid::from_u128(0xF00D);

fn key(actor: Actor, fingerprint: u8) -> Option<RequestKey> {
    Some(RequestKey { actor_id: actor.id, id: REQUEST, fingerprint: [fingerprint; 32] })
}

/// The n-th person asks for a seat or a place, with [`REQUEST`].
fn asks(n: u32, fingerprint: u8) -> Action {
    let request = key(attendee(n), fingerprint);
    Action::Register(Register { when_full: WhenFull::JoinWaitlist, request, ..ask(n, 1) })
}

fn joins(n: u32, fingerprint: u8) -> Action {
    let request = key(attendee(n), fingerprint);
    Action::Join(Join { user_id: user(n), seats: 1, labels: Labels::new(), request })
}

#[test]
fn the_same_request_gets_the_same_seat() {
    let mut desk = Desk::with_seats(5);
    let first = desk.does(attendee(1), asks(1, 7));
    desk.passes(seconds(1));
    assert_eq!(desk.does(attendee(1), asks(1, 7)), first);
    assert_eq!((desk.free(), desk.store.registrations.len(), desk.store.changes.len()), (4, 1, 1));
}

#[test]
fn the_same_request_within_a_batch_gets_the_same_seat() {
    let mut desk = Desk::with_seats(5);
    let verdicts = desk.together([(attendee(1), asks(1, 7)), (attendee(1), asks(1, 7))]);
    assert_eq!(verdicts[0], verdicts[1]);
    assert_eq!((desk.free(), desk.store.changes.len()), (4, 1));
}

#[test]
fn the_same_request_gets_the_same_place_in_the_queue() {
    let mut desk = Desk::with_seats(1);
    desk.registers(9, 1);
    let first = desk.does(attendee(1), joins(1, 7));
    assert_eq!(entry(first.clone()).position, 1);
    assert_eq!(desk.does(attendee(1), joins(1, 7)), first);
    assert_eq!(desk.event().waitlist_size, 1);
}

#[test]
fn another_request_under_the_same_id_is_refused_whatever_it_asks_for() {
    let mut desk = Desk::with_seats(1);
    desk.does(attendee(1), asks(1, 7)).expect("seated");
    let refusal = Refusal::RequestIdReused { request_id: REQUEST };
    assert_eq!(desk.does(attendee(1), asks(1, 8)), Err(refusal.clone()));
    assert_eq!(desk.does(attendee(1), joins(1, 8)), Err(refusal.clone()));
    let verdicts = desk.together([(attendee(2), joins(2, 1)), (attendee(2), asks(2, 2))]);
    assert_eq!(verdicts[1], Err(refusal));
    assert_eq!((desk.free(), desk.event().waitlist_size), (0, 1));
}

#[test]
fn what_was_made_is_answered_in_its_present_state_and_not_made_again() {
    let mut desk = Desk::with_seats(1);
    let made = registration(desk.does(attendee(1), asks(1, 7)));
    desk.cancels(&made).expect("cancelled");
    let again = registration(desk.does(attendee(1), asks(1, 7)));
    assert_eq!((again.id, again.state), (made.id, RegistrationState::Cancelled));
    assert_eq!(desk.free(), 1);
    let verdicts = desk.together([(attendee(1), super::register(1, 1)), (attendee(1), asks(1, 7))]);
    assert_eq!(registration(verdicts[1].clone()).id, made.id, "although there is a newer one");
}

#[test]
fn a_place_that_became_a_seat_is_answered_as_the_place_that_it_was() {
    let mut desk = Desk::with_seats(1);
    let first = desk.registers(9, 1);
    let place = entry(desk.does(attendee(1), asks(1, 7)));
    let verdicts = desk.together([(attendee(9), cancel(&first)), (attendee(1), asks(1, 7))]);
    let now = entry(verdicts[1].clone());
    assert_eq!((now.id, now.state), (place.id, EntryState::Promoted));
    assert_eq!(now.registration_id, desk.active(1).map(|row| row.id));
    assert_eq!(entry(desk.does(attendee(1), asks(1, 7))), now);
}

#[test]
fn a_request_is_answered_again_when_the_event_would_not_take_it_any_more() {
    let mut desk = Desk::with_seats(1);
    let made = registration(desk.does(attendee(1), asks(1, 7)));
    desk.store.now = desk.event().end_time + seconds(1);
    assert_eq!(registration(desk.does(attendee(1), asks(1, 7))), made, "it is over");

    let mut desk = Desk::with_seats(1);
    let made = registration(desk.does(attendee(1), asks(1, 7)));
    desk.does(OWNER, Action::CancelEvent { reason: String::new(), etag: None }).expect("cancelled");
    let again = registration(desk.does(attendee(1), asks(1, 7)));
    assert_eq!((again.id, again.state), (made.id, RegistrationState::Cancelled), "it was called off");
}

#[test]
fn a_refused_request_leaves_no_trace() {
    let opens = NOON + seconds(60);
    let mut desk = Desk::at(Event { registration_open_time: Some(opens), ..event(0, 1) });
    assert_eq!(reason(desk.does(attendee(1), asks(1, 7))), "REGISTRATION_CLOSED");
    desk.store.now = opens;
    registration(desk.does(attendee(1), asks(1, 8)));
}

#[test]
fn a_request_id_belongs_to_its_caller() {
    let mut desk = Desk::with_seats(5);
    let first = registration(desk.does(attendee(1), asks(1, 7)));
    let second = registration(desk.does(attendee(2), asks(2, 8)));
    assert_ne!(first.id, second.id);
    let for_third = Register { request: key(SERVICE, 9), ..ask(3, 1) };
    let third = registration(desk.does(SERVICE, Action::Register(for_third)));
    assert_eq!(third.user_id, user(3));
    let for_fourth = Register { request: key(SERVICE, 10), ..ask(4, 1) };
    assert_eq!(reason(desk.does(SERVICE, Action::Register(for_fourth))), "REQUEST_ID_REUSED");
}

#[test]
fn a_request_id_belongs_to_its_event() {
    let mut desk = Desk::with_seats(1);
    desk.store.events.insert(event_id(1), event(1, 1));
    desk.store.versions.insert(event_id(1), 1);
    let at = |n| Command { event_id: event_id(n), actor: attendee(1), action: asks(1, 7) };
    let verdicts = desk.store.run(&[at(0), at(1)]).verdicts;
    let [here, there] = verdicts.try_into().expect("two verdicts");
    assert_ne!(registration(here).id, registration(there).id);
}

#[test]
fn who_may_not_act_for_a_user_any_more_gets_no_answer_again() {
    let mut desk = Desk::with_seats(1);
    let for_first = Action::Register(Register { request: key(OWNER, 7), ..ask(1, 1) });
    desk.does(OWNER, for_first.clone()).expect("seated");
    let demoted = Actor { id: OWNER.id, ..attendee(0) };
    assert_eq!(reason(desk.does(demoted, for_first)), "ROLE_REQUIRED");
}
