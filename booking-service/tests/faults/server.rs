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
    let figures = format!(", ready at most {longest:.1?} after the server is");
    ordeal.prove_with(&stage, "2, SIGKILL of the database server", times, &figures).await;
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_storm_that_ends_every_session_costs_no_seat() {
    let mut stage = Stage::with_replicas(2).await;
    let ordeal = Ordeal::begin(&stage, stage.crowd(stage.ways()).await);
    let (until, mut ended) = (Instant::now() + Duration::from_secs(5) * scale(), 0);
    while Instant::now() < until {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
              WHERE datname = current_database() AND application_name LIKE 'rowlock-booking%'",
        )
        .fetch_one(&stage.pool)
        .await
        .unwrap();
        ended += usize::try_from(count).unwrap();
        sleep(rand::random_range(Duration::ZERO..Duration::from_millis(150))).await;
    }
    sleep(Duration::from_millis(500)).await;
    ordeal.prove(&stage, "3, sessions ended by pg_terminate_backend", ended).await;
    stage.end();
}
