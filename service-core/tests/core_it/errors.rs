//! Whatever refuses a call, the refusal looks the same.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join;
use futures_util::stream;
use service_core::auth::Role;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::bench::{
    Bench, counted, eventually, log, refusal, saying, streaming, streaming_with, telemetry, unary, unended,
};

const USER: Uuid = Uuid::from_u128(42);

fn text(message: &str) -> Request<String> {
    Request::new(message.to_owned())
}

fn with(header: &'static str, value: &str, mut request: Request<String>) -> Request<String> {
    request.metadata_mut().append(header, MetadataValue::try_from(value).unwrap());
    request
}

fn bearer(token: &str) -> Request<String> {
    with("authorization", &format!("Bearer {token}"), text(""))
}

#[tokio::test]
async fn a_call_that_succeeds_gives_its_request_id_back() {
    let bench = Bench::start().await;
    let answer = bench.call("Echo", with("x-request-id", "order-17", text("hello"))).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "order-17");
    assert_eq!(answer.into_inner(), "hello");

    let answer = bench.call("Echo", text("hello")).await.unwrap();
    let made = answer.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    assert_eq!(Uuid::try_parse(&made).unwrap().get_version_num(), 7);

    let answer = bench.call("Echo", with("x-request-id", "not fit for a log", text("hello"))).await.unwrap();
    let made = answer.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    assert!(Uuid::try_parse(&made).is_ok(), "{made}");
}

#[tokio::test]
async fn an_error_carries_the_request_id_too() {
    let bench = Bench::start().await;
    let status = bench.call("Who", with("x-request-id", "order-18", text(""))).await.unwrap_err();
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "order-18");
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_unimplemented() {
    let bench = Bench::start().await;
    for path in [
        "/test.Probe/Nothing",
        "/test.Nothing/Echo",
        "/",
        "/x",
        "/test.Probe/Echo/",
        "/grpc.health.v1.Health/Nothing",
    ] {
        let (code, reason, _) = refusal(unary(bench.channel(), path, text("")).await);
        assert_eq!((code, reason.as_str()), (Code::Unimplemented, "METHOD_UNIMPLEMENTED"), "{path}");
    }
}

#[tokio::test]
async fn a_method_that_is_not_in_the_access_table_is_never_reached() {
    let bench = Bench::start().await;
    let token = bench.mint.token(USER, Role::Admin);
    let (code, reason, _) = refusal(bench.call("Hidden", bearer(&token)).await);
    assert_eq!((code, reason.as_str()), (Code::Unimplemented, "METHOD_UNIMPLEMENTED"));
    assert_eq!(bench.probe.hidden.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn who_has_no_good_token_is_refused() {
    let bench = Bench::start().await;
    let good = bench.mint.token(USER, Role::Attendee);
    let expired = bench.mint.token_with(USER, Role::Attendee, |c| c.exp -= 400, |_| {});
    let two = with("authorization", &format!("Bearer {good}"), bearer(&good));
    for (request, expected) in [
        (text(""), "TOKEN_MISSING"),
        (bearer(""), "TOKEN_INVALID"),
        (bearer("a.b.c"), "TOKEN_INVALID"),
        (with("authorization", &good, text("")), "TOKEN_INVALID"),
        (with("authorization", &format!("Basic {good}"), text("")), "TOKEN_INVALID"),
        (with("authorization", "Bearer", text("")), "TOKEN_INVALID"),
        (bearer(&"a".repeat(9_000)), "TOKEN_INVALID"),
        (two, "TOKEN_INVALID"),
        (bearer(&expired), "TOKEN_EXPIRED"),
    ] {
        let (code, reason, message) = refusal(bench.call("Who", request).await);
        assert_eq!((code, reason.as_str()), (Code::Unauthenticated, expected));
        assert!(!message.contains(&good));
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = with("authorization", &format!("{scheme} {good}"), text(""));
        assert_eq!(bench.call("Who", request).await.unwrap().into_inner(), format!("attendee {USER}"));
    }
}

#[tokio::test]
async fn a_role_that_a_method_is_not_for_is_refused_before_the_request_is_read() {
    let bench = Bench::start().await;
    for role in [Role::Attendee, Role::Organizer, Role::Service] {
        let mut malformed = Request::new(vec![0xff_u8]);
        let token = MetadataValue::try_from(format!("Bearer {}", bench.mint.token(USER, role))).unwrap();
        malformed.metadata_mut().insert("authorization", token);
        let status = unary(bench.channel(), "/test.Probe/AdminOnly", malformed).await.unwrap_err();
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str()), (Code::PermissionDenied, "ROLE_REQUIRED"));
        assert_eq!(info.metadata["needed"], "admin");
    }
    let admin = bench.mint.token(USER, Role::Admin);
    assert!(bench.call("AdminOnly", bearer(&admin)).await.is_ok());
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_an_invalid_argument() {
    let bench = Bench::start().await;
    // A BytesValue has the shape of a StringValue, but may hold what is no UTF-8.
    let not_utf8 = unary(bench.channel(), "/test.Probe/Echo", Request::new(vec![0xff_u8, 0xfe])).await;
    // A number where a text is expected.
    let other_type = unary(bench.channel(), "/test.Probe/Echo", Request::new(7_u32)).await;
    // Of a method that every server has, and everybody may call: no bug of ours to be woken for.
    let of_health =
        unary(bench.channel(), "/grpc.health.v1.Health/Check", Request::new(vec![0xff_u8, 0xfe])).await;
    for result in [not_utf8, other_type, of_health] {
        let (code, reason, message) = refusal(result);
        assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "VALIDATION_FAILED"));
        assert_eq!(
            message,
            "the message is malformed: it is not the Protocol Buffers encoding of this method's request"
        );
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_out_of_range() {
    // As the probe is told, too.
    let bench = Bench::with(|config| config.max_message_bytes = 300_000).await;
    let status = bench.call("Echo", text(&"x".repeat(300_001))).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::OutOfRange, "MESSAGE_TOO_LARGE"));
    assert_eq!(info.metadata["max_bytes"], "300000");
}

#[tokio::test]
async fn messages_that_never_end_take_no_more_memory_than_they_may_and_small_ones_get_through() {
    // What is counted of one.
    let bench = Bench::with(|config| config.max_arriving_bytes = 200_000 - (16 << 10) + 100).await;
    let large = || text(&"x".repeat(200_000));
    bench.call("Echo", large()).await.expect("there is room");
    let before = shed("arriving_bytes");
    let half = || tokio::spawn(unended(bench.channel(), "Echo", 250_000, 200_000));
    let mut held = half();
    eventually(async || {
        // Of the two, either may be the one too many.
        if held.is_finished() {
            held = half();
        }
        bench.call("Echo", large()).await.is_err() && !held.is_finished()
    })
    .await;
    let status = bench.call("Echo", large()).await.unwrap_err();
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"), "{status:?}");
    let (code, reason, message) = refusal(Err::<Response<String>, _>(status));
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert_eq!(message, "too much is arriving at once");
    assert!(shed("arriving_bytes") >= before + 2);
    // With its tag and the two bytes that its length takes: as much as is free.
    let small = || text(&"x".repeat((16 << 10) - 3));
    assert_eq!(prost::Message::encoded_len(small().get_ref()), 16 << 10);
    bench.call("Echo", small()).await.expect("small ones are not counted");
    held.abort();
    eventually(async || bench.call("Echo", large()).await.is_ok()).await;
    let all_at_once = (0..4).map(|_| bench.call("Echo", small()));
    assert!(futures_util::future::join_all(all_at_once).await.iter().all(Result::is_ok));
    // Health and reflection take nothing of it, and have their own bound.
    let request = HealthCheckRequest { service: "x".repeat(5_000) };
    let status = HealthClient::new(bench.channel()).check(request).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!((status.code(), info.metadata["max_bytes"].as_str()), (Code::OutOfRange, "4096"));
}

#[tokio::test]
async fn calls_whose_message_does_not_come_drive_out_their_own_and_nobody_elses() {
    let before = shed("arriving_calls");
    join(drive_out_their_own("/test.Probe/Echo"), drive_out_their_own("/grpc.health.v1.Health/Check")).await;
    assert!(shed("arriving_calls") >= before + 2 * 50);
}

async fn drive_out_their_own(path: &'static str) {
    let bench = Bench::with(|config| config.max_calls_in_flight = 80).await;
    let patience = Duration::from_secs(60);
    let silent = || tokio::spawn(saying(bench.channel(), path, patience, stream::pending()));
    let first: Vec<_> = (0..50).map(|_| silent()).collect();
    let mut more = Vec::new();
    // An eighth of all may wait for more than 5 s. Who gives way is told so long before any deadline.
    eventually(async || {
        more.push(silent());
        sleep(Duration::from_millis(500)).await;
        first.iter().all(tokio::task::JoinHandle::is_finished)
    })
    .await;
    let late = stream::once(async {
        sleep(Duration::from_millis(50)).await;
        "late".to_owned()
    });
    let answer = saying(bench.channel(), "/test.Probe/Echo", patience, late).await.unwrap();
    assert_eq!(answer.into_inner(), "late", "a message has time to come");
    for call in first {
        let (code, reason, message) = refusal(call.await.unwrap());
        assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "OVERLOADED"));
        assert_eq!(message, "too many calls wait for their message");
    }
    more.iter().for_each(tokio::task::JoinHandle::abort);
    bench.call("Echo", text("x")).await.expect("whole messages get through");
}

#[tokio::test]
async fn of_calls_that_begin_together_and_send_their_messages_later_each_is_answered() {
    let bench = Bench::with(|config| config.max_calls_in_flight = 80).await;
    let calls = (0..60).map(|n| {
        let late = stream::once(async move {
            sleep(Duration::from_millis(100)).await;
            n.to_string()
        });
        saying(bench.channel(), "/test.Probe/Echo", Duration::from_secs(60), late)
    });
    for (n, answer) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap().into_inner(), n.to_string());
    }
}

#[tokio::test]
async fn a_compressed_message_is_unimplemented() {
    let bench = Bench::start().await;
    let (code, reason, message) = refusal(bench.call("Echo", with("grpc-encoding", "zstd", text("x"))).await);
    assert_eq!((code, reason.as_str()), (Code::Unimplemented, "METHOD_UNIMPLEMENTED"));
    assert!(message.contains("compressed"), "{message}");
}

#[tokio::test]
async fn a_handler_that_panics_is_an_internal_error_and_the_connection_goes_on() {
    let bench = Bench::start().await;
    let channel = bench.channel();
    let request = with("x-request-id", "order-19", text(""));
    let (code, reason, message) = refusal(unary(channel.clone(), "/test.Probe/Panic", request).await);
    assert_eq!((code, reason.as_str()), (Code::Internal, "INTERNAL_ERROR"));
    assert_eq!(message, "something went wrong on our side");
    assert!(unary(channel, "/test.Probe/Echo", text("x")).await.is_ok());
    let log = log();
    let line = log.lines().find(|l| l.contains("a handler panicked") && l.contains("order-19")).unwrap();
    assert!(line.contains(r#""level":"ERROR""#), "{line}");
}

#[tokio::test]
async fn a_stream_that_panics_or_fails_ends_with_an_internal_error() {
    let bench = Bench::start().await;
    for method in ["PanicLater", "FailLater"] {
        let mut messages = streaming(bench.channel(), method).await.unwrap();
        assert_eq!(messages.message().await.unwrap().as_deref(), Some("first"));
        let (code, reason, message) = refusal(messages.message().await);
        assert_eq!((code, reason.as_str()), (Code::Internal, "INTERNAL_ERROR"), "{method}");
        assert_eq!(message, "something went wrong on our side");
    }
}

#[tokio::test]
async fn the_health_of_an_unknown_service_is_not_found() {
    let bench = Bench::start().await;
    let path = "/grpc.health.v1.Health/Check";
    let (code, reason, _) = refusal(unary(bench.channel(), path, text("no.such.Service")).await);
    assert_eq!((code, reason.as_str()), (Code::NotFound, "NOT_FOUND"));
}

#[tokio::test]
async fn a_call_without_a_timeout_ends_at_the_servers_deadline() {
    let bench = Bench::with(|config| config.default_deadline = Duration::from_millis(150)).await;
    let (code, reason, _) = refusal(bench.call("Wait", text("")).await);
    assert_eq!((code, reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    bench.probe.until_waiting(0).await;
}

#[tokio::test]
async fn a_callers_timeout_is_answered_in_time_by_the_server_itself() {
    let bench = Bench::start().await;
    // The client has a timer too, which may win on a machine that is busy: then it is tried again.
    for _ in 0..20 {
        let mut request = text("");
        request.set_timeout(Duration::from_millis(400));
        let status = bench.call("Wait", request).await.unwrap_err();
        if status.metadata().contains_key("x-request-id") {
            let (code, reason, _) = refusal(Err::<(), Status>(status));
            assert_eq!((code, reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
            return;
        }
    }
    panic!("the server never answered before the client's own timer");
}

#[tokio::test]
async fn a_handler_knows_its_deadline_and_its_request_id() {
    let bench = Bench::start().await;
    let mut request = with("x-request-id", "order-20", text(""));
    request.set_timeout(Duration::from_secs(8));
    let answer = bench.call("Context", request).await.unwrap().into_inner();
    let [id, left, _] = answer.split(' ').collect::<Vec<_>>()[..] else { panic!("{answer}") };
    assert_eq!(id, "order-20");
    assert!((5_000..8_000).contains(&left.parse::<u64>().unwrap()), "{left}");
    let answer = bench.call("Context", text("")).await.unwrap().into_inner();
    let left: u64 = answer.split(' ').nth(1).unwrap().parse().unwrap();
    assert!((25_000..=30_000).contains(&left), "{left}");
}

#[tokio::test]
async fn more_calls_than_the_limit_are_shed_but_health_still_answers() {
    let bench = Bench::with(|config| config.max_calls_in_flight = 2).await;
    let calls: Vec<_> =
        (0..2).map(|_| tokio::spawn(unary(bench.channel(), "/test.Probe/Wait", text("")))).collect();
    bench.probe.until_waiting(2).await;
    let status = bench.call("Echo", text("x")).await.unwrap_err();
    let details = status.get_error_details();
    assert_eq!(
        (status.code(), details.error_info().unwrap().reason.as_str()),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(200)));
    HealthClient::new(bench.channel()).check(HealthCheckRequest::default()).await.unwrap();
    bench.probe.gate.add_permits(2);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().into_inner(), "done");
    }
    assert!(bench.call("Echo", text("x")).await.is_ok());
}

#[tokio::test]
async fn a_call_that_its_caller_left_gives_its_place_back_and_counts_as_cancelled() {
    let bench = Bench::with(|config| config.max_calls_in_flight = 1).await;
    let call =
        tokio::spawn(unary(bench.channel(), "/test.Probe/Wait", with("x-request-id", "order-21", text(""))));
    bench.probe.until_waiting(1).await;
    call.abort();
    bench.probe.until_waiting(0).await;
    eventually(async || bench.call("Echo", text("x")).await.is_ok()).await;
    eventually(async || {
        log().lines().any(|l| {
            l.contains("order-21") && l.contains("call ended") && l.contains(r#""code":"CANCELLED""#)
        })
    })
    .await;
}

#[tokio::test]
async fn a_stream_gives_its_place_back_when_it_has_begun() {
    let bench = Bench::with(|config| config.max_calls_in_flight = 1).await;
    let mut messages = streaming(bench.channel(), "Watch").await.unwrap();
    assert_eq!(messages.message().await.unwrap().as_deref(), Some("first"));
    assert!(bench.call("Echo", text("x")).await.is_ok());
}

/// How many calls were refused for this limit, at all servers of this process.
fn shed(limit: &str) -> u64 {
    counted(&format!("grpc_calls_shed_total{{limit=\"{limit}\"}}"))
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_until_one_ends_and_other_calls_are_served() {
    let bench = Bench::with(|config| config.max_streams = 1).await;
    let mut open = streaming(bench.channel(), "Watch").await.unwrap();
    assert_eq!(open.message().await.unwrap().as_deref(), Some("first"));
    let before = shed("streams");
    let (code, reason, _) = refusal(streaming(bench.channel(), "Watch").await);
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(bench.call("Echo", text("x")).await.is_ok());
    assert!(shed("streams") > before);
    drop(open);
    eventually(async || streaming(bench.channel(), "Watch").await.is_ok()).await;
}

#[tokio::test]
async fn streams_of_health_and_the_services_own_do_not_take_each_others_places() {
    let bench = Bench::with(|config| config.max_streams = 1).await;
    let watch_health = async || HealthClient::new(bench.channel()).watch(HealthCheckRequest::default()).await;
    let open = streaming(bench.channel(), "Watch").await.unwrap();
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(watch_health().await.unwrap());
    }
    refusal(streaming(bench.channel(), "Watch").await);
    drop(open);
    eventually(async || streaming(bench.channel(), "Watch").await.is_ok()).await;
}

#[tokio::test]
async fn one_connection_does_not_take_all_streams_of_health() {
    let bench = Bench::start().await;
    let greedy = bench.channel();
    let mut watches = Vec::new();
    let before = shed("infrastructure_streams");
    let refused = loop {
        match HealthClient::new(greedy.clone()).watch(HealthCheckRequest::default()).await {
            Ok(watch) => watches.push(watch),
            Err(status) => break status,
        }
    };
    assert_eq!((refused.code(), watches.len()), (Code::ResourceExhausted, 256));
    assert!(shed("infrastructure_streams") > before);
    HealthClient::new(bench.channel()).watch(HealthCheckRequest::default()).await.unwrap();
    watches.pop();
    eventually(async || HealthClient::new(greedy.clone()).watch(HealthCheckRequest::default()).await.is_ok())
        .await;
}

#[tokio::test]
async fn streams_of_reflection_are_few() {
    let bench = Bench::start().await;
    // It ends with what comes back beside it.
    let reflect = async |channel: &Channel| {
        let (goes_on, end) = oneshot::channel::<()>();
        let questions = stream::pending().take_until(end);
        let answers = ServerReflectionClient::new(channel.clone()).server_reflection_info(questions).await?;
        Ok::<_, Status>((goes_on, answers))
    };
    let mut open = Vec::new();
    for _ in 0..4 {
        let greedy = bench.channel();
        for _ in 0..16 {
            open.push(reflect(&greedy).await.unwrap());
        }
        assert_eq!(reflect(&greedy).await.unwrap_err().code(), Code::ResourceExhausted, "of one connection");
    }
    let channel = bench.channel();
    assert_eq!(reflect(&channel).await.unwrap_err().code(), Code::ResourceExhausted, "of all");
    HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.unwrap();
    open.pop();
    eventually(async || reflect(&channel).await.is_ok()).await;
}

#[tokio::test]
async fn streams_beyond_those_of_one_caller_are_refused_and_nobody_else_is_concerned() {
    let bench = Bench::with(|config| config.max_streams_per_caller = 2).await;
    let watch = async |user: Uuid, role| {
        let request = bearer(&bench.mint.token(user, role));
        streaming_with(bench.channel(), "WatchSignedIn", request).await
    };
    let other = Uuid::from_u128(43);
    let before = shed("caller_streams");
    for role in [Role::Attendee, Role::Organizer] {
        let mut open = vec![watch(USER, role).await.unwrap(), watch(USER, role).await.unwrap()];
        let (code, reason, _) = refusal(watch(USER, role).await);
        assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "RATE_LIMITED"), "{role}");
        let _others = watch(other, role).await.unwrap();
        open.pop();
        eventually(async || watch(USER, role).await.is_ok()).await;
    }
    assert!(shed("caller_streams") >= before + 2);
    for role in [Role::Service, Role::Admin] {
        let mut open = Vec::new();
        for _ in 0..5 {
            open.push(watch(USER, role).await.unwrap());
        }
    }
}

#[tokio::test]
async fn no_call_waits_for_longer_than_the_longest_deadline_whatever_its_caller_would() {
    let bench = Bench::with(|config| config.max_deadline = Duration::from_millis(200)).await;
    let mut patient = text("");
    patient.set_timeout(Duration::from_secs(3_600));
    let (code, reason, _) = refusal(bench.call("Wait", patient).await);
    assert_eq!((code, reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
}

#[tokio::test]
async fn a_call_whose_message_does_not_come_ends_by_the_servers_deadline_however_patient_it_is() {
    let bench = Bench::with(|config| config.default_deadline = Duration::from_millis(500)).await;
    let an_hour = Duration::from_secs(3_600);
    let mut request = text("");
    request.set_timeout(an_hour);
    let complete = tokio::spawn(unary(bench.channel(), "/test.Probe/Wait", request));
    bench.probe.until_waiting(1).await;
    let (code, reason, message) =
        refusal(saying(bench.channel(), "/test.Probe/Echo", an_hour, stream::pending()).await);
    assert_eq!((code, reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert!(message.contains("did not arrive"), "{message}");
    bench.probe.gate.add_permits(1);
    assert_eq!(complete.await.unwrap().unwrap().into_inner(), "done", "its own message had arrived");
}

#[tokio::test]
async fn a_call_is_logged_once_with_its_code_and_reason_and_without_its_token() {
    let bench = Bench::start().await;
    let token = bench.mint.token(USER, Role::Attendee);
    let request = with("x-request-id", "order-22", bearer(&token));
    refusal(bench.call("AdminOnly", request).await);
    eventually(async || log().lines().any(|l| l.contains("order-22"))).await;
    let log = log();
    let lines: Vec<_> = log.lines().filter(|l| l.contains("order-22")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in [
        r#""level":"INFO""#,
        r#""code":"PERMISSION_DENIED""#,
        r#""reason":"ROLE_REQUIRED""#,
        r#""rpc":"/test.Probe/AdminOnly""#,
        r#""duration_ms":"#,
    ] {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
    assert!(!log.contains(&token) && !log.contains("a secret of"));
    let request = with("x-request-id", "order-23", bearer(&token));
    bench.call("Who", request).await.unwrap();
    eventually(async || {
        crate::bench::log()
            .lines()
            .any(|l| l.contains("order-23") && l.contains(&USER.to_string()) && l.contains(r#""code":"OK""#))
    })
    .await;
}

#[tokio::test]
async fn of_calls_that_are_refused_by_the_thousand_a_part_is_logged_and_the_rest_is_counted() {
    let bench = Bench::start().await;
    let left_out = || counted("log_lines_left_out_total");
    let (before, began) = (left_out(), std::time::Instant::now());
    let calls = 3_000;
    let refused = (0..calls).map(|n| {
        let request = with("x-request-id", &format!("flood-{n}"), bearer("no token"));
        bench.call("Who", request)
    });
    for call in stream::iter(refused).buffer_unordered(64).collect::<Vec<_>>().await {
        refusal(call);
    }
    let bug = with("x-request-id", "flood-bug", text(""));
    refusal(unary(bench.channel(), "/test.Probe/Panic", bug).await);
    eventually(async || log().lines().any(|line| line.contains("flood-bug"))).await;
    let lines =
        log().lines().filter(|line| line.contains("flood-") && line.contains("TOKEN_INVALID")).count();
    let room = 400 + 200 * (began.elapsed().as_secs() + 1);
    assert!(lines >= 400 && lines as u64 <= room, "{lines} in {:?}", began.elapsed());
    assert!(left_out() - before >= calls - lines as u64);
}

#[tokio::test]
async fn callers_cannot_create_series() {
    let bench = Bench::start().await;
    bench.call("Echo", text("x")).await.unwrap();
    refusal(unary(bench.channel(), "/made.Up/Method", text("")).await);
    eventually(async || telemetry().render().contains(r#"rpc="/test.Probe/Echo",code="OK""#)).await;
    let metrics = telemetry().render();
    assert!(metrics.contains(r#"grpc_requests_total{rpc="unknown",code="UNIMPLEMENTED"}"#), "{metrics}");
    assert!(
        metrics.contains(r#"grpc_request_duration_seconds_bucket{rpc="/test.Probe/Echo",le="0.001"}"#),
        "{metrics}"
    );
    assert!(!metrics.contains("made.Up"));
}
