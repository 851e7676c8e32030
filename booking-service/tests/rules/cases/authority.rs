//! Who may do what, and what everyone else is told.

use booking_service::domain::command::{Action, Actor, ActorRole, EventPatch, Join, Register};
use booking_service::domain::decide::Verdict;
use booking_service::domain::event::{Event, EventState, WaitlistPolicy};
use booking_service::domain::registration::{Labels, Registration};
use booking_service::domain::waitlist::Entry;

use super::{Desk, accept, ask, cancel, check_in, confirm, decline, leave, reason};
use crate::snapshot::Refused;
use crate::world::{ADMIN, OWNER, RIVAL, SERVICE, attendee, event, seconds, user};

/// Person 1, whose things the others handle.
const USER: fn() -> Actor = || attendee(1);
/// Person 9, who has nothing here.
const STRANGER: fn() -> Actor = || attendee(9);
/// The owner, who is no organizer any more.
const DEMOTED: Actor = Actor { id: OWNER.id, role: ActorRole::Attendee };

/// A held registration of person 1 and an offer to person 2; the door is open.
fn scene() -> (Desk, Registration, Entry) {
    let mut desk = Desk::at(Event { waitlist_policy: WaitlistPolicy::Offer, ..event(0, 2) });
    let held = desk.holds(1, 1, seconds(60));
    let other = desk.registers(3, 1);
    let entry = desk.queues(2, 1);
    desk.cancels(&other).expect("cancelled");
    (desk, held, entry)
}

/// "OK", or the reason of the refusal.
fn heard(verdict: Verdict) -> &'static str {
    verdict.map_or_else(|refusal| Refused::from(refusal).reason, |_| "OK")
}

fn everybody(user: Actor) -> [(&'static str, Actor); 8] {
    [
        ("its user", user),
        ("the owner", OWNER),
        ("an admin", ADMIN),
        ("a service", SERVICE),
        ("a stranger", STRANGER()),
        ("another organizer", RIVAL),
        ("the owner, demoted", DEMOTED),
        ("an attendee with a service's id", Actor { role: ActorRole::Attendee, ..SERVICE }),
    ]
}

#[test]
fn a_registration_is_handled_by_its_user_the_owner_services_and_admins_and_does_not_exist_for_others() {
    for action in [confirm, cancel] {
        for (who, actor) in everybody(USER()) {
            let (mut desk, held, _) = scene();
            let expected = match who {
                "its user" | "the owner" | "an admin" | "a service" => "OK",
                _ => "REGISTRATION_NOT_FOUND",
            };
            assert_eq!(heard(desk.does(actor, action(&held))), expected, "{who}");
        }
    }
}

#[test]
fn the_door_is_kept_by_the_owner_services_and_admins_and_a_user_is_told_so() {
    for (who, actor) in everybody(USER()) {
        let (mut desk, held, _) = scene();
        desk.does(USER(), confirm(&held)).expect("confirmed");
        let expected = match who {
            "the owner" | "an admin" | "a service" => "OK",
            "its user" => "ROLE_REQUIRED",
            _ => "REGISTRATION_NOT_FOUND",
        };
        assert_eq!(heard(desk.does(actor, check_in(&held))), expected, "{who}");
    }
}

#[test]
fn an_entry_is_handled_by_its_user_the_owner_services_and_admins_and_does_not_exist_for_others() {
    for action in [accept, decline] {
        for (who, actor) in everybody(attendee(2)) {
            let (mut desk, _, entry) = scene();
            let expected = match who {
                "its user" | "the owner" | "an admin" | "a service" => "OK",
                _ => "WAITLIST_ENTRY_NOT_FOUND",
            };
            assert_eq!(heard(desk.does(actor, action(&entry))), expected, "{who}");
        }
    }
    for (who, actor) in everybody(attendee(4)) {
        let (mut desk, ..) = scene();
        let waiting = desk.queues(4, 1);
        let expected = match who {
            "its user" | "the owner" | "an admin" | "a service" => "OK",
            _ => "WAITLIST_ENTRY_NOT_FOUND",
        };
        assert_eq!(heard(desk.does(actor, leave(&waiting))), expected, "{who}");
    }
}

#[test]
fn one_registers_and_queues_for_oneself_and_only_the_owner_services_and_admins_for_others() {
    for (who, actor) in everybody(attendee(5)) {
        let expected = match who {
            "its user" | "the owner" | "an admin" | "a service" => "OK",
            _ => "ROLE_REQUIRED",
        };
        let mut desk = Desk::with_seats(1);
        assert_eq!(heard(desk.does(actor, Action::Register(ask(5, 1)))), expected, "{who}");
        let mut desk = Desk::with_seats(1);
        desk.registers(1, 1);
        let join = Join { user_id: user(5), seats: 1, labels: Labels::new(), request: None };
        assert_eq!(heard(desk.does(actor, Action::Join(join))), expected, "{who}");
    }
}

#[test]
fn whoever_may_not_act_for_another_learns_nothing_about_that_user() {
    let (mut desk, ..) = scene();
    let register = Action::Register(Register { ..ask(1, 1) });
    assert_eq!(reason(desk.does(STRANGER(), register)), "ROLE_REQUIRED", "not ALREADY_REGISTERED");
}

#[test]
fn an_organizer_registers_at_somebody_elses_event_like_anyone() {
    let mut desk = Desk::with_seats(1);
    let ask = Register { user_id: RIVAL.id, ..ask(0, 1) };
    assert_eq!(heard(desk.does(RIVAL, Action::Register(ask))), "OK");
}

fn changes_of_events() -> [Action; 4] {
    [
        Action::Update(Box::new(EventPatch { capacity: Some(7), ..EventPatch::default() })),
        Action::Publish { etag: None },
        Action::CancelEvent { reason: String::new(), etag: None },
        Action::DeleteEvent { etag: None },
    ]
}

#[test]
fn a_published_event_is_run_by_its_owner_and_admins() {
    for action in changes_of_events() {
        for (who, actor) in everybody(USER()) {
            let mut desk = Desk::at(Event { max_seats_per_registration: 1, ..event(0, 5) });
            let expected = match (who, &action) {
                ("the owner" | "an admin", Action::DeleteEvent { .. }) => "STATE_CONFLICT",
                ("the owner" | "an admin", _) => "OK",
                _ => "ROLE_REQUIRED",
            };
            assert_eq!(heard(desk.does(actor, action.clone())), expected, "{who}: {action:?}");
        }
    }
}

#[test]
fn a_draft_does_not_exist_for_anyone_but_its_owner_and_admins() {
    let register = |actor: Actor| Action::Register(Register { user_id: actor.id, ..ask(0, 1) });
    let others = [SERVICE, STRANGER(), RIVAL, DEMOTED];
    for actor in others {
        for action in changes_of_events().into_iter().chain([register(actor)]) {
            let mut desk = Desk::at(Event { state: EventState::Draft, ..event(0, 5) });
            assert_eq!(heard(desk.does(actor, action.clone())), "EVENT_NOT_FOUND", "{actor:?}: {action:?}");
        }
    }
    for actor in [OWNER, ADMIN] {
        for (action, expected) in
            changes_of_events().into_iter().zip(["OK", "OK", "EVENT_NOT_PUBLISHED", "OK"])
        {
            let mut desk =
                Desk::at(Event { state: EventState::Draft, max_seats_per_registration: 1, ..event(0, 5) });
            assert_eq!(heard(desk.does(actor, action.clone())), expected, "{actor:?}: {action:?}");
        }
    }
}

#[test]
fn nothing_is_changed_by_those_who_may_not() {
    let (mut desk, held, entry) = scene();
    let before = (desk.event().clone(), desk.store.changes.len());
    let mut actions =
        vec![cancel(&held), confirm(&held), check_in(&held), accept(&entry), decline(&entry), leave(&entry)];
    actions.extend(changes_of_events().into_iter().take(2));
    for action in actions {
        desk.does(STRANGER(), action).expect_err("refused");
    }
    assert_eq!((desk.event().clone(), desk.store.changes.len()), before);
}
