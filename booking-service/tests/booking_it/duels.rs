//! Several at once for one thing of which only one can have it.

use futures_util::FutureExt;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::RegistrationState;
use rowlock_proto::booking::v1::register_response::Outcome;

use crate::acts::{ask, ask_to_wait, draft, offering_draft};
use crate::refusal::assert_refused;
use crate::system::{System, at_once};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_changes_with_one_etag_one_is_made() {
    let system = System::with_replicas(3).await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(5)).await;
    let answers = at_once((0..30).map(|n| {
        let caller = organizer.at(&system.replicas[n % 3]);
        let change = pb::Event { title: format!("title {n}"), ..event.clone() };
        async move { caller.update(change, &["title"]).await }
    }))
    .await;
    let made: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    let [made] = made.as_slice() else { panic!("{made:?}") };
    for status in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(assert_refused(status, "ETAG_MISMATCH")["etag"], made.etag);
    }
    assert_eq!(organizer.get_event(&event).await.unwrap(), **made);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_either_published_or_deleted() {
    let system = System::with_replicas(2).await;
    let organizer = system.organizer();
    let there = organizer.at(&system.replicas[1]);
    for _ in 0..8 {
        let event = organizer.create(draft(5)).await.unwrap();
        let calls = [
            {
                let (caller, event) = (organizer.clone(), event.clone());
                async move { caller.publish(&event).await }.boxed()
            },
            {
                let (caller, event) = (there.clone(), event.clone());
                async move { caller.delete_event(&event).await }.boxed()
            },
        ];
        let answers = at_once(calls).await;
        match organizer.get_event(&event).await {
            Ok(seen) => {
                assert_eq!((answers[0].as_ref().unwrap(), seen.state()), (&seen, pb::EventState::Published));
                assert_refused(answers[1].as_ref().unwrap_err(), "STATE_CONFLICT");
            }
            Err(_) => {
                assert!(answers[1].is_ok());
                assert_refused(answers[0].as_ref().unwrap_err(), "EVENT_NOT_FOUND");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_is_shown_50_times_at_once_is_new_once() {
    let system = System::with_replicas(3).await;
    let event = system.event(1).await;
    let registration = system.attendee().seat(&event).await;
    let service = system.service();
    let answers = at_once((0..50).map(|n| {
        let (door, id) = (service.at(&system.replicas[n % 3]), registration.registration_id.clone());
        async move { door.check_in(&id).await.unwrap() }
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| !answer.already_checked_in).count(), 1);
    assert!(answers.iter().all(|answer| answer.registration == answers[0].registration));
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_confirmed_and_cancelled_at_once_ends_as_everybody_was_told() {
    let system = System::with_replicas(2).await;
    let event = system.event(20).await;
    for ada in system.attendees(10) {
        let id = ada.hold(&event, 600).await.registration_id;
        let there = ada.at(&system.replicas[1]);
        let calls = [
            {
                let (caller, id) = (ada.clone(), id.clone());
                async move { caller.confirm(&id).await }.boxed()
            },
            {
                let (caller, id) = (there, id.clone());
                async move { caller.cancel(&id).await }.boxed()
            },
        ];
        let answers = at_once(calls).await;
        let cancelled = answers[1].as_ref().unwrap();
        // Either it was confirmed first, or there was nothing left to confirm.
        if let Err(status) = &answers[0] {
            assert_eq!(assert_refused(status, "STATE_CONFLICT")["state"], "CANCELLED");
        }
        assert_eq!(cancelled.confirm_time.is_some(), answers[0].is_ok());
        assert_eq!(ada.registration(&id).await.unwrap(), *cancelled);
    }
    assert_eq!(system.admin().get_event(&event).await.unwrap().seats_remaining, 20);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_is_accepted_and_declined_at_once_is_one_of_both() {
    let system = System::with_replicas(3).await;
    for _ in 0..4 {
        let event = system.organizer().publish_new(offering_draft(1)).await;
        let holder = system.attendee();
        let registration = holder.seat(&event).await;
        let (ada, next) = (system.attendee(), system.attendee());
        let id = ada.join(&event).await.unwrap().entry_id;
        let behind = next.join(&event).await.unwrap().entry_id;
        holder.cancel(&registration.registration_id).await.unwrap();
        let answers = at_once((0..12).map(|n| {
            let (caller, id) = (ada.at(&system.replicas[n % 3]), id.clone());
            async move {
                if n % 2 == 0 {
                    caller.accept(&id).await.map(|answer| answer.entry.unwrap())
                } else {
                    caller.decline(&id).await
                }
            }
        }))
        .await;
        let seen = ada.entry(&id).await.unwrap();
        for answer in &answers {
            match answer {
                Ok(entry) => assert_eq!(*entry, seen),
                Err(status) => {
                    let state = assert_refused(status, "STATE_CONFLICT")["state"].clone();
                    assert!(["ACCEPTED", "DECLINED"].contains(&state.as_str()), "{state}");
                }
            }
        }
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 6);
        let accepted = seen.state() == pb::WaitlistEntryState::Accepted;
        let moved_on = next.entry(&behind).await.unwrap().state() == pb::WaitlistEntryState::Offered;
        assert_eq!(moved_on, !accepted);
        system.assert_consistent(&event).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_id_for_two_requests_at_once_makes_one_of_them() {
    let system = System::with_replicas(2).await;
    let event = system.event(1).await;
    system.attendee().seat(&event).await;
    for ada in system.attendees(6) {
        let request_id = system.new_id().to_string();
        let there = ada.at(&system.replicas[1]);
        let register = pb::RegisterRequest {
            request_id: request_id.clone(),
            when_full: pb::WhenFull::JoinWaitlist.into(),
            ..ask(&event)
        };
        let join = pb::JoinWaitlistRequest { request_id, ..ask_to_wait(&event) };
        let calls = [
            {
                let ada = ada.clone();
                async move {
                    ada.try_register(register).await.map(|outcome| match outcome {
                        Outcome::WaitlistEntry(entry) => entry,
                        Outcome::Registration(registration) => panic!("{registration:?}"),
                    })
                }
                .boxed()
            },
            async move { there.try_join(join).await }.boxed(),
        ];
        let answers = at_once(calls).await;
        let made: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(made.len(), 1);
        let refusal = answers.iter().find_map(|answer| answer.as_ref().err()).unwrap();
        assert_refused(refusal, "REQUEST_ID_REUSED");
    }
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_published_at_once_with_the_first_calls_takes_them_or_tells_them_why() {
    let system = System::with_replicas(3).await;
    let organizer = system.organizer();
    let event = organizer.create(draft(10)).await.unwrap();
    let calls = system.attendees(60).into_iter().enumerate().map(|(n, attendee)| {
        let (organizer, event) = (organizer.clone(), event.clone());
        async move {
            if n == 20 {
                organizer.publish(&event).await.unwrap();
            }
            attendee.register(&event).await
        }
    });
    let mut seated = 0;
    for answer in at_once(calls.collect::<Vec<_>>()).await {
        match answer {
            Ok(Outcome::Registration(made)) => {
                assert_eq!(made.state(), RegistrationState::Confirmed);
                seated += 1;
            }
            Ok(Outcome::WaitlistEntry(entry)) => panic!("{entry:?}"),
            Err(status) if status.code() == tonic::Code::NotFound => {
                assert_refused(&status, "EVENT_NOT_FOUND");
            }
            Err(status) => {
                assert_refused(&status, "EVENT_FULL");
            }
        }
    }
    let seen = organizer.get_event(&event).await.unwrap();
    assert_eq!(seen.seats_remaining, 10 - seated);
    assert!(seated > 0, "whoever published it is in");
    system.assert_consistent(&event).await;
}
