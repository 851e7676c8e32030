//! Seats that an organizer adds, takes away, or hands out by another rule.

use rowlock_proto::booking::v1 as pb;

use crate::acts::{ask, draft, offering_draft, party_draft};
use crate::refusal::refused;
use crate::system::{System, at_once};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_capacity_goes_to_the_queue_first_and_less_than_taken_is_refused() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(2)).await;
    for attendee in system.attendees(2) {
        attendee.seat(&event).await;
    }
    let queue = system.attendees(3);
    for attendee in &queue {
        attendee.join(&event).await.unwrap();
    }
    let raised = organizer.set_capacity(&event, 4).await.unwrap();
    assert_eq!((raised.capacity, raised.seats_remaining, raised.waitlist_size), (4, 0, 1));
    refused(queue[0].register(&event).await, "ALREADY_REGISTERED");
    refused(queue[1].register(&event).await, "ALREADY_REGISTERED");
    refused(queue[2].register(&event).await, "ALREADY_WAITLISTED");

    let refusal = refused(organizer.set_capacity(&event, 3).await, "CAPACITY_BELOW_TAKEN");
    assert_eq!((refusal["capacity"].as_str(), refusal["taken"].as_str()), ("3", "4"));
    let raised = organizer.set_capacity(&event, 10).await.unwrap();
    assert_eq!((raised.seats_remaining, raised.waitlist_size), (5, 0));
    let lowered = organizer.set_capacity(&event, 5).await.unwrap();
    assert_eq!((lowered.capacity, lowered.seats_remaining), (5, 0));
    refused(system.attendee().register(&event).await, "EVENT_FULL");
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_seated_in_portions_is_seated_by_one_change_of_one_moment() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(1)).await;
    system.attendee().seat(&event).await;
    // Portions are of 250 seats.
    for _ in 0..5 {
        let joins = system.attendees(500).into_iter().map(|attendee| {
            let event = event.clone();
            async move { attendee.join(&event).await.unwrap() }
        });
        at_once(joins).await;
    }
    let raised = organizer.set_capacity(&event, 2_601).await.unwrap();
    assert_eq!((raised.seats_remaining, raised.waitlist_size), (100, 0));
    assert_eq!(raised, organizer.get_event(&event).await.unwrap());
    // Nobody could see a part of it: its rows are of one transaction, and of one time.
    let moments = "SELECT count(DISTINCT (xmin::text, change_time)) FROM changes
                    WHERE event_id = $1 AND action IN ('EVENT_UPDATED', 'WAITLIST_PROMOTED')";
    assert_eq!(system.count(moments, &event).await, 1);
    let promoted = "SELECT count(*) FROM changes WHERE event_id = $1 AND action = 'WAITLIST_PROMOTED'";
    assert_eq!(system.count(promoted, &event).await, 2_500);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_counts_as_taken_when_the_capacity_is_lowered() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(offering_draft(2)).await;
    let ada = system.attendee();
    let registration = ada.seat(&event).await;
    system.attendee().seat(&event).await;
    system.attendee().join(&event).await.unwrap();
    ada.cancel(&registration.registration_id).await.unwrap();
    let refusal = refused(organizer.set_capacity(&event, 1).await, "CAPACITY_BELOW_TAKEN");
    assert_eq!(refusal["taken"], "2");
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_no_longer_strict_is_served_at_once() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(party_draft(4, 4)).await;
    system.attendee().seats(pb::RegisterRequest { seats: Some(3), ..ask(&event) }).await;
    system.attendee().join_for(&event, 3).await;
    let small = system.attendee();
    let entry = small.join_for(&event, 1).await;
    let change = pb::Event {
        event_id: event.event_id.clone(),
        queue_discipline: pb::QueueDiscipline::SkipAhead.into(),
        ..pb::Event::default()
    };
    let updated = organizer.update(change, &["queue_discipline"]).await.unwrap();
    assert_eq!((updated.seats_remaining, updated.waitlist_size), (0, 1));
    assert_eq!(small.entry(&entry.entry_id).await.unwrap().state(), pb::WaitlistEntryState::Promoted);
    system.assert_consistent(&event).await;
}
