//! Fault 9: a session that is not the service's holds the lock of one event.

use std::time::{Duration, Instant};

use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use tonic::Request;
use uuid::Uuid;

use crate::acts::{ask, draft};
use crate::caller::Caller;
use crate::proof::id;
use crate::proving::Ordeal;
use crate::refusal::assert_refused;
use crate::stage::{Stage, scale, way_to};

/// How much later than its deadline a call may end.
const GRACE: Duration = Duration::from_millis(500);

/// One call after the other for seats at an event, for so long: how long each took, in order of length.
async fn probe(service: &Caller, event: &pb::Event, period: Duration) -> Vec<Duration> {
    let (until, mut took) = (Instant::now() + period, Vec::new());
    while Instant::now() < until {
        let began = Instant::now();
        let user_id = Uuid::from_u128(rand::random()).to_string();
        let _ = service.try_register(pb::RegisterRequest { user_id, ..ask(event) }).await.unwrap();
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took
}

fn p99(took: &[Duration]) -> Duration {
    took[(took.len() * 99).div_ceil(100) - 1]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_foreign_lock_on_one_event_neither_slows_the_others_nor_outlives_its_callers_deadlines() {
    let mut stage = Stage::with_replicas(1).await;
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
    let before = tokio::join!(probe(&service, &free[0], period), probe(&service, &free[1], period));
    let times = 2 * scale() as usize;
    let (mut during, mut latest) = (Vec::new(), Duration::ZERO);
    for _ in 0..times {
        let mut held = stage.pool.begin().await.unwrap();
        sqlx::query("SELECT FROM events WHERE id = $1 FOR UPDATE")
            .bind(id(&stuck.event_id))
            .execute(&mut *held)
            .await
            .unwrap();
        let waiting = (0..40_u64).map(|n| {
            let service = service.clone();
            let request =
                pb::RegisterRequest { user_id: Uuid::from_u128(rand::random()).to_string(), ..ask(&stuck) };
            let deadline = Duration::from_millis(500 + 50 * n);
            tokio::spawn(async move {
                let mut request = Request::new(request);
                request.set_timeout(deadline);
                let began = Instant::now();
                let status = service.registrations().register(request).await.unwrap_err();
                assert!(began.elapsed() <= deadline + GRACE, "{deadline:?} became {:?}", began.elapsed());
                if !status.details().is_empty() {
                    assert_refused(&status, "DEADLINE_EXCEEDED");
                }
                began.elapsed().saturating_sub(deadline)
            })
        });
        let waiting: Vec<_> = waiting.collect();
        let probes = free.iter().map(|event| probe(&service, event, period));
        during.extend(futures_util::future::join_all(probes).await.concat());
        for call in waiting {
            latest = latest.max(call.await.unwrap());
        }
        held.rollback().await.unwrap();
    }
    during.sort_unstable();
    let mut before = [before.0, before.1].concat();
    before.sort_unstable();
    let seats: i64 = sqlx::query_scalar("SELECT count(*) FROM registrations WHERE event_id = $1")
        .bind(id(&stuck.event_id))
        .fetch_one(&stage.pool)
        .await
        .unwrap();
    assert_eq!(seats, 0, "whoever was told that it is too late has no seat");
    assert!(p99(&during) < Duration::from_secs(1), "{:?}", p99(&during));
    let figures = format!(
        ", other events p99 {:.0?} before and {:.0?} meanwhile ({} calls), the locked one's calls at most {latest:.0?} after \
         their deadlines",
        p99(&before),
        p99(&during),
        during.len(),
    );
    // The probes are a backend's calls, without request ids: only the crowd's are in its books.
    ordeal.prove_with(&stage, "9, one event locked by a foreign session", times, &figures).await;
    stage.end();
}
