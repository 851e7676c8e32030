//! Messages made by dice, at the decoder and the validator of every rpc. No database behind them: what is valid meets
//! DATABASE_UNAVAILABLE.
//!
//! `ROWLOCK_TEST_SCALE=50 cargo test --test booking_it decoders` tries a million.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use booking_service::feed::Feed;
use booking_service::grpc::{Booking, Lookups, Turns, routes};
use booking_service::seating::{Seating, SeatingConfig};
use booking_service::simulate::Simulator;
use service_core::auth::{Principal, Role};
use service_core::clock::{Clock, SystemClock};
use service_core::ids::{IdSource, UuidV7};
use service_core::test_support::MessageDice;
use service_core::token::KnownRevocations;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Request};
use uuid::Uuid;

use crate::{contract, raw};

const INPUTS: usize = 20_000;

const WORDS: &[&str] = &["capacity", "title", "start_time", "*", "etag", "a.b"];

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
        turns: Turns::new(8),
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
    let rpcs: Vec<_> = contract::rpcs().into_iter().collect();
    let seed = std::env::var("ROWLOCK_TEST_SEED").map_or(20, |seed| seed.parse().unwrap());
    let workers = (0..4_u64).map(|worker| {
        let rpcs = rpcs.clone();
        tokio::spawn(async move {
            let handlers = handlers().await;
            let mut dice = MessageDice::new(contract::set(), seed + worker, WORDS);
            let mut codes: BTreeMap<String, usize> = BTreeMap::new();
            for n in 0..INPUTS * scale / 4 {
                let (rpc, input) = &rpcs[n % rpcs.len()];
                let bytes = dice.message(input);
                let role = dice.one_of(&[Role::Attendee, Role::Organizer, Role::Admin, Role::Service]);
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
    println!("{} inputs to booking, by the code of their answer: {codes:?}", codes.values().sum::<usize>());
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
        // Bytes that are no message: the codec's words, which the layers around the handlers put right.
        Err(status)
            if status.code() == Code::Internal
                && status.details().is_empty()
                && status.message().starts_with("failed to decode Protobuf message: ") =>
        {
            Code::InvalidArgument
        }
        Err(status) => status.code(),
    }
}
