//! Everything at random at once: register, queue, cancel, leave, accept, decline, on three replicas.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::register_response::Outcome;

use crate::acts::{ask_or_queue, draft, offering_draft, party_draft};
use crate::caller::Caller;
use crate::refusal::assert_refused;
use crate::system::{System, at_once};

/// What somebody has in hand.
enum Has {
    Nothing,
    Registration(String),
    Entry(String),
}

/// One person's turns. Every answer has to be one that the contract knows for the call.
async fn live(person: Caller, event: pb::Event, largest: i32, turns: u32, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut has = Has::Nothing;
    for _ in 0..turns {
        has = match has {
            Has::Nothing => {
                let request = ask_or_queue(&event, random.random_range(1..=largest));
                match person.try_register(request).await {
                    Ok(Outcome::Registration(registration)) => {
                        Has::Registration(registration.registration_id)
                    }
                    Ok(Outcome::WaitlistEntry(entry)) => Has::Entry(entry.entry_id),
                    Err(status) => panic!("{status:?}"),
                }
            }
            Has::Registration(id) => {
                person.cancel(&id).await.unwrap();
                // A second time, as clients do that lost the first answer.
                if random.random_bool(0.3) {
                    person.cancel(&id).await.unwrap();
                }
                Has::Nothing
            }
            Has::Entry(id) => answer_entry(&person, id, &mut random).await,
        };
    }
}

async fn answer_entry(person: &Caller, id: String, random: &mut SmallRng) -> Has {
    let seen = person.entry(&id).await.unwrap();
    match seen.state() {
        pb::WaitlistEntryState::Waiting => {
            assert!(seen.rank >= 1, "who waits has a rank: {seen:?}");
            if random.random_bool(0.5) {
                return Has::Entry(id);
            }
            match person.leave(&id).await {
                Ok(_) => Has::Nothing,
                Err(status) => {
                    // Promoted in between.
                    assert_eq!(assert_refused(&status, "STATE_CONFLICT")["state"], "PROMOTED");
                    Has::Entry(id)
                }
            }
        }
        pb::WaitlistEntryState::Offered => {
            if random.random_bool(0.5) {
                person.decline(&id).await.unwrap();
                return Has::Nothing;
            }
            Has::Registration(person.accept(&id).await.unwrap().registration.unwrap().registration_id)
        }
        pb::WaitlistEntryState::Promoted => Has::Registration(seen.registration_id),
        state => panic!("{state:?}"),
    }
}

async fn rehearse(event: pb::Event, largest: i32) {
    let system = System::with_replicas(3).await;
    let event = system.organizer().publish_new(event).await;
    let lives = system
        .attendees(30)
        .into_iter()
        .enumerate()
        .map(|(n, person)| live(person, event.clone(), largest, 20, u64::try_from(n).unwrap()));
    at_once(lives.collect::<Vec<_>>()).await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_promotes_stays_right_whatever_people_do_at_once() {
    rehearse(draft(5), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_offers_stays_right_whatever_people_do_at_once() {
    rehearse(pb::Event { max_seats_per_registration: Some(3), ..offering_draft(7) }, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_skips_stays_right_whatever_people_do_at_once() {
    let skipping = pb::QueueDiscipline::SkipAhead.into();
    rehearse(pb::Event { queue_discipline: skipping, ..party_draft(8, 4) }, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_queue_of_parties_stays_right_whatever_people_do_at_once() {
    rehearse(party_draft(8, 4), 4).await;
}
