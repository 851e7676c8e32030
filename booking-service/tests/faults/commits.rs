//! Fault 4: the answer to COMMIT is lost on the way, or it comes when nobody waits for it any more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use service_core::test_support::TestServer;
use tokio::time::sleep;

use crate::proving::Ordeal;
use crate::proxy::Proxy;
use crate::stage::{Stage, scale};
use crate::system::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn answers_to_commit_that_are_lost_are_found_and_never_told_wrongly() {
    let mut stage = Stage::empty(TestServer::start(&[])).await;
    let proxy = Proxy::start(([127, 0, 0, 1], stage.server.port()).into()).await;
    stage.through(proxy.address);
    stage.add_replicas(2).await;
    let ordeal = Ordeal::begin(&stage, stage.crowd(stage.ways()).await);
    let times = 60 * scale() as usize;
    let left = || {
        let faults = [&proxy.faults.before_commit, &proxy.faults.after_commit, &proxy.faults.late_commit];
        faults.map(|left| left.load(Ordering::SeqCst)).iter().sum::<usize>()
    };
    let mut late = 0;
    for time in 0..times {
        let fault = match time % 4 {
            0 => &proxy.faults.before_commit,
            1 => &proxy.faults.late_commit,
            _ => &proxy.faults.after_commit,
        };
        fault.fetch_add(1, Ordering::SeqCst);
        sleep(rand::random_range(Duration::ZERO..Duration::from_millis(120))).await;
        late += proxy.faults.arrive().await.len();
    }
    eventually(async || left() == 0).await;
    sleep(Duration::from_secs(1)).await;
    late += proxy.faults.arrive().await.len();
    let found = async |outcome: &str| {
        stage.count("booking_unknown_commits_total", &format!("outcome=\"{outcome}\"")).await
    };
    let (committed, not_committed) = (found("committed").await, found("not_committed").await);
    let figures = format!(", looked up: {committed} committed and {not_committed} not; {late} came late");
    ordeal.prove_with(&stage, "4, COMMIT or its answer lost", times, &figures).await;
    assert!(committed > 0.0 && not_committed > 0.0 && late > 0, "all have to be found out{figures}");
    stage.end();
}
