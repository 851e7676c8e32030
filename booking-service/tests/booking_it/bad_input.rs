//! Requests that break rules: every field at fault is named at once, and nothing is changed.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use rowlock_proto::booking::v1 as pb;
use service_core::validation::timestamp;

use crate::acts::{ask, ask_to_wait, draft, update};
use crate::refusal::{invalid, violated};
use crate::scene::Scene;
use crate::system::{System, now};

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub(crate) fn in_hours(hours: i64) -> Option<Timestamp> {
    Some(timestamp(now() + time::Duration::hours(hours)))
}

/// Later than any calendar goes.
pub(crate) const NO_TIME: Option<Timestamp> = Some(Timestamp { seconds: i64::MAX, nanos: -1 });

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_wrong_with_a_new_event_is_named_at_once() {
    let system = System::start().await;
    let organizer = system.organizer();
    let before = system.everything().await;
    let create = async |event: Option<pb::Event>, request_id: &str, fields: &[&str]| {
        let request = pb::CreateEventRequest { event, request_id: request_id.to_owned() };
        invalid(organizer.events().create_event(request).await, fields);
    };
    create(
        None,
        "x",
        &["event", "event.capacity", "event.end_time", "event.start_time", "event.title", "request_id"],
    )
    .await;
    let all_wrong = pb::Event {
        title: "\t\n ".to_owned(),
        description: "x".repeat(10_001),
        location: "nul\0".to_owned(),
        start_time: in_hours(-1),
        end_time: in_hours(-2),
        registration_open_time: in_hours(5),
        registration_close_time: in_hours(4),
        capacity: 1_000_001,
        max_seats_per_registration: Some(101),
        waitlist_policy: 9,
        offer_ttl: seconds(0),
        queue_discipline: -1,
        ..pb::Event::default()
    };
    let all = [
        "event.capacity",
        "event.description",
        "event.end_time",
        "event.location",
        "event.max_seats_per_registration",
        "event.offer_ttl",
        "event.queue_discipline",
        "event.registration_close_time",
        "event.registration_open_time",
        "event.start_time",
        "event.title",
        "event.waitlist_policy",
        "request_id",
    ];
    create(Some(all_wrong.clone()), "00000000-0000-0000-0000-00000000000g", &all).await;
    let no_times = pb::Event {
        start_time: NO_TIME,
        end_time: NO_TIME,
        registration_open_time: NO_TIME,
        registration_close_time: NO_TIME,
        ..all_wrong
    };
    create(Some(no_times), "x", &all).await;
    assert_eq!(system.everything().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_event_that_breaks_one_rule_is_refused_by_the_name_of_the_field() {
    let system = System::start().await;
    let organizer = system.organizer();
    let before = system.everything().await;
    let base = draft(10);
    for (field, event) in [
        ("event.title", pb::Event { title: String::new(), ..base.clone() }),
        ("event.title", pb::Event { title: "x".repeat(201), ..base.clone() }),
        ("event.title", pb::Event { title: "a\u{1b}[31mb".to_owned(), ..base.clone() }),
        ("event.description", pb::Event { description: "a\u{0}".to_owned(), ..base.clone() }),
        ("event.location", pb::Event { location: "x".repeat(501), ..base.clone() }),
        ("event.start_time", pb::Event { start_time: None, ..base.clone() }),
        ("event.start_time", pb::Event { start_time: in_hours(-1), ..base.clone() }),
        ("event.start_time", pb::Event { start_time: NO_TIME, ..base.clone() }),
        ("event.end_time", pb::Event { end_time: None, ..base.clone() }),
        ("event.end_time", pb::Event { end_time: base.start_time, ..base.clone() }),
        ("event.end_time", pb::Event { end_time: in_hours(1), ..base.clone() }),
        (
            "event.registration_open_time",
            pb::Event { registration_open_time: base.start_time, ..base.clone() },
        ),
        (
            "event.registration_open_time",
            pb::Event {
                registration_open_time: in_hours(3),
                registration_close_time: in_hours(2),
                ..base.clone()
            },
        ),
        (
            "event.registration_close_time",
            pb::Event { registration_close_time: in_hours(27), ..base.clone() },
        ),
        ("event.registration_close_time", pb::Event { registration_close_time: NO_TIME, ..base.clone() }),
        ("event.capacity", pb::Event { capacity: 0, ..base.clone() }),
        ("event.capacity", pb::Event { capacity: -1, ..base.clone() }),
        ("event.capacity", pb::Event { capacity: i32::MAX, ..base.clone() }),
        (
            "event.max_seats_per_registration",
            pb::Event { max_seats_per_registration: Some(0), ..base.clone() },
        ),
        (
            "event.max_seats_per_registration",
            pb::Event { max_seats_per_registration: Some(-5), ..base.clone() },
        ),
        (
            "event.max_seats_per_registration",
            pb::Event { max_seats_per_registration: Some(11), ..base.clone() },
        ),
        ("event.waitlist_policy", pb::Event { waitlist_policy: 3, ..base.clone() }),
        ("event.queue_discipline", pb::Event { queue_discipline: 3, ..base.clone() }),
        ("event.offer_ttl", pb::Event { offer_ttl: seconds(0), ..base.clone() }),
        ("event.offer_ttl", pb::Event { offer_ttl: seconds(7 * 86_400 + 1), ..base.clone() }),
        ("event.offer_ttl", pb::Event { offer_ttl: seconds(i64::MIN), ..base.clone() }),
    ] {
        invalid(organizer.create(event).await, &[field]);
    }
    assert_eq!(system.everything().await, before);
    // The last values that are right.
    let largest = pb::Event {
        title: "ü".repeat(200),
        description: "ü".repeat(10_000),
        location: "ü".repeat(500),
        start_time: in_hours(1),
        end_time: Some(Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 }),
        registration_open_time: Some(Timestamp { seconds: -62_135_596_800, nanos: 0 }),
        registration_close_time: Some(Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 }),
        capacity: 1_000_000,
        max_seats_per_registration: Some(100),
        offer_ttl: seconds(7 * 86_400),
        ..base
    };
    let event = organizer.publish_new(largest).await;
    assert_eq!(organizer.get_event(&event).await.unwrap(), event);
    system.attendee().seat(&event).await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_change_is_named_by_mask_and_field() {
    let scene = Scene::set(1).await;
    let owner = &scene.owner;
    let before = scene.system.everything().await;
    let wrong = pb::Event {
        event_id: "x".to_owned(),
        title: String::new(),
        capacity: -1,
        start_time: None,
        end_time: NO_TIME,
        waitlist_policy: 7,
        offer_ttl: seconds(-1),
        max_seats_per_registration: Some(0),
        ..pb::Event::default()
    };
    let paths = [
        "title",
        "capacity",
        "start_time",
        "end_time",
        "waitlist_policy",
        "offer_ttl",
        "max_seats_per_registration",
    ];
    let fields = [
        "event.capacity",
        "event.end_time",
        "event.event_id",
        "event.max_seats_per_registration",
        "event.offer_ttl",
        "event.start_time",
        "event.title",
        "event.waitlist_policy",
    ];
    invalid(owner.update(wrong, &paths).await, &fields);
    let right = pb::Event { etag: String::new(), ..scene.open.clone() };
    for path in [
        "event_id",
        "organizer_id",
        "seats_remaining",
        "state",
        "etag",
        "version",
        "cancel_reason",
        "create_time",
        "*",
        "",
        "Title",
        "event.title",
        "nope",
        "title\0",
    ] {
        invalid(owner.update(right.clone(), &["title", path]).await, &["update_mask"]);
    }
    invalid(owner.update(right.clone(), &[]).await, &["update_mask"]);
    invalid(
        owner.events().update_event(pb::UpdateEventRequest::default()).await,
        &["event.event_id", "update_mask"],
    );
    // Named twice is named.
    owner.update(right.clone(), &["title", "title"]).await.unwrap();
    assert_eq!(scene.system.everything().await, before);
    // What the mask does not name may be anything.
    let ignored = pb::Event { capacity: -1, start_time: NO_TIME, queue_discipline: 99, ..right };
    owner.update(ignored, &["title"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_an_id_or_a_reason_is_named() {
    let scene = Scene::set(1).await;
    let admin = scene.system.admin();
    let before = scene.system.everything().await;
    let nul = format!("{}\0", &scene.open.event_id[..35]);
    let ids = [
        "",
        "x",
        "0",
        &scene.open.event_id[1..],
        &nul,
        &scene.open.event_id.replace('-', ""),
        &"y".repeat(100_000),
    ];
    for id in ids {
        let event = pb::Event { event_id: id.to_owned(), ..pb::Event::default() };
        for answer in [
            admin.get_event(&event).await.map(|_| ()),
            admin.publish(&event).await.map(|_| ()),
            admin.cancel_event(&event, "").await.map(|_| ()),
            admin.delete_event(&event).await.map(|_| ()),
            admin.stats(&event).await.map(|_| ()),
            admin.verify(&event).await.map(|_| ()),
            admin.register(&event).await.map(|_| ()),
            admin.join(&event).await.map(|_| ()),
            admin.events().watch_event(pb::WatchEventRequest { event_id: id.to_owned() }).await.map(|_| ()),
        ] {
            invalid(answer, &["event_id"]);
        }
        for answer in [admin.confirm(id).await, admin.cancel(id).await, admin.registration(id).await] {
            invalid(answer, &["registration_id"]);
        }
        invalid(admin.check_in(id).await, &["registration_id"]);
        for answer in [admin.leave(id).await, admin.entry(id).await, admin.decline(id).await] {
            invalid(answer, &["entry_id"]);
        }
        invalid(admin.accept(id).await, &["entry_id"]);
    }
    for reason in ["x".repeat(501), "a\0".to_owned(), "\u{7f}".to_owned()] {
        let event = pb::Event { event_id: "x".to_owned(), ..pb::Event::default() };
        invalid(admin.cancel_event(&event, &reason).await, &["event_id", "reason"]);
        invalid(admin.cancel_event(&scene.open, &reason).await, &["reason"]);
    }
    assert_eq!(scene.system.everything().await, before);
}

fn labels(entries: usize, key: &str, value: &str) -> BTreeMap<String, String> {
    (0..entries).map(|n| (format!("{key}{n}"), value.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_registration_or_a_place_in_the_queue_is_named_at_once() {
    let scene = Scene::set(1).await;
    let (ada, event) = (scene.system.attendee(), &scene.open);
    let before = scene.system.everything().await;
    let wrong = pb::RegisterRequest {
        event_id: "x".to_owned(),
        seats: Some(0),
        when_full: 3,
        hold_duration: seconds(0),
        user_id: "y".to_owned(),
        labels: labels(17, "k", "v"),
        request_id: "z".to_owned(),
    };
    let all = ["event_id", "hold_duration", "labels", "request_id", "seats", "user_id", "when_full"];
    invalid(ada.try_register(wrong).await, &all);
    let wrong = pb::JoinWaitlistRequest {
        event_id: "x".to_owned(),
        seats: Some(-1),
        user_id: "y".to_owned(),
        labels: labels(17, "k", "v"),
        request_id: "z".to_owned(),
    };
    invalid(ada.try_join(wrong).await, &["event_id", "labels", "request_id", "seats", "user_id"]);
    for seats in [0, -1, i32::MIN, 101, i32::MAX, 2] {
        invalid(ada.try_register(pb::RegisterRequest { seats: Some(seats), ..ask(event) }).await, &["seats"]);
        let full = pb::JoinWaitlistRequest { seats: Some(seats), ..ask_to_wait(&scene.full) };
        invalid(ada.try_join(full).await, &["seats"]);
    }
    for hold_duration in [seconds(0), seconds(86_401), seconds(-5), seconds(i64::MAX)] {
        invalid(
            ada.try_register(pb::RegisterRequest { hold_duration, ..ask(event) }).await,
            &["hold_duration"],
        );
    }
    for labels in [
        labels(17, "k", ""),
        BTreeMap::from([(String::new(), "v".to_owned())]),
        BTreeMap::from([("k".to_owned(), "\0".to_owned())]),
        BTreeMap::from([("k\0".to_owned(), "v".to_owned())]),
        BTreeMap::from([("k".to_owned(), "v".repeat(2_048))]),
        labels(16, "key", &"ü".repeat(63)),
    ] {
        invalid(
            ada.try_register(pb::RegisterRequest { labels: labels.clone(), ..ask(event) }).await,
            &["labels"],
        );
        invalid(
            ada.try_join(pb::JoinWaitlistRequest { labels, ..ask_to_wait(&scene.full) }).await,
            &["labels"],
        );
    }
    assert_eq!(scene.system.everything().await, before);
    // 16 entries and 2 KiB are not too many.
    let most = BTreeMap::from([("k".to_owned(), "v".repeat(2_047))]);
    let registration = ada.seats(pb::RegisterRequest { labels: most.clone(), ..ask(event) }).await;
    assert_eq!(ada.registration(&registration.registration_id).await.unwrap().labels, most);
    let many = labels(16, "k\n\u{1}\"\\", "ü'🎫");
    let entry = ada
        .try_join(pb::JoinWaitlistRequest { labels: many.clone(), ..ask_to_wait(&scene.full) })
        .await
        .unwrap();
    assert_eq!(ada.entry(&entry.entry_id).await.unwrap().labels, many);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_does_not_repeat_what_it_was_sent() {
    let system = System::start().await;
    let organizer = system.organizer();
    let secret = "do-not-repeat-me";
    let event = pb::Event { title: format!("{secret}\0"), location: format!("{secret}\0"), ..draft(0) };
    let status = organizer.create(event).await.unwrap_err();
    assert_eq!(violated(&status), ["event.capacity", "event.location", "event.title"]);
    assert!(!format!("{status:?}").contains(secret), "{status:?}");
    let request = update(pb::Event { event_id: secret.to_owned(), ..draft(1) }, &[secret]);
    let status = organizer.events().update_event(request).await.unwrap_err();
    assert!(!format!("{status:?}").contains(secret), "{status:?}");
}
