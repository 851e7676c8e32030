//! Fault 4: the answer to COMMIT is lost on the way.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use crate::proving::Ordeal;
use crate::proxy::Proxy;
use crate::stage::{Stage, scale};
use service_core::test_support::TestServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn answers_to_commit_that_are_lost_are_found_and_never_told_wrongly() {
    let mut stage = Stage::empty(TestServer::start(&[])).await;
    let proxy = Proxy::start(([127, 0, 0, 1], stage.server.port()).into()).await;
    stage.through(proxy.address);
    stage.add_replicas(2).await;
    let ordeal = Ordeal::begin(&stage, stage.crowd(stage.ways()).await);
    let (times, mut lost) = (60 * scale() as usize, 0);
    for time in 0..times {
        let fault = if time % 3 == 0 { &proxy.faults.before_commit } else { &proxy.faults.after_commit };
        fault.fetch_add(1, Ordering::SeqCst);
        sleep(rand::random_range(Duration::ZERO..Duration::from_millis(120))).await;
        lost = time + 1
            - proxy.faults.before_commit.load(Ordering::SeqCst)
            - proxy.faults.after_commit.load(Ordering::SeqCst);
    }
    ordeal.prove(&stage, "4, COMMIT or its answer lost", lost).await;
    stage.end();
}
