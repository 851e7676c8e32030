//! Callers who mean no good, or do not know better: at a real replica, beside somebody who only wants a seat.

use std::time::{Duration, Instant};

use prost::Message;
use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use uuid::Uuid;

use crate::acts::draft;
use crate::caller::Caller;
use crate::refusal::assert_refused;
use crate::report::{self, Counts};
use crate::stage::{Stage, ask_for_somebody, scale, way_to};
use crate::system::eventually;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
/// "I have read your settings": from then on the server's windows count.
const ACKNOWLEDGED: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];

/// Longer than nine of ten calls take on a machine with two cores that runs the clients too.
const BEARABLE: Duration = Duration::from_secs(2);
/// Longer than any takes.
const LONGEST: Duration = Duration::from_secs(10);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const REGISTER: &str = "/rowlock.booking.v1.RegistrationService/Register";

/// The head of a call, in HPACK without compression.
fn head(path: &str, token: &str, more: Option<(&str, &str)>) -> Vec<u8> {
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
        text(path),
        vec![0x01],
        text("test"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
        field("authorization", token),
    ]
    .concat();
    if let Some((name, value)) = more {
        head.extend(field(name, value));
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

/// So many zeros.
const ZEROS: u32 = 1 + 258 * 420_000;
/// Their CRC-32, as gzip ends with it.
const CHECKSUM: u32 = 0xcfae_6edf;

/// A gzip of `ZEROS`: small here, and 100 MB where it is unpacked. One block of deflate with its fixed codes: a zero, and
/// "the last byte again, 258 times" over and over.
fn bomb() -> Vec<u8> {
    let (mut bytes, mut byte, mut filled) = (vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], 0_u8, 0);
    // Bits fill each byte from the lowest on.
    let mut write = |bits: &str| {
        for bit in bits.bytes() {
            byte |= (bit - b'0') << filled;
            filled += 1;
            if filled == 8 {
                bytes.push(byte);
                (byte, filled) = (0, 0);
            }
        }
    };
    // The last block, with fixed codes.
    write("110");
    write("00110000");
    for _ in 0..ZEROS / 258 {
        write("11000101");
        write("00000");
    }
    // The end of the block, and what is missing to a whole byte.
    write("0000000");
    write("0000000");
    [bytes, CHECKSUM.to_le_bytes().to_vec(), ZEROS.to_le_bytes().to_vec()].concat()
}

/// The most memory that the replica was ever resident with, in MiB.
fn memory(stage: &Stage) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.process(0))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// Seats for new people, one after the other: the longest that nine of ten took, and that one took.
async fn seat_some(service: &Caller, event: &pb::Event, count: usize) -> Took {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        service.seats(ask_for_somebody(event)).await;
        took.push(began.elapsed());
    }
    Took::of(took)
}

/// How long somebody else's calls took.
struct Took {
    most: Duration,
    longest: Duration,
}

impl Took {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        Self { most: took[(took.len() * 9).div_ceil(10) - 1], longest: *took.last().unwrap() }
    }

    fn assert_bearable(&self) {
        assert!(self.most < BEARABLE && self.longest < LONGEST, "{self}");
    }
}

impl std::fmt::Display for Took {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "at most {:.0?}, nine of ten {:.0?}", self.longest, self.most)
    }
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
    let open = async || stage.metric("grpc_connections", "").await.unwrap();
    eventually(async || open().await >= 9_500.0).await;
    eventually(async || stage.count("grpc_connections_refused_total", "").await >= 501.0).await;
    let (took, after) = (seat_some(&service, &event, 50).await, memory(&stage));
    took.assert_bearable();
    drop(connections);
    eventually(async || open().await <= 3.0).await;
    seat_some(&stage.caller(Role::Service, way_to(stage.replicas[0].grpc)), &event, 1).await;
    let text = format!("a seat {took}, memory {before} MiB before and {after} MiB with them");
    tell("10000 connections, 9500 allowed", 10_000, &text);
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "bad callers: deploy/local/test faults"]
async fn calls_whose_message_never_comes_end_by_the_default_deadline() {
    let (mut stage, event, service) = scene(&["--default-deadline", "10s"]).await;
    let token =
        format!("Bearer {}", crate::stage::long_token(&stage.mint, Uuid::from_u128(7), Role::Attendee));
    let mut connections = Vec::new();
    let (many, calls) = (20_u32, 50_u32);
    for _ in 0..many {
        let mut stream = TcpStream::connect(stage.replicas[0].grpc).await.unwrap();
        // However patient every other one says it is.
        let head = |n| head(REGISTER, &token, (n % 2 == 0).then_some(("grpc-timeout", "5M")));
        let heads: Vec<u8> =
            (0..calls).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &head(n))).collect();
        stream.write_all(&[PREFACE, &heads].concat()).await.unwrap();
        // One byte of a message that was announced as longer.
        stream.write_all(&frame(0, 0, 1, &[0])).await.unwrap();
        connections.push(stream);
    }
    let in_flight = async || stage.metric("grpc_calls_in_flight", "").await.unwrap();
    eventually(async || in_flight().await >= f64::from(many * calls)).await;
    let began = Instant::now();
    let took = seat_some(&service, &event, 20).await;
    took.assert_bearable();
    eventually(async || in_flight().await <= 1.0).await;
    let over = began.elapsed();
    assert!(over < Duration::from_secs(15), "{over:?}");
    let ended = stage.count("grpc_requests_total", "code=\"DEADLINE_EXCEEDED\"").await;
    assert!(ended >= f64::from(many * calls), "{ended} ended by their deadline");
    let text = format!("a seat {took}, all over by their deadline");
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
    let bomb = bomb();
    // "identity" says that it is not compressed, and then a message says that it is: that is no message.
    for (encoding, code) in [
        ("gzip", "UNIMPLEMENTED"),
        ("deflate", "UNIMPLEMENTED"),
        ("zstd", "UNIMPLEMENTED"),
        ("nonsense", "UNIMPLEMENTED"),
        ("identity", "INVALID_ARGUMENT"),
    ] {
        let answered = async || {
            let labels = format!("rpc=\"{REGISTER}\",code=\"{code}\"");
            stage.count("grpc_requests_total", &labels).await
        };
        let so_far = answered().await;
        let mut stream = TcpStream::connect(stage.replicas[0].grpc).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        // It begins with its settings.
        let mut settings = [0; 9];
        stream.read_exact(&mut settings).await.unwrap();
        let request = [
            ACKNOWLEDGED.to_vec(),
            frame(HEADERS, END_HEADERS, 1, &head(REGISTER, &token, Some(("grpc-encoding", encoding)))),
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
        eventually(async || answered().await > so_far).await;
    }
    seat_some(&service, &event, 5).await;
    let after = memory(&stage);
    assert!(after < before + 64, "{before} MiB became {after} MiB");
    let text = format!(
        "refused, {} KiB that are {} MiB once unpacked, memory {before} MiB before and {after} MiB after",
        bomb.len() / 1024,
        ZEROS / (1 << 20),
    );
    tell("compressed messages", 5, &text);
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "bad callers: deploy/local/test faults"]
async fn answers_that_are_never_read_have_a_bounded_price() {
    let (mut stage, event, service) = scene(&[]).await;
    let organizer = stage.caller(Role::Organizer, way_to(stage.replicas[0].grpc));
    // A page of them is about 3 MiB, as long as a page becomes.
    for _ in 0..80 {
        let long = pb::Event { description: "\u{1f3ab}".repeat(10_000), ..draft(1) };
        organizer.create(long).await.unwrap();
    }
    let page = pb::ListEventsRequest {
        organizer_id: organizer.id.to_string(),
        page_size: 1_000,
        ..pb::ListEventsRequest::default()
    };
    let answer = organizer.events().list_events(page.clone()).await.unwrap().into_inner();
    assert!(answer.encoded_len() > 2 << 20, "{} bytes", answer.encoded_len());
    let message = page.encode_to_vec();
    let message = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let token = format!("Bearer {}", crate::stage::long_token(&stage.mint, organizer.id, Role::Organizer));
    let head = head("/rowlock.booking.v1.EventService/ListEvents", &token, None);
    let before = memory(&stage);
    let (connections, calls) = (4_u32, 50_u32);
    let mut deaf = Vec::new();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(stage.replicas[0].grpc).await.unwrap();
        // Settings: a window of nothing for each answer.
        let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
        let asks = (0..calls).flat_map(|n| {
            let stream = 2 * n + 1;
            [frame(HEADERS, END_HEADERS, stream, &head), frame(0, END_STREAM, stream, &message)].concat()
        });
        let asks: Vec<u8> = asks.collect();
        stream.write_all(&[&PREFACE[..24], &settings, ACKNOWLEDGED, &asks].concat()).await.unwrap();
        deaf.push(stream);
    }
    let cut = async || stage.count("grpc_connections_cut_total", "reason=\"unread\"").await;
    eventually(async || cut().await >= f64::from(connections - 1)).await;
    let took = seat_some(&service, &event, 20).await;
    took.assert_bearable();
    let others = organizer.events().list_events(page).await.unwrap().into_inner();
    assert_eq!(others.events.len(), answer.events.len(), "who reads is answered");
    let after = memory(&stage);
    assert!(after < before + 350, "{before} MiB became {after} MiB");
    let text = format!("a seat {took}, memory {before} MiB before and {after} MiB with them");
    tell("answers that nobody reads", connections * calls, &text);
    drop(deaf);
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "bad callers: deploy/local/test faults"]
async fn streams_that_are_opened_and_never_read_have_a_bounded_price() {
    let (mut stage, event, service) = scene(&[]).await;
    let (before, mut watches, mut changes) = (memory(&stage), Vec::new(), Vec::new());
    let admin = stage.caller(Role::Admin, way_to(stage.replicas[0].grpc));
    for _ in 0..40 {
        // A window of one byte: the first message waits for ever.
        let endpoint = Endpoint::from_shared(format!("http://{}", stage.replicas[0].grpc)).unwrap();
        let channel = endpoint.initial_stream_window_size(1).connect().await.unwrap();
        let admin = Caller { channel, ..admin.clone() };
        // One after the other: it is not a matter of how quickly they are opened.
        for _ in 0..25 {
            let request = pb::WatchEventRequest { event_id: event.event_id.clone() };
            watches.push(admin.events().watch_event(request).await.unwrap());
            let request = pb::StreamChangesRequest { follow: true, ..pb::StreamChangesRequest::default() };
            changes.push(admin.changes().stream_changes(request).await.unwrap());
        }
    }
    let open = stage.metric("grpc_streams", "").await.unwrap();
    assert!(open >= 2_000.0, "{open} are open");
    let took = seat_some(&service, &event, 300 * scale() as usize).await;
    let after = memory(&stage);
    took.assert_bearable();
    assert!(after < before + 200, "{before} MiB became {after} MiB");
    let text = format!("a seat {took}, memory {before} MiB before and {after} MiB with them");
    tell("streams that nobody reads", 2_000, &text);
    drop((watches, changes));
    stage.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "bad callers: deploy/local/test faults"]
async fn a_flood_from_one_caller_is_limited_and_the_next_one_is_served() {
    let (mut stage, event, _) = scene(&["--call-rate", "50/s"]).await;
    let flooder = stage.caller(Role::Attendee, way_to(stage.replicas[0].grpc));
    let modest = stage.caller(Role::Attendee, way_to(stage.replicas[0].grpc));
    let began = Instant::now();
    let until = began + Duration::from_secs(3) * scale();
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
    let mut calls = Vec::new();
    while Instant::now() < until {
        let began = Instant::now();
        modest.get_event(&event).await.unwrap();
        calls.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let (mut served, mut limited) = (0, 0);
    for caller in flood {
        let (yes, no) = caller.await.unwrap();
        served += yes;
        limited += no;
    }
    // The rate, what may be saved up of it (twice as much), and the calls that were on their way at the end.
    let most = 50.0 * (began.elapsed().as_secs_f64() + 2.0) + 64.0;
    assert!(limited > served && f64::from(served) <= most, "{served} served of {most}, {limited} limited");
    let (count, took) = (calls.len(), Took::of(calls));
    took.assert_bearable();
    assert!(stage.count("grpc_rate_limited_total", "").await >= f64::from(limited));
    let text = format!("{served} served, {limited} limited; {count} calls of another took {took}");
    tell("a flood of calls by one caller", served + limited, &text);
    stage.end();
}
