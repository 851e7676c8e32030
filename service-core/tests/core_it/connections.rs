//! Connections without TLS: how many, how silent, how hasty.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request};

use crate::bench::{Bench, counted, cut, eventually, rest, unary, unread};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u8 = 11;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `POST /test.Probe/Wait`, in HPACK without compression.
fn call() -> Vec<u8> {
    let literal =
        |index: &[u8], value: &str| [index, &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    let te = [&[0, 2][..], b"te", &[8], b"trailers"].concat();
    [
        vec![0x83, 0x86],
        literal(&[0x04], "/test.Probe/Wait"),
        literal(&[0x01], "test"),
        literal(&[0x0f, 0x10], "application/grpc"),
        te,
    ]
    .concat()
}

/// That many calls, each cancelled at once, as one piece.
fn cancelled_calls(count: u32) -> Vec<u8> {
    let calls = (0..count).map(|n| {
        let stream = 2 * n + 1;
        [frame(HEADERS, END_HEADERS, stream, &call()), frame(RST_STREAM, 0, stream, &CANCEL)].concat()
    });
    calls.collect::<Vec<_>>().concat()
}

/// Sends it and reads until the answer to a ping or the GOAWAY: the type of that frame and its payload.
async fn last_word(bench: &Bench, bytes: &[u8]) -> (u8, Vec<u8>) {
    const PING: u8 = 6;
    const ACK: u8 = 1;
    let stream = TcpStream::connect(bench.grpc).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let bytes = [PREFACE, bytes, &frame(PING, 0, 0, b"anybody?")].concat();
    // The server may close before it has read all of it.
    let writing = tokio::spawn(async move {
        let _ = to.write_all(&bytes).await;
        to
    });
    let word = async {
        loop {
            let mut head = [0; 9];
            from.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            from.read_exact(&mut payload).await.unwrap();
            if head[3] == GOAWAY || (head[3] == PING && head[4] == ACK) {
                return (head[3], payload);
            }
        }
    };
    let word = tokio::time::timeout(Duration::from_secs(20), word).await.expect("it answers");
    drop(writing.await);
    word
}

#[tokio::test]
async fn a_connection_survives_500_calls_that_are_cancelled_at_once() {
    let bench = Bench::start().await;
    let (kind, payload) = last_word(&bench, &cancelled_calls(500)).await;
    assert_ne!(kind, GOAWAY, "{payload:?}");
}

#[tokio::test]
async fn a_connection_that_does_nothing_but_cancel_is_closed() {
    let bench = Bench::start().await;
    let (kind, payload) = last_word(&bench, &cancelled_calls(20_000)).await;
    assert_eq!((kind, payload.get(7).copied()), (GOAWAY, Some(ENHANCE_YOUR_CALM)), "{payload:?}");
    eventually(async || cut("flood") > 0).await;
}

#[tokio::test]
async fn how_many_calls_a_client_may_cancel_unseen_is_an_option() {
    let bench = Bench::with(|config| config.max_cancelled_calls = 10_000).await;
    let (kind, payload) = last_word(&bench, &cancelled_calls(5_000)).await;
    assert_ne!(kind, GOAWAY, "{payload:?}");
}

#[tokio::test]
async fn calls_beyond_the_limit_of_a_connection_wait_at_the_client() {
    let bench = Bench::with(|config| config.max_calls_per_connection = 2).await;
    let channel = bench.channel();
    // After an answer the client knows the server's settings.
    unary(channel.clone(), "/test.Probe/Echo", Request::new("x".to_owned())).await.unwrap();
    let wait = || tokio::spawn(unary(channel.clone(), "/test.Probe/Wait", Request::new(String::new())));
    let (first, second) = (wait(), wait());
    bench.probe.until_waiting(2).await;
    let third = wait();
    // Another connection is not concerned.
    unary(bench.channel(), "/test.Probe/Echo", Request::new("x".to_owned())).await.unwrap();
    assert_eq!(*bench.probe.waiting.borrow(), 2);
    bench.probe.gate.add_permits(3);
    for call in [first, second, third] {
        assert_eq!(call.await.unwrap().unwrap().into_inner(), "done");
    }
}

#[tokio::test]
async fn who_does_not_begin_to_speak_http2_is_cut_and_who_does_is_not() {
    let bench = Bench::with(|config| config.handshake_timeout = Duration::from_secs(1)).await;
    let mut speaking = TcpStream::connect(bench.grpc).await.unwrap();
    speaking.write_all(PREFACE).await.unwrap();
    for beginning in [&b""[..], b"PRI * HTTP/2.0\r\n", &PREFACE[..24]] {
        let mut silent = TcpStream::connect(bench.grpc).await.unwrap();
        silent.write_all(beginning).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "it is still open after {beginning:?}");
    }
    // Longer open than all of them: it says its settings and nothing more.
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_millis(50), speaking.read_to_end(&mut answer)).await;
    assert!(ended.is_err() && !answer.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn who_does_not_answer_pings_is_cut() {
    let bench = Bench::with(|config| {
        config.keepalive_interval = Duration::from_millis(100);
        config.keepalive_timeout = Duration::from_millis(100);
    })
    .await;
    let mut silent = TcpStream::connect(bench.grpc).await.unwrap();
    silent.write_all(PREFACE).await.unwrap();
    let mut said = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "it is still open, after {said:?}");
    eventually(async || cut("keepalive") > 0).await;
}

#[tokio::test]
async fn who_asks_and_never_reads_the_answers_is_cut_when_too_old() {
    let bench = Bench::with(|config| {
        config.max_connections = 1;
        config.max_connection_age = Duration::from_millis(500);
        config.max_connection_age_grace = Duration::from_millis(500);
    })
    .await;
    let mut deaf = TcpStream::connect(bench.grpc).await.unwrap();
    deaf.write_all(PREFACE).await.unwrap();
    // Each is answered, until nothing more goes through the wire: then the server does not read either.
    let pings = frame(6, 0, 0, b"anybody?").repeat(1_000);
    let write = async |deaf: &mut TcpStream| {
        tokio::time::timeout(Duration::from_millis(300), deaf.write_all(&pings)).await
    };
    while matches!(write(&mut deaf).await, Ok(Ok(()))) {}
    let echo =
        async || unary(bench.channel(), "/test.Probe/Echo", Request::new("x".to_owned())).await.map(|_| ());
    eventually(async || echo().await.is_ok()).await;
}

#[tokio::test]
async fn who_leaves_too_many_small_answers_unread_is_cut_and_nobody_else() {
    for path in ["/test.Probe/Echo", "/grpc.health.v1.Health/Check"] {
        let bench = Bench::with(|config| config.max_calls_in_flight = 16).await;
        let (reading, deaf, before) = (bench.channel(), bench.slow_channel(1), cut("unread"));
        // The caller's address, which is another one after a new connection.
        let context = async || {
            let answer = unary(reading.clone(), "/test.Probe/Context", Request::new(String::new())).await;
            answer.unwrap().into_inner().rsplit(' ').next().unwrap().to_owned()
        };
        let first = context().await;
        let mut lying = Vec::new();
        eventually(async || {
            assert!(lying.len() < 4_000, "not bounded");
            if lying.len() > 300 {
                // Who lets none go has half a second.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            lying.extend(unread(deaf.clone(), path, &String::new()).await);
            assert_eq!(context().await, first, "who reads goes on");
            cut("unread") > before
        })
        .await;
        assert!(lying.len() >= 256, "{}", lying.len());
    }
}

#[tokio::test]
async fn of_large_answers_that_nobody_reads_the_oldest_are_given_up_and_their_connection_goes_on() {
    let size = 200_000_usize;
    let bench = Bench::with(|config| config.max_leaving_bytes = 10 * size.next_power_of_two()).await;
    let slow = bench.slow_channel(10_000);
    let mut answers = Vec::new();
    for _ in 0..25 {
        answers.push(unread(slow.clone(), "/test.Probe/Echo", &"x".repeat(size)).await.unwrap());
    }
    let before = counted("grpc_calls_shed_total{limit=\"leaving_bytes\"}");
    assert!(before >= 15, "{before}");
    let last = answers.split_off(15);
    for answer in answers {
        assert_eq!(rest(answer).await.unwrap_err().code(), Code::ResourceExhausted);
    }
    // Longer than its message, and whole.
    for answer in last {
        assert!(rest(answer).await.unwrap() > size);
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_a_place_becomes_free_again() {
    let bench = Bench::with(|config| config.max_connections = 2).await;
    let echo =
        async || unary(bench.channel(), "/test.Probe/Echo", Request::new("x".to_owned())).await.map(|_| ());
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(bench.grpc).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        // The settings: it is in.
        stream.read_exact(&mut [0; 9]).await.unwrap();
        taken.push(stream);
    }
    let refused = || counted("grpc_connections_refused_total{reason=\"limit\"}");
    let before = refused();
    assert!(echo().await.is_err());
    assert!(refused() > before);
    taken.pop();
    eventually(async || echo().await.is_ok()).await;
}

#[tokio::test]
async fn metadata_beyond_the_limit_is_refused_and_the_connection_goes_on() {
    let bench = Bench::with(|config| config.max_header_bytes = 2_048).await;
    let channel = bench.channel();
    // The caller's address, which is another one after a new connection.
    let call = async |bytes: usize| {
        let mut request = Request::new(String::new());
        request.metadata_mut().insert("x-filler", "f".repeat(bytes).parse().unwrap());
        let answer = unary(channel.clone(), "/test.Probe/Context", request).await;
        answer.map(|answer| answer.into_inner().rsplit(' ').next().unwrap().to_owned())
    };
    let first = call(1_000).await.unwrap();
    assert!(call(4_000).await.is_err());
    assert_eq!(call(1_000).await.unwrap(), first);
}
