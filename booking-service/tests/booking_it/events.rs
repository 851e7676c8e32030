//! The life of an event.

use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::EventState;
use service_core::validation::timestamp;

use crate::acts::{draft, party_draft, update};
use crate::proof::id;
use crate::refusal::{invalid, refused};
use crate::system::{System, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_created_as_a_draft_of_its_creator_with_the_defaults_of_the_contract() {
    let system = System::start().await;
    let (organizer, before) = (system.organizer(), now());
    let sent = pb::Event {
        event_id: system.new_id().to_string(),
        organizer_id: system.new_id().to_string(),
        seats_remaining: 3,
        waitlist_size: 4,
        state: EventState::Cancelled.into(),
        etag: "\"9\"".to_owned(),
        version: 9,
        cancel_reason: "output only".to_owned(),
        create_time: Some(timestamp(before - Duration::from_secs(9))),
        ..draft(10)
    };
    let event = organizer.create(sent.clone()).await.unwrap();
    assert_ne!(event.event_id, sent.event_id);
    assert_eq!(id(&event.event_id).get_version_num(), 7);
    assert_eq!(id(&event.organizer_id), organizer.id);
    assert_eq!((event.state(), event.version, event.cancel_reason.as_str()), (EventState::Draft, 1, ""));
    assert_eq!((event.capacity, event.seats_remaining, event.waitlist_size), (10, 10, 0));
    assert_eq!(event.max_seats_per_registration, Some(1));
    assert_eq!(event.waitlist_policy(), pb::WaitlistPolicy::Promote);
    assert_eq!(event.queue_discipline(), pb::QueueDiscipline::Strict);
    assert_eq!(event.offer_ttl.unwrap().seconds, 900);
    assert_eq!((&event.registration_open_time, &event.registration_close_time), (&None, &None));
    assert_eq!((event.start_time, event.end_time), (sent.start_time, sent.end_time));
    assert!(!event.etag.is_empty() && event.etag != sent.etag);
    assert!(event.create_time.unwrap().seconds >= before.unix_timestamp() - 1);
    assert_eq!(event.update_time, event.create_time);
    assert_eq!(organizer.get_event(&event).await.unwrap(), event);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_is_what_is_stored_to_the_last_digit() {
    let system = System::start().await;
    let organizer = system.organizer();
    let fine = |time: Option<prost_types::Timestamp>| {
        time.map(|time| prost_types::Timestamp { nanos: 123_456_789, ..time })
    };
    let base = draft(10);
    let sent = pb::Event {
        start_time: fine(base.start_time),
        end_time: fine(base.end_time),
        registration_open_time: fine(Some(timestamp(now() - Duration::from_secs(9)))),
        registration_close_time: fine(base.start_time),
        offer_ttl: Some(prost_types::Duration { seconds: 7, nanos: 123_456_789 }),
        title: "Zürich \"'; DROP TABLE events; -- \\ %s 🎫".to_owned(),
        description: "d\n\t🎫".to_owned(),
        location: "ü".to_owned(),
        ..base
    };
    let made = organizer.create(sent.clone()).await.unwrap();
    assert_eq!(
        (&made.title, &made.description, &made.location),
        (&sent.title, &sent.description, &sent.location)
    );
    assert_eq!(organizer.get_event(&made).await.unwrap(), made);
    let published = organizer.publish(&made).await.unwrap();
    assert_eq!(organizer.get_event(&made).await.unwrap(), published);

    let ttl = prost_types::Duration { seconds: 8, nanos: 987_654_321 };
    let change = pb::Event { offer_ttl: Some(ttl), ..made };
    let updated = organizer.update(change.clone(), &["offer_ttl"]).await;
    // The etag that it carries is of before publishing.
    refused(updated, "ETAG_MISMATCH");
    let change = pb::Event { etag: String::new(), ..change };
    let updated = organizer.update(change.clone(), &["offer_ttl"]).await.unwrap();
    assert_eq!(organizer.get_event(&updated).await.unwrap(), updated);
    let again = organizer.update(change, &["offer_ttl"]).await.unwrap();
    assert_eq!(again, updated, "the same value again is no change");

    let attendee = system.attendee();
    let hold_duration = Some(prost_types::Duration { seconds: 60, nanos: 123_456_789 });
    let request = pb::RegisterRequest { hold_duration, ..crate::acts::ask(&updated) };
    let held = attendee.seats(request).await;
    assert_eq!(attendee.registration(&held.registration_id).await.unwrap(), held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_id_makes_one_event() {
    let system = System::with_replicas(2).await;
    let organizer = system.organizer();
    let there = organizer.at(&system.replicas[1]);
    let request = pb::CreateEventRequest { event: Some(draft(10)), request_id: system.new_id().to_string() };
    let create = async |caller: &crate::caller::Caller, request: &pb::CreateEventRequest| {
        caller.events().create_event(request.clone()).await.map(|answer| answer.into_inner().event.unwrap())
    };
    let made = create(&organizer, &request).await.unwrap();
    assert_eq!(create(&there, &request).await.unwrap(), made);
    let published = organizer.publish(&made).await.unwrap();
    assert_eq!(create(&there, &request).await.unwrap(), published, "in its present state");
    let outputs =
        pb::Event { seats_remaining: 7, version: 9, etag: "9".to_owned(), ..request.event.clone().unwrap() };
    let same = pb::CreateEventRequest { event: Some(outputs), ..request.clone() };
    assert_eq!(create(&there, &same).await.unwrap(), published, "what is output only is ignored");

    let other = pb::CreateEventRequest { event: Some(draft(11)), ..request.clone() };
    let reused = refused(create(&there, &other).await, "REQUEST_ID_REUSED");
    assert_eq!(reused["request_id"], request.request_id);
    let somebody = create(&system.organizer(), &request).await.unwrap();
    assert_ne!(somebody.event_id, made.event_id, "the id is the caller's own");

    // It is answered even when it could not be made any more.
    sqlx::query(
        "UPDATE events SET start_time = now() - interval '2 hours', end_time = now() - interval '1 hour'",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    assert_eq!(create(&there, &request).await.unwrap().event_id, made.event_id);

    let wrong = pb::CreateEventRequest { event: Some(draft(0)), request_id: system.new_id().to_string() };
    invalid(create(&organizer, &wrong).await, &["event.capacity"]);
    let right = pb::CreateEventRequest { event: Some(draft(1)), ..wrong };
    create(&organizer, &right).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_a_create_at_once_on_three_replicas_make_one_event() {
    let system = System::with_replicas(3).await;
    let organizer = system.organizer();
    let request = pb::CreateEventRequest { event: Some(draft(10)), request_id: system.new_id().to_string() };
    let answers = crate::system::at_once((0..30).map(|n| {
        let (caller, request) = (organizer.at(&system.replicas[n % 3]), request.clone());
        async move { caller.events().create_event(request).await.unwrap().into_inner().event.unwrap() }
    }))
    .await;
    assert!(answers.iter().all(|event| *event == answers[0]), "{answers:?}");
    assert_eq!(
        system.count("SELECT count(*) FROM events WHERE id IS NOT NULL OR id = $1", &answers[0]).await,
        1
    );
    system.assert_consistent(&answers[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_changes_what_the_mask_names_and_nothing_else() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event =
        organizer.create(pb::Event { location: "here".to_owned(), ..party_draft(10, 4) }).await.unwrap();
    let later = pb::Event {
        event_id: event.event_id.clone(),
        title: "ignored".to_owned(),
        location: "there".to_owned(),
        capacity: 20,
        ..pb::Event::default()
    };
    let updated = organizer.update(later, &["location", "capacity"]).await.unwrap();
    let expected = pb::Event {
        location: "there".to_owned(),
        capacity: 20,
        seats_remaining: 20,
        version: 2,
        etag: updated.etag.clone(),
        update_time: updated.update_time,
        ..event.clone()
    };
    assert_eq!(updated, expected);
    assert_ne!(updated.etag, event.etag);
    assert_eq!(organizer.get_event(&event).await.unwrap(), updated);

    // Named and unset: the default.
    let unset = pb::Event { event_id: event.event_id.clone(), ..pb::Event::default() };
    let paths =
        ["max_seats_per_registration", "location", "offer_ttl", "waitlist_policy", "queue_discipline"];
    let reset = organizer.update(unset.clone(), &paths).await.unwrap();
    assert_eq!((reset.max_seats_per_registration, reset.location.as_str()), (Some(1), ""));
    invalid(organizer.update(unset.clone(), &["title"]).await, &["event.title"]);
    let again = organizer.update(unset, &paths).await.unwrap();
    assert_eq!(again, reset, "what changes nothing leaves the etag and the version");
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etag_guards_each_change_and_seats_do_not_touch_it() {
    let system = System::start().await;
    let organizer = system.organizer();
    let created = organizer.create(draft(10)).await.unwrap();
    let titled = |etag: &str, title: &str| pb::Event {
        event_id: created.event_id.clone(),
        title: title.to_owned(),
        etag: etag.to_owned(),
        ..pb::Event::default()
    };
    let first = organizer.update(titled(&created.etag, "one"), &["title"]).await.unwrap();
    let stale = refused(organizer.update(titled(&created.etag, "two"), &["title"]).await, "ETAG_MISMATCH");
    assert_eq!(stale["etag"], first.etag);
    for etag in ["\"", "1", "\"2", "\u{0}", "*", &"x".repeat(10_000)] {
        refused(organizer.update(titled(etag, "two"), &["title"]).await, "ETAG_MISMATCH");
    }
    let publish =
        |etag: &str| pb::PublishEventRequest { event_id: created.event_id.clone(), etag: etag.to_owned() };
    let delete =
        |etag: &str| pb::DeleteEventRequest { event_id: created.event_id.clone(), etag: etag.to_owned() };
    refused(organizer.events().publish_event(publish(&created.etag)).await, "ETAG_MISMATCH");
    refused(organizer.events().delete_event(delete(&created.etag)).await, "ETAG_MISMATCH");
    let published = organizer.events().publish_event(publish(&first.etag)).await.unwrap().into_inner();
    let published = published.event.unwrap();
    assert_ne!(published.etag, first.etag);
    system.attendee().seat(&published).await;
    let seen = organizer.get_event(&published).await.unwrap();
    assert_eq!((&seen.etag, seen.update_time), (&published.etag, published.update_time));
    assert_eq!(seen.version, published.version + 1);

    let again = organizer.events().publish_event(publish("stale")).await.unwrap().into_inner().event.unwrap();
    assert_eq!(again, seen, "whatever the etag");
    let cancel = |etag: &str| pb::CancelEventRequest {
        event_id: created.event_id.clone(),
        etag: etag.to_owned(),
        reason: String::new(),
    };
    refused(organizer.events().cancel_event(cancel(&first.etag)).await, "ETAG_MISMATCH");
    let cancelled =
        organizer.events().cancel_event(cancel(&seen.etag)).await.unwrap().into_inner().event.unwrap();
    let again = organizer.events().cancel_event(cancel("stale")).await.unwrap().into_inner().event.unwrap();
    assert_eq!(again, cancelled);
    assert_eq!(organizer.get_event(&created).await.unwrap(), cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_event_keeps_its_first_reason_and_everything_ends_with_it() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(party_draft(3, 2)).await;
    let (ada, bob, eve) = (system.attendee(), system.attendee(), system.attendee());
    let confirmed = ada.seat(&event).await;
    let held = bob.hold(&event, 600).await;
    let entry = eve.join_for(&event, 2).await;
    let cancelled = organizer.cancel_event(&event, "rain").await.unwrap();
    assert_eq!((cancelled.state(), cancelled.cancel_reason.as_str()), (EventState::Cancelled, "rain"));
    assert_eq!((cancelled.seats_remaining, cancelled.waitlist_size), (3, 0));
    assert_eq!(organizer.get_event(&event).await.unwrap(), cancelled);
    assert_eq!(organizer.cancel_event(&event, "snow").await.unwrap(), cancelled);

    let confirmed = ada.registration(&confirmed.registration_id).await.unwrap();
    let held = bob.registration(&held.registration_id).await.unwrap();
    for registration in [confirmed, held] {
        assert_eq!(registration.state(), pb::RegistrationState::Cancelled);
        assert!(registration.cancel_time.is_some() && registration.cancel_time == registration.update_time);
    }
    assert_eq!(eve.entry(&entry.entry_id).await.unwrap().state(), pb::WaitlistEntryState::Cancelled);

    for (reason, answer) in [
        ("EVENT_CANCELLED", ada.register(&event).await.map(|_| ())),
        ("EVENT_CANCELLED", ada.join(&event).await.map(|_| ())),
        ("EVENT_CANCELLED", organizer.publish(&event).await.map(|_| ())),
        ("EVENT_CANCELLED", organizer.set_capacity(&event, 9).await.map(|_| ())),
        ("STATE_CONFLICT", organizer.delete_event(&event).await.map(|_| ())),
        ("STATE_CONFLICT", eve.leave(&entry.entry_id).await.map(|_| ())),
    ] {
        refused(answer, reason);
    }
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_deleted_and_not_cancelled() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.create(draft(10)).await.unwrap();
    refused(organizer.cancel_event(&event, "").await, "EVENT_NOT_PUBLISHED");
    let refusal = refused(organizer.register(&event).await, "EVENT_NOT_PUBLISHED");
    assert_eq!(refusal["event_id"], event.event_id);
    let deleted = organizer.delete_event(&event).await.unwrap();
    assert_eq!(deleted.title, event.title);
    for answer in [
        organizer.delete_event(&event).await,
        organizer.get_event(&event).await,
        organizer.publish(&event).await,
        organizer.cancel_event(&event, "").await,
        organizer.set_capacity(&event, 1).await,
    ] {
        refused(answer, "EVENT_NOT_FOUND");
    }
    let actions: Vec<String> = system.log(&event).await.into_iter().map(|(_, _, action)| action).collect();
    assert_eq!(actions, ["EVENT_CREATED", "EVENT_DELETED"], "the log keeps its history");

    let published = organizer.publish_new(draft(10)).await;
    refused(organizer.delete_event(&published).await, "STATE_CONFLICT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_has_begun_is_not_published_and_one_that_is_over_stands_still() {
    let system = System::start().await;
    let organizer = system.organizer();
    let (waiting, late) = (system.attendee(), organizer.create(draft(10)).await.unwrap());
    let event = organizer.publish_new(draft(2)).await;
    let attendee = system.attendee();
    let registration = attendee.seat(&event).await;
    let held = system.attendee().hold(&event, 3_600).await;
    let entry = waiting.join(&event).await.unwrap();
    sqlx::query(
        "UPDATE events SET fence = fence + 1, start_time = now() - interval '2 hours', end_time = now() - interval '1 second'",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    invalid(organizer.publish(&late).await, &["event.start_time"]);
    let service = system.service();
    for answer in [
        organizer.set_capacity(&event, 9).await.map(|_| ()),
        organizer.cancel_event(&event, "").await.map(|_| ()),
        attendee.cancel(&registration.registration_id).await.map(|_| ()),
        service.confirm(&held.registration_id).await.map(|_| ()),
    ] {
        let conflict = refused(answer, "STATE_CONFLICT");
        assert_eq!(conflict["event_id"], event.event_id);
    }
    refused(system.attendee().register(&event).await, "REGISTRATION_CLOSED");
    refused(system.attendee().join(&event).await, "REGISTRATION_CLOSED");
    // A draft whose time has passed can still be given another one.
    let later = pb::Event { event_id: late.event_id.clone(), ..draft(10) };
    organizer.update(later, &["start_time", "end_time"]).await.unwrap();
    organizer.publish(&late).await.unwrap();
    assert_eq!(waiting.entry(&entry.entry_id).await.unwrap().state(), pb::WaitlistEntryState::Waiting);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_times_of_an_event_have_to_fit_each_other_after_an_update_too() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(10)).await;
    let in_hours = |hours: u64| Some(timestamp(now() + Duration::from_secs(hours * 3_600)));
    let change = pb::Event { event_id: event.event_id.clone(), ..pb::Event::default() };
    for (change, paths, field) in [
        (pb::Event { start_time: in_hours(27), ..change.clone() }, ["start_time"], "event.end_time"),
        (pb::Event { end_time: in_hours(1), ..change.clone() }, ["end_time"], "event.end_time"),
        (
            pb::Event { start_time: Some(timestamp(now() - Duration::from_secs(1))), ..change.clone() },
            ["start_time"],
            "event.start_time",
        ),
        (
            pb::Event { registration_open_time: in_hours(25), ..change.clone() },
            ["registration_open_time"],
            "event.registration_open_time",
        ),
        (
            pb::Event { registration_close_time: in_hours(27), ..change.clone() },
            ["registration_close_time"],
            "event.registration_close_time",
        ),
        (
            pb::Event { max_seats_per_registration: Some(11), ..change.clone() },
            ["max_seats_per_registration"],
            "event.max_seats_per_registration",
        ),
    ] {
        invalid(organizer.update(change, &paths).await, &[field]);
    }
    assert_eq!(organizer.get_event(&event).await.unwrap(), event);
    let nothing = organizer.events().update_event(update(change, &[])).await;
    invalid(nothing, &["update_mask"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_ends_however_long_that_takes_beyond_what_a_statement_is_given_otherwise() {
    let system =
        System::with(1, |config| config.seating.statement_timeout = Duration::from_millis(500)).await;
    let event = system.event(5).await;
    let seat = system.attendee().seat(&event).await;
    sqlx::raw_sql(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$;
         CREATE TRIGGER slowly BEFORE UPDATE ON registrations FOR EACH STATEMENT EXECUTE FUNCTION slowly()",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    let ended = system.admin().cancel_event(&event, "rain").await.unwrap();
    assert_eq!(ended.state(), pb::EventState::Cancelled);
    let cancelled = system.admin().registration(&seat.registration_id).await.unwrap();
    assert_eq!(cancelled.state(), pb::RegistrationState::Cancelled);
}
