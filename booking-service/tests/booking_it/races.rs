//! Many at once, on several replicas, for the same seats.

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::register_response::Outcome;

use crate::acts::{ask, ask_or_queue, draft, party_draft};
use crate::refusal::assert_refused;
use crate::system::{System, at_once};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_200_who_want_the_last_seat_one_gets_it() {
    let system = System::with_replicas(3).await;
    let event = system.event(1).await;
    let answers = at_once(system.attendees(200).into_iter().map(|attendee| {
        let event = event.clone();
        async move { attendee.register(&event).await }
    }))
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 199));
    for status in lost.into_iter().filter_map(Result::err) {
        assert_eq!(assert_refused(&status, "EVENT_FULL")["seats_remaining"], "0");
    }
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_200_who_would_wait_199_get_a_place_each_of_their_own() {
    let system = System::with_replicas(3).await;
    let event = system.event(1).await;
    let answers = at_once(system.attendees(200).into_iter().map(|attendee| {
        let event = event.clone();
        async move { attendee.try_register(ask_or_queue(&event, 1)).await.unwrap() }
    }))
    .await;
    let mut positions: Vec<i64> = answers
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::WaitlistEntry(entry) => Some(entry.position),
            Outcome::Registration(_) => None,
        })
        .collect();
    positions.sort_unstable();
    assert_eq!(positions, (1..=199).collect::<Vec<_>>());
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parties_never_share_seats_that_are_too_few() {
    let system = System::with_replicas(2).await;
    let event = system.organizer().publish_new(party_draft(9, 5)).await;
    let answers = at_once(system.attendees(40).into_iter().enumerate().map(|(n, attendee)| {
        let seats = if n % 4 == 0 { 4 } else { 5 };
        let request = pb::RegisterRequest { seats: Some(seats), ..ask(&event) };
        async move { attendee.try_register(request).await }
    }))
    .await;
    let seated: i32 = answers
        .iter()
        .map(|answer| match answer {
            Ok(Outcome::Registration(registration)) => registration.seats,
            Ok(Outcome::WaitlistEntry(entry)) => panic!("nobody asked for the queue: {entry:?}"),
            Err(status) => {
                assert_refused(status, "EVENT_FULL");
                0
            }
        })
        .sum();
    // Whoever came first, a party of 4 fitted once more.
    assert!([8, 9].contains(&seated), "{seated}");
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_is_sent_50_times_at_once_frees_one_seat() {
    let system = System::with_replicas(3).await;
    let event = system.event(5).await;
    for attendee in system.attendees(4) {
        attendee.seat(&event).await;
    }
    let ada = system.attendee();
    let registration = ada.seat(&event).await;
    let answers = at_once((0..50).map(|n| {
        let (ada, id) = (ada.at(&system.replicas[n % 3]), registration.registration_id.clone());
        async move { ada.cancel(&id).await.unwrap() }
    }))
    .await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "all hear the same");
    assert_eq!(ada.get_event(&event).await.unwrap().seats_remaining, 1);
    let cancels = "SELECT count(*) FROM changes WHERE event_id = $1 AND action = 'REGISTRATION_CANCELLED'";
    assert_eq!(system.count(cancels, &event).await, 1);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_withdraw_at_once_promote_two_different_people() {
    let system = System::with_replicas(2).await;
    for _ in 0..5 {
        let event = system.event(2).await;
        let (ada, bob) = (system.attendee(), system.attendee());
        let of_ada = ada.seat(&event).await.registration_id;
        let of_bob = bob.seat(&event).await.registration_id;
        let waiting = system.attendees(3);
        for person in &waiting {
            person.join(&event).await.unwrap();
        }
        let leavers = [(ada, of_ada), (bob, of_bob)];
        at_once(leavers.map(|(caller, id)| async move { caller.cancel(&id).await.unwrap() })).await;
        let seats =
            "SELECT count(DISTINCT user_id) FROM registrations WHERE event_id = $1 AND state = 'CONFIRMED'";
        assert_eq!(system.count(seats, &event).await, 2);
        assert_eq!(waiting[2].get_event(&event).await.unwrap().waitlist_size, 1);
        system.assert_consistent(&event).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_registers_50_times_at_once_is_registered_once() {
    let system = System::with_replicas(3).await;
    let event = system.event(100).await;
    let ada = system.attendee();
    let answers = at_once((0..50).map(|n| {
        let (ada, event) = (ada.at(&system.replicas[n % 3]), event.clone());
        async move { ada.register(&event).await }
    }))
    .await;
    let made: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    let [Outcome::Registration(made)] = made.as_slice() else { panic!("{made:?}") };
    for status in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(assert_refused(status, "ALREADY_REGISTERED")["registration_id"], made.registration_id);
    }
    assert_eq!(ada.get_event(&event).await.unwrap().seats_remaining, 99);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_one_request_at_once_are_one_registration() {
    let system = System::with_replicas(3).await;
    let event = system.event(100).await;
    let ada = system.attendee();
    let request = pb::RegisterRequest { request_id: system.new_id().to_string(), ..ask(&event) };
    let answers = at_once((0..50).map(|n| {
        let (ada, request) = (ada.at(&system.replicas[n % 3]), request.clone());
        async move { ada.seats(request).await }
    }))
    .await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "all hear the same");
    assert_eq!(ada.get_event(&event).await.unwrap().seats_remaining, 99);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capacity_that_rises_while_people_cancel_reaches_the_queue() {
    let system = System::with_replicas(3).await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(20)).await;
    let people = system.attendees(20);
    let mut registrations = Vec::new();
    for person in &people {
        registrations.push(person.seat(&event).await.registration_id);
    }
    for attendee in system.attendees(40) {
        attendee.join(&event).await.unwrap();
    }
    let cancels = people.into_iter().zip(registrations).map(|(person, id)| {
        let cancel = async move { person.cancel(&id).await.map(|_| ()) };
        futures_util::FutureExt::boxed(cancel)
    });
    let raises = (21..=30).zip((0..3).cycle()).map(|(capacity, replica)| {
        let (organizer, event) = (organizer.at(&system.replicas[replica]), event.clone());
        let raise = async move { organizer.set_capacity(&event, capacity).await.map(|_| ()) };
        futures_util::FutureExt::boxed(raise)
    });
    for answer in at_once(cancels.chain(raises)).await {
        // A raise that comes after a larger one asks for less than is taken by then.
        if let Err(status) = answer {
            assert_refused(&status, "CAPACITY_BELOW_TAKEN");
        }
    }
    let seen = organizer.get_event(&event).await.unwrap();
    assert_eq!((seen.seats_remaining, seen.waitlist_size), (0, 60 - 20 - seen.capacity));
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_got_a_seat_before_the_event_was_cancelled_finds_it_cancelled() {
    let system = System::with_replicas(3).await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(40)).await;
    let people = system.attendees(150);
    let rush = people.clone().into_iter().enumerate().map(|(n, person)| {
        let (event, organizer) = (event.clone(), organizer.clone());
        async move {
            // Somewhere in the middle.
            if n == 75 {
                organizer.cancel_event(&event, "storm").await.unwrap();
            }
            person.try_register(ask_or_queue(&event, 1)).await
        }
    });
    let answers = at_once(rush).await;
    let mut told = 0;
    for (person, answer) in people.iter().zip(&answers) {
        match answer {
            Ok(Outcome::Registration(made)) => {
                let found = person.registration(&made.registration_id).await.unwrap();
                assert_eq!(found.state(), pb::RegistrationState::Cancelled);
                told += 1;
            }
            Ok(Outcome::WaitlistEntry(made)) => {
                let found = person.entry(&made.entry_id).await.unwrap();
                assert_eq!(found.state(), pb::WaitlistEntryState::Cancelled);
                told += 1;
            }
            Err(status) => {
                assert_refused(status, "EVENT_CANCELLED");
            }
        }
    }
    assert!(answers[75].is_err());
    let rows = "SELECT (SELECT count(*) FROM registrations WHERE event_id = $1)
                     + (SELECT count(*) FROM waitlist_entries WHERE event_id = $1)";
    assert_eq!(system.count(rows, &event).await, told, "who was refused has nothing");
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_events_at_once_through_few_sessions_each_come_out_right() {
    let system = System::with_replicas(2).await;
    let organizer = system.organizer();
    let mut events = Vec::new();
    for _ in 0..30 {
        events.push(organizer.publish_new(draft(3)).await);
    }
    let people = system.attendees(10);
    let calls = people.iter().flat_map(|person| {
        events.iter().map(|event| {
            let (person, request) = (person.clone(), ask_or_queue(event, 1));
            async move { person.try_register(request).await.unwrap() }
        })
    });
    let outcomes = at_once(calls.collect::<Vec<_>>()).await;
    let seats = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Registration(_))).count();
    assert_eq!((outcomes.len(), seats), (300, 90));
    for event in &events {
        let seen = organizer.get_event(event).await.unwrap();
        assert_eq!((seen.seats_remaining, seen.waitlist_size), (0, 7));
        system.assert_consistent(event).await;
    }
}
