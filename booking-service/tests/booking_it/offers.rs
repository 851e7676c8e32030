//! Offers: seats that are kept for the head of the queue until it answers.

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::WaitlistEntryState::{Accepted, Declined, Offered, Waiting};

use crate::acts::{ask, offering_draft};
use crate::caller::Caller;
use crate::refusal::refused;
use crate::system::System;

/// An event of one seat that is offered to the first of three.
struct Scene {
    system: System,
    event: pb::Event,
    people: Vec<Caller>,
    entries: Vec<pb::WaitlistEntry>,
}

impl Scene {
    async fn set() -> Self {
        let system = System::with_replicas(2).await;
        let event = system.organizer().publish_new(offering_draft(1)).await;
        let holder = system.attendee();
        let registration = holder.seat(&event).await;
        let (people, mut entries) = (system.attendees(3), Vec::new());
        for person in &people {
            entries.push(person.join(&event).await.unwrap());
        }
        holder.cancel(&registration.registration_id).await.unwrap();
        Self { system, event, people, entries }
    }

    async fn states(&self) -> Vec<pb::WaitlistEntryState> {
        let mut states = Vec::new();
        for (person, entry) in self.people.iter().zip(&self.entries) {
            states.push(person.entry(&entry.entry_id).await.unwrap().state());
        }
        states
    }

    /// The open offers' time is over, and nobody has swept them.
    async fn lapse(&self) {
        sqlx::query(
            "UPDATE waitlist_entries SET offer_expire_time = clock_timestamp() WHERE state = 'OFFERED'",
        )
        .execute(&self.system.pool)
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freed_seat_is_offered_to_the_head_and_kept_for_it() {
    let scene = Scene::set().await;
    assert_eq!(scene.states().await, [Offered, Waiting, Waiting]);
    let offered = scene.people[0].entry(&scene.entries[0].entry_id).await.unwrap();
    let (made, expires) = (offered.update_time.unwrap(), offered.offer_expire_time.unwrap());
    assert_eq!((expires.seconds, expires.nanos), (made.seconds + 900, made.nanos));
    assert_eq!((offered.rank, offered.registration_id.as_str()), (0, ""));
    assert_eq!(scene.people[1].entry(&scene.entries[1].entry_id).await.unwrap().rank, 1);
    let event = scene.people[0].get_event(&scene.event).await.unwrap();
    assert_eq!((event.seats_remaining, event.waitlist_size), (0, 2), "an offer is counted once");
    refused(scene.system.attendee().register(&scene.event).await, "EVENT_FULL");
    let refusal = refused(scene.people[0].register(&scene.event).await, "ALREADY_WAITLISTED");
    assert_eq!(refusal["entry_id"], scene.entries[0].entry_id);
    refused(scene.people[0].join(&scene.event).await, "ALREADY_WAITLISTED");
    scene.system.assert_consistent(&scene.event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_offer_becomes_a_registration_once() {
    let scene = Scene::set().await;
    let (ada, entry) = (&scene.people[0], &scene.entries[0]);
    let answer = ada.accept(&entry.entry_id).await.unwrap();
    let (registration, accepted) = (answer.registration.clone().unwrap(), answer.entry.clone().unwrap());
    assert_eq!((accepted.state(), &accepted.registration_id), (Accepted, &registration.registration_id));
    assert_eq!(registration.state(), pb::RegistrationState::Confirmed);
    assert_eq!(registration.waitlist_entry_id, entry.entry_id);
    let there = ada.at(&scene.system.replicas[1]);
    assert_eq!(there.accept(&entry.entry_id).await.unwrap(), answer, "sent twice");
    assert_eq!(refused(there.decline(&entry.entry_id).await, "STATE_CONFLICT")["state"], "ACCEPTED");
    refused(there.leave(&entry.entry_id).await, "STATE_CONFLICT");
    let event = ada.get_event(&scene.event).await.unwrap();
    assert_eq!((event.seats_remaining, event.waitlist_size), (0, 2));
    // The seat goes its way again when it is given back.
    ada.cancel(&registration.registration_id).await.unwrap();
    assert_eq!(scene.states().await, [Accepted, Offered, Waiting]);
    let late = there.accept(&entry.entry_id).await.unwrap();
    assert_eq!(late.registration.unwrap().state(), pb::RegistrationState::Cancelled);
    scene.system.assert_consistent(&scene.event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declined_offer_moves_on_at_once_whether_it_is_declined_or_left() {
    let scene = Scene::set().await;
    let declined = scene.people[0].decline(&scene.entries[0].entry_id).await.unwrap();
    assert_eq!(declined.state(), Declined);
    assert!(declined.offer_expire_time.is_some(), "it stays set");
    assert_eq!(scene.states().await, [Declined, Offered, Waiting]);
    assert_eq!(scene.people[0].decline(&scene.entries[0].entry_id).await.unwrap(), declined);
    refused(scene.people[0].accept(&scene.entries[0].entry_id).await, "STATE_CONFLICT");
    let left = scene.people[1].leave(&scene.entries[1].entry_id).await.unwrap();
    assert_eq!(left.state(), Declined);
    assert_eq!(scene.people[1].leave(&scene.entries[1].entry_id).await.unwrap(), left);
    assert_eq!(scene.states().await, [Declined, Declined, Offered]);
    scene.people[2].decline(&scene.entries[2].entry_id).await.unwrap();
    assert_eq!(scene.people[0].get_event(&scene.event).await.unwrap().seats_remaining, 1);
    scene.people[0].seats(ask(&scene.event)).await;
    scene.system.assert_consistent(&scene.event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_whose_time_is_over_is_no_offer() {
    let scene = Scene::set().await;
    let (ada, entry) = (&scene.people[0], &scene.entries[0]);
    scene.lapse().await;
    let refusal = refused(ada.accept(&entry.entry_id).await, "OFFER_EXPIRED");
    assert_eq!(refusal["entry_id"], entry.entry_id);
    // Its user may queue again, at the end; the seat goes to the next.
    let again = ada.join(&scene.event).await.unwrap();
    assert_eq!(again.position, 4);
    assert_eq!(ada.entry(&entry.entry_id).await.unwrap().state(), pb::WaitlistEntryState::Expired);
    assert_eq!(scene.people[1].entry(&scene.entries[1].entry_id).await.unwrap().state(), Offered);
    refused(ada.accept(&entry.entry_id).await, "OFFER_EXPIRED");
    refused(ada.decline(&entry.entry_id).await, "OFFER_EXPIRED");
    assert_eq!(refused(ada.leave(&entry.entry_id).await, "STATE_CONFLICT")["state"], "EXPIRED");
    scene.system.assert_consistent(&scene.event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_has_nothing_to_accept() {
    let scene = Scene::set().await;
    let (bob, entry) = (&scene.people[1], &scene.entries[1]);
    for answer in
        [bob.accept(&entry.entry_id).await.map(|_| ()), bob.decline(&entry.entry_id).await.map(|_| ())]
    {
        assert_eq!(refused(answer, "STATE_CONFLICT")["state"], "WAITING");
    }
    scene.system.assert_consistent(&scene.event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_is_answered_for_its_user_by_owner_service_and_admin() {
    let scene = Scene::set().await;
    let system = &scene.system;
    let organizer = system
        .caller_with_id(service_core::auth::Role::Organizer, crate::proof::id(&scene.event.organizer_id));
    organizer.decline(&scene.entries[0].entry_id).await.unwrap();
    system.service().decline(&scene.entries[1].entry_id).await.unwrap();
    let accepted = system.admin().accept(&scene.entries[2].entry_id).await.unwrap();
    assert_eq!(accepted.registration.unwrap().user_id, scene.people[2].id.to_string());
    system.assert_consistent(&scene.event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_offers_end_with_their_event() {
    let scene = Scene::set().await;
    scene.system.admin().cancel_event(&scene.event, "").await.unwrap();
    let cancelled = pb::WaitlistEntryState::Cancelled;
    assert_eq!(scene.states().await, [cancelled; 3]);
    refused(scene.people[0].accept(&scene.entries[0].entry_id).await, "STATE_CONFLICT");
    scene.system.assert_consistent(&scene.event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_capacity_is_offered_and_a_new_policy_holds_from_then_on() {
    let scene = Scene::set().await;
    let admin = scene.system.admin();
    let promote = pb::Event { waitlist_policy: pb::WaitlistPolicy::Promote.into(), ..scene.event.clone() };
    admin.set_capacity(&scene.event, 2).await.unwrap();
    assert_eq!(scene.states().await, [Offered, Offered, Waiting]);
    admin.update(pb::Event { etag: String::new(), ..promote }, &["waitlist_policy"]).await.unwrap();
    assert_eq!(scene.states().await, [Offered, Offered, Waiting], "open offers stay open");
    scene.people[0].decline(&scene.entries[0].entry_id).await.unwrap();
    assert_eq!(scene.states().await, [Declined, Offered, pb::WaitlistEntryState::Promoted]);
    scene.system.assert_consistent(&scene.event).await;
}
