//! Seats that are offered to whoever is next.

use std::time::Duration;

use booking_service::domain::command::{Action, Actor, EventPatch};
use booking_service::domain::decide::Outcome;
use booking_service::domain::event::{Event, WaitlistPolicy};
use booking_service::domain::refusal::Refusal;
use booking_service::domain::registration::RegistrationState;
use booking_service::domain::waitlist::{Entry, EntryState};

use super::{
    Desk, accept, cancel, decline, entry, expire_offer, join, leave, reason, register, register_or_queue,
};
use crate::world::{OWNER, attendee, event, seconds};

const TTL: Duration = seconds(900);

fn offering(capacity: i32) -> Desk {
    Desk::at(Event { waitlist_policy: WaitlistPolicy::Offer, offer_ttl: TTL, ..event(0, capacity) })
}

/// One seat, offered to person 2; persons 3 and 4 wait.
fn offered() -> (Desk, [Entry; 3]) {
    let mut desk = offering(1);
    let first = desk.registers(1, 1);
    let line = [desk.queues(2, 1), desk.queues(3, 1), desk.queues(4, 1)];
    desk.cancels(&first).expect("cancelled");
    desk.stands(&line[0], EntryState::Offered);
    (desk, line)
}

#[test]
fn an_offer_keeps_the_seats_for_the_head_alone() {
    let (mut desk, [head, second, _]) = offered();
    assert_eq!(desk.entry(head.id).offer_expire_time, Some(desk.store.now + TTL));
    desk.stands(&second, EntryState::Waiting);
    assert_eq!((desk.free(), desk.event().waitlist_size), (0, 2));
    assert_eq!(reason(desk.does(attendee(9), register(9, 1))), "EVENT_FULL");
}

#[test]
fn an_accepted_offer_is_counted_once() {
    let mut desk = offering(4);
    let first = desk.registers(1, 3);
    desk.registers(5, 1);
    let head = desk.queues(2, 2);
    desk.queues(3, 2);
    desk.cancels(&first).expect("cancelled");
    assert_eq!((desk.free(), desk.event().waitlist_size), (1, 1), "two seats are kept for the offer");
    desk.passes(TTL - Duration::from_micros(1));
    let Ok(Outcome::Accepted { registration, entry }) = desk.does(attendee(2), accept(&head)) else {
        panic!("accepted in time")
    };
    assert_eq!(entry.state, EntryState::Accepted);
    assert_eq!(entry.registration_id, Some(registration.id));
    assert_eq!(registration.waitlist_entry_id, Some(head.id));
    assert_eq!(registration.state, RegistrationState::Confirmed);
    assert_eq!((desk.free(), desk.event().waitlist_size), (1, 1));
    desk.passes(seconds(10));
    assert_eq!(desk.does(Actor::SYSTEM, expire_offer(&head)), Ok(Outcome::Unchanged));
    assert_eq!(desk.free(), 1, "its time does not matter any more");
}

#[test]
fn accepting_twice_makes_one_registration() {
    let (mut desk, [head, ..]) = offered();
    let verdicts = desk.together([(attendee(2), accept(&head)), (attendee(2), accept(&head))]);
    assert_eq!(verdicts[0], verdicts[1]);
    desk.passes(TTL);
    assert_eq!(desk.does(attendee(2), accept(&head)), verdicts[0], "also when its time has passed");
    assert_eq!(desk.store.registrations.len(), 2);
}

#[test]
fn an_accepted_entry_is_answered_with_its_registration_as_it_is_now() {
    let (mut desk, [head, ..]) = offered();
    let made = super::registration(desk.does(attendee(2), accept(&head)));
    desk.cancels(&made).expect("cancelled");
    let again = super::registration(desk.does(attendee(2), accept(&head)));
    assert_eq!((again.id, again.state), (made.id, RegistrationState::Cancelled));
}

#[test]
fn a_declined_offer_moves_on_at_once() {
    let (mut desk, [head, second, third]) = offered();
    let declined = entry(desk.does(attendee(2), decline(&head)));
    assert_eq!(declined.state, EntryState::Declined);
    desk.stands(&second, EntryState::Offered);
    desk.stands(&third, EntryState::Waiting);
    assert_eq!((desk.free(), desk.event().waitlist_size), (0, 1));
}

#[test]
fn declining_twice_frees_once() {
    let (mut desk, [head, second, third]) = offered();
    let verdicts = desk.together([(attendee(2), decline(&head)), (OWNER, decline(&head))]);
    assert_eq!(verdicts[0], verdicts[1]);
    desk.stands(&second, EntryState::Offered);
    desk.stands(&third, EntryState::Waiting);
}

#[test]
fn a_declined_offer_with_a_walk_in_behind_goes_to_the_queue() {
    let mut desk = offering(1);
    let first = desk.registers(1, 1);
    let line = [desk.queues(2, 1), desk.queues(3, 1)];
    desk.cancels(&first).expect("cancelled");
    let verdicts = desk.together([(attendee(2), decline(&line[0])), (attendee(9), register(9, 1))]);
    assert_eq!(reason(verdicts[1].clone()), "EVENT_FULL");
    desk.stands(&line[1], EntryState::Offered);
}

#[test]
fn a_lapsed_offer_can_be_neither_accepted_nor_declined_even_if_nobody_swept() {
    let (mut desk, [head, second, _]) = offered();
    desk.passes(TTL);
    assert_eq!(reason(desk.does(attendee(2), accept(&head))), "OFFER_EXPIRED");
    assert_eq!(reason(desk.does(attendee(2), decline(&head))), "OFFER_EXPIRED");
    desk.stands(&second, EntryState::Waiting);
    desk.does(Actor::SYSTEM, expire_offer(&head)).expect("swept");
    assert_eq!(reason(desk.does(attendee(2), accept(&head))), "OFFER_EXPIRED");
    assert_eq!(reason(desk.does(attendee(2), decline(&head))), "OFFER_EXPIRED");
}

#[test]
fn a_lapsed_offer_moves_on_once() {
    let (mut desk, [head, second, third]) = offered();
    assert_eq!(
        desk.does(Actor::SYSTEM, expire_offer(&head)),
        Ok(Outcome::Unchanged),
        "its time has not come"
    );
    desk.passes(TTL);
    let verdicts =
        desk.together([(Actor::SYSTEM, expire_offer(&head)), (Actor::SYSTEM, expire_offer(&head))]);
    assert_eq!(entry(verdicts[0].clone()).state, EntryState::Expired);
    assert_eq!(verdicts[1], Ok(Outcome::Unchanged));
    desk.stands(&second, EntryState::Offered);
    assert_eq!(desk.entry(second.id).offer_expire_time, Some(desk.store.now + TTL));
    desk.stands(&third, EntryState::Waiting);
}

#[test]
fn who_waits_has_nothing_to_accept_or_decline() {
    let (mut desk, [_, second, _]) = offered();
    let refusal = Refusal::EntryState { entry_id: second.id, state: EntryState::Waiting };
    assert_eq!(desk.does(attendee(3), accept(&second)), Err(refusal.clone()));
    assert_eq!(desk.does(attendee(3), decline(&second)), Err(refusal));
}

#[test]
fn who_leaves_with_an_offer_in_hand_declines_it_once() {
    let (mut desk, [head, second, _]) = offered();
    desk.does(attendee(2), leave(&head)).expect("declined");
    desk.stands(&head, EntryState::Declined);
    desk.stands(&second, EntryState::Offered);
    desk.does(attendee(2), leave(&head)).expect("declined before");
    desk.stands(&second, EntryState::Offered);
}

#[test]
fn who_leaves_after_the_offers_time_is_told_that_it_has_expired_swept_or_not() {
    let (mut desk, [head, ..]) = offered();
    desk.passes(TTL);
    let told = Err(Refusal::EntryState { entry_id: head.id, state: EntryState::Expired });
    assert_eq!(desk.does(attendee(2), leave(&head)), told);
    desk.does(Actor::SYSTEM, expire_offer(&head)).expect("swept");
    assert_eq!(desk.does(attendee(2), leave(&head)), told);
}

#[test]
fn an_offer_that_was_answered_cannot_be_answered_otherwise() {
    let (mut desk, [head, second, _]) = offered();
    desk.does(attendee(2), decline(&head)).expect("declined");
    assert_eq!(reason(desk.does(attendee(2), accept(&head))), "STATE_CONFLICT");
    desk.does(attendee(3), accept(&second)).expect("accepted");
    assert_eq!(reason(desk.does(attendee(3), decline(&second))), "STATE_CONFLICT");
    assert_eq!(reason(desk.does(attendee(3), leave(&second))), "STATE_CONFLICT");
}

#[test]
fn who_has_an_open_offer_cannot_come_in_another_way() {
    let (mut desk, _) = offered();
    assert_eq!(reason(desk.does(attendee(2), register_or_queue(2, 1))), "ALREADY_WAITLISTED");
    assert_eq!(reason(desk.does(attendee(2), join(2, 1))), "ALREADY_WAITLISTED");
}

#[test]
fn a_lapsed_offer_does_not_stand_in_the_way_of_its_own_user() {
    let (mut desk, [head, second, third]) = offered();
    desk.passes(TTL);
    let again = entry(desk.does(attendee(2), join(2, 1)));
    desk.stands(&head, EntryState::Expired);
    desk.stands(&second, EntryState::Offered);
    assert!(again.position > third.position, "{again:?}");
}

#[test]
fn the_last_who_waited_may_register_when_the_offer_has_lapsed() {
    let mut desk = offering(1);
    let first = desk.registers(1, 1);
    let head = desk.queues(2, 1);
    desk.cancels(&first).expect("cancelled");
    desk.passes(TTL);
    assert_eq!(reason(desk.does(attendee(2), join(2, 1))), "SEATS_AVAILABLE");
    desk.stands(&head, EntryState::Expired);
    desk.registers(2, 1);
}

#[test]
fn a_new_time_to_answer_is_for_new_offers() {
    let (mut desk, [head, second, _]) = offered();
    let stands_until = desk.entry(head.id).offer_expire_time;
    let patch = EventPatch { offer_ttl: Some(seconds(5)), ..EventPatch::default() };
    desk.does(OWNER, Action::Update(Box::new(patch))).expect("updated");
    assert_eq!(desk.entry(head.id).offer_expire_time, stands_until);
    desk.does(attendee(2), decline(&head)).expect("declined");
    assert_eq!(desk.entry(second.id).offer_expire_time, Some(desk.store.now + seconds(5)));
}

#[test]
fn open_offers_stay_open_when_the_policy_becomes_promotion() {
    let (mut desk, [head, second, _]) = offered();
    let patch = EventPatch { waitlist_policy: Some(WaitlistPolicy::Promote), ..EventPatch::default() };
    desk.does(OWNER, Action::Update(Box::new(patch))).expect("updated");
    desk.stands(&head, EntryState::Offered);
    desk.does(attendee(2), decline(&head)).expect("declined");
    desk.stands(&second, EntryState::Promoted);
}

#[test]
fn offered_seats_count_as_taken_when_the_capacity_is_lowered() {
    let mut desk = offering(3);
    let first = desk.registers(1, 2);
    desk.registers(5, 1);
    desk.queues(2, 2);
    desk.cancels(&first).expect("cancelled");
    let to = |capacity| {
        let patch = EventPatch {
            capacity: Some(capacity),
            max_seats_per_registration: Some(1),
            ..EventPatch::default()
        };
        Action::Update(Box::new(patch))
    };
    assert_eq!(reason(desk.does(OWNER, to(2))), "CAPACITY_BELOW_TAKEN");
    desk.does(OWNER, to(3)).expect("updated");
}

#[test]
fn an_event_that_is_over_seats_nobody_by_an_open_offer() {
    let mut desk = offering(1);
    let first = desk.registers(1, 1);
    let head = desk.queues(2, 1);
    desk.store.now = desk.event().end_time - seconds(1);
    desk.cancels(&first).expect("cancelled");
    desk.stands(&head, EntryState::Offered);
    desk.passes(seconds(1));
    assert_eq!(reason(desk.does(attendee(2), accept(&head))), "STATE_CONFLICT");
    desk.stands(&head, EntryState::Offered);
}

#[test]
fn a_party_larger_than_what_is_free_gets_no_part_of_it() {
    let mut desk = offering(4);
    let first = desk.registers(1, 3);
    desk.registers(5, 1);
    let line = [desk.queues(2, 2), desk.queues(3, 2)];
    desk.does(OWNER, cancel(&first)).expect("cancelled");
    desk.stands(&line[0], EntryState::Offered);
    desk.stands(&line[1], EntryState::Waiting);
    assert_eq!(desk.free(), 1);
}
