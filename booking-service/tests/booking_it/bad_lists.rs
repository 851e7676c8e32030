//! Lists that are asked for wrongly, and page tokens that are not theirs.

use rowlock_proto::booking::v1 as pb;

use crate::bad_input::{NO_TIME, in_hours};
use crate::refusal::{invalid, refused};
use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_list_is_named_at_once() {
    let scene = Scene::set(1).await;
    let admin = scene.system.admin();
    let events = pb::ListEventsRequest {
        page_size: -1,
        states: vec![1, 0, 9],
        organizer_id: "x".to_owned(),
        start_time_after: NO_TIME,
        start_time_before: NO_TIME,
        text: "x".repeat(201),
        ..pb::ListEventsRequest::default()
    };
    let fields = [
        "organizer_id",
        "page_size",
        "start_time_after",
        "start_time_before",
        "states[1]",
        "states[2]",
        "text",
    ];
    invalid(admin.events().list_events(events).await, &fields);
    for (after, before) in [(in_hours(1), in_hours(0)), (in_hours(0), in_hours(-1))] {
        let request = pb::ListEventsRequest {
            start_time_after: after,
            start_time_before: before,
            ..Default::default()
        };
        invalid(admin.events().list_events(request).await, &["start_time_before"]);
    }
    let same = in_hours(1);
    let request =
        pb::ListEventsRequest { start_time_after: same, start_time_before: same, ..Default::default() };
    invalid(admin.events().list_events(request).await, &["start_time_before"]);
    let registrations = pb::ListRegistrationsRequest {
        event_id: "x".to_owned(),
        states: vec![0, 6],
        page_size: i32::MIN,
        ..Default::default()
    };
    let answer = admin.registrations().list_registrations(registrations).await;
    invalid(answer, &["event_id", "page_size", "states[0]", "states[1]"]);
    let entries = pb::ListWaitlistEntriesRequest {
        event_id: "x".to_owned(),
        states: vec![9, -1],
        page_size: -1,
        ..Default::default()
    };
    let answer = admin.waitlists().list_waitlist_entries(entries).await;
    invalid(answer, &["event_id", "page_size", "states[0]", "states[1]"]);
    let audit = pb::ListAuditEntriesRequest {
        event_id: "x".to_owned(),
        actor_id: "y".to_owned(),
        actions: vec![0, 20],
        change_time_after: NO_TIME,
        change_time_before: NO_TIME,
        page_size: -1,
        ..Default::default()
    };
    let fields = [
        "actions[0]",
        "actions[1]",
        "actor_id",
        "change_time_after",
        "change_time_before",
        "event_id",
        "page_size",
    ];
    invalid(admin.audits().list_audit_entries(audit).await, &fields);
    let changes = pb::StreamChangesRequest {
        resume_token: "x".to_owned(),
        event_id: "y".to_owned(),
        ..Default::default()
    };
    invalid(admin.changes().stream_changes(changes).await.map(|_| ()), &["event_id", "resume_token"]);
    let mut told =
        admin.changes().stream_changes(pb::StreamChangesRequest::default()).await.unwrap().into_inner();
    let resume_token = told.message().await.unwrap().unwrap().resume_token;
    let changes = pb::StreamChangesRequest { resume_token, from_present: true, ..Default::default() };
    invalid(admin.changes().stream_changes(changes).await.map(|_| ()), &["from_present"]);
    let rush =
        pb::SimulateRushRequest { concurrency: -1, when_full: 9, users: 100_001, ..Default::default() };
    let answer = admin.simulations().simulate_rush(rush).await.map(|_| ());
    invalid(answer, &["concurrency", "event_id", "users", "when_full"]);
    for (users, concurrency, field) in [(0, 1, "users"), (-1, 1, "users"), (1, 1_001, "concurrency")] {
        let event_id = scene.open.event_id.clone();
        let rush = pb::SimulateRushRequest { event_id, users, concurrency, ..Default::default() };
        invalid(admin.simulations().simulate_rush(rush).await.map(|_| ()), &[field]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_token_is_good_for_its_own_list_alone() {
    let scene = Scene::set(1).await;
    let (admin, owner, user) = (scene.system.admin(), &scene.owner, &scene.user);
    let events = pb::ListEventsRequest { page_size: 1, ..Default::default() };
    let first = owner.events().list_events(events.clone()).await.unwrap().into_inner();
    let token = first.next_page_token;
    assert!(!token.is_empty());
    let next =
        |page_token: &str| pb::ListEventsRequest { page_token: page_token.to_owned(), ..events.clone() };
    // Another page size is the same list.
    owner.events().list_events(pb::ListEventsRequest { page_size: 3, ..next(&token) }).await.unwrap();
    let mut damaged = token.clone();
    damaged.replace_range(0..1, if token.starts_with('A') { "B" } else { "A" });
    let wrong = ["x", "AAAA", "\0", "ü", &damaged, &token[1..], &format!("{token}A"), &"A".repeat(100_000)];
    for page_token in wrong {
        refused(owner.events().list_events(next(page_token)).await, "PAGE_TOKEN_INVALID");
    }
    for other in [
        pb::ListEventsRequest { states: vec![2], ..next(&token) },
        pb::ListEventsRequest { text: "locks".to_owned(), ..next(&token) },
        pb::ListEventsRequest { only_available: true, ..next(&token) },
        pb::ListEventsRequest { organizer_id: owner.id.to_string(), ..next(&token) },
        pb::ListEventsRequest { start_time_after: in_hours(0), ..next(&token) },
    ] {
        refused(owner.events().list_events(other).await, "PAGE_TOKEN_INVALID");
    }
    refused(admin.events().list_events(next(&token)).await, "PAGE_TOKEN_INVALID");

    // Of other lists.
    let event_id = scene.open.event_id.clone();
    for page_token in [token, "x".to_owned()] {
        let token = || page_token.clone();
        let of_event = pb::ListRegistrationsRequest {
            page_token: token(),
            event_id: event_id.clone(),
            ..Default::default()
        };
        let mine = pb::ListRegistrationsRequest { page_token: token(), ..Default::default() };
        for answer in [
            owner.registrations().list_registrations(of_event).await,
            user.registrations().list_registrations(mine).await,
        ] {
            refused(answer, "PAGE_TOKEN_INVALID");
        }
        let of_event = pb::ListWaitlistEntriesRequest {
            page_token: token(),
            event_id: event_id.clone(),
            ..Default::default()
        };
        let mine = pb::ListWaitlistEntriesRequest { page_token: token(), ..Default::default() };
        for answer in [
            owner.waitlists().list_waitlist_entries(of_event).await,
            user.waitlists().list_waitlist_entries(mine).await,
        ] {
            refused(answer, "PAGE_TOKEN_INVALID");
        }
        let audit = pb::ListAuditEntriesRequest {
            page_token: token(),
            event_id: event_id.clone(),
            ..Default::default()
        };
        refused(owner.audits().list_audit_entries(audit).await, "PAGE_TOKEN_INVALID");
    }
}
