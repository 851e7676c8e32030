//! Register, confirm, cancel, check in.

use std::collections::BTreeMap;
use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::RegistrationState;
use rowlock_proto::booking::v1::register_response::Outcome;
use service_core::validation::timestamp;

use crate::acts::{ask, ask_or_queue, draft, party_draft};
use crate::proof::id;
use crate::refusal::{invalid, refused};
use crate::system::{System, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_is_confirmed_at_once_and_keeps_what_was_asked() {
    let system = System::start().await;
    let event = system.organizer().publish_new(party_draft(5, 3)).await;
    let ada = system.attendee();
    let labels = BTreeMap::from([("table".to_owned(), "7".to_owned()), ("né".to_owned(), String::new())]);
    let request = pb::RegisterRequest { seats: Some(3), labels: labels.clone(), ..ask(&event) };
    let registration = ada.seats(request).await;
    assert_eq!(id(&registration.registration_id).get_version_num(), 7);
    assert_eq!((&registration.event_id, id(&registration.user_id)), (&event.event_id, ada.id));
    assert_eq!((registration.seats, registration.state()), (3, RegistrationState::Confirmed));
    assert_eq!((&registration.labels, registration.waitlist_entry_id.as_str()), (&labels, ""));
    assert!(registration.create_time.is_some());
    assert_eq!(registration.confirm_time, registration.create_time);
    assert_eq!(registration.update_time, registration.create_time);
    let never = (&registration.hold_expire_time, &registration.cancel_time, &registration.check_in_time);
    assert_eq!(never, (&None, &None, &None));
    assert_eq!(ada.registration(&registration.registration_id).await.unwrap(), registration);
    let seen = ada.get_event(&event).await.unwrap();
    assert_eq!((seen.seats_remaining, seen.version), (2, event.version + 1));
    // Confirming what is confirmed changes nothing.
    assert_eq!(ada.confirm(&registration.registration_id).await.unwrap(), registration);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_one_place_at_an_event_and_may_come_back_after_a_cancel() {
    let system = System::with_replicas(2).await;
    let event = system.event(1).await;
    let (ada, bob) = (system.attendee(), system.attendee());
    let first = ada.seat(&event).await;
    let refusal = refused(ada.register(&event).await, "ALREADY_REGISTERED");
    assert_eq!(refusal["registration_id"], first.registration_id);
    assert_eq!((id(&refusal["user_id"]), &refusal["event_id"]), (ada.id, &event.event_id));
    refused(ada.join(&event).await, "ALREADY_REGISTERED");
    let refusal = refused(bob.register(&event).await, "EVENT_FULL");
    let numbers = ["seats", "seats_remaining", "waitlist_size"].map(|key| refusal[key].as_str());
    assert_eq!(numbers, ["1", "0", "0"]);

    let cancelled = ada.cancel(&first.registration_id).await.unwrap();
    assert_eq!(cancelled.state(), RegistrationState::Cancelled);
    assert!(cancelled.cancel_time.is_some() && cancelled.cancel_time == cancelled.update_time);
    assert_eq!(ada.cancel(&first.registration_id).await.unwrap(), cancelled, "it frees once");
    assert_eq!(ada.get_event(&event).await.unwrap().seats_remaining, 1);
    refused(ada.confirm(&first.registration_id).await, "STATE_CONFLICT");
    let second = ada.seat(&event).await;
    assert_ne!(second.registration_id, first.registration_id);
    assert_eq!(ada.cancel(&first.registration_id).await.unwrap(), cancelled, "it is not the new one's seat");
    assert_eq!(ada.get_event(&event).await.unwrap().seats_remaining, 0);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_keeps_its_seats_until_its_time_and_not_a_moment_longer() {
    let system = System::start().await;
    let event = system.event(2).await;
    let (ada, bob) = (system.attendee(), system.attendee());
    let held = ada.hold(&event, 60).await;
    assert_eq!((held.state(), &held.confirm_time), (RegistrationState::Held, &None));
    let (made, expires) = (held.create_time.unwrap(), held.hold_expire_time.unwrap());
    assert_eq!((expires.seconds, expires.nanos), (made.seconds + 60, made.nanos));
    let confirmed = ada.confirm(&held.registration_id).await.unwrap();
    assert_eq!(confirmed.state(), RegistrationState::Confirmed);
    assert_eq!(
        (&confirmed.hold_expire_time, confirmed.confirm_time),
        (&held.hold_expire_time, confirmed.update_time)
    );
    assert_eq!(ada.confirm(&held.registration_id).await.unwrap(), confirmed);

    let held = bob.hold(&event, 60).await;
    sqlx::query("UPDATE registrations SET hold_expire_time = clock_timestamp() WHERE state = 'HELD'")
        .execute(&system.pool)
        .await
        .unwrap();
    let refusal = refused(bob.confirm(&held.registration_id).await, "HOLD_EXPIRED");
    assert_eq!(refusal["registration_id"], held.registration_id);
    // Its user need not wait for anybody to sweep it.
    let again = bob.seat(&event).await;
    assert_ne!(again.registration_id, held.registration_id);
    assert_eq!(bob.registration(&held.registration_id).await.unwrap().state(), RegistrationState::Expired);
    refused(bob.confirm(&held.registration_id).await, "HOLD_EXPIRED");
    let refusal = refused(bob.cancel(&held.registration_id).await, "STATE_CONFLICT");
    assert_eq!(refusal["state"], "EXPIRED");
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_cancelled_like_any_other_and_its_seat_goes_to_the_queue() {
    let system = System::start().await;
    let event = system.event(1).await;
    let (ada, bob) = (system.attendee(), system.attendee());
    let held = ada.hold(&event, 60).await;
    let hold_duration = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let request = pb::RegisterRequest { hold_duration, ..ask_or_queue(&event, 1) };
    let Outcome::WaitlistEntry(entry) = bob.try_register(request).await.unwrap() else { panic!("a seat") };
    ada.cancel(&held.registration_id).await.unwrap();
    let entry = bob.entry(&entry.entry_id).await.unwrap();
    let promoted = bob.registration(&entry.registration_id).await.unwrap();
    assert_eq!((promoted.state(), promoted.hold_expire_time), (RegistrationState::Confirmed, None));
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_to_the_door_is_checked_in_once() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(5)).await;
    for staff in [organizer, system.service(), system.admin()] {
        let ada = system.attendee();
        let registration = ada.seat(&event).await;
        refused(ada.check_in(&registration.registration_id).await, "ROLE_REQUIRED");
        let first = staff.check_in(&registration.registration_id).await.unwrap();
        assert!(!first.already_checked_in);
        let row = first.registration.unwrap();
        assert_eq!((row.state(), row.check_in_time), (RegistrationState::CheckedIn, row.update_time));
        let second = staff.check_in(&registration.registration_id).await.unwrap();
        assert!(second.already_checked_in);
        assert_eq!(second.registration, Some(row.clone()));
        assert_eq!(ada.confirm(&registration.registration_id).await.unwrap(), row);
        let refusal = refused(ada.cancel(&registration.registration_id).await, "STATE_CONFLICT");
        assert_eq!(refusal["state"], "CHECKED_IN");
    }
    let (service, eve) = (system.service(), system.attendee());
    let held = eve.hold(&event, 60).await;
    assert_eq!(refused(service.check_in(&held.registration_id).await, "STATE_CONFLICT")["state"], "HELD");
    eve.cancel(&held.registration_id).await.unwrap();
    assert_eq!(
        refused(service.check_in(&held.registration_id).await, "STATE_CONFLICT")["state"],
        "CANCELLED"
    );
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registration_window_opens_and_closes() {
    let system = System::start().await;
    let organizer = system.organizer();
    let opens = now() + Duration::from_secs(3_600);
    let event =
        organizer.publish_new(pb::Event { registration_open_time: Some(timestamp(opens)), ..draft(1) }).await;
    let (ada, bob) = (system.attendee(), system.attendee());
    for refusal in [
        refused(ada.register(&event).await, "REGISTRATION_CLOSED"),
        refused(ada.join(&event).await, "REGISTRATION_CLOSED"),
    ] {
        let rfc3339 = &time::format_description::well_known::Rfc3339;
        assert_eq!(time::OffsetDateTime::parse(&refusal["open_time"], rfc3339).unwrap(), opens);
        let closes = timestamp(time::OffsetDateTime::parse(&refusal["close_time"], rfc3339).unwrap());
        assert_eq!(Some(closes), event.start_time, "it closes when the event begins");
    }
    let set = async |sql: &'static str| sqlx::query(sql).execute(&system.pool).await.unwrap();
    set("UPDATE events SET fence = fence + 1, registration_open_time = clock_timestamp()").await;
    let registration = ada.seat(&event).await;
    bob.join(&event).await.unwrap();
    for sql in [
        "UPDATE events SET fence = fence + 1, registration_close_time = clock_timestamp()",
        "UPDATE events SET fence = fence + 1, registration_close_time = NULL, start_time = clock_timestamp()",
    ] {
        set(sql).await;
        let eve = system.attendee();
        let refusal = refused(eve.register(&event).await, "REGISTRATION_CLOSED");
        assert!(!refusal.contains_key("open_time"), "{refusal:?}");
        refused(eve.join(&event).await, "REGISTRATION_CLOSED");
        refused(
            organizer.try_register(pb::RegisterRequest { user_id: eve.id.to_string(), ..ask(&event) }).await,
            "REGISTRATION_CLOSED",
        );
    }
    // Who is in may still go, and who waits comes in.
    ada.cancel(&registration.registration_id).await.unwrap();
    refused(bob.register(&event).await, "REGISTRATION_CLOSED");
    assert_eq!(organizer.stats(&event).await.unwrap().confirmed, 1);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_party_gets_all_its_seats_or_none() {
    let system = System::start().await;
    let event = system.organizer().publish_new(party_draft(4, 5 - 1)).await;
    let party = |seats| pb::RegisterRequest { seats: Some(seats), ..ask(&event) };
    let ada = system.attendee();
    invalid(ada.try_register(party(5)).await, &["seats"]);
    system.attendee().seats(party(2)).await;
    let refusal = refused(ada.try_register(party(3)).await, "EVENT_FULL");
    let numbers = ["seats", "seats_remaining", "waitlist_size"].map(|key| refusal[key].as_str());
    assert_eq!(numbers, ["3", "2", "0"]);
    ada.seats(party(2)).await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_and_owners_act_for_others() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(3)).await;
    let (service, admin) = (system.service(), system.admin());
    for staff in [&organizer, &service, &admin] {
        let user = system.attendee();
        let request = pb::RegisterRequest { user_id: user.id.to_string(), ..ask(&event) };
        let registration = staff.seats(request.clone()).await;
        assert_eq!(id(&registration.user_id), user.id);
        assert_eq!(user.registration(&registration.registration_id).await.unwrap(), registration);
        refused(staff.try_register(request).await, "ALREADY_REGISTERED");
        refused(user.register(&event).await, "ALREADY_REGISTERED");
    }
    for staff in [&organizer, &service, &admin] {
        let user = system.attendee();
        let request =
            pb::JoinWaitlistRequest { user_id: user.id.to_string(), ..crate::acts::ask_to_wait(&event) };
        let entry = staff.try_join(request).await.unwrap();
        assert_eq!(id(&entry.user_id), user.id);
        assert_eq!(staff.leave(&entry.entry_id).await.unwrap().state(), pb::WaitlistEntryState::Left);
    }
    invalid(service.register(&event).await, &["user_id"]);
    invalid(service.join(&event).await, &["user_id"]);
    // Naming oneself is acting for oneself.
    let ada = system.attendee();
    refused(
        ada.try_register(pb::RegisterRequest { user_id: ada.id.to_string(), ..ask(&event) }).await,
        "EVENT_FULL",
    );
    let others = pb::RegisterRequest { user_id: system.new_id().to_string(), ..ask(&event) };
    for stranger in [ada, system.organizer()] {
        refused(stranger.try_register(others.clone()).await, "ROLE_REQUIRED");
    }
    system.assert_consistent(&event).await;
}
