//! Faults 1 and 11: replicas die, and are replaced in good order.

use std::time::Duration;

use tokio::time::sleep;

use crate::envoy::Envoy;
use crate::load::Crowd;
use crate::policy::RetryPolicy;
use crate::proving::Ordeal;
use crate::stage::{Stage, scale, way_to};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn replicas_that_are_killed_behind_a_proxy_lose_and_double_nothing() {
    let mut stage = Stage::with_replicas(3).await;
    let envoy = Envoy::start(&stage.replicas.iter().map(|replica| replica.grpc).collect::<Vec<_>>()).await;
    // Several connections, as of several clients.
    let front = (0..8).map(|_| way_to(envoy.address)).collect();
    let ordeal = Ordeal::begin(&stage, stage.crowd(front).await);
    let times = 4 * scale() as usize;
    for _ in 0..times {
        sleep(rand::random_range(Duration::from_millis(200)..Duration::from_millis(900))).await;
        let victim = rand::random_range(0..3);
        stage.stop(victim, "-KILL");
        sleep(rand::random_range(Duration::ZERO..Duration::from_millis(500))).await;
        stage.start(victim);
    }
    stage.ready().await;
    sleep(Duration::from_millis(500)).await;
    let verdict = ordeal.prove(&stage, "1, SIGKILL of one of three replicas behind Envoy", times).await;
    assert!(verdict.unknown > 0, "nobody was talking to those that were killed");
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_rolling_restart_is_not_seen_by_clients_that_follow_the_policy() {
    let mut stage = Stage::with_replicas(3).await;
    let envoy = Envoy::start(&stage.replicas.iter().map(|replica| replica.grpc).collect::<Vec<_>>()).await;
    let front = (0..8).map(|_| way_to(envoy.address)).collect();
    let crowd = Crowd { policy: Some(RetryPolicy::shipped()), ..stage.crowd(front).await };
    let ordeal = Ordeal::begin(&stage, crowd);
    let rounds = scale() as usize;
    for _ in 0..rounds {
        for number in 0..3 {
            sleep(Duration::from_millis(1_000)).await;
            assert_eq!(stage.stop(number, "-TERM"), Some(0));
            stage.start(number);
            stage.ready().await;
        }
    }
    sleep(Duration::from_millis(500)).await;
    let journal = std::sync::Arc::clone(&ordeal.load.journal);
    let verdict = ordeal.prove(&stage, "11, rolling restart of all replicas", 3 * rounds).await;
    // Whatever was asked: seats, moves, looks, and repetitions.
    assert_eq!((verdict.unknown, journal.troubles()), (0, Vec::new()), "no client saw an error");
    assert!(verdict.watches > rounds, "a watch ends with its replica: {} were opened", verdict.watches);
    stage.end();
}
