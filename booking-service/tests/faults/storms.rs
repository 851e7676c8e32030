//! Fault 10: far more calls than can be served, with hardly any time, and clients that hang up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::load::{Crowd, Load};
use crate::proving::Ordeal;
use crate::stage::{Stage, scale};

/// Answers for good in each second.
async fn goodput(crowd: &Crowd, period: Duration) -> f64 {
    let before = crowd.answered.load(Ordering::Relaxed);
    sleep(period).await;
    f64::from(u32::try_from(crowd.answered.load(Ordering::Relaxed) - before).unwrap()) / period.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_storm_of_calls_without_patience_passes_and_leaves_nothing_behind() {
    let stage = {
        let mut stage = Stage::with_replicas(0).await;
        stage.add_replicas(1).await;
        stage
    };
    let mut stage = stage;
    let patient = stage.crowd(stage.ways()).await;
    let ordeal = Ordeal::begin(&stage, patient.clone());
    sleep(Duration::from_secs(1)).await;
    let before = goodput(&patient, Duration::from_secs(3)).await;
    let storm = Crowd {
        front: (0..8).map(|_| crate::stage::way_to(stage.replicas[0].grpc)).collect(),
        people: 400,
        pause: Duration::ZERO,
        deadline: Duration::from_millis(60),
        hurried: true,
        begun: Arc::default(),
        answered: Arc::default(),
        ..patient.clone()
    };
    let period = Duration::from_secs(4) * scale();
    let mut raging = Load::with_journal(storm.clone(), Arc::clone(&ordeal.load.journal));
    let during = goodput(&patient, period).await;
    let begun = storm.begun.load(Ordering::Relaxed);
    let served = storm.answered.load(Ordering::Relaxed);
    raging.end().await;
    let ended = Instant::now();
    let mut after = 0.0;
    while ended.elapsed() < Duration::from_secs(10) && after < before * 0.8 {
        after = goodput(&patient, Duration::from_secs(1)).await;
    }
    let recovered = ended.elapsed();
    assert!(after >= before * 0.8, "{after:.0}/s ten seconds after, {before:.0}/s before");
    let figures = format!(
        ", patient clients {before:.0}/s before, {during:.0}/s meanwhile, {after:.0}/s {recovered:.0?} after; the storm began {begun} calls, \
         {served} were answered in time",
    );
    ordeal.prove_with(&stage, "10, calls without patience", begun, &figures).await;
    stage.end();
}
