//! SimulateRush: a rehearsal that leaves nothing behind.

use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::simulate_rush_response::Update;
use tonic::Status;

use crate::acts::{draft, party_draft};
use crate::caller::Caller;
use crate::proof::id;
use crate::refusal::{assert_refused, refused};
use crate::system::{System, eventually};

fn rush(event: &pb::Event, users: i32) -> pb::SimulateRushRequest {
    let event_id = event.event_id.clone();
    pb::SimulateRushRequest { event_id, users, ..pb::SimulateRushRequest::default() }
}

/// Runs a rush to its end: the progress, and the tally.
async fn run(
    caller: &Caller,
    request: pb::SimulateRushRequest,
) -> Result<(Vec<pb::SimulationProgress>, pb::SimulationTally), Status> {
    let mut stream = caller.simulations().simulate_rush(request).await?.into_inner();
    let mut progress = Vec::new();
    loop {
        match stream.message().await?.expect("a tally comes last").update.unwrap() {
            Update::Progress(update) => progress.push(update),
            Update::Tally(tally) => {
                assert!(stream.message().await?.is_none(), "nothing comes after the tally");
                return Ok((progress, tally));
            }
        }
    }
}

fn duration(value: Option<prost_types::Duration>) -> Duration {
    value.unwrap().try_into().unwrap()
}

const COPIES: &str = "SELECT count(*) FROM events WHERE simulation_lease_time IS NOT NULL AND id <> $1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_adds_up_and_leaves_nothing_behind() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(draft(50)).await;
    system.attendee().seat(&event).await;
    let before = system.everything().await;
    let request = pb::SimulateRushRequest { concurrency: 60, ..rush(&event, 300) };
    let (progress, tally) = run(&system.admin(), request.clone()).await.unwrap();
    assert_eq!(
        (tally.users, tally.confirmed, tally.waitlisted, tally.rejected, tally.failed),
        (300, 50, 0, 250, 0)
    );
    assert_eq!((tally.overbooked, tally.consistent), (0, true));
    let elapsed = duration(tally.elapsed);
    assert!(duration(tally.p50) <= duration(tally.p99) && duration(tally.p99) <= elapsed);
    let rate = 300.0 / elapsed.as_secs_f64();
    assert!((tally.registrations_per_second / rate - 1.0).abs() < 0.01, "{tally:?}");
    assert_ne!(tally.event_id, event.event_id);

    assert!(!progress.is_empty());
    assert!(progress.is_sorted_by_key(|update| update.finished));
    for update in &progress {
        let answered = update.confirmed + update.waitlisted + update.rejected + update.failed;
        assert_eq!((update.users, update.finished), (300, answered));
        assert!(update.finished <= 300 && update.confirmed <= 50);
        assert!(duration(update.elapsed) <= elapsed);
    }
    assert_eq!(system.everything().await, before, "the copy is gone and the event is as it was");

    let request = pb::SimulateRushRequest { when_full: pb::WhenFull::JoinWaitlist.into(), ..request };
    let (_, tally) = run(&system.admin(), request).await.unwrap();
    assert_eq!((tally.confirmed, tally.waitlisted, tally.rejected, tally.failed), (50, 250, 0, 0));
    assert_eq!(system.everything().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_event_can_be_rehearsed() {
    let system = System::start().await;
    let (organizer, admin) = (system.organizer(), system.admin());
    let draft = organizer.create(draft(3)).await.unwrap();
    let cancelled = organizer.publish_new(party_draft(3, 2)).await;
    organizer.cancel_event(&cancelled, "").await.unwrap();
    let full = organizer.publish_new(party_draft(3, 3)).await;
    system.attendee().seats(pb::RegisterRequest { seats: Some(3), ..crate::acts::ask(&full) }).await;
    sqlx::query(
        "UPDATE events SET start_time = now() - interval '2 hours', end_time = now() - interval '1 hour'",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    for event in [draft, cancelled, full] {
        let (_, tally) = run(&admin, rush(&event, 5)).await.unwrap();
        assert_eq!((tally.confirmed, tally.rejected, tally.consistent), (3, 2, true));
        // More at once than there are users.
        let (_, tally) =
            run(&admin, pb::SimulateRushRequest { concurrency: 1_000, ..rush(&event, 1) }).await.unwrap();
        assert_eq!((tally.confirmed, tally.users), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_kept_can_be_looked_into_and_is_not_listed() {
    let system = System::start().await;
    let event = system.event(4).await;
    let admin = system.admin();
    let request = pb::SimulateRushRequest {
        keep_event: true,
        when_full: pb::WhenFull::JoinWaitlist.into(),
        ..rush(&event, 9)
    };
    let (_, tally) = run(&admin, request).await.unwrap();
    let copy = admin
        .get_event(&pb::Event { event_id: tally.event_id.clone(), ..pb::Event::default() })
        .await
        .unwrap();
    assert_eq!(
        (copy.capacity, copy.seats_remaining, copy.waitlist_size, copy.state()),
        (4, 0, 5, pb::EventState::Published)
    );
    system.assert_consistent(&copy).await;
    assert_eq!(admin.stats(&copy).await.unwrap().confirmed, 4);
    let listed =
        admin.events().list_events(pb::ListEventsRequest::default()).await.unwrap().into_inner().events;
    assert_eq!(listed.iter().map(|listed| &listed.event_id).collect::<Vec<_>>(), [&event.event_id]);
    assert_eq!(system.log(&copy).await.len(), 1 + 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_runs_one_rush_at_a_time_and_another_replica_another() {
    let system = System::with_replicas(2).await;
    let event = system.event(10).await;
    let admin = system.admin().at(&system.replicas[0]);
    let there = admin.at(&system.replicas[1]);
    let mut first = admin.simulations().simulate_rush(rush(&event, 100_000)).await.unwrap().into_inner();
    assert!(matches!(first.message().await.unwrap().unwrap().update, Some(Update::Progress(_))));
    refused(admin.simulations().simulate_rush(rush(&event, 1)).await, "SIMULATION_RUNNING");
    let (_, tally) = run(&there, rush(&event, 20)).await.unwrap();
    assert_eq!((tally.confirmed, tally.rejected), (10, 10));
    // Real people are served meanwhile.
    system.attendee().seat(&event).await;

    // The client goes away: the rush ends, and its copy with it.
    drop(first);
    eventually(async || system.count(COPIES, &event).await == 0).await;
    eventually(async || admin.simulations().simulate_rush(rush(&event, 1)).await.is_ok()).await;
    eventually(async || system.count(COPIES, &event).await == 0).await;
    let rows: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM registrations WHERE event_id <> $1) + (SELECT count(*) FROM changes WHERE event_id <> $1)",
    )
    .bind(id(&event.event_id))
    .fetch_one(&system.pool)
    .await
    .unwrap();
    assert_eq!(rows, 0);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_early_leaves_no_copy_either() {
    let system = System::start().await;
    let event = system.event(1_000).await;
    let admin = system.admin();
    for n in 0..12 {
        let request = pb::SimulateRushRequest { keep_event: n % 2 == 0, ..rush(&event, 20_000) };
        let patience = Duration::from_millis(2 * n);
        // The one before may not have ended yet.
        let began = tokio::time::timeout(patience, admin.simulations().simulate_rush(request)).await;
        if let Ok(Err(status)) = began {
            assert_refused(&status, "SIMULATION_RUNNING");
        }
    }
    eventually(async || system.count(COPIES, &event).await == 0).await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_replica_died_is_removed_by_another_one() {
    let mut system = System::start().await;
    let event = system.event(10).await;
    let request = pb::SimulateRushRequest { keep_event: true, ..rush(&event, 30) };
    run(&system.admin(), request).await.unwrap();
    assert_eq!(system.count(COPIES, &event).await, 1, "a kept copy");
    // As a rush leaves it that was not ended: with a lease, which runs out.
    sqlx::query("UPDATE events SET simulation_lease_time = now() - interval '1 s' WHERE simulation_lease_time IS NOT NULL")
        .execute(&system.pool)
        .await
        .unwrap();
    system.add_replica(|_| {}).await;
    eventually(async || system.count(COPIES, &event).await == 0).await;
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM registrations").fetch_one(&system.pool).await.unwrap();
    assert_eq!(left, 0);
}
