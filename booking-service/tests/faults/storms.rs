//! Fault 10: far more calls than can be served, with hardly any time, and clients that hang up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use uuid::Uuid;

use crate::journal::Journal;
use crate::load::{Crowd, Load};
use crate::proving::Ordeal;
use crate::stage::{Stage, scale, way_to};
use crate::system::eventually;

/// How many times as much as can be served is asked for.
const TOO_MUCH: f64 = 5.0;

/// How many there were in each second.
async fn rate(counter: &AtomicUsize, seconds: u32) -> f64 {
    let (before, began) = (counter.load(Ordering::Relaxed), Instant::now());
    sleep(Duration::from_secs(1) * seconds).await;
    let count = u32::try_from(counter.load(Ordering::Relaxed) - before).unwrap();
    f64::from(count) / began.elapsed().as_secs_f64()
}

/// Requests of which nobody knows what became, and those of them that are there.
async fn unknown_and_there(stage: &Stage, journal: &Journal) -> (usize, usize) {
    let asks = journal.asks();
    let unknown: Vec<Uuid> =
        asks.iter().filter(|(_, answer)| answer.is_unknown()).map(|(ask, _)| ask.request_id).collect();
    let there: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM registrations WHERE request_id = ANY($1))
              + (SELECT count(*) FROM waitlist_entries WHERE request_id = ANY($1))",
    )
    .bind(&unknown)
    .fetch_one(&stage.pool)
    .await
    .unwrap();
    (unknown.len(), usize::try_from(there).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_storm_of_calls_without_patience_passes_and_leaves_nothing_behind() {
    let mut stage = Stage::with_replicas(1).await;
    let patient = stage.crowd(stage.ways()).await;
    let mut ordeal = Ordeal::begin(&stage, patient.clone());
    // What can be served: as many as ask again as soon as they have their answer.
    let eager = Crowd {
        events: vec![patient.events[2].clone()],
        front: (0..8).map(|_| way_to(stage.replicas[0].grpc)).collect(),
        people: 128,
        pause: Duration::ZERO,
        begun: Arc::default(),
        answered: Arc::default(),
        ..patient.clone()
    };
    let mut all = Load::with_journal(eager.clone(), Arc::clone(&ordeal.load.journal));
    sleep(Duration::from_secs(1)).await;
    let (theirs, others) = tokio::join!(rate(&eager.answered, 3), rate(&patient.answered, 3));
    let capacity = theirs + others;
    all.end().await;
    sleep(Duration::from_secs(1)).await;
    let before = rate(&patient.answered, 5).await;

    let storm = Crowd {
        people: 300,
        deadline: Duration::from_millis(60),
        hurried: true,
        begun: Arc::default(),
        answered: Arc::default(),
        ..eager
    };
    let mut raging = Load::with_journal(storm.clone(), Arc::clone(&ordeal.load.journal));
    let (asked, during) = tokio::join!(rate(&storm.begun, 4 * scale()), rate(&patient.answered, 4 * scale()));
    raging.end().await;
    let begun = storm.begun.load(Ordering::Relaxed);
    let served = storm.answered.load(Ordering::Relaxed);
    let ended = Instant::now();
    // In each second, until one is as good as before.
    let mut after = vec![];
    while ended.elapsed() < Duration::from_secs(10) && after.last().is_none_or(|rate| *rate < before * 0.8) {
        after.push(rate(&patient.answered, 1).await);
    }

    // Each command that was dropped was a call without an answer, and has left nothing: what is there was another.
    ordeal.load.end().await;
    eventually(async || stage.metric("booking_queue_commands", "").await == Some(0.0)).await;
    let dropped = stage.count("booking_commands_dropped_total", "").await;
    let (unknown, there) = unknown_and_there(&stage, &ordeal.load.journal).await;
    let unanswered: usize = ordeal.load.journal.troubles().iter().map(|(_, count)| count).sum();
    let figures = format!(
        ", {capacity:.0}/s can be served and {asked:.0}/s were asked for, patient clients {before:.0}/s before, {during:.0}/s \
         meanwhile, and {after:.0?} in the seconds after; the storm began {begun} calls, {served} were answered in time, {dropped} \
         were dropped of {unanswered} without an answer; of {unknown} unknown requests {there} are there",
    );
    ordeal.prove_with(&stage, "10, calls without patience", begun, &figures).await;
    assert!(asked >= TOO_MUCH * capacity, "no storm{figures}");
    assert!(dropped > 0.0, "nothing was dropped{figures}");
    let at_most = f64::from(u32::try_from(unanswered - there).unwrap());
    assert!(dropped <= at_most, "what was dropped is there{figures}");
    assert!(during > 0.0, "nobody was served meanwhile{figures}");
    let is_as_before = after.last().is_some_and(|rate| *rate >= before * 0.8);
    assert!(is_as_before, "not as before ten seconds after{figures}");
    stage.end();
}
