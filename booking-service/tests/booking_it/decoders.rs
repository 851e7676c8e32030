//! Messages made by dice, at the decoder and the validator of every rpc. No database behind them: what is valid meets
//! DATABASE_UNAVAILABLE.
//!
//! `ROWLOCK_TEST_SCALE=50 cargo test --release --test booking_it decoders` tries a million.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use booking_service::feed::Feed;
use booking_service::grpc::{Booking, Lookups, routes};
use booking_service::seating::{Seating, SeatingConfig};
use booking_service::simulate::Simulator;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use service_core::auth::{Principal, Role};
use service_core::clock::{Clock, SystemClock};
use service_core::ids::{IdSource, UuidV7};
use service_core::token::KnownRevocations;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Request};
use uuid::Uuid;

use crate::{contract, raw};

const INPUTS: usize = 20_000;

/// A message of this type, as the dice have it: mostly of the right types, with the values that break things.
fn message(
    of: &DescriptorProto,
    messages: &BTreeMap<String, DescriptorProto>,
    dice: &mut SmallRng,
    depth: u32,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in &of.field {
        for _ in 0..[0, 1, 1, 1, 1, 2][dice.random_range(0..6)] {
            value(field, messages, dice, depth, &mut bytes);
        }
    }
    bytes
}

fn value(
    field: &FieldDescriptorProto,
    messages: &BTreeMap<String, DescriptorProto>,
    dice: &mut SmallRng,
    depth: u32,
    bytes: &mut Vec<u8>,
) {
    let number = u32::try_from(field.number()).unwrap();
    let text = match field.r#type() {
        Type::String | Type::Bytes => text(dice),
        Type::Message if depth > 0 => {
            message(&messages[field.type_name().trim_start_matches('.')], messages, dice, depth - 1)
        }
        Type::Message => Vec::new(),
        _ => {
            encode_key(number, WireType::Varint, bytes);
            let value = match dice.random_range(0..4) {
                0 => dice.random_range(0..4),
                1 => dice.random_range(0..2_000_000_000),
                2 => u64::MAX - dice.random_range(0..3),
                _ => dice.random(),
            };
            encode_varint(value, bytes);
            return;
        }
    };
    encode_key(number, WireType::LengthDelimited, bytes);
    encode_varint(text.len() as u64, bytes);
    bytes.extend(text);
}

fn text(dice: &mut SmallRng) -> Vec<u8> {
    match dice.random_range(0..8) {
        0 | 1 => Uuid::from_u128(dice.random()).to_string().into_bytes(),
        2 => Vec::new(),
        3 => (0..dice.random_range(0..40)).map(|_| dice.random()).collect(),
        4 => (0..dice.random_range(0..300)).map(|_| dice.random::<char>()).collect::<String>().into_bytes(),
        5 => ["capacity", "title", "start_time", "*", "etag", "a.b"][dice.random_range(0..6)].into(),
        6 => b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4"
            [..dice.random_range(0..76)]
            .to_vec(),
        _ => vec![b'x'; dice.random_range(0..12_000)],
    }
}

/// What a line does to a message on its way.
fn damage(bytes: &mut Vec<u8>, dice: &mut SmallRng) {
    for _ in 0..dice.random_range(0..4) {
        let at = dice.random_range(0..=bytes.len());
        match dice.random_range(0..4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, dice.random()),
            2 if at < bytes.len() => bytes[at] ^= 1 << dice.random_range(0..8),
            _ => bytes.extend_from_within(at..),
        }
    }
}

/// The service's handlers with nothing behind them.
async fn handlers() -> Routes {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ids: Arc<dyn IdSource> = Arc::new(UuidV7::new(Arc::clone(&clock)));
    // Nobody listens on port 1.
    let nowhere = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1);
    let pool =
        PgPoolOptions::new().acquire_timeout(Duration::from_millis(1)).connect_lazy_with(nowhere.clone());
    let seating = SeatingConfig { retry_window: Duration::ZERO, ..SeatingConfig::default() };
    let booking = Booking {
        seating: Arc::new(Seating::start(&seating, &nowhere, &ids)),
        lookups: Lookups::start(&pool),
        pool,
        ids,
        simulator: Simulator::default(),
        feed: Feed::default(),
        clock,
        revocations: Arc::new(KnownRevocations::new()),
        draining: CancellationToken::new(),
    };
    routes(&Arc::new(booking), 1 << 20).prepare()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_that_dice_can_make_is_a_bug_to_any_rpc() {
    let scale: usize = std::env::var("ROWLOCK_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap());
    let (rpcs, messages) = (contract::rpcs(), contract::messages());
    let rpcs: Vec<_> = rpcs.into_iter().map(|(rpc, input)| (rpc, messages[&input].clone())).collect();
    let seed = std::env::var("ROWLOCK_TEST_SEED").map_or(20, |seed| seed.parse().unwrap());
    let workers = (0..4_u64).map(|worker| {
        let (rpcs, messages) = (rpcs.clone(), messages.clone());
        tokio::spawn(async move {
            let handlers = handlers().await;
            let mut dice = SmallRng::seed_from_u64(seed + worker);
            let mut codes: BTreeMap<String, usize> = BTreeMap::new();
            for n in 0..INPUTS * scale / 4 {
                let (rpc, input) = &rpcs[n % rpcs.len()];
                let mut bytes = message(input, &messages, &mut dice, 3);
                damage(&mut bytes, &mut dice);
                let role =
                    [Role::Attendee, Role::Organizer, Role::Admin, Role::Service][dice.random_range(0..4)];
                let code = ask(&handlers, rpc, role, bytes.clone()).await;
                let known = [Code::InvalidArgument, Code::PermissionDenied, Code::Unavailable];
                assert!(known.contains(&code), "{rpc}: {code:?} for {bytes:x?}");
                *codes.entry(format!("{code:?}")).or_default() += 1;
            }
            codes
        })
    });
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for worker in workers.collect::<Vec<_>>() {
        // A panic of a handler is one here.
        for (code, count) in worker.await.unwrap() {
            *codes.entry(code).or_default() += count;
        }
    }
    assert!(
        codes["InvalidArgument"] > 0 && codes["Unavailable"] > 0,
        "some are invalid and some are not: {codes:?}"
    );
    println!("inputs by the code of their answer: {codes:?}");
}

/// The code of the answer; of a stream, of its first message or end.
async fn ask(handlers: &Routes, rpc: &str, role: Role, bytes: Vec<u8>) -> Code {
    let mut request = Request::new(bytes);
    request.extensions_mut().insert(Principal {
        user_id: Uuid::from_u128(1),
        role,
        session_id: None,
        session_version: 1,
        expires: SystemClock.now() + Duration::from_secs(600),
    });
    match raw::send(handlers.clone(), &raw::path(rpc), request).await {
        Ok(_) => Code::Ok,
        // Bytes that are no message: the codec's word, which the layers around the handlers put right.
        Err(status) if status.code() == Code::Internal && status.details().is_empty() => {
            Code::InvalidArgument
        }
        Err(status) => status.code(),
    }
}
