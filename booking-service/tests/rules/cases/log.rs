//! The change log.

use booking_service::domain::change::{ChangeAction, rfc3339};
use booking_service::domain::command::{Action, Actor, Command, Register};
use booking_service::domain::event::{Event, WaitlistPolicy};
use booking_service::domain::registration::Labels;
use serde_json::json;

use super::{
    Desk, accept, ask, cancel, check_in, confirm, decline, expire_hold, expire_offer, join, leave, register,
    register_or_queue,
};
use crate::world::{OWNER, SERVICE, attendee, event, event_id, seconds, user};

/// (action, who did it, whom it concerns), from `after` on.
fn logged(desk: &Desk, after: usize) -> Vec<(ChangeAction, Actor, Option<uuid::Uuid>)> {
    desk.store.changes[after..].iter().map(|row| (row.action, row.actor, row.subject_id)).collect()
}

#[test]
fn versions_rise_without_a_gap_in_the_order_of_arrival() {
    let mut desk = Desk::with_seats(2);
    let first = desk.registers(1, 1);
    desk.together([
        (attendee(2), register(2, 1)),
        (attendee(3), join(3, 1)),
        (attendee(4), register(4, 1)),
        (attendee(1), cancel(&first)),
    ]);
    let versions: Vec<i64> = desk.store.changes.iter().map(|row| row.version).collect();
    assert_eq!(versions, [2, 3, 4, 5, 6, 7]);
    use ChangeAction::{RegistrationCancelled, RegistrationCreated, WaitlistJoined, WaitlistPromoted};
    assert_eq!(
        logged(&desk, 1),
        [
            (RegistrationCreated, attendee(2), Some(user(2))),
            (WaitlistJoined, attendee(3), Some(user(3))),
            (RegistrationCancelled, attendee(1), Some(user(1))),
            (WaitlistPromoted, Actor::SYSTEM, Some(user(3))),
            (RegistrationCreated, Actor::SYSTEM, Some(user(3))),
        ]
    );
    assert_eq!(desk.event().version, 7);
}

#[test]
fn each_event_counts_its_own_versions() {
    let mut desk = Desk::with_seats(5);
    desk.store.events.insert(event_id(1), event(1, 5));
    desk.store.versions.insert(event_id(1), 1);
    let at = |e, n| Command { event_id: event_id(e), actor: attendee(n), action: register(n, 1) };
    desk.store.run(&[at(0, 1), at(1, 1), at(1, 2), at(0, 2), at(0, 3)]);
    let rows: Vec<_> = desk.store.changes.iter().map(|row| (row.event_id, row.version)).collect();
    let of = |e, version| (event_id(e), version);
    assert_eq!(rows, [of(0, 2), of(1, 2), of(1, 3), of(0, 3), of(0, 4)]);
}

#[test]
fn a_refusal_is_not_logged() {
    let mut desk = Desk::with_seats(1);
    desk.registers(1, 1);
    desk.does(attendee(2), register(2, 1)).expect_err("full");
    desk.does(attendee(1), register(1, 1)).expect_err("registered");
    assert_eq!((desk.store.changes.len(), desk.event().version), (1, 2));
}

#[test]
fn the_log_names_who_did_it_and_whom_it_concerns() {
    let mut desk = Desk::at(Event { waitlist_policy: WaitlistPolicy::Offer, ..event(0, 1) });
    let ask = Register { user_id: user(1), hold: Some(seconds(60)), ..ask(1, 1) };
    let held = super::registration(desk.does(SERVICE, Action::Register(ask)));
    desk.does(attendee(1), confirm(&held)).expect("confirmed");
    let line: Vec<_> = (2..6).map(|n| desk.queues(n, 1)).collect();
    let start = desk.store.changes.len();
    desk.does(OWNER, leave(&line[3])).expect("left");
    desk.does(OWNER, cancel(&held)).expect("cancelled");
    desk.does(attendee(2), decline(&line[0])).expect("declined");
    desk.passes(desk.event().offer_ttl);
    desk.does(Actor::SYSTEM, expire_offer(&line[1])).expect("expired");
    desk.does(OWNER, accept(&line[2])).expect("accepted");
    let seated = desk.active(4).expect("seated").clone();
    desk.does(OWNER, check_in(&seated)).expect("checked in");
    use ChangeAction as A;
    assert_eq!(
        logged(&desk, 0)[..2],
        [
            (A::RegistrationHeld, SERVICE, Some(user(1))),
            (A::RegistrationConfirmed, attendee(1), Some(user(1)))
        ]
    );
    assert_eq!(
        logged(&desk, start),
        [
            (A::WaitlistLeft, OWNER, Some(user(5))),
            (A::RegistrationCancelled, OWNER, Some(user(1))),
            (A::WaitlistOffered, Actor::SYSTEM, Some(user(2))),
            (A::OfferDeclined, attendee(2), Some(user(2))),
            (A::WaitlistOffered, Actor::SYSTEM, Some(user(3))),
            (A::OfferExpired, Actor::SYSTEM, Some(user(3))),
            (A::WaitlistOffered, Actor::SYSTEM, Some(user(4))),
            (A::OfferAccepted, OWNER, Some(user(4))),
            (A::RegistrationCreated, OWNER, Some(user(4))),
            (A::RegistrationCheckedIn, OWNER, Some(user(4))),
        ]
    );
}

#[test]
fn a_lapsed_hold_is_logged_as_the_systems_doing_whoever_came_by() {
    let mut desk = Desk::with_seats(1);
    let held = desk.holds(1, 1, seconds(60));
    desk.passes(seconds(60));
    desk.does(attendee(1), register(1, 1)).expect("registered again");
    let expired = &desk.store.changes[1];
    assert_eq!((expired.action, expired.actor), (ChangeAction::RegistrationExpired, Actor::SYSTEM));
    assert_eq!((expired.entity_id, expired.subject_id), (held.id, Some(user(1))));
    desk.does(Actor::SYSTEM, expire_hold(&held)).expect("nothing left to do");
    assert_eq!(desk.store.changes.len(), 3);
}

#[test]
fn the_details_tell_a_reader_what_the_row_is() {
    let mut desk = Desk::with_seats(3);
    let labels = Labels::from([("table".to_owned(), "7".to_owned())]);
    let ask = Register { hold: Some(seconds(60)), labels, ..ask(1, 2) };
    let held = super::registration(desk.does(attendee(1), Action::Register(ask)));
    let expires = rfc3339(held.hold_expire_time.expect("held"));
    assert_eq!(
        desk.store.changes[0].details,
        json!({ "seats": 2, "hold_expire_time": expires, "labels": { "table": "7" } })
    );
    let waiting = super::entry(desk.does(attendee(2), register_or_queue(2, 3)));
    assert_eq!(desk.store.changes[1].details, json!({ "seats": 3, "position": 1 }));
    desk.does(attendee(1), cancel(&held)).expect("cancelled");
    let promoted = desk.active(2).expect("promoted").id;
    let details: Vec<_> = desk.store.changes[3..].iter().map(|row| row.details.clone()).collect();
    assert_eq!(
        details,
        [
            json!({ "seats": 3, "position": 1, "registration_id": promoted.to_string() }),
            json!({ "seats": 3, "waitlist_entry_id": waiting.id.to_string() })
        ]
    );
}
