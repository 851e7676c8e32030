//! The end: what is accepted is finished, and nobody is left without an answer.

use std::time::{Duration, Instant};

use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::bench::{Bench, eventually, refusal, streaming, unary};

fn nothing() -> Request<String> {
    Request::new(String::new())
}

#[tokio::test]
async fn calls_in_flight_are_finished_and_new_connections_are_refused() {
    let bench = Bench::start().await;
    let call = tokio::spawn(unary(bench.channel(), "/test.Probe/Wait", nothing()));
    bench.probe.until_waiting(1).await;
    bench.shutdown.cancel();
    eventually(async || tokio::net::TcpStream::connect(bench.grpc).await.is_err()).await;
    let (status, body) = bench.get("/readyz").await;
    assert_eq!((status, body.contains(r#""draining":true"#)), (503, true), "{body}");
    assert_eq!(bench.get("/livez").await.0, 200);
    assert!(!bench.served.is_finished());
    bench.probe.gate.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap().into_inner(), "done");
    bench.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_watcher_of_the_health_is_told_and_does_not_hold_up_the_end() {
    let bench = Bench::with(|config| config.drain_grace = Duration::from_secs(60)).await;
    let mut client = HealthClient::new(bench.channel());
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    let mut last = 0;
    // What comes first depends on who was faster, the watcher or the first report.
    while last != 1 {
        last = watch.message().await.unwrap().unwrap().status;
    }
    let began = Instant::now();
    bench.shutdown.cancel();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    let (code, reason, _) = refusal(watch.message().await);
    assert_eq!((code, reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    bench.served.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn who_is_not_done_in_the_grace_time_is_told_so() {
    let bench = Bench::with(|config| config.drain_grace = Duration::from_millis(800)).await;
    let call = tokio::spawn(unary(bench.channel(), "/test.Probe/Wait", nothing()));
    bench.probe.until_waiting(1).await;
    let mut watch = streaming(bench.channel(), "Watch").await.unwrap();
    assert_eq!(watch.message().await.unwrap().as_deref(), Some("first"));
    let began = Instant::now();
    bench.shutdown.cancel();
    for result in [call.await.unwrap().map(drop), watch.message().await.map(drop)] {
        let (code, reason, _) = refusal(result);
        assert_eq!((code, reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    }
    assert!(began.elapsed() >= Duration::from_millis(720), "{:?}", began.elapsed());
    bench.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_without_calls_ends_at_once() {
    let bench = Bench::with(|config| config.drain_grace = Duration::from_secs(60)).await;
    assert!(bench.call("Echo", nothing()).await.is_ok());
    let began = Instant::now();
    bench.shutdown.cancel();
    bench.served.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
