//! Lists: filters, order, pages.

use std::collections::BTreeSet;
use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use service_core::validation::timestamp;
use tonic::Status;

use crate::acts::{ask, draft, party_draft};
use crate::caller::Caller;
use crate::interference::connections_are_left;
use crate::refusal::{refused, violated};
use crate::system::{System, now};

async fn titles(caller: &Caller, request: pb::ListEventsRequest) -> Vec<String> {
    let answer = caller.events().list_events(request).await.unwrap().into_inner();
    assert_eq!(answer.next_page_token, "");
    answer.events.into_iter().map(|event| event.title).collect()
}

fn titled(title: &str, hours: u64) -> pb::Event {
    let start = now() + Duration::from_secs(hours * 3_600);
    pb::Event {
        title: title.to_owned(),
        start_time: Some(timestamp(start)),
        end_time: Some(timestamp(start + Duration::from_secs(3_600))),
        ..draft(1)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_long_rows_ends_before_it_is_more_than_clients_take() {
    let system = System::start().await;
    let long = pb::Event { description: "\u{1f3b7}".repeat(10_000), ..draft(1) };
    system.organizer().publish_new(long).await;
    sqlx::query(
        "INSERT INTO events (id, organizer_id, title, description, location, start_time, end_time, capacity,
                             seats_remaining, max_seats_per_registration, waitlist_policy, offer_ttl_ms,
                             queue_discipline, state, version, create_time, update_time)
         SELECT gen_random_uuid(), organizer_id, title, description, location, start_time, end_time, capacity,
                seats_remaining, max_seats_per_registration, waitlist_policy, offer_ttl_ms, queue_discipline, state,
                version, create_time, update_time
           FROM events, generate_series(1, 120)",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    let attendee = system.attendee();
    let (mut page_token, mut sizes) = (String::new(), Vec::new());
    loop {
        // With the limit of 4 MiB that a client of gRPC has by default.
        let request = pb::ListEventsRequest { page_size: 1_000, page_token, ..Default::default() };
        let page = attendee.events().list_events(request).await.unwrap().into_inner();
        sizes.push(page.events.len());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((sizes.len(), sizes.iter().sum::<usize>()), (2, 121), "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_listed_by_start_and_every_filter_filters() {
    let system = System::start().await;
    let (organizer, other, attendee) = (system.organizer(), system.organizer(), system.attendee());
    let late =
        organizer.publish_new(pb::Event { location: "Berlin Mitte".to_owned(), ..titled("late", 9) }).await;
    let early =
        other.publish_new(pb::Event { description: "Rust and locks".to_owned(), ..titled("early", 2) }).await;
    let off = organizer.publish_new(titled("off", 4)).await;
    organizer.cancel_event(&off, "").await.unwrap();
    organizer.create(titled("draft", 3)).await.unwrap();
    let all = pb::ListEventsRequest::default;

    assert_eq!(titles(&attendee, all()).await, ["early", "off", "late"]);
    assert_eq!(titles(&other, all()).await, ["early", "off", "late"]);
    assert_eq!(titles(&system.service(), all()).await, ["early", "off", "late"]);
    assert_eq!(titles(&organizer, all()).await, ["early", "draft", "off", "late"]);
    assert_eq!(titles(&system.admin(), all()).await, ["early", "draft", "off", "late"]);
    let states = |states: &[pb::EventState]| states.iter().map(|&state| state.into()).collect();
    let only = pb::ListEventsRequest { states: states(&[pb::EventState::Draft]), ..all() };
    assert_eq!(titles(&organizer, only.clone()).await, ["draft"]);
    assert!(titles(&attendee, only).await.is_empty());
    let two = states(&[pb::EventState::Published, pb::EventState::Cancelled]);
    assert_eq!(
        titles(&organizer, pb::ListEventsRequest { states: two, ..all() }).await,
        ["early", "off", "late"]
    );
    let of = |id: &str| pb::ListEventsRequest { organizer_id: id.to_owned(), ..all() };
    assert_eq!(titles(&attendee, of(&early.organizer_id)).await, ["early"]);
    assert_eq!(titles(&attendee, of(&organizer.id.to_string().to_uppercase())).await, ["off", "late"]);

    // From a time on, it included; before a time, it excluded.
    let from = pb::ListEventsRequest { start_time_after: off.start_time, ..all() };
    assert_eq!(titles(&attendee, from).await, ["off", "late"]);
    let until = pb::ListEventsRequest { start_time_before: off.start_time, ..all() };
    assert_eq!(titles(&attendee, until).await, ["early"]);
    let between = pb::ListEventsRequest {
        start_time_after: early.start_time,
        start_time_before: late.start_time,
        ..all()
    };
    assert_eq!(titles(&attendee, between).await, ["early", "off"]);

    let text = |text: &str| pb::ListEventsRequest { text: text.to_owned(), ..all() };
    for (words, found) in [
        ("berlin", &["late"][..]),
        ("MITTE Berlin", &["late"]),
        ("late mitte", &["late"]),
        ("Rust LOCKS early", &["early"]),
        ("rust berlin", &[]),
        ("locksmith", &[]),
        ("draft", &[]),
        ("late & | ! ( : * ' \"", &["late"]),
        ("%", &[]),
        ("   ", &["early", "off", "late"]),
    ] {
        assert_eq!(titles(&attendee, text(words)).await, found, "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_is_what_a_newcomer_can_have_now() {
    let system = System::start().await;
    let organizer = system.organizer();
    let skipping =
        |event: pb::Event| pb::Event { queue_discipline: pb::QueueDiscipline::SkipAhead.into(), ..event };
    let in_hours = |hours| titled("", hours).start_time;
    let free = organizer.publish_new(titled("free", 2)).await;
    let full = organizer.publish_new(titled("full", 3)).await;
    system.attendee().seat(&full).await;
    for (title, event) in [("strict", party_draft(2, 2)), ("skipping", skipping(party_draft(2, 2)))] {
        let event = organizer.publish_new(pb::Event { title: title.to_owned(), ..event }).await;
        system.attendee().seat(&event).await;
        system.attendee().join_for(&event, 2).await;
    }
    organizer
        .publish_new(pb::Event { registration_open_time: in_hours(1), ..titled("not open yet", 5) })
        .await;
    let closed = organizer.publish_new(titled("closed", 6)).await;
    organizer.create(titled("draft", 7)).await.unwrap();
    let off = organizer.publish_new(titled("off", 8)).await;
    organizer.cancel_event(&off, "").await.unwrap();
    sqlx::query("UPDATE events SET registration_close_time = now() WHERE id = $1")
        .bind(crate::proof::id(&closed.event_id))
        .execute(&system.pool)
        .await
        .unwrap();
    let running = titled("running", 9);
    let running = pb::Event { registration_close_time: running.end_time, ..running };
    for event in [running, titled("begun", 9)] {
        let event = organizer.publish_new(event).await;
        sqlx::query("UPDATE events SET start_time = now() - interval '1 hour' WHERE id = $1")
            .bind(crate::proof::id(&event.event_id))
            .execute(&system.pool)
            .await
            .unwrap();
    }
    let available = pb::ListEventsRequest { only_available: true, ..pb::ListEventsRequest::default() };
    assert_eq!(titles(&organizer, available.clone()).await, ["running", "free", "skipping"]);
    let ada = system.attendee();
    let registration = ada.seat(&free).await;
    assert_eq!(titles(&organizer, available.clone()).await, ["running", "skipping"]);
    ada.cancel(&registration.registration_id).await.unwrap();
    assert_eq!(titles(&organizer, available).await, ["running", "free", "skipping"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_events_miss_nothing_and_repeat_nothing_while_others_come() {
    let system = System::start().await;
    let organizer = system.organizer();
    let mut expected = Vec::new();
    for n in 0..20 {
        // Some begin at the same moment: the id decides.
        let same_start = titled("same", 50);
        let event = if n % 2 == 0 {
            pb::Event { title: format!("{n}"), ..same_start }
        } else {
            titled(&format!("{n}"), 40 + n)
        };
        expected.push(organizer.publish_new(event).await.event_id);
    }
    sqlx::query("UPDATE events SET start_time = (SELECT max(start_time) FROM events WHERE title = '0') WHERE title::int % 2 = 0")
        .execute(&system.pool)
        .await
        .unwrap();
    for size in [1, 3, 19, 20, 21] {
        let mut request = pb::ListEventsRequest { page_size: size, ..pb::ListEventsRequest::default() };
        let (mut seen, mut newcomers, mut pages) = (Vec::new(), 0, 0);
        loop {
            let answer = organizer.events().list_events(request.clone()).await.unwrap().into_inner();
            assert!(answer.events.len() <= usize::try_from(size).unwrap());
            seen.extend(answer.events.into_iter().map(|event| (event.start_time, event.event_id)));
            request.page_token = answer.next_page_token;
            pages += 1;
            if request.page_token.is_empty() {
                break;
            }
            if newcomers < 3 {
                newcomers += 1;
                organizer.publish_new(titled("newcomer", 1)).await;
                organizer.publish_new(titled("newcomer", 500)).await;
            }
        }
        let ids: BTreeSet<&String> = seen.iter().map(|(_, id)| id).collect();
        assert_eq!(ids.len(), seen.len(), "nothing is repeated");
        assert!(expected.iter().all(|id| ids.contains(id)), "nothing is missed");
        assert!(seen.iter().map(|(time, id)| (time.unwrap().seconds, time.unwrap().nanos, id)).is_sorted());
        assert!(pages > 1 || size >= 20);
        sqlx::query("DELETE FROM events WHERE title = 'newcomer'").execute(&system.pool).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_are_listed_for_their_user_and_for_who_runs_the_event() {
    let system = System::with_replicas(2).await;
    let organizer = system.organizer();
    let events = [organizer.publish_new(draft(9)).await, organizer.publish_new(draft(9)).await];
    let (ada, bob) = (system.attendee(), system.attendee());
    let mut of_ada = Vec::new();
    for event in &events {
        of_ada.push(ada.seat(event).await);
        bob.seat(event).await;
    }
    of_ada[1] = ada.cancel(&of_ada[1].registration_id).await.unwrap();
    of_ada.push(ada.seat(&events[1]).await);
    of_ada.sort_by(|a, b| a.registration_id.cmp(&b.registration_id));
    let list = async |caller: &Caller, request: pb::ListRegistrationsRequest| {
        caller.registrations().list_registrations(request).await.unwrap().into_inner().registrations
    };
    let mine = pb::ListRegistrationsRequest::default();
    assert_eq!(list(&ada, mine.clone()).await, of_ada);
    assert!(list(&system.service(), mine.clone()).await.is_empty());
    assert!(list(&organizer, mine.clone()).await.is_empty());
    let confirmed = pb::ListRegistrationsRequest {
        states: vec![pb::RegistrationState::Confirmed.into(), pb::RegistrationState::Held.into()],
        ..mine.clone()
    };
    assert_eq!(list(&ada, confirmed).await.len(), 2);
    let of_event = pb::ListRegistrationsRequest { event_id: events[1].event_id.clone(), ..mine };
    for caller in [organizer, system.service(), system.admin()] {
        let listed = list(&caller, of_event.clone()).await;
        assert_eq!(listed.len(), 3);
        assert!(listed.iter().all(|registration| registration.event_id == events[1].event_id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_has_is_listed_for_the_user_services_and_admins() {
    let system = System::start().await;
    let organizer = system.organizer();
    let events = [organizer.publish_new(draft(2)).await, organizer.publish_new(draft(1)).await];
    let (ada, bob) = (system.attendee(), system.attendee());
    let mut seats = vec![ada.seat(&events[0]).await.registration_id];
    bob.seat(&events[0]).await;
    bob.seat(&events[1]).await;
    let entry = ada.join(&events[1]).await.unwrap().entry_id;
    let user_id = ada.id.to_string();
    // Registrations and entries of Ada, as far as the caller may see them.
    let list = async |caller: &Caller, user_id: &str, event: Option<&pb::Event>| {
        let event_id = event.map(|event| event.event_id.clone()).unwrap_or_default();
        let request = pb::ListRegistrationsRequest {
            user_id: user_id.to_owned(),
            event_id: event_id.clone(),
            ..Default::default()
        };
        let registrations =
            caller.registrations().list_registrations(request).await?.into_inner().registrations;
        let request =
            pb::ListWaitlistEntriesRequest { user_id: user_id.to_owned(), event_id, ..Default::default() };
        let entries = caller.waitlists().list_waitlist_entries(request).await?.into_inner().entries;
        let ids: Vec<String> = registrations.into_iter().map(|row| row.registration_id).collect();
        Ok::<_, Status>((ids, entries.into_iter().map(|row| row.entry_id).collect::<Vec<_>>()))
    };
    for caller in [&ada, &system.service(), &system.admin()] {
        assert_eq!(list(caller, &user_id, None).await.unwrap(), (seats.clone(), vec![entry.clone()]));
        assert_eq!(list(caller, &user_id, Some(&events[1])).await.unwrap(), (vec![], vec![entry.clone()]));
    }
    assert_eq!(
        list(&organizer, &user_id, Some(&events[0])).await.unwrap(),
        (std::mem::take(&mut seats), vec![])
    );
    for (caller, event) in [(&organizer, None), (&bob, None), (&bob, Some(&events[0]))] {
        refused(list(caller, &user_id, event).await, "ROLE_REQUIRED");
    }
    refused(list(&system.admin(), "nobody", None).await, "VALIDATION_FAILED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_registrations_and_entries_miss_nothing_while_others_come() {
    let system = System::with_replicas(2).await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(12)).await;
    let (mut registered, mut queued) = (BTreeSet::new(), Vec::new());
    for attendee in system.attendees(12) {
        registered.insert(attendee.seat(&event).await.registration_id);
    }
    for attendee in system.attendees(11) {
        queued.push(attendee.join(&event).await.unwrap().entry_id);
    }
    let mut request = pb::ListRegistrationsRequest {
        event_id: event.event_id.clone(),
        page_size: 5,
        ..pb::ListRegistrationsRequest::default()
    };
    let mut seen = Vec::new();
    loop {
        let answer =
            organizer.registrations().list_registrations(request.clone()).await.unwrap().into_inner();
        seen.extend(answer.registrations.into_iter().map(|registration| registration.registration_id));
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        organizer.set_capacity(&event, 12 + i32::try_from(seen.len()).unwrap()).await.unwrap();
    }
    assert!(seen.is_sorted_by(|a, b| a < b));
    assert!(registered.iter().all(|id| seen.contains(id)));

    let mut request = pb::ListWaitlistEntriesRequest {
        event_id: event.event_id.clone(),
        page_size: 4,
        ..pb::ListWaitlistEntriesRequest::default()
    };
    let mut seen = Vec::new();
    loop {
        let answer = organizer.waitlists().list_waitlist_entries(request.clone()).await.unwrap().into_inner();
        seen.extend(answer.entries);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        let newcomer = system.attendee();
        let _ = newcomer.try_register(crate::acts::ask_or_queue(&event, 1)).await.unwrap();
    }
    assert!(seen.iter().map(|entry| entry.position).is_sorted_by(|a, b| a < b));
    assert!(seen.iter().all(|entry| entry.rank == 0));
    assert!(queued.iter().all(|id| seen.iter().any(|entry| entry.entry_id == *id)));
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_has_50_rows_unless_asked_and_1000_at_most() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(2_000)).await;
    let ada = system.attendee();
    ada.seats(ask(&event)).await;
    sqlx::query(
        "INSERT INTO registrations (event_id, id, user_id, seats, state, create_time, update_time)
         SELECT $1, gen_random_uuid(), $2, 1, 'CANCELLED', now(), now() FROM generate_series(1, 1100)",
    )
    .bind(crate::proof::id(&event.event_id))
    .bind(ada.id)
    .execute(&system.pool)
    .await
    .unwrap();
    for (asked, given) in [(0, 50), (7, 7), (1_000, 1_000), (1_001, 1_000), (i32::MAX, 1_000)] {
        for event_id in [event.event_id.clone(), String::new()] {
            let caller = if event_id.is_empty() { &ada } else { &organizer };
            let request = pb::ListRegistrationsRequest {
                page_size: asked,
                event_id,
                ..pb::ListRegistrationsRequest::default()
            };
            let answer = caller.registrations().list_registrations(request).await.unwrap().into_inner();
            assert_eq!((answer.registrations.len(), answer.next_page_token.is_empty()), (given, false));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_listed_for_their_user_and_for_who_runs_the_event() {
    let system = System::start().await;
    let organizer = system.organizer();
    let events = [organizer.publish_new(draft(1)).await, organizer.publish_new(draft(1)).await];
    let (ada, bob) = (system.attendee(), system.attendee());
    let mut of_ada = Vec::new();
    for event in &events {
        system.attendee().seat(event).await;
        bob.join(event).await.unwrap();
        of_ada.push(ada.join(event).await.unwrap());
    }
    of_ada[0] = ada.leave(&of_ada[0].entry_id).await.unwrap();
    let list = async |caller: &Caller, request: pb::ListWaitlistEntriesRequest| {
        caller.waitlists().list_waitlist_entries(request).await.unwrap().into_inner().entries
    };
    let mine = pb::ListWaitlistEntriesRequest::default();
    assert_eq!(list(&ada, mine.clone()).await, of_ada);
    assert!(list(&system.service(), mine.clone()).await.is_empty());
    let waiting = pb::ListWaitlistEntriesRequest {
        states: vec![pb::WaitlistEntryState::Waiting.into()],
        ..mine.clone()
    };
    assert_eq!(list(&ada, waiting.clone()).await, of_ada[1..]);
    let of_event = pb::ListWaitlistEntriesRequest { event_id: events[0].event_id.clone(), ..waiting };
    for caller in [organizer, system.service(), system.admin()] {
        let listed = list(&caller, of_event.clone()).await;
        assert_eq!(
            listed.iter().map(|entry| entry.user_id.clone()).collect::<Vec<_>>(),
            [bob.id.to_string()]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_events_come_in_the_order_of_their_ids_as_far_as_the_caller_may_see_them() {
    let system = System::start().await;
    let organizer = system.organizer();
    let draft = organizer.create(draft(3)).await.unwrap();
    let (first, second) = (system.event(1).await, system.event(2).await);
    let id = |event: &pb::Event| event.event_id.clone();
    let get = async |caller: &Caller, event_ids: Vec<String>| {
        let request = pb::BatchGetEventsRequest { event_ids };
        caller.events().batch_get_events(request).await.map(|answer| answer.into_inner().events)
    };
    let ids = vec![id(&second), system.new_id().to_string(), id(&draft), id(&first), id(&second)];
    let public = [second.clone(), first.clone()];
    assert_eq!(get(&system.attendee(), ids.clone()).await.unwrap(), public);
    assert_eq!(get(&system.service(), ids.clone()).await.unwrap(), public);
    for sees_drafts in [organizer, system.admin()] {
        assert_eq!(
            get(&sees_drafts, ids.clone()).await.unwrap(),
            [second.clone(), draft.clone(), first.clone()]
        );
    }
    let attendee = system.attendee();
    assert_eq!(get(&attendee, vec![id(&first); 50]).await.unwrap(), vec![first.clone()]);
    for (wrong, field) in [
        (vec![], "event_ids"),
        (vec![id(&first); 51], "event_ids"),
        (vec![id(&first), String::new()], "event_ids[1]"),
    ] {
        let status = get(&attendee, wrong).await.unwrap_err();
        assert_eq!(violated(&status), [field]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_list_or_give_it_up_the_others_have_connections() {
    let system = System::start().await;
    let half = 4;
    connections_are_left(&system, "ORDER BY r.id LIMIT", half, |_| {
        let caller = system.attendee();
        let mine = pb::ListRegistrationsRequest::default();
        async move { caller.registrations().list_registrations(mine).await }
    })
    .await;
}
