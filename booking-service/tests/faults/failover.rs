//! Fault 6: the primary is lost, and a standby takes over.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use service_core::test_support::TestServer;
use tokio::time::sleep;
use uuid::Uuid;

use crate::proving::Ordeal;
use crate::proxy::Proxy;
use crate::report::{self, Counts};
use crate::stage::Stage;
use crate::system::eventually;

/// A primary and its standby, behind an address that stays.
async fn pair() -> (Stage, TestServer, Proxy) {
    let server = TestServer::start(&[]);
    let standby = server.standby(&[]);
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).await;
    let mut stage = Stage::empty(server).await;
    stage.through(proxy.address);
    (stage, standby, proxy)
}

/// Ends the primary for good and puts the standby in its place. Gives how long nobody served.
async fn fail_over(stage: &mut Stage, mut standby: TestServer, proxy: &Proxy) -> Duration {
    let began = Instant::now();
    stage.server.kill();
    standby.promote();
    proxy.server.send_replace(([127, 0, 0, 1], standby.port()).into());
    stage.moved_to(standby).await;
    stage.ready().await;
    began.elapsed()
}

async fn set(stage: &Stage, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&stage.pool).await.unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&stage.pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_failover_to_a_synchronous_standby_loses_nothing_that_was_acknowledged() {
    let (mut stage, standby, proxy) = pair().await;
    set(&stage, "ALTER SYSTEM SET synchronous_standby_names = 'standby'").await;
    stage.add_replicas(2).await;
    let ordeal = Ordeal::begin(&stage, stage.crowd(stage.ways()).await);
    sleep(Duration::from_secs(3)).await;
    let state: String = sqlx::query_scalar("SELECT sync_state FROM pg_stat_replication")
        .fetch_one(&stage.pool)
        .await
        .unwrap();
    assert_eq!(state, "sync");
    let gone = fail_over(&mut stage, standby, &proxy).await;
    sleep(Duration::from_secs(1)).await;
    let figures = format!(", ready {gone:.1?} after the primary was lost");
    let verdict = ordeal.prove_with(&stage, "6, failover to a synchronous standby", 1, &figures).await;
    assert!(verdict.unknown > 0 || stage.retries().await > 0.0, "nobody met with it");
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_failover_to_an_asynchronous_standby_loses_the_last_moments_and_no_more() {
    let (mut stage, standby, proxy) = pair().await;
    stage.add_replicas(2).await;
    let crowd = stage.crowd(stage.ways()).await;
    let load = crate::load::Load::start(crowd);
    sleep(Duration::from_secs(3)).await;
    // What is acknowledged by now reaches the standby.
    let safe: HashSet<Uuid> = load.journal.expected().into_keys().collect();
    let here: String =
        sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(&stage.pool).await.unwrap();
    let there = "SELECT coalesce(bool_or(flush_lsn >= $1::pg_lsn), false) FROM pg_stat_replication";
    eventually(async || sqlx::query_scalar(there).bind(&here).fetch_one(&stage.pool).await.unwrap()).await;
    // The standby lags: nothing reaches it any more.
    let lag = Duration::from_millis(500);
    let sender = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication";
    let cut = Instant::now();
    while cut.elapsed() < lag {
        sqlx::raw_sql(sender).execute(&stage.pool).await.unwrap();
        sleep(Duration::from_millis(2)).await;
    }
    let gone = fail_over(&mut stage, standby, &proxy).await;
    let mut load = load;
    load.end().await;
    let unknown = load.replay().await;
    let asks = load.journal.asks();
    let left = asks.iter().filter(|(_, answer)| answer.is_unknown()).count();
    let ids: Vec<Uuid> = load.journal.expected().into_keys().collect();
    let lost: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM unnest($1::uuid[]) id WHERE id NOT IN (SELECT id FROM registrations UNION ALL SELECT id FROM waitlist_entries)",
    )
    .bind(&ids)
    .fetch_all(&stage.pool)
    .await
    .unwrap();
    // What is left is one moment of the past: each event is right by itself.
    let mut wrong = Vec::new();
    for event in &load.crowd.events {
        let event = crate::proof::id(&event.event_id);
        wrong.extend(crate::proof::complaints(&stage.pool, event).await);
        wrong.extend(crate::order::out_of_turn(&stage.pool, event).await);
    }
    let counts = Counts {
        operations: Some(asks.len() + load.journal.moves().len()),
        unknown: Some(unknown),
        resolved: Some(unknown - left),
        violations: Some(wrong.len()),
    };
    let text = format!(
        "lag {lag:?}, acknowledged {} of which {} before it, lost {}, ready after {gone:.1?}, unknown {unknown} and {left} still, \
         violations of what is left {}",
        ids.len(),
        safe.len(),
        lost.len(),
        wrong.len(),
    );
    report::tell("6, failover to an asynchronous standby that lags", 1, &counts, &text);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(!lost.is_empty() && !safe.is_empty(), "a standby that lags loses something, and not everything");
    let early: Vec<_> = lost.iter().filter(|id| safe.contains(id)).collect();
    assert!(early.is_empty(), "lost, and acknowledged before the standby lagged: {early:?}");
    assert_eq!(left, 0, "of {unknown} calls that broke");
    stage.end();
}
