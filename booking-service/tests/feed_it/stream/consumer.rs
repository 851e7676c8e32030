//! A backend that keeps a copy from the changes alone, and is killed time and again.

use std::time::Instant;

use rand::{Rng, RngExt, SeedableRng};
use rowlock_proto::booking::v1 as pb;

use super::copy::{Copy, tables};
use crate::acts::{ask_or_queue, draft, offering_draft};
use crate::caller::Caller;
use crate::system::{PATIENCE, System, at_once};
use crate::watch::next;

/// What one person does, as the dice fall.
async fn live(person: Caller, event: pb::Event, mut dice: impl Rng) {
    for _ in 0..4 {
        let held = if dice.random_bool(0.4) {
            Some(prost_types::Duration { seconds: dice.random_range(1..=2), nanos: 0 })
        } else {
            None
        };
        let request = pb::RegisterRequest { hold_duration: held, ..ask_or_queue(&event, 1) };
        let Ok(outcome) = person.try_register(request).await else { continue };
        match outcome {
            pb::register_response::Outcome::Registration(seat) => {
                if dice.random_bool(0.5) {
                    let _ = person.confirm(&seat.registration_id).await;
                }
                if dice.random_bool(0.7) {
                    let _ = person.cancel(&seat.registration_id).await;
                }
            }
            pb::register_response::Outcome::WaitlistEntry(entry) => match dice.random_range(0..3) {
                0 => drop(person.leave(&entry.entry_id).await),
                1 => drop(person.decline(&entry.entry_id).await),
                _ => drop(person.accept(&entry.entry_id).await),
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_killed_twenty_times_has_it_all_in_the_end() {
    let system = System::with_replicas(2).await;
    let organizer = system.organizer();
    let mut events = Vec::new();
    for capacity in [3, 5, 8] {
        events.push(organizer.publish_new(draft(capacity)).await);
        events.push(organizer.publish_new(offering_draft(capacity)).await);
    }
    let mut dice = rand::rngs::SmallRng::seed_from_u64(20);
    let people: Vec<_> = (0..60)
        .map(|n| {
            (
                system.attendee(),
                events[n % events.len()].clone(),
                rand::rngs::SmallRng::seed_from_u64(n as u64),
            )
        })
        .collect();
    let people =
        tokio::spawn(at_once(people.into_iter().map(|(person, event, dice)| live(person, event, dice))));

    let mut copy = Copy::default();
    let consumer = system.service();
    for life in 0..20 {
        let mut stream = consumer.at(&system.replicas[life % 2]).stream(&copy.token, "", true).await.unwrap();
        for _ in 0..dice.random_range(1..20) {
            // What it had not dealt with when it died comes again.
            match tokio::time::timeout(std::time::Duration::from_millis(200), stream.message()).await {
                Ok(told) => copy.apply(told.unwrap().unwrap()),
                Err(_) => break,
            }
        }
    }
    tokio::time::timeout(PATIENCE, people).await.unwrap().unwrap();
    // The last of the holds and offers are left as they are when the events end.
    for event in &events[..3] {
        organizer.cancel_event(event, "").await.unwrap();
    }
    // A hold may lapse while we look: then the log has more by the time the rows are read, and we read on.
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "the log never told of the last change");
        let mut stream = consumer.stream(&copy.token, "", false).await.unwrap();
        while let Some(told) = next(&mut stream).await.unwrap() {
            copy.apply(told);
        }
        let last: Vec<(String, i64)> =
            sqlx::query_as("SELECT id::text, version FROM events").fetch_all(&system.pool).await.unwrap();
        let table = tables(&system.pool).await;
        let again: Vec<(String, i64)> =
            sqlx::query_as("SELECT id::text, version FROM events").fetch_all(&system.pool).await.unwrap();
        if last == again && last.iter().all(|(event, version)| copy.versions.get(event) == Some(version)) {
            assert_eq!(copy.rows(), table);
            break;
        }
    }
    for event in &events {
        system.assert_consistent(event).await;
    }
}
