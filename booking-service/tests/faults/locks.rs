//! Fault 9: a session that is not the service's holds the lock of one event.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use tokio::time::sleep;

use crate::acts::draft;
use crate::caller::Caller;
use crate::proof::id;
use crate::proving::{DEFAULT_DEADLINE, Ends, Ordeal};
use crate::stage::{Stage, ask_for_somebody, p99, scale, way_to};

/// What nobody notices on a busy machine, however quick others were before, beside the lock that a batch of theirs may have waited
/// for (`--event-lock-timeout`).
const UNNOTICED: Duration = Duration::from_millis(250 + 400);

/// One call after the other for seats at an event, for so long: how long each took.
async fn probe(service: &Caller, event: &pb::Event, period: Duration) -> Vec<Duration> {
    let (until, mut took) = (Instant::now() + period, Vec::new());
    while Instant::now() < until {
        let began = Instant::now();
        let _ = service.try_register(ask_for_somebody(event)).await.unwrap();
        took.push(began.elapsed());
    }
    took
}

/// The same at several events at once.
async fn probe_all(service: &Caller, events: &[pb::Event], period: Duration) -> Vec<Duration> {
    join_all(events.iter().map(|event| probe(service, event, period))).await.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_foreign_lock_on_one_event_neither_slows_the_others_nor_outlives_its_callers_deadlines() {
    let mut stage = Stage::with_replicas(0).await;
    stage.started_with(|_, command| {
        command.args(DEFAULT_DEADLINE);
    });
    stage.add_replicas(1).await;
    let ways = stage.ways();
    let organizer = stage.caller(Role::Organizer, way_to(stage.replicas[0].grpc));
    let stuck = organizer.publish_new(draft(1_000)).await;
    let service = stage.caller(Role::Service, ways[0].clone());
    let mut free = Vec::new();
    for _ in 0..4 {
        free.push(organizer.publish_new(draft(100_000)).await);
    }
    let ordeal = Ordeal::begin(&stage, stage.crowd(ways.clone()).await);
    let period = Duration::from_secs(3);
    let mut before = probe_all(&service, &free, period).await;
    let times = 2 * scale() as usize;
    let (mut during, mut ends) = (Vec::new(), Ends::default());
    for _ in 0..times {
        let mut held = stage.pool.begin().await.unwrap();
        sqlx::query("SELECT FROM events WHERE id = $1 FOR UPDATE")
            .bind(id(&stuck.event_id))
            .execute(&mut *held)
            .await
            .unwrap();
        let waiting = (0..40_u64).map(|n| {
            let (service, stuck) = (service.clone(), stuck.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(20 * n)).await;
                Ends::of_one(&service, &stuck).await
            })
        });
        let waiting: Vec<_> = waiting.collect();
        during.extend(probe_all(&service, &free, period).await);
        for call in waiting {
            ends.extend([call.await.unwrap()]);
        }
        held.rollback().await.unwrap();
        // Behind them in the line: when this is answered, they have been dropped or applied.
        service.seats(ask_for_somebody(&stuck)).await;
    }
    let seats: i64 = sqlx::query_scalar("SELECT count(*) FROM registrations WHERE event_id = $1")
        .bind(id(&stuck.event_id))
        .fetch_one(&stage.pool)
        .await
        .unwrap();
    assert_eq!(seats, i64::try_from(times).unwrap(), "whoever was told that it is too late has no seat");
    let busy = stage.count("booking_batch_retries_total", "code=\"55P03\"").await;
    let (before, meanwhile) = (p99(&mut before), p99(&mut during));
    let figures = format!(
        ", other events p99 {before:.0?} before and {meanwhile:.0?} meanwhile ({} calls), of the locked one {}, {busy} times a \
         batch did not get the lock",
        during.len(),
        ends.tell(),
    );
    // The probes are a backend's calls, without request ids: only the crowd's are in its books.
    ordeal.prove_with(&stage, "9, one event locked by a foreign session", times, &figures).await;
    ends.assert_in_time();
    assert!(busy > 0.0, "no batch met with the lock");
    assert!(meanwhile <= UNNOTICED.max(5 * before), "{before:?} became {meanwhile:?}");
    stage.end();
}
