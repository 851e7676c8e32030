//! Callers who mean no good, or do not know better: at a real replica, beside somebody who only wants a seat.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use uuid::Uuid;

use crate::acts::{ask, draft};
use crate::caller::Caller;
use crate::refusal::assert_refused;
use crate::report::{self, Counts};
use crate::stage::{Stage, scale, way_to};
use crate::system::{eventually, get};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// Longer than a call takes on a machine with two cores that runs the clients too.
const BEARABLE: Duration = Duration::from_secs(2);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a call of Register, in HPACK without compression.
fn head(token: &str, encoding: Option<&str>) -> Vec<u8> {
    let text = |text: &str| {
        // Lengths of 127 and more take further bytes.
        let mut bytes = Vec::new();
        match text.len() {
            short @ ..127 => bytes.push(u8::try_from(short).unwrap()),
            long => {
                bytes.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
            }
        }
        [bytes, text.as_bytes().to_vec()].concat()
    };
    let field = |name: &str, value: &str| [vec![0], text(name), text(value)].concat();
    let mut head = [
        vec![0x83, 0x86, 0x04],
        text("/rowlock.booking.v1.RegistrationService/Register"),
        vec![0x01],
        text("test"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
        field("authorization", token),
    ]
    .concat();
    if let Some(encoding) = encoding {
        head.extend(field("grpc-encoding", encoding));
    }
    head
}

/// A message of so many bytes as gRPC frames it, flagged as compressed, in DATA frames.
fn compressed(stream: u32, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length, bytes].concat();
    let mut frames: Vec<u8> = message.chunks(16_384).flat_map(|part| frame(0, 0, stream, part)).collect();
    frames.extend(frame(0, END_STREAM, stream, &[]));
    frames
}

/// The value of a metric, summed over its labels.
async fn metric(stage: &Stage, name: &str) -> f64 {
    let page = get(stage.replicas[0].http, "/metrics").await.1;
    let values = page.lines().filter(|line| line.starts_with(name));
    values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Resident memory of the replica in MiB.
fn memory(stage: &Stage) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.process(0))).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024
}

/// Seats for new people, one after the other: the longest that one took.
async fn seat_some(service: &Caller, event: &pb::Event, count: usize) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..count {
        let began = Instant::now();
        let user_id = Uuid::from_u128(rand::random()).to_string();
        service.seats(pb::RegisterRequest { user_id, ..ask(event) }).await;
        longest = longest.max(began.elapsed());
    }
    longest
}

/// A replica with an event, and a backend that seats people at it.
async fn scene(options: &'static [&'static str]) -> (Stage, pb::Event, Caller) {
    let mut stage = Stage::with_replicas(0).await;
    stage.started_with(move |_, command| {
        command.args(options);
    });
    stage.add_replicas(1).await;
    let way = way_to(stage.replicas[0].grpc);
    let event = stage.caller(Role::Organizer, way.clone()).publish_new(draft(100_000)).await;
    let service = stage.caller(Role::Service, way);
    seat_some(&service, &event, 5).await;
    (stage, event, service)
}

fn tell(what: &str, times: u32, text: &str) {
    let times = usize::try_from(times).unwrap();
    report::tell(&format!("bad callers: {what}"), times, &Counts::default(), text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "bad callers: deploy/local/test faults"]
async fn ten_thousand_connections_that_say_little_leave_room_for_those_who_call() {
    let (mut stage, event, service) = scene(&["--max-connections", "9500"]).await;
    let before = memory(&stage);
    let mut connections = Vec::new();
    for number in 0..10_000_usize {
        let Ok(mut stream) = TcpStream::connect(stage.replicas[0].grpc).await else {
            panic!("connection {number}: are there so many file descriptors?");
        };
        // Those that are too many are closed at once.
        let _ = stream.write_all(PREFACE).await;
        connections.push(stream);
    }
    eventually(async || metric(&stage, "grpc_connections ").await >= 9_500.0).await;
    eventually(async || metric(&stage, "grpc_connections_refused_total").await >= 501.0).await;
    let (longest, after) = (seat_some(&service, &event, 50).await, memory(&stage));
    assert!(longest < BEARABLE, "{longest:?}");
    drop(connections);
    eventually(async || metric(&stage, "grpc_connections ").await <= 3.0).await;
    seat_some(&stage.caller(Role::Service, way_to(stage.replicas[0].grpc)), &event, 1).await;
    let text = format!("a seat at most {longest:.0?}, memory {before} MiB before and {after} MiB with them");
    tell("10000 connections, 9500 allowed", 10_000, &text);
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "bad callers: deploy/local/test faults"]
async fn calls_whose_message_never_comes_end_by_the_default_deadline() {
    let (mut stage, event, service) = scene(&["--default-deadline", "2s"]).await;
    let token =
        format!("Bearer {}", crate::stage::long_token(&stage.mint, Uuid::from_u128(7), Role::Attendee));
    let mut connections = Vec::new();
    let (many, calls) = (20_u32, 50_u32);
    for _ in 0..many {
        let mut stream = TcpStream::connect(stage.replicas[0].grpc).await.unwrap();
        let heads: Vec<u8> =
            (0..calls).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &head(&token, None))).collect();
        stream.write_all(&[PREFACE, &heads].concat()).await.unwrap();
        // One byte of a message that was announced as longer.
        stream.write_all(&frame(0, 0, 1, &[0])).await.unwrap();
        connections.push(stream);
    }
    eventually(async || metric(&stage, "grpc_calls_in_flight").await >= f64::from(many * calls)).await;
    let longest = seat_some(&service, &event, 20).await;
    assert!(longest < BEARABLE, "{longest:?}");
    let began = Instant::now();
    eventually(async || metric(&stage, "grpc_calls_in_flight").await <= 1.0).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let text = format!("a seat at most {longest:.0?}, all over by their deadline");
    tell("calls whose message never comes", many * calls, &text);
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "bad callers: deploy/local/test faults"]
async fn compressed_messages_are_refused_without_being_unpacked() {
    let (mut stage, event, service) = scene(&[]).await;
    let token =
        format!("Bearer {}", crate::stage::long_token(&stage.mint, Uuid::from_u128(7), Role::Attendee));
    let before = memory(&stage);
    // A block of deflate that says "the same again" without end: small here, and as large as one likes once unpacked.
    let bomb = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0xed, 0xc1][..], &vec![0; 60_000]].concat();
    for encoding in ["gzip", "deflate", "zstd", "identity", "nonsense"] {
        let mut stream = TcpStream::connect(stage.replicas[0].grpc).await.unwrap();
        let request = [
            PREFACE.to_vec(),
            frame(HEADERS, END_HEADERS, 1, &head(&token, Some(encoding))),
            compressed(1, &bomb),
        ];
        stream.write_all(&request.concat()).await.unwrap();
        // The answer ends the stream: HEADERS with END_STREAM, whatever came before.
        let mut answer = Vec::new();
        eventually(async || {
            let mut buffer = [0; 4_096];
            if let Ok(Ok(read)) =
                tokio::time::timeout(Duration::from_millis(20), stream.read(&mut buffer)).await
            {
                answer.extend_from_slice(&buffer[..read]);
            }
            answer
                .windows(9)
                .any(|head| head[3] == HEADERS && head[4] & END_STREAM != 0 && head[5..] == [0, 0, 0, 1])
        })
        .await;
    }
    seat_some(&service, &event, 5).await;
    let after = memory(&stage);
    assert!(after < before + 64, "{before} MiB became {after} MiB");
    assert!(
        metric(
            &stage,
            "grpc_requests_total{rpc=\"/rowlock.booking.v1.RegistrationService/Register\",code=\"OK\""
        )
        .await
            < 20.0
    );
    let text = format!("refused, memory {before} MiB before and {after} MiB after");
    tell("compressed messages", 5, &text);
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "bad callers: deploy/local/test faults"]
async fn streams_that_are_opened_and_never_read_have_a_bounded_price() {
    let (mut stage, event, service) = scene(&[]).await;
    let (before, mut streams, open) = (memory(&stage), Vec::new(), Arc::new(AtomicUsize::new(0)));
    let admin = stage.caller(Role::Admin, way_to(stage.replicas[0].grpc));
    for _ in 0..40 {
        // A window of one byte: the first message waits for ever.
        let endpoint = Endpoint::from_shared(format!("http://{}", stage.replicas[0].grpc)).unwrap();
        let channel = endpoint.initial_stream_window_size(1).connect().await.unwrap();
        let admin = Caller { channel, ..admin.clone() };
        for _ in 0..25 {
            let request = pb::WatchEventRequest { event_id: event.event_id.clone() };
            streams.push(tokio::spawn({
                let (admin, open) = (admin.clone(), Arc::clone(&open));
                async move {
                    let _watch = admin.events().watch_event(request).await.unwrap();
                    let request =
                        pb::StreamChangesRequest { follow: true, ..pb::StreamChangesRequest::default() };
                    let _changes = admin.changes().stream_changes(request).await.unwrap();
                    open.fetch_add(2, Ordering::Relaxed);
                    std::future::pending::<()>().await;
                }
            }));
        }
    }
    eventually(async || open.load(Ordering::Relaxed) == 2_000).await;
    let longest = seat_some(&service, &event, 300 * scale() as usize).await;
    let after = memory(&stage);
    assert!(longest < BEARABLE, "{longest:?}");
    assert!(after < before + 200, "{before} MiB became {after} MiB");
    let text = format!("a seat at most {longest:.0?}, memory {before} MiB before and {after} MiB with them");
    tell("streams that nobody reads", 2_000, &text);
    for stream in streams {
        stream.abort();
    }
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "bad callers: deploy/local/test faults"]
async fn a_flood_from_one_caller_is_limited_and_the_next_one_is_served() {
    let (mut stage, event, _) = scene(&["--call-rate", "50/s"]).await;
    let flooder = stage.caller(Role::Attendee, way_to(stage.replicas[0].grpc));
    let modest = stage.caller(Role::Attendee, way_to(stage.replicas[0].grpc));
    let until = Instant::now() + Duration::from_secs(3) * scale();
    let flood: Vec<_> = (0..64)
        .map(|_| {
            let (flooder, event) = (flooder.clone(), event.clone());
            tokio::spawn(async move {
                let (mut served, mut limited) = (0_u32, 0_u32);
                while Instant::now() < until {
                    match flooder.get_event(&event).await {
                        Ok(_) => served += 1,
                        Err(status) => {
                            assert_refused(&status, "RATE_LIMITED");
                            limited += 1;
                        }
                    }
                }
                (served, limited)
            })
        })
        .collect();
    let (mut longest, mut calls) = (Duration::ZERO, 0);
    while Instant::now() < until {
        let began = Instant::now();
        modest.get_event(&event).await.unwrap();
        longest = longest.max(began.elapsed());
        calls += 1;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let (mut served, mut limited) = (0, 0);
    for caller in flood {
        let (yes, no) = caller.await.unwrap();
        served += yes;
        limited += no;
    }
    assert!(limited > served, "{served} served, {limited} limited");
    assert!(longest < BEARABLE, "{longest:?}");
    assert!(metric(&stage, "grpc_rate_limited_total").await >= f64::from(limited));
    let text =
        format!("{served} served, {limited} limited; {calls} calls of another took at most {longest:.0?}");
    tell("a flood of calls by one caller", served + limited, &text);
    stage.end();
}
