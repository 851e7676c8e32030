//! The same request id, the same answer.

use std::collections::BTreeMap;

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::register_response::Outcome;

use crate::acts::{ask, ask_or_queue, ask_to_wait, draft, party_draft};
use crate::refusal::{invalid, refused};
use crate::system::System;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_register_that_is_sent_again_is_answered_with_what_it_made_as_it_is_now() {
    let system = System::with_replicas(2).await;
    let organizer = system.organizer();
    let event = organizer.publish_new(party_draft(3, 2)).await;
    let ada = system.attendee();
    let there = ada.at(&system.replicas[1]);
    let request = pb::RegisterRequest { request_id: system.new_id().to_string(), ..ask(&event) };
    let made = ada.seats(request.clone()).await;
    // What is meant counts, not how it was written.
    let spelled_out = pb::RegisterRequest {
        seats: Some(1),
        when_full: pb::WhenFull::Reject.into(),
        user_id: ada.id.to_string().to_uppercase(),
        request_id: request.request_id.to_uppercase(),
        ..request.clone()
    };
    for request in [&request, &spelled_out] {
        assert_eq!(there.seats(request.clone()).await, made);
    }
    let cancelled = ada.cancel(&made.registration_id).await.unwrap();
    assert_eq!(there.seats(request.clone()).await, cancelled, "it does not take a second seat");
    let label = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let hold_duration = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    for other in [
        pb::RegisterRequest { seats: Some(2), ..request.clone() },
        pb::RegisterRequest { labels: label, ..request.clone() },
        pb::RegisterRequest { hold_duration, ..request.clone() },
        pb::RegisterRequest { when_full: pb::WhenFull::JoinWaitlist.into(), ..request.clone() },
    ] {
        let refusal = refused(there.try_register(other).await, "REQUEST_ID_REUSED");
        assert_eq!(refusal["request_id"], request.request_id);
    }
    let join = pb::JoinWaitlistRequest { request_id: request.request_id.clone(), ..ask_to_wait(&event) };
    refused(there.try_join(join).await, "REQUEST_ID_REUSED");
    assert_eq!(ada.get_event(&event).await.unwrap().seats_remaining, 3);

    // It is the caller's and the event's own.
    let bob = system.attendee();
    assert_ne!(bob.seats(request.clone()).await.registration_id, made.registration_id);
    let elsewhere = organizer.publish_new(draft(1)).await;
    let request_there = pb::RegisterRequest { event_id: elsewhere.event_id.clone(), ..request.clone() };
    assert_eq!(ada.seats(request_there).await.event_id, elsewhere.event_id);

    organizer.cancel_event(&event, "").await.unwrap();
    assert_eq!(there.seats(request).await, cancelled, "whatever became of the event");
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_in_the_queue_that_is_asked_for_again_is_the_same_place() {
    let system = System::with_replicas(2).await;
    let event = system.event(1).await;
    let bob = system.attendee();
    let taken = bob.seat(&event).await;
    let ada = system.attendee();
    let there = ada.at(&system.replicas[1]);
    let join = pb::JoinWaitlistRequest { request_id: system.new_id().to_string(), ..ask_to_wait(&event) };
    let entry = ada.try_join(join.clone()).await.unwrap();
    assert_eq!(there.try_join(join.clone()).await.unwrap(), entry);
    refused(there.try_join(ask_to_wait(&event)).await, "ALREADY_WAITLISTED");
    refused(
        there
            .try_join(pb::JoinWaitlistRequest {
                seats: Some(1),
                labels: [("a".into(), "b".into())].into(),
                ..join.clone()
            })
            .await,
        "REQUEST_ID_REUSED",
    );
    // The queue of another one: Register that joined.
    let eve = system.attendee();
    let register = pb::RegisterRequest { request_id: system.new_id().to_string(), ..ask_or_queue(&event, 1) };
    let joined = eve.try_register(register.clone()).await.unwrap();
    assert!(matches!(joined, Outcome::WaitlistEntry(_)));
    assert_eq!(eve.try_register(register.clone()).await.unwrap(), joined);

    bob.cancel(&taken.registration_id).await.unwrap();
    let promoted = there.try_join(join).await.unwrap();
    assert_eq!((promoted.state(), &promoted.entry_id), (pb::WaitlistEntryState::Promoted, &entry.entry_id));
    let Outcome::WaitlistEntry(same) = eve.try_register(register).await.unwrap() else { panic!("a seat") };
    assert_eq!((same.state(), same.position), (pb::WaitlistEntryState::Waiting, 2));
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_leaves_no_trace_of_its_request_id() {
    let system = System::start().await;
    let event = system.event(1).await;
    let (ada, bob) = (system.attendee(), system.attendee());
    let taken = bob.seat(&event).await;
    let request = pb::RegisterRequest { request_id: system.new_id().to_string(), ..ask(&event) };
    let before = system.everything().await;
    refused(ada.try_register(request.clone()).await, "EVENT_FULL");
    invalid(ada.try_register(pb::RegisterRequest { seats: Some(2), ..request.clone() }).await, &["seats"]);
    assert_eq!(system.everything().await, before);
    bob.cancel(&taken.registration_id).await.unwrap();
    ada.seats(pb::RegisterRequest { when_full: pb::WhenFull::JoinWaitlist.into(), ..request }).await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backends_request_id_is_its_own_and_not_its_users() {
    let system = System::start().await;
    let event = system.event(2).await;
    let (service, ada) = (system.service(), system.attendee());
    let request = pb::RegisterRequest {
        user_id: ada.id.to_string(),
        request_id: system.new_id().to_string(),
        ..ask(&event)
    };
    let made = service.seats(request.clone()).await;
    assert_eq!(service.seats(request.clone()).await, made);
    refused(ada.try_register(request.clone()).await, "ALREADY_REGISTERED");
    let somebody = pb::RegisterRequest { user_id: system.new_id().to_string(), ..request };
    refused(service.try_register(somebody).await, "REQUEST_ID_REUSED");
    system.assert_consistent(&event).await;
}
