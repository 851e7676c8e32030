//! Faults 2 and 3: the database server dies, or its sessions do.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::proving::Ordeal;
use crate::stage::{Stage, scale};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_database_server_that_is_killed_costs_no_seat_and_its_replicas_find_it_again() {
    let mut stage = Stage::with_replicas(2).await;
    let ordeal = Ordeal::begin(&stage, stage.crowd(stage.ways()).await);
    let (times, mut longest) = (2 * scale() as usize, Duration::ZERO);
    for _ in 0..times {
        sleep(Duration::from_millis(1_500)).await;
        stage.server.kill();
        sleep(Duration::from_millis(500)).await;
        stage.server.restart();
        let up = Instant::now();
        stage.ready().await;
        longest = longest.max(up.elapsed());
    }
    sleep(Duration::from_millis(1_000)).await;
    let retries = stage.retries().await;
    let figures = format!(", ready at most {longest:.1?} after the server is, {retries} batches tried again");
    ordeal.prove_with(&stage, "2, SIGKILL of the database server", times, &figures).await;
    assert!(retries > 0.0, "no batch met with it");
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_storm_that_ends_every_session_costs_no_seat() {
    let mut stage = Stage::with_replicas(2).await;
    let ordeal = Ordeal::begin(&stage, stage.crowd(stage.ways()).await);
    let (until, mut ended, mut seating) = (Instant::now() + Duration::from_secs(5) * scale(), 0, 0);
    while Instant::now() < until {
        let of: Vec<String> = sqlx::query_scalar(
            "SELECT application_name FROM pg_stat_activity
              WHERE datname = current_database() AND application_name LIKE 'rowlock-booking%' AND pg_terminate_backend(pid)",
        )
        .fetch_all(&stage.pool)
        .await
        .unwrap();
        ended += of.len();
        seating += of.iter().filter(|name| *name == "rowlock-booking-seating").count();
        sleep(rand::random_range(Duration::ZERO..Duration::from_millis(150))).await;
    }
    sleep(Duration::from_millis(500)).await;
    let retries = stage.retries().await;
    let figures = format!(", {seating} of the sessions were runners', {retries} batches tried again");
    ordeal.prove_with(&stage, "3, sessions ended by pg_terminate_backend", ended, &figures).await;
    assert!(seating > 0 && seating < ended, "{seating} of {ended}: runners' and others'");
    assert!(retries > 0.0, "no batch met with it");
    stage.end();
}
