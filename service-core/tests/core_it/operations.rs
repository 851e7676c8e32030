//! What operators and tools see.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use service_core::config::{DefaultAddresses, ServerConfig};
use service_core::server::Listeners;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::bench::{Bench, eventually, refusal, streaming, unary};

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
    let (status, metrics) = bench.get("/metrics").await;
    assert_eq!((status, metrics.contains("grpc_requests_total")), (200, true));
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
    let any = ([127, 0, 0, 1], 0).into();
    let taken = Listeners::bind(&ServerConfig::at(DefaultAddresses { grpc: any, http: any })).await.unwrap();
    let address = taken.http.local_addr().unwrap();
    let config = ServerConfig::at(DefaultAddresses { grpc: any, http: address });
    let error = Listeners::bind(&config).await.unwrap_err().to_string();
    assert_eq!(error, format!("address {address} is already in use"));
    let foreign = ServerConfig::at(DefaultAddresses { grpc: ([192, 0, 2, 1], 5).into(), http: any });
    let error = Listeners::bind(&foreign).await.unwrap_err().to_string();
    assert_eq!(error, "address 192.0.2.1:5 is not an address of this machine");
}

#[tokio::test]
async fn a_connection_that_is_too_old_lets_its_calls_end_and_is_then_cut() {
    let bench = Bench::with(|config| {
        config.max_connection_age = Duration::from_millis(200);
        config.max_connection_age_grace = Duration::from_millis(1_500);
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
    let first = peer().await.unwrap();
    // After the GOAWAY new calls go over a new connection, if not at the first try of this client.
    eventually(async || peer().await.is_some_and(|peer| peer != first)).await;
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    bench.probe.gate.add_permits(1);
    assert_eq!(old.await.unwrap().unwrap().into_inner(), "done");
    assert!(watch.message().await.is_err(), "the stream outlived its connection");
    assert!(began.elapsed() >= Duration::from_millis(1_700), "{:?}", began.elapsed());
}
