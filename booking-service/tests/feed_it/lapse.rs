//! What ends by itself: holds and offers whose time has passed; and everything that ends with its event.

use std::time::Instant;

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::{RegistrationState, WaitlistEntryState};
use sqlx::Connection;

use crate::acts::{ask, ask_or_queue, draft, offering_draft};
use crate::crowd::scale;
use crate::proof::id;
use crate::refusal::refused;
use crate::system::{System, at_once, eventually};

/// Half of the time that an expiry waits for a lock that somebody keeps, and far more than a release takes, in seconds.
const SOON: f64 = 5.0;

/// How long after its time the last of the event's holds was released, in seconds by the database's clock.
async fn latest_release(system: &System, event: &pb::Event) -> f64 {
    sqlx::query_scalar(
        "SELECT extract(epoch FROM max(c.change_time - r.hold_expire_time))::float8
           FROM changes c JOIN registrations r ON r.event_id = c.event_id AND r.id = c.entity_id
          WHERE c.event_id = $1 AND c.action = 'REGISTRATION_EXPIRED'",
    )
    .bind(id(&event.event_id))
    .fetch_one(&system.pool)
    .await
    .unwrap()
}

/// Has the time of all the event's holds and offers run out so many seconds from now.
async fn let_lapse(system: &System, event: &pb::Event, after: f64) {
    sqlx::query(
        "WITH moment AS MATERIALIZED (SELECT clock_timestamp() + make_interval(secs => $2) AS t),
              holds AS (UPDATE registrations SET hold_expire_time = t FROM moment
                         WHERE event_id = $1 AND state = 'HELD')
         UPDATE waitlist_entries SET offer_expire_time = t FROM moment WHERE event_id = $1 AND state = 'OFFERED'",
    )
    .bind(id(&event.event_id))
    .bind(after)
    .execute(&system.pool)
    .await
    .unwrap();
}

const OPEN_HOLDS: &str = "SELECT count(*) FROM registrations WHERE event_id = $1 AND state = 'HELD'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seat_of_a_lapsed_hold_goes_to_the_queue() {
    let system = System::with_replicas(2).await;
    let promoting = system.event(1).await;
    let offering = system.organizer().publish_new(offering_draft(1)).await;
    let mut heads = Vec::new();
    for (event, becomes) in
        [(&promoting, WaitlistEntryState::Promoted), (&offering, WaitlistEntryState::Offered)]
    {
        let held = system.attendee().hold(event, 3_600).await;
        assert_eq!(held.state(), RegistrationState::Held);
        let head = system.attendee();
        let entry = head.join(event).await.unwrap();
        let_lapse(&system, event, 1.0).await;
        heads.push((event, head, entry, becomes));
    }
    for (event, head, entry, becomes) in heads {
        eventually(async || head.entry(&entry.entry_id).await.unwrap().state() == becomes).await;
        let late = latest_release(&system, event).await;
        println!("a hold was released {late:.3} s after its time");
        assert!((0.0..SOON).contains(&late), "{late} s");
        system.assert_consistent(event).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_cannot_be_confirmed_after_its_time_swept_or_not() {
    let system = System::with_replicas(2).await;
    let event = system.event(10).await;
    for person in system.attendees(10) {
        let held = person.hold(&event, 3_600).await;
        let_lapse(&system, &event, 0.0).await;
        // At once, most likely before a worker has looked; then when one has.
        refused(person.confirm(&held.registration_id).await, "HOLD_EXPIRED");
        eventually(async || system.count(OPEN_HOLDS, &event).await == 0).await;
        refused(person.confirm(&held.registration_id).await, "HOLD_EXPIRED");
    }
    assert_eq!(system.attendee().get_event(&event).await.unwrap().seats_remaining, 10);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_confirmed_many_times_at_once_is_confirmed_once() {
    let system = System::with_replicas(2).await;
    let event = system.event(1).await;
    let person = system.attendee();
    let held = person.hold(&event, 3_600).await;
    let answers = at_once((0..20).map(|call| {
        let (person, held) = (person.at(&system.replicas[call % 2]), held.clone());
        async move { person.confirm(&held.registration_id).await.unwrap() }
    }))
    .await;
    assert_eq!(answers[0].state(), RegistrationState::Confirmed);
    assert!(answers.iter().all(|answer| answer == &answers[0]));
    let log = system.log(&event).await;
    assert_eq!(log.iter().filter(|(.., action)| action == "REGISTRATION_CONFIRMED").count(), 1);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_that_lapse_at_the_same_moment_are_all_released_each_once() {
    let system = System::with_replicas(2).await;
    let people = 1_000 * scale();
    let event = system.event(1_000_000).await;
    let hold_duration = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
    system.rush(people, pb::RegisterRequest { hold_duration, ..ask(&event) }).await;
    let_lapse(&system, &event, 0.5).await;
    eventually(async || system.count(OPEN_HOLDS, &event).await == 0).await;
    let late = latest_release(&system, &event).await;
    println!("{people} holds lapsed at one moment; the last was released {late:.3} s after it");
    // Released twice would be counted twice, released too early not at all.
    let released = "SELECT count(*) FILTER (WHERE change_time >= hold_expire_time)
                      FROM changes c JOIN registrations r ON r.event_id = c.event_id AND r.id = c.entity_id
                     WHERE c.event_id = $1 AND action = 'REGISTRATION_EXPIRED'";
    assert_eq!(system.count(released, &event).await, i64::try_from(people).unwrap());
    assert_eq!(system.attendee().get_event(&event).await.unwrap().seats_remaining, 1_000_000);
    system.assert_verified(&event).await;
}

/// Holds of an event that lapsed an hour ago. Its counters do not know of them.
async fn insert_lapsed(system: &System, event: &pb::Event, count: i32) {
    sqlx::query(
        "INSERT INTO registrations (event_id, id, user_id, seats, state, hold_expire_time, create_time, update_time)
         SELECT $1, gen_random_uuid(), gen_random_uuid(), 1, 'HELD', now() - interval '1 hour', now(), now()
           FROM generate_series(1, $2)",
    )
    .bind(id(&event.event_id))
    .bind(count)
    .execute(&system.pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_somebody_keeps_locked_holds_up_its_own_lapses_alone() {
    let system = System::start().await;
    let (locked, free) = (system.event(1).await, system.event(1).await);
    let (stuck, other) = (system.attendee(), system.attendee());
    let stuck_hold = stuck.hold(&locked, 3_600).await.registration_id;
    let other_hold = other.hold(&free, 3_600).await.registration_id;
    let mut foreign = system.pool.acquire().await.unwrap();
    let mut lock = foreign.begin().await.unwrap();
    sqlx::query("SELECT FROM events WHERE id = $1 FOR UPDATE")
        .bind(id(&locked.event_id))
        .execute(&mut *lock)
        .await
        .unwrap();
    let_lapse(&system, &locked, 0.0).await;
    // More than a look finds, and all of them longer overdue than anybody else's.
    insert_lapsed(&system, &locked, 2_100).await;
    // Until a worker is at it: a runner meets with the lock.
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock' AND $1::uuid IS NOT NULL";
    eventually(async || system.count(waiting, &locked).await > 0).await;
    let_lapse(&system, &free, 0.0).await;
    let expired = RegistrationState::Expired;
    eventually(async || other.registration(&other_hold).await.unwrap().state() == expired).await;
    let late = latest_release(&system, &free).await;
    assert!(late < SOON, "{late} s");
    assert_eq!(stuck.registration(&stuck_hold).await.unwrap().state(), RegistrationState::Held);
    sqlx::query("DELETE FROM registrations WHERE hold_expire_time < now() - interval '30 minutes'")
        .execute(&system.pool)
        .await
        .unwrap();
    lock.rollback().await.unwrap();
    eventually(async || stuck.registration(&stuck_hold).await.unwrap().state() == expired).await;
    for event in [&locked, &free] {
        system.assert_consistent(event).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_with_far_more_lapses_than_a_look_finds_does_not_hide_those_of_others() {
    let system = System::start().await;
    let (crowded, other) = (system.event(1_000_000).await, system.event(1).await);
    let person = system.attendee();
    let hold = person.hold(&other, 3_600).await.registration_id;
    sqlx::query(
        "UPDATE events SET seats_remaining = seats_remaining - 30000, fence = fence + 1 WHERE id = $1",
    )
    .bind(id(&crowded.event_id))
    .execute(&system.pool)
    .await
    .unwrap();
    insert_lapsed(&system, &crowded, 30_000).await;
    let_lapse(&system, &other, 0.0).await;
    eventually(async || person.registration(&hold).await.unwrap().state() == RegistrationState::Expired)
        .await;
    assert!(system.count(OPEN_HOLDS, &crowded).await > 0, "they came first, all of them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lapsed_offer_cannot_be_accepted_and_moves_on() {
    let system = System::with_replicas(2).await;
    let event = system.organizer().publish_new(offering_draft(1)).await;
    let (seated, first, second) = (system.attendee(), system.attendee(), system.attendee());
    let seat = seated.seat(&event).await;
    let (late, next) = (first.join(&event).await.unwrap(), second.join(&event).await.unwrap());
    seated.cancel(&seat.registration_id).await.unwrap();
    assert_eq!(first.entry(&late.entry_id).await.unwrap().state(), WaitlistEntryState::Offered);

    let_lapse(&system, &event, 0.0).await;
    refused(first.accept(&late.entry_id).await, "OFFER_EXPIRED");
    let offered = async || second.entry(&next.entry_id).await.unwrap().state() == WaitlistEntryState::Offered;
    eventually(offered).await;
    assert_eq!(first.entry(&late.entry_id).await.unwrap().state(), WaitlistEntryState::Expired);
    refused(first.accept(&late.entry_id).await, "OFFER_EXPIRED");
    second.accept(&next.entry_id).await.unwrap();
    refused(system.attendee().register(&event).await, "EVENT_FULL");
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_an_event_ends_all_that_it_has() {
    let system = System::start().await;
    let people = 2_500 * scale();
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(i32::try_from(people).unwrap())).await;
    system.seat_many(&event, people).await;
    system.rush(people, ask_or_queue(&event, 1)).await;
    let (memory, began) = (megabytes("VmRSS:"), Instant::now());
    let cancelled = organizer.cancel_event(&event, "rain").await.unwrap();
    println!(
        "an event with {people} registrations and {people} entries was cancelled in {:?}; memory {memory} MB before, {} MB at most",
        began.elapsed(),
        megabytes("VmHWM:")
    );
    assert_eq!(cancelled.version, 3 + 4 * i64::try_from(people).unwrap());
    assert_eq!(organizer.get_event(&event).await.unwrap().version, cancelled.version);
    system.assert_verified(&event).await;
    let again = organizer.cancel_event(&event, "snow").await.unwrap();
    assert_eq!((again.cancel_reason.as_str(), again.version), ("rain", cancelled.version));
}

/// What this process has or had at most in memory, where Linux says so.
fn megabytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1_024
}
