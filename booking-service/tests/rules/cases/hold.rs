//! Seats that are kept for a while.

use std::time::Duration;

use booking_service::domain::command::{Action, Actor, Register, WhenFull};
use booking_service::domain::decide::Outcome;
use booking_service::domain::refusal::Refusal;
use booking_service::domain::registration::RegistrationState;
use booking_service::domain::waitlist::EntryState;

use super::{Desk, ask, check_in, confirm, expire_hold, join, reason, register, registration};
use crate::world::{OWNER, attendee, seconds, user};

#[test]
fn a_hold_keeps_its_seats_and_becomes_a_registration_in_time() {
    let mut desk = Desk::with_seats(2);
    let held = desk.holds(1, 2, seconds(60));
    assert_eq!(held.state, RegistrationState::Held);
    assert_eq!(held.hold_expire_time, Some(desk.store.now + seconds(60)));
    assert_eq!((held.confirm_time, desk.free()), (None, 0));
    desk.passes(seconds(60) - Duration::from_micros(1));
    let confirmed = registration(desk.does(attendee(1), confirm(&held)));
    assert_eq!(confirmed.state, RegistrationState::Confirmed);
    assert_eq!(confirmed.confirm_time, Some(desk.store.now));
    assert_eq!(confirmed.hold_expire_time, held.hold_expire_time, "it stays set");
    assert_eq!(desk.free(), 0);
}

#[test]
fn a_hold_is_not_confirmed_from_its_last_moment_on_even_if_nobody_swept() {
    let mut desk = Desk::with_seats(1);
    let held = desk.holds(1, 1, seconds(60));
    desk.passes(seconds(60));
    let lapsed = desk.does(attendee(1), confirm(&held));
    assert_eq!(reason(lapsed), "HOLD_EXPIRED");
    desk.does(Actor::SYSTEM, expire_hold(&held)).expect("swept");
    assert_eq!(reason(desk.does(attendee(1), confirm(&held))), "HOLD_EXPIRED");
}

#[test]
fn a_hold_whose_seat_was_resold_is_not_confirmed() {
    let mut desk = Desk::with_seats(1);
    let held = desk.holds(1, 1, seconds(60));
    let waiting = desk.queues(2, 1);
    desk.passes(seconds(60));
    let verdicts = desk.together([(Actor::SYSTEM, expire_hold(&held)), (attendee(1), confirm(&held))]);
    assert_eq!(reason(verdicts[1].clone()), "HOLD_EXPIRED");
    desk.stands(&waiting, EntryState::Promoted);
    assert_eq!(desk.free(), 0);
}

#[test]
fn a_confirmed_hold_does_not_lapse() {
    let mut desk = Desk::with_seats(1);
    let held = desk.holds(1, 1, seconds(60));
    desk.does(attendee(1), confirm(&held)).expect("confirmed");
    desk.passes(seconds(600));
    assert_eq!(desk.does(Actor::SYSTEM, expire_hold(&held)), Ok(Outcome::Unchanged));
    desk.is(&held, RegistrationState::Confirmed);
}

#[test]
fn a_confirm_that_is_sent_twice_gives_one_answer() {
    let mut desk = Desk::with_seats(1);
    let held = desk.holds(1, 1, seconds(60));
    let once = desk.does(attendee(1), confirm(&held));
    desk.passes(seconds(600));
    assert_eq!(desk.does(attendee(1), confirm(&held)), once, "the hold's time does not matter any more");
    desk.does(OWNER, check_in(&held)).expect("checked in");
    assert_eq!(registration(desk.does(attendee(1), confirm(&held))).state, RegistrationState::CheckedIn);
}

#[test]
fn a_cancelled_hold_is_not_confirmed() {
    let mut desk = Desk::with_seats(1);
    let held = desk.holds(1, 1, seconds(60));
    desk.cancels(&held).expect("cancelled");
    assert_eq!(
        desk.does(attendee(1), confirm(&held)),
        Err(Refusal::RegistrationState { registration_id: held.id, state: RegistrationState::Cancelled })
    );
    assert_eq!(desk.free(), 1);
}

#[test]
fn an_expired_hold_is_not_cancelled() {
    let mut desk = Desk::with_seats(1);
    let held = desk.holds(1, 1, seconds(1));
    desk.passes(seconds(1));
    desk.does(Actor::SYSTEM, expire_hold(&held)).expect("swept");
    assert_eq!(reason(desk.cancels(&held)), "STATE_CONFLICT");
    assert_eq!(desk.free(), 1);
}

#[test]
fn a_hold_lapses_once() {
    let mut desk = Desk::with_seats(3);
    let held = desk.holds(1, 2, seconds(60));
    desk.registers(2, 1);
    assert_eq!(desk.does(Actor::SYSTEM, expire_hold(&held)), Ok(Outcome::Unchanged), "its time has not come");
    desk.passes(seconds(60));
    let verdicts = desk.together([(Actor::SYSTEM, expire_hold(&held)), (Actor::SYSTEM, expire_hold(&held))]);
    assert_eq!(registration(verdicts[0].clone()).state, RegistrationState::Expired);
    assert_eq!(verdicts[1], Ok(Outcome::Unchanged));
    assert_eq!(desk.free(), 2);
}

#[test]
fn a_lapsed_hold_does_not_stand_in_the_way_of_its_own_user() {
    let mut desk = Desk::with_seats(1);
    let held = desk.holds(1, 1, seconds(60));
    desk.passes(seconds(60));
    let fresh = desk.registers(1, 1);
    desk.is(&held, RegistrationState::Expired);
    desk.is(&fresh, RegistrationState::Confirmed);
}

#[test]
fn the_seats_of_a_users_lapsed_hold_go_to_the_queue_before_the_user_comes_again() {
    let mut desk = Desk::with_seats(1);
    let held = desk.holds(1, 1, seconds(60));
    let waiting = desk.queues(2, 1);
    desk.passes(seconds(60));
    assert_eq!(reason(desk.does(attendee(1), register(1, 1))), "EVENT_FULL");
    desk.is(&held, RegistrationState::Expired);
    desk.stands(&waiting, EntryState::Promoted);
    assert_eq!(desk.does(attendee(1), join(1, 1)).map(|_| desk.event().waitlist_size), Ok(1));
}

#[test]
fn a_hold_is_not_confirmed_after_the_event() {
    let mut desk = Desk::with_seats(1);
    desk.store.now = desk.event().start_time - seconds(1);
    let held = desk.holds(1, 1, seconds(86_400));
    desk.store.now = desk.event().end_time;
    assert_eq!(reason(desk.does(attendee(1), confirm(&held))), "STATE_CONFLICT");
    desk.is(&held, RegistrationState::Held);
}

#[test]
fn what_comes_of_a_place_in_the_queue_is_never_held() {
    let mut desk = Desk::with_seats(1);
    let first = desk.registers(1, 1);
    let ask = Register { when_full: WhenFull::JoinWaitlist, hold: Some(seconds(60)), ..ask(2, 1) };
    desk.does(attendee(2), Action::Register(ask)).expect("queued");
    desk.cancels(&first).expect("cancelled");
    let row = desk.active(2).expect("promoted");
    assert_eq!((row.user_id, row.state, row.hold_expire_time), (user(2), RegistrationState::Confirmed, None));
}
