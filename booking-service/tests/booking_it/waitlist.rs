//! The queue: joining, ranks, leaving, promotion.

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::WaitlistEntryState;
use rowlock_proto::booking::v1::register_response::Outcome;

use crate::acts::{ask, ask_or_queue, ask_to_wait, draft, party_draft};
use crate::caller::Caller;
use crate::proof::id;
use crate::refusal::{invalid, refused};
use crate::system::System;

/// A full event of one seat, who has the seat, and its registration.
async fn full(system: &System) -> (pb::Event, Caller, pb::Registration) {
    let event = system.event(1).await;
    let holder = system.attendee();
    let registration = holder.seat(&event).await;
    (event, holder, registration)
}

async fn rank(caller: &Caller, entry: &pb::WaitlistEntry) -> i32 {
    caller.entry(&entry.entry_id).await.unwrap().rank
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_queues_for_what_can_be_had() {
    let system = System::start().await;
    let event = system.organizer().publish_new(party_draft(3, 3)).await;
    let ada = system.attendee();
    let refusal = refused(ada.join(&event).await, "SEATS_AVAILABLE");
    assert_eq!((&refusal["event_id"], refusal["seats_remaining"].as_str()), (&event.event_id, "3"));
    system.attendee().seats(pb::RegisterRequest { seats: Some(2), ..ask(&event) }).await;
    refused(ada.join(&event).await, "SEATS_AVAILABLE");
    let entry = ada.join_for(&event, 2).await;
    assert_eq!((entry.state(), entry.seats, entry.position), (WaitlistEntryState::Waiting, 2, 1));
    let refusal = refused(ada.register(&event).await, "ALREADY_WAITLISTED");
    assert_eq!((&refusal["entry_id"], id(&refusal["user_id"])), (&entry.entry_id, ada.id));
    invalid(
        system.attendee().try_join(pb::JoinWaitlistRequest { seats: Some(4), ..ask_to_wait(&event) }).await,
        &["seats"],
    );
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rank_counts_those_who_wait_and_a_position_never_changes() {
    let system = System::with_replicas(2).await;
    let (event, holder, registration) = full(&system).await;
    let people = system.attendees(6);
    let mut entries = Vec::new();
    for (n, person) in people.iter().enumerate() {
        let entry = person.join(&event).await.unwrap();
        assert_eq!((entry.position, entry.rank), (i64::try_from(n).unwrap() + 1, 0));
        assert_eq!(rank(person, &entry).await, i32::try_from(n).unwrap() + 1);
        entries.push(entry);
    }
    // From the middle, and then from the front.
    assert_eq!(people[2].leave(&entries[2].entry_id).await.unwrap().state(), WaitlistEntryState::Left);
    let ranks = async || {
        let mut ranks = Vec::new();
        for (person, entry) in people.iter().zip(&entries) {
            ranks.push(rank(person, entry).await);
        }
        ranks
    };
    assert_eq!(ranks().await, [1, 2, 0, 3, 4, 5]);
    people[0].leave(&entries[0].entry_id).await.unwrap();
    assert_eq!(ranks().await, [0, 1, 0, 2, 3, 4]);
    holder.cancel(&registration.registration_id).await.unwrap();
    assert_eq!(ranks().await, [0, 0, 0, 1, 2, 3], "promoted from ahead");
    let again = people[0].join(&event).await.unwrap();
    assert_eq!((again.position, rank(&people[0], &again).await), (7, 4), "whoever comes back is last");
    assert_eq!(system.admin().get_event(&event).await.unwrap().waitlist_size, 4);
    assert_eq!(rank(&system.service(), &entries[5]).await, 3);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freed_seat_promotes_the_head_and_nobody_else() {
    let system = System::with_replicas(2).await;
    let (event, holder, registration) = full(&system).await;
    let (ada, bob) = (system.attendee(), system.attendee());
    let labels = [("diet".to_owned(), "none".to_owned())].into();
    let request = pb::JoinWaitlistRequest { labels, ..ask_to_wait(&event) };
    let first = ada.try_join(request.clone()).await.unwrap();
    let second = bob.join(&event).await.unwrap();
    holder.cancel(&registration.registration_id).await.unwrap();

    let promoted = ada.entry(&first.entry_id).await.unwrap();
    assert_eq!((promoted.state(), promoted.rank, promoted.position), (WaitlistEntryState::Promoted, 0, 1));
    let seat = ada.registration(&promoted.registration_id).await.unwrap();
    assert_eq!(
        (&seat.waitlist_entry_id, seat.seats, seat.state()),
        (&first.entry_id, 1, pb::RegistrationState::Confirmed)
    );
    assert_eq!((&seat.labels, id(&seat.user_id)), (&request.labels, ada.id));
    assert_eq!((seat.confirm_time, seat.create_time), (promoted.update_time, promoted.update_time));
    assert_eq!(bob.entry(&second.entry_id).await.unwrap().rank, 1);
    // Nobody walks in between, and who was promoted cannot leave the queue any more.
    refused(system.attendee().register(&event).await, "EVENT_FULL");
    let refusal = refused(ada.leave(&first.entry_id).await, "STATE_CONFLICT");
    assert_eq!((&refusal["entry_id"], refusal["state"].as_str()), (&first.entry_id, "PROMOTED"));
    ada.cancel(&seat.registration_id).await.unwrap();
    assert_eq!(bob.entry(&second.entry_id).await.unwrap().state(), WaitlistEntryState::Promoted);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_twice_is_leaving_once() {
    let system = System::start().await;
    let (event, ..) = full(&system).await;
    let ada = system.attendee();
    let entry = ada.join(&event).await.unwrap();
    let left = ada.leave(&entry.entry_id).await.unwrap();
    assert_eq!(ada.leave(&entry.entry_id).await.unwrap(), left);
    assert_eq!(ada.entry(&entry.entry_id).await.unwrap(), left);
    for answer in
        [ada.decline(&entry.entry_id).await.map(|_| ()), ada.accept(&entry.entry_id).await.map(|_| ())]
    {
        assert_eq!(refused(answer, "STATE_CONFLICT")["state"], "LEFT");
    }
    assert_eq!(system.admin().get_event(&event).await.unwrap().waitlist_size, 0);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_strict_queue_nobody_passes_a_party_that_does_not_fit() {
    let system = System::start().await;
    let event = system.organizer().publish_new(party_draft(4, 4)).await;
    let party = |seats| pb::RegisterRequest { seats: Some(seats), ..ask(&event) };
    let (ada, bob, big, small) = (system.attendee(), system.attendee(), system.attendee(), system.attendee());
    let of_ada = ada.seats(party(1)).await;
    let of_bob = bob.seats(party(2)).await;
    let of_big = big.join_for(&event, 4).await;
    // A seat is free, and a newcomer for one seat has to wait all the same.
    refused(small.register(&event).await, "EVENT_FULL");
    let Outcome::WaitlistEntry(of_small) = small.try_register(ask_or_queue(&event, 1)).await.unwrap() else {
        panic!("a seat")
    };
    ada.cancel(&of_ada.registration_id).await.unwrap();
    assert_eq!(rank(&small, &of_small).await, 2);
    assert_eq!(system.admin().stats(&event).await.unwrap().idle_seats, 2);
    system.assert_consistent(&event).await;
    // The head goes: whoever stood behind gets the seats at once.
    big.leave(&of_big.entry_id).await.unwrap();
    assert_eq!(small.entry(&of_small.entry_id).await.unwrap().state(), WaitlistEntryState::Promoted);
    bob.cancel(&of_bob.registration_id).await.unwrap();
    assert_eq!(system.admin().get_event(&event).await.unwrap().seats_remaining, 3);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_skips_serves_the_first_that_fits() {
    let system = System::start().await;
    let skipping = pb::QueueDiscipline::SkipAhead.into();
    let event =
        system.organizer().publish_new(pb::Event { queue_discipline: skipping, ..party_draft(4, 4) }).await;
    let party = |seats| pb::RegisterRequest { seats: Some(seats), ..ask(&event) };
    let holder = system.attendee();
    let held = holder.seats(party(3)).await;
    let people = system.attendees(4);
    let big = people[0].join_for(&event, 4).await;
    let two = people[1].join_for(&event, 2).await;
    let one = people[2].seats(party(1)).await;
    let three = people[3].join_for(&event, 3).await;
    holder.cancel(&held.registration_id).await.unwrap();
    assert_eq!(people[1].entry(&two.entry_id).await.unwrap().state(), WaitlistEntryState::Promoted);
    assert_eq!((rank(&people[0], &big).await, rank(&people[3], &three).await), (1, 2));
    assert_eq!(system.admin().get_event(&event).await.unwrap().seats_remaining, 1);
    people[2].cancel(&one.registration_id).await.unwrap();
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freed_party_serves_as_many_as_fit_in_their_order() {
    let system = System::start().await;
    let event = system.organizer().publish_new(party_draft(5, 5)).await;
    let holder = system.attendee();
    let held = holder.seats(pb::RegisterRequest { seats: Some(5), ..ask(&event) }).await;
    let people = system.attendees(4);
    let mut entries = Vec::new();
    for (person, seats) in people.iter().zip([2, 1, 2, 1]) {
        entries.push(person.join_for(&event, seats).await);
    }
    holder.cancel(&held.registration_id).await.unwrap();
    let mut states = Vec::new();
    for (person, entry) in people.iter().zip(&entries) {
        states.push(person.entry(&entry.entry_id).await.unwrap().state());
    }
    use WaitlistEntryState::{Promoted, Waiting};
    assert_eq!(states, [Promoted, Promoted, Promoted, Waiting]);
    let actions: Vec<String> = system.log(&event).await.into_iter().map(|(_, _, action)| action).collect();
    let pair = ["WAITLIST_PROMOTED", "REGISTRATION_CREATED"];
    assert_eq!(actions[8..], [pair, pair, pair].concat());
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_client_sends_in_turn_is_queued_and_logged_in_turn() {
    let system = System::with_replicas(2).await;
    let event = system.organizer().publish_new(draft(1)).await;
    let service = system.service();
    let mut users = Vec::new();
    for n in 0..20 {
        let caller = service.at(&system.replicas[n % 2]);
        let user_id = system.new_id().to_string();
        let _ = caller
            .try_register(pb::RegisterRequest { user_id: user_id.clone(), ..ask_or_queue(&event, 1) })
            .await
            .unwrap();
        users.push(user_id);
    }
    let logged: Vec<String> = sqlx::query_scalar(
        "SELECT subject_id::text FROM changes WHERE subject_id IS NOT NULL ORDER BY version",
    )
    .fetch_all(&system.pool)
    .await
    .unwrap();
    assert_eq!(logged, users);
    let queued: Vec<String> =
        sqlx::query_scalar("SELECT user_id::text FROM waitlist_entries ORDER BY position")
            .fetch_all(&system.pool)
            .await
            .unwrap();
    assert_eq!(queued, users[1..]);
    system.assert_consistent(&event).await;
}
