//! The change log: one row for each change, who did it, to what, for whom, and what else is to know.

use rowlock_proto::booking::v1 as pb;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::acts::{ask, ask_to_wait, offering_draft, party_draft};
use crate::proof::id;
use crate::system::System;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_of_what_ends_with_its_event_what_it_said_as_it_began() {
    let system = System::start().await;
    let event = system.organizer().publish_new(offering_draft(1)).await;
    let (ada, bob) = (system.attendee(), system.attendee());
    let seat = ada.seat(&event).await;
    bob.join(&event).await.unwrap();
    ada.cancel(&seat.registration_id).await.unwrap();
    system.admin().set_capacity(&event, 2).await.unwrap();
    ada.hold(&event, 3_600).await;
    for (times, time) in [
        ("UPDATE registrations SET hold_expire_time = $1::text::timestamptz", "2100-01-02 10:20:30"),
        ("UPDATE waitlist_entries SET offer_expire_time = $1::text::timestamptz", "2100-01-02 10:20:30.05"),
    ] {
        sqlx::query(times).bind(time).execute(&system.pool).await.unwrap();
    }
    system.admin().cancel_event(&event, "").await.unwrap();
    for (began, ended, name, time) in [
        ("REGISTRATION_HELD", "REGISTRATION_CANCELLED", "hold_expire_time", "2100-01-02T10:20:30Z"),
        ("WAITLIST_OFFERED", "WAITLIST_CANCELLED", "offer_expire_time", "2100-01-02T10:20:30.05Z"),
    ] {
        let of = async |action: &str| -> Value {
            let last =
                "SELECT details FROM changes WHERE action = $1 AND event_id = $2 ORDER BY version DESC";
            let details = sqlx::query_scalar(last).bind(action).bind(id(&event.event_id));
            details.fetch_one(&system.pool).await.unwrap()
        };
        let (mut began, ended) = (of(began).await, of(ended).await);
        assert!(began[name].is_string());
        began[name] = json!(time);
        assert_eq!(ended, began);
    }
}

type Row = (i64, Uuid, String, String, Uuid, Option<Uuid>, String);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_is_logged_with_its_actor_and_its_subject() {
    let system = System::with_replicas(2).await;
    let organizer = system.organizer();
    let (ada, bob, service, admin) = (system.attendee(), system.attendee(), system.service(), system.admin());
    let event = organizer.create(party_draft(2, 2)).await.unwrap();
    let event_id = id(&event.event_id);
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let renamed =
        pb::Event { event_id: event.event_id.clone(), title: "Locks".into(), ..pb::Event::default() };
    organizer.update(renamed, &["title"]).await.unwrap();
    organizer.publish(&event).await.unwrap();
    let labels = [("k".to_owned(), "v".to_owned())].into();
    let of_ada = ada.seats(pb::RegisterRequest { seats: Some(2), labels, ..ask(&event) }).await;
    let of_bob =
        bob.try_join(pb::JoinWaitlistRequest { seats: Some(2), ..ask_to_wait(&event) }).await.unwrap();
    service.cancel(&of_ada.registration_id).await.unwrap();
    let promoted = bob.entry(&of_bob.entry_id).await.unwrap().registration_id;
    organizer.check_in(&promoted).await.unwrap();
    admin.set_capacity(&event, 3).await.unwrap();
    let held = pb::RegisterRequest { hold_duration: seconds(60), user_id: ada.id.to_string(), ..ask(&event) };
    let held = service.seats(held).await;
    ada.confirm(&held.registration_id).await.unwrap();
    let eve = system.attendee();
    let of_eve = eve.join(&event).await.unwrap();
    eve.leave(&of_eve.entry_id).await.unwrap();
    let again = eve.join(&event).await.unwrap();
    let offers = pb::Event {
        event_id: event.event_id.clone(),
        waitlist_policy: pb::WaitlistPolicy::Offer.into(),
        ..pb::Event::default()
    };
    organizer.update(offers, &["waitlist_policy"]).await.unwrap();
    ada.cancel(&held.registration_id).await.unwrap();
    eve.decline(&again.entry_id).await.unwrap();
    let second = ada.seat(&event).await;
    let last = eve.join(&event).await.unwrap();
    ada.cancel(&second.registration_id).await.unwrap();
    let accepted = eve.accept(&last.entry_id).await.unwrap().registration.unwrap();
    let labels = [("k".to_owned(), "v".to_owned())].into();
    let waiting = ada.try_join(pb::JoinWaitlistRequest { labels, ..ask_to_wait(&event) }).await.unwrap();
    organizer.cancel_event(&event, "rain").await.unwrap();

    let system_itself = (Uuid::nil(), "SYSTEM");
    let by = |caller: &crate::caller::Caller, role| (caller.id, role);
    let (o, s) = (by(&organizer, "ORGANIZER"), by(&service, "SERVICE"));
    let (a, b, e) = (by(&ada, "ATTENDEE"), by(&bob, "ATTENDEE"), by(&eve, "ATTENDEE"));
    let (for_ada, for_bob, for_eve) = (Some(ada.id), Some(bob.id), Some(eve.id));
    let expected = [
        (o, "EVENT_CREATED", event_id, None),
        (o, "EVENT_UPDATED", event_id, None),
        (o, "EVENT_PUBLISHED", event_id, None),
        (a, "REGISTRATION_CREATED", id(&of_ada.registration_id), for_ada),
        (b, "WAITLIST_JOINED", id(&of_bob.entry_id), for_bob),
        (s, "REGISTRATION_CANCELLED", id(&of_ada.registration_id), for_ada),
        (system_itself, "WAITLIST_PROMOTED", id(&of_bob.entry_id), for_bob),
        (system_itself, "REGISTRATION_CREATED", id(&promoted), for_bob),
        (o, "REGISTRATION_CHECKED_IN", id(&promoted), for_bob),
        (by(&admin, "ADMIN"), "EVENT_UPDATED", event_id, None),
        (s, "REGISTRATION_HELD", id(&held.registration_id), for_ada),
        (a, "REGISTRATION_CONFIRMED", id(&held.registration_id), for_ada),
        (e, "WAITLIST_JOINED", id(&of_eve.entry_id), for_eve),
        (e, "WAITLIST_LEFT", id(&of_eve.entry_id), for_eve),
        (e, "WAITLIST_JOINED", id(&again.entry_id), for_eve),
        (o, "EVENT_UPDATED", event_id, None),
        (a, "REGISTRATION_CANCELLED", id(&held.registration_id), for_ada),
        (system_itself, "WAITLIST_OFFERED", id(&again.entry_id), for_eve),
        (e, "OFFER_DECLINED", id(&again.entry_id), for_eve),
        (a, "REGISTRATION_CREATED", id(&second.registration_id), for_ada),
        (e, "WAITLIST_JOINED", id(&last.entry_id), for_eve),
        (a, "REGISTRATION_CANCELLED", id(&second.registration_id), for_ada),
        (system_itself, "WAITLIST_OFFERED", id(&last.entry_id), for_eve),
        (e, "OFFER_ACCEPTED", id(&last.entry_id), for_eve),
        (e, "REGISTRATION_CREATED", id(&accepted.registration_id), for_eve),
        (a, "WAITLIST_JOINED", id(&waiting.entry_id), for_ada),
        (o, "EVENT_CANCELLED", event_id, None),
        (o, "REGISTRATION_CANCELLED", id(&promoted), for_bob),
        (o, "REGISTRATION_CANCELLED", id(&accepted.registration_id), for_eve),
        (o, "WAITLIST_CANCELLED", id(&waiting.entry_id), for_ada),
    ];
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT version, actor_id, actor_role, action, entity_id, subject_id, details::text FROM changes
          WHERE event_id = $1 ORDER BY version",
    )
    .bind(event_id)
    .fetch_all(&system.pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), expected.len());
    for (n, ((actor, role), action, entity, subject)) in expected.into_iter().enumerate() {
        let (version, actor_id, actor_role, logged, entity_id, subject_id, _) = &rows[n];
        assert_eq!(*version, i64::try_from(n).unwrap() + 1);
        assert_eq!((actor_role.as_str(), logged.as_str()), (role, action), "version {version}");
        assert_eq!((*actor_id, *entity_id, *subject_id), (actor, entity, subject), "version {version}");
    }
    let details: Vec<Value> = rows.iter().map(|row| serde_json::from_str(&row.6).unwrap()).collect();
    assert_eq!(details[0]["capacity"], json!(2));
    assert_eq!(details[1], json!({ "title": "Locks" }));
    assert_eq!(details[3], json!({ "seats": 2, "labels": { "k": "v" } }));
    assert_eq!((&details[4]["seats"], &details[4]["position"]), (&json!(2), &json!(1)));
    assert_eq!(details[6]["registration_id"], json!(promoted));
    assert_eq!(details[7]["waitlist_entry_id"], json!(of_bob.entry_id));
    assert_eq!(details[9], json!({ "capacity": 3 }));
    assert!(details[10]["hold_expire_time"].is_string());
    assert!(details[17]["offer_expire_time"].is_string());
    assert_eq!(details[26], json!({ "reason": "rain" }));
    assert_eq!(details[27], json!({ "seats": 2, "waitlist_entry_id": of_bob.entry_id }));
    assert_eq!(details[28], json!({ "seats": 1, "waitlist_entry_id": last.entry_id }));
    assert_eq!(details[29], json!({ "seats": 1, "position": waiting.position, "labels": { "k": "v" } }));
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_nothing_is_not_logged() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(party_draft(2, 2)).await;
    let ada = system.attendee();
    let registration = ada.seat(&event).await;
    let waiting = system.attendee();
    let entry = waiting.join_for(&event, 2).await;
    waiting.leave(&entry.entry_id).await.unwrap();
    ada.cancel(&registration.registration_id).await.unwrap();
    let before = system.everything().await;
    organizer.publish(&event).await.unwrap();
    ada.cancel(&registration.registration_id).await.unwrap();
    waiting.leave(&entry.entry_id).await.unwrap();
    organizer.set_capacity(&event, 2).await.unwrap();
    ada.join(&event).await.unwrap_err();
    ada.confirm(&registration.registration_id).await.unwrap_err();
    organizer.set_capacity(&event, 1).await.unwrap_err();
    organizer.delete_event(&event).await.unwrap_err();
    assert_eq!(system.everything().await, before);
}
