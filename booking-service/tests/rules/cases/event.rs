//! Update, publish, cancel, delete.

use booking_service::domain::command::{Action, EventPatch};
use booking_service::domain::event::{Event, EventState};
use booking_service::domain::refusal::Refusal;
use booking_service::domain::registration::RegistrationState;
use booking_service::domain::waitlist::EntryState;

use super::{Desk, cancel, confirm, leave, reason, register, told};
use crate::world::{ADMIN, NOON, OWNER, attendee, event, event_id, seconds};

fn update(patch: EventPatch) -> Action {
    Action::Update(Box::new(patch))
}

fn capacity(capacity: i32) -> Action {
    update(EventPatch { capacity: Some(capacity), ..EventPatch::default() })
}

fn call_off(reason: &str) -> Action {
    Action::CancelEvent { reason: reason.to_owned(), etag: None }
}

const PUBLISH: Action = Action::Publish { etag: None };
const DELETE: Action = Action::DeleteEvent { etag: None };

fn draft() -> Desk {
    Desk::at(Event { state: EventState::Draft, ..event(0, 5) })
}

#[test]
fn capacity_is_not_lowered_below_what_is_taken() {
    let mut desk = Desk::at(Event { max_seats_per_registration: 4, ..event(0, 10) });
    desk.registers(1, 4);
    desk.holds(2, 2, seconds(60));
    assert_eq!(
        desk.does(OWNER, capacity(5)),
        Err(Refusal::CapacityBelowTaken { event_id: event_id(0), capacity: 5, taken: 6 })
    );
    assert_eq!(told(desk.does(OWNER, capacity(6))).seats_remaining, 0);
    assert_eq!(told(desk.does(OWNER, capacity(9))).seats_remaining, 3);
}

#[test]
fn capacity_may_be_changed_again_and_again() {
    let mut desk = Desk::at(Event { max_seats_per_registration: 2, ..event(0, 4) });
    let first = desk.registers(1, 2);
    desk.registers(2, 2);
    let waiting: Vec<_> = (3..8).map(|n| desk.queues(n, 2)).collect();
    desk.does(OWNER, capacity(6)).expect("raised");
    // Nothing may come after it in a batch; before it there may be others.
    desk.together([(attendee(1), cancel(&first)), (OWNER, capacity(10))]);
    desk.does(OWNER, capacity(10)).expect("as it is");
    let promoted = waiting.iter().filter(|row| desk.entry(row.id).state == EntryState::Promoted);
    assert_eq!((promoted.count(), desk.free()), (4, 0));
}

#[test]
fn an_etag_names_the_organizers_last_change_and_not_a_registration() {
    let mut desk = Desk::with_seats(5);
    let etag = desk.event().etag();
    desk.registers(1, 1);
    assert_eq!(desk.event().etag(), etag);
    let title = |title: &str| {
        let title = Some(title.to_owned());
        update(EventPatch { etag: Some(etag.clone()), title, ..EventPatch::default() })
    };
    let updated = told(desk.does(OWNER, title("Opera")));
    assert_ne!(updated.etag(), etag);
    assert_eq!(
        desk.does(OWNER, title("Ballet")),
        Err(Refusal::EtagMismatch { event_id: event_id(0), current: updated.etag() })
    );
    assert_eq!(desk.store.texts[&event_id(0)].title, "Opera");
}

#[test]
fn each_change_of_the_organizer_gives_a_new_etag() {
    let mut desk = draft();
    let mut etags = vec![desk.event().etag()];
    for action in [capacity(6), PUBLISH, capacity(7), call_off("rain")] {
        etags.push(told(desk.does(OWNER, action)).etag());
    }
    let all = etags.len();
    etags.sort();
    etags.dedup();
    assert_eq!(etags.len(), all);
}

#[test]
fn publish_cancel_and_delete_heed_the_etag() {
    let stale = Some("\"0\"".to_owned());
    let mut desk = draft();
    let publish = Action::Publish { etag: stale.clone() };
    assert_eq!(reason(desk.does(OWNER, publish.clone())), "ETAG_MISMATCH");
    let delete = Action::DeleteEvent { etag: stale.clone() };
    assert_eq!(reason(desk.does(OWNER, delete)), "ETAG_MISMATCH");
    let etag = Some(desk.event().etag());
    desk.does(OWNER, Action::Publish { etag: etag.clone() }).expect("published");
    desk.does(OWNER, Action::Publish { etag }).expect("a lost answer may be asked for again");
    let cancel = |etag| Action::CancelEvent { reason: String::new(), etag };
    assert_eq!(reason(desk.does(OWNER, cancel(stale))), "ETAG_MISMATCH");
    let etag = Some(desk.event().etag());
    desk.does(OWNER, cancel(etag.clone())).expect("cancelled");
    desk.does(OWNER, cancel(etag)).expect("a lost answer may be asked for again");
}

#[test]
fn an_update_that_changes_nothing_leaves_no_trace() {
    let mut desk = Desk::with_seats(5);
    let before = desk.event().clone();
    let same = EventPatch { capacity: Some(5), title: Some("Concert".to_owned()), ..EventPatch::default() };
    assert_eq!(told(desk.does(OWNER, update(same))), before);
    assert_eq!(desk.store.changes, []);
}

#[test]
fn an_update_changes_what_it_names_and_nothing_else() {
    let mut desk = Desk::with_seats(5);
    let before = desk.event().clone();
    desk.passes(seconds(7));
    let patch = EventPatch {
        location: Some("Roof".to_owned()),
        offer_ttl: Some(seconds(60)),
        ..EventPatch::default()
    };
    let after = told(desk.does(OWNER, update(patch)));
    let expected = Event {
        offer_ttl: seconds(60),
        revision: before.revision + 1,
        version: before.version + 1,
        update_time: desk.store.now,
        ..before
    };
    assert_eq!((&after, desk.event()), (&expected, &expected));
    let text = &desk.store.texts[&event_id(0)];
    assert_eq!((text.title.as_str(), text.location.as_str()), ("Concert", "Roof"));
}

#[test]
fn times_have_to_fit_each_other() {
    let base = event(0, 5);
    let unfit = [
        EventPatch { start_time: Some(NOON), ..EventPatch::default() },
        EventPatch { end_time: Some(base.start_time), ..EventPatch::default() },
        EventPatch { start_time: Some(base.end_time), ..EventPatch::default() },
        EventPatch {
            registration_close_time: Some(Some(base.end_time + seconds(1))),
            ..EventPatch::default()
        },
        EventPatch { registration_open_time: Some(Some(base.start_time)), ..EventPatch::default() },
        EventPatch {
            registration_open_time: Some(Some(NOON + seconds(60))),
            registration_close_time: Some(Some(NOON + seconds(60))),
            ..EventPatch::default()
        },
        EventPatch { capacity: Some(9), ..EventPatch::default() },
    ];
    for patch in unfit {
        let mut desk = Desk::at(Event { max_seats_per_registration: 10, ..event(0, 10) });
        assert_eq!(reason(desk.does(OWNER, update(patch.clone()))), "VALIDATION_FAILED", "{patch:?}");
        assert_eq!(desk.store.changes, []);
    }
}

#[test]
fn everything_that_does_not_fit_is_told_at_once() {
    let mut desk = Desk::with_seats(10);
    let patch = EventPatch {
        start_time: Some(NOON - seconds(1)),
        end_time: Some(NOON - seconds(2)),
        capacity: Some(1),
        ..EventPatch::default()
    };
    let Err(Refusal::Invalid(violations)) = desk.does(OWNER, update(patch)) else { panic!("invalid") };
    let mut fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["event.end_time", "event.max_seats_per_registration", "event.start_time"]);
}

#[test]
fn an_event_that_has_begun_can_be_changed_but_not_begin_again() {
    let mut desk = Desk::with_seats(10);
    desk.store.now = desk.event().start_time + seconds(1);
    told(desk.does(OWNER, capacity(20)));
    let earlier = EventPatch { start_time: Some(desk.store.now), ..EventPatch::default() };
    assert_eq!(reason(desk.does(OWNER, update(earlier))), "VALIDATION_FAILED");
}

#[test]
fn an_event_that_is_over_or_cancelled_is_not_changed() {
    let mut over = Desk::with_seats(5);
    over.store.now = over.event().end_time;
    assert_eq!(reason(over.does(OWNER, capacity(6))), "STATE_CONFLICT");
    let as_it_is = over.event().clone();
    assert_eq!(told(over.does(OWNER, capacity(5))), as_it_is, "what changes nothing may be sent again");
    assert_eq!(reason(over.does(OWNER, call_off("late"))), "STATE_CONFLICT");

    let mut cancelled = Desk::with_seats(5);
    cancelled.does(OWNER, call_off("rain")).expect("cancelled");
    assert_eq!(reason(cancelled.does(OWNER, capacity(6))), "EVENT_CANCELLED");
    assert_eq!(reason(cancelled.does(OWNER, PUBLISH)), "EVENT_CANCELLED");
}

#[test]
fn a_draft_is_published_once() {
    let mut desk = draft();
    desk.passes(seconds(1));
    let published = told(desk.does(OWNER, PUBLISH));
    assert_eq!((published.state, published.update_time), (EventState::Published, desk.store.now));
    desk.passes(seconds(1));
    assert_eq!(told(desk.does(OWNER, PUBLISH)), published, "again: nothing changes");
    desk.registers(1, 1);
}

#[test]
fn who_registers_in_the_batch_that_publishes_gets_seats() {
    let mut desk = draft();
    let verdicts =
        desk.together([(attendee(1), register(1, 1)), (OWNER, PUBLISH), (attendee(1), register(1, 1))]);
    assert_eq!(reason(verdicts[0].clone()), "EVENT_NOT_FOUND");
    assert_eq!(super::registration(verdicts[2].clone()).state, RegistrationState::Confirmed);
}

#[test]
fn a_draft_whose_start_has_passed_is_not_published() {
    let mut desk = draft();
    desk.store.now = desk.event().start_time;
    assert_eq!(reason(desk.does(OWNER, PUBLISH)), "VALIDATION_FAILED");
    assert_eq!(desk.event().state, EventState::Draft);
}

#[test]
fn with_the_event_all_that_is_active_ends() {
    let mut desk = Desk::with_seats(4);
    let confirmed = desk.registers(1, 1);
    let held = desk.holds(2, 1, seconds(60));
    let inside = desk.registers(3, 1);
    let given_back = desk.registers(4, 1);
    desk.does(OWNER, super::check_in(&inside)).expect("checked in");
    desk.cancels(&given_back).expect("cancelled");
    let waiting = desk.queues(5, 2);
    desk.passes(seconds(1));
    let called_off = told(desk.does(OWNER, call_off("rain")));
    assert_eq!((called_off.state, called_off.cancel_reason.as_str()), (EventState::Cancelled, "rain"));
    assert_eq!((called_off.seats_remaining, called_off.waitlist_size), (4, 0));
    for row in [&confirmed, &held, &inside] {
        desk.is(row, RegistrationState::Cancelled);
        assert_eq!(desk.registration(row.id).cancel_time, Some(desk.store.now));
    }
    assert_ne!(desk.registration(given_back.id).cancel_time, Some(desk.store.now), "it had ended before");
    desk.stands(&waiting, EntryState::Cancelled);

    assert_eq!(reason(desk.does(attendee(2), confirm(&held))), "STATE_CONFLICT");
    desk.cancels(&confirmed).expect("it is cancelled, as was asked");
    assert_eq!(reason(desk.does(attendee(5), leave(&waiting))), "STATE_CONFLICT");
}

#[test]
fn what_the_batch_did_before_ends_with_the_event_too() {
    let mut desk = Desk::with_seats(1);
    desk.together([
        (attendee(1), register(1, 1)),
        (attendee(2), super::join(2, 1)),
        (OWNER, call_off("rain")),
    ]);
    let states: Vec<_> = desk.store.registrations.values().map(|row| row.state).collect();
    assert_eq!(states, [RegistrationState::Cancelled]);
    let states: Vec<_> = desk.store.entries.values().map(|row| row.state).collect();
    assert_eq!(states, [EntryState::Cancelled]);
}

#[test]
fn an_event_is_cancelled_once_for_the_first_reason() {
    let mut desk = Desk::with_seats(1);
    let first = told(desk.does(OWNER, call_off("rain")));
    desk.passes(seconds(1));
    assert_eq!(told(desk.does(ADMIN, call_off("snow"))), first);
    assert_eq!(desk.event().cancel_reason, "rain");
}

#[test]
fn a_draft_is_deleted_and_not_cancelled() {
    let mut desk = draft();
    assert_eq!(reason(desk.does(OWNER, call_off("rain"))), "EVENT_NOT_PUBLISHED");
    let verdicts = desk.together([(OWNER, DELETE), (OWNER, DELETE), (OWNER, PUBLISH)]);
    let deleted = told(verdicts[0].clone());
    assert_eq!((deleted.state, deleted.version), (EventState::Draft, 2), "as it was, and the log goes on");
    assert_eq!(reason(verdicts[1].clone()), "EVENT_NOT_FOUND");
    assert_eq!(reason(verdicts[2].clone()), "EVENT_NOT_FOUND");
    assert!(desk.store.events.is_empty());
    assert_eq!(reason(desk.does(OWNER, DELETE)), "EVENT_NOT_FOUND");
}

#[test]
fn what_was_published_is_not_deleted() {
    let mut desk = Desk::with_seats(1);
    assert_eq!(reason(desk.does(OWNER, DELETE)), "STATE_CONFLICT");
    desk.does(OWNER, call_off("rain")).expect("cancelled");
    assert_eq!(reason(desk.does(OWNER, DELETE)), "STATE_CONFLICT");
}

#[test]
fn a_change_and_the_deletion_of_a_draft_may_share_a_batch() {
    let mut desk = draft();
    let title = EventPatch { title: Some("Opera".to_owned()), ..EventPatch::default() };
    let verdicts = desk.together([(OWNER, update(title)), (OWNER, DELETE)]);
    assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
    assert!(desk.store.events.is_empty());
}
