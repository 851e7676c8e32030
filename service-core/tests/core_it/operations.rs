//! What operators and tools see.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use service_core::config::ServerConfig;
use service_core::server::Listeners;
use service_core::test_support::{counted, server_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::bench::{Bench, cut, eventually, refusal, streaming, unary};

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

async fn health(bench: &Bench, service: &str) -> i32 {
    let mut client = HealthClient::new(bench.channel());
    let request = HealthCheckRequest { service: service.to_owned() };
    client.check(request).await.unwrap().into_inner().status
}

#[tokio::test]
async fn health_and_readyz_follow_the_readiness() {
    let bench = Bench::start().await;
    let database = bench.readiness.register("database");
    eventually(async || health(&bench, "").await == NOT_SERVING).await;
    assert_eq!(health(&bench, "test.Probe").await, NOT_SERVING);
    assert_eq!(health(&bench, "liveness").await, SERVING, "a restart would not bring the database");
    let (status, body) = bench.get("/readyz").await;
    assert_eq!((status, body.contains(r#""database":"starting""#)), (503, true), "{body}");

    database.set_ready();
    eventually(async || health(&bench, "").await == SERVING).await;
    eventually(async || health(&bench, "test.Probe").await == SERVING).await;
    assert_eq!(bench.get("/readyz").await.0, 200);

    database.set_unready("unreachable");
    eventually(async || health(&bench, "").await == NOT_SERVING).await;
    assert_eq!(bench.get("/readyz").await.0, 503);
    assert!(bench.get("/metrics").await.1.contains("ready{check=\"database\"} 0\n"));
    assert_eq!(bench.get("/livez").await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn the_port_for_operations_has_metrics_and_what_the_service_adds() {
    let bench = Bench::start().await;
    bench.call("Echo", Request::new("x".to_owned())).await.unwrap();
    eventually(async || {
        let (status, metrics) = bench.get("/metrics").await;
        status == 200 && metrics.contains(r#"grpc_requests_total{rpc="/test.Probe/Echo",code="OK"}"#)
    })
    .await;
    assert_eq!(bench.get("/extra").await, (200, "more".to_owned()));
    assert_eq!(bench.get("/nothing").await.0, 404);
}

#[tokio::test]
async fn reflection_speaks_both_versions_and_knows_the_error_details() {
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    let bench = Bench::start().await;
    let ask = |message| v1::ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(bench.channel());
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("google.rpc.ErrorInfo".to_owned())),
    ];
    let answers = client.server_reflection_info(stream::iter(questions)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(|a| a.unwrap().message_response.unwrap()).collect().await;
    let MessageResponse::ListServicesResponse(list) = &answers[0] else { panic!("{answers:?}") };
    assert!(list.service.iter().any(|s| s.name == "grpc.health.v1.Health"), "{list:?}");
    assert!(matches!(answers[1], MessageResponse::FileDescriptorResponse(_)), "{answers:?}");

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(bench.channel());
    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let question = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers = client.server_reflection_info(stream::iter([question])).await.unwrap().into_inner();
    assert!(answers.next().await.unwrap().is_ok());
}

#[tokio::test]
async fn reflection_can_be_turned_off() {
    let bench = Bench::with(|config| config.reflection = false).await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let (code, reason, _) = refusal(unary(bench.channel(), &path, Request::new(String::new())).await);
        assert_eq!((code, reason.as_str()), (Code::Unimplemented, "METHOD_UNIMPLEMENTED"));
    }
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let taken = Listeners::bind(&server_config()).await.unwrap();
    let address = taken.http.local_addr().unwrap();
    let config = ServerConfig { http_addr: address, ..server_config() };
    let error = Listeners::bind(&config).await.unwrap_err().to_string();
    assert_eq!(error, format!("address {address} is already in use"));
    let foreign = ServerConfig { grpc_addr: ([192, 0, 2, 1], 5).into(), ..server_config() };
    let error = Listeners::bind(&foreign).await.unwrap_err().to_string();
    assert_eq!(error, "address 192.0.2.1:5 is not an address of this machine");
}

#[tokio::test]
async fn a_connection_that_is_too_old_lets_its_calls_end_and_is_then_cut() {
    let bench = Bench::with(|config| {
        config.max_connection_age = Duration::from_secs(1);
        config.max_connection_age_grace = Duration::from_secs(5);
    })
    .await;
    let channel = bench.channel();
    let peer = async || {
        let answer = unary(channel.clone(), "/test.Probe/Context", Request::new(String::new())).await;
        answer.ok().map(|answer| answer.into_inner().rsplit(' ').next().unwrap().to_owned())
    };
    let began = std::time::Instant::now();
    let mut watch = streaming(channel.clone(), "Watch").await.unwrap();
    assert_eq!(watch.message().await.unwrap().as_deref(), Some("first"));
    let old = tokio::spawn(unary(channel.clone(), "/test.Probe/Wait", Request::new(String::new())));
    bench.probe.until_waiting(1).await;
    // After the GOAWAY new calls go over a new connection, if not at the first try of this client.
    let mut first = None;
    eventually(async || {
        first = peer().await;
        first.is_some()
    })
    .await;
    eventually(async || peer().await.is_some_and(|peer| Some(peer) != first)).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    bench.probe.gate.add_permits(1);
    assert_eq!(old.await.unwrap().unwrap().into_inner(), "done");
    assert!(watch.message().await.is_err(), "the stream outlived its connection");
    for reason in ["age", "grace"] {
        eventually(async || cut(reason) > 0).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(6), "{:?}", began.elapsed());
}

/// One request over a connection that stays open: whether it is answered.
async fn asks(stream: &mut TcpStream) -> bool {
    let asked = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let mut answer = [0; 15];
    asked.is_ok() && stream.read_exact(&mut answer).await.is_ok() && &answer == b"HTTP/1.1 200 OK"
}

#[tokio::test]
async fn connections_for_operations_beyond_the_limit_are_closed_and_a_place_becomes_free_again() {
    let bench = Bench::with(|config| config.max_http_connections = 2).await;
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(bench.http).await.unwrap();
        assert!(asks(&mut stream).await);
        taken.push(stream);
    }
    assert!(!asks(&mut TcpStream::connect(bench.http).await.unwrap()).await);
    taken.pop();
    eventually(async || asks(&mut TcpStream::connect(bench.http).await.unwrap()).await).await;
    drop(taken);
    eventually(async || {
        // The number is of all servers of this process.
        let metrics = bench.get("/metrics").await.1;
        counted(&metrics, r#"http_connections_cut_total{reason="limit"}"#) > 0
    })
    .await;
}

#[tokio::test]
async fn who_asks_for_operations_and_never_reads_the_answers_is_cut() {
    let bench = Bench::with(|config| {
        config.max_http_connections = 1;
        config.http_idle_timeout = Duration::from_millis(500);
    })
    .await;
    let mut deaf = TcpStream::connect(bench.http).await.unwrap();
    let questions = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n".repeat(100);
    let ask = async |deaf: &mut TcpStream| {
        tokio::time::timeout(Duration::from_millis(300), deaf.write_all(&questions)).await
    };
    while matches!(ask(&mut deaf).await, Ok(Ok(()))) {}
    eventually(async || asks(&mut TcpStream::connect(bench.http).await.unwrap()).await).await;
}

#[tokio::test]
async fn a_connection_for_operations_that_idles_or_dribbles_is_cut_and_one_that_asks_is_not() {
    let bench = Bench::with(|config| config.http_idle_timeout = Duration::from_secs(2)).await;
    let mut asking = TcpStream::connect(bench.http).await.unwrap();
    let mut idle = TcpStream::connect(bench.http).await.unwrap();
    let (mut from, mut to) = TcpStream::connect(bench.http).await.unwrap().into_split();
    let dribbling = tokio::spawn(async move {
        while to.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let cut = tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = idle.read_to_end(&mut answer).await;
        let _ = from.read_to_end(&mut answer).await;
        dribbling.abort();
    });
    let until_cut = async {
        while !cut.is_finished() {
            assert!(asks(&mut asking).await);
            // Its answers are read as they come: what is left over of one does not matter to the next.
            let mut rest = [0; 1_024];
            while tokio::time::timeout(Duration::from_millis(50), asking.read(&mut rest)).await.is_ok() {}
        }
    };
    tokio::time::timeout(Duration::from_secs(30), until_cut).await.expect("both are cut");
    assert!(asks(&mut asking).await);
}
