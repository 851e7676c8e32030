//! Messages made by dice, at the decoder and the validator of every rpc. No database behind them: what is valid meets
//! DATABASE_UNAVAILABLE.
//!
//! `ROWLOCK_TEST_SCALE=50 cargo test --test identity_it decoders` tries a million.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use identity_service::accounts::Accounts;
use identity_service::domain::{TOKENS_AT_ONCE, TOKENS_PER_SECOND};
use identity_service::grpc::{Revocations, routes};
use identity_service::hashing::PasswordHasher;
use identity_service::revocations::RevocationFeed;
use identity_service::signing::{AccessTokens, KeyDir, SigningAlgorithm};
use identity_service::sources::Sources;
use prost::Message;
use prost_types::FileDescriptorSet;
use service_core::auth::{Principal, Role};
use service_core::pace::Pace;
use service_core::test_support::{MessageDice, TokenMint};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Request};
use uuid::Uuid;

use crate::raw;
use crate::server::config;

const INPUTS: usize = 20_000;
const WORDS: &[&str] = &["display_name", "role", "active", "*", "email", "a@b"];

fn set() -> FileDescriptorSet {
    FileDescriptorSet::decode(rowlock_proto::FILE_DESCRIPTOR_SET).unwrap()
}

/// Every unary rpc, by its path, with the full name of its request. The only stream asks for nothing.
fn rpcs() -> Vec<(String, String)> {
    let mut rpcs = Vec::new();
    for file in set().file.iter().filter(|file| file.package() == "rowlock.identity.v1") {
        for service in &file.service {
            for method in service.method.iter().filter(|method| !method.server_streaming()) {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                rpcs.push((path, method.input_type().trim_start_matches('.').to_owned()));
            }
        }
    }
    rpcs
}

/// The service's handlers with nothing behind them.
fn handlers() -> Routes {
    let keys = tempfile::tempdir().unwrap();
    KeyDir::new(keys.path(), false).generate(SigningAlgorithm::Es256, false).unwrap();
    let config = config("postgres://nobody@127.0.0.1:1/nothing", keys.path().to_str().unwrap());
    let sources = Sources::system();
    let ring = Arc::new(config.keys.load().unwrap());
    // Nobody listens on port 1.
    let nowhere = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1);
    let accounts = Accounts {
        pool: PgPoolOptions::new().acquire_timeout(Duration::from_millis(1)).connect_lazy_with(nowhere),
        hasher: PasswordHasher::new(config.hashing.cost, config.hashing.limits, sources.entropy.clone())
            .unwrap(),
        tokens: AccessTokens::new(
            ring.clone(),
            sources.ids.clone(),
            config.tokens.issuer.clone(),
            config.tokens.audience.clone(),
            config.tokens.access_lifetime,
        ),
        sessions: config.tokens.sessions,
        reset_lifetime: config.tokens.reset_lifetime,
        pace: Pace::new(TOKENS_AT_ONCE, TOKENS_PER_SECOND),
        limits: config.sign_in,
        sources: sources.clone(),
    };
    let revocations = Revocations {
        feed: Arc::new(RevocationFeed::default()),
        clock: sources.clock.clone(),
        draining: CancellationToken::new(),
    };
    let verifier = TokenMint::new().verifier();
    routes(Arc::new(accounts), ring, verifier, config.client_address, revocations, 1 << 20).prepare()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_that_dice_can_make_is_a_bug_to_any_rpc_of_identity() {
    let scale: usize = std::env::var("ROWLOCK_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap());
    let seed = std::env::var("ROWLOCK_TEST_SEED").map_or(20, |seed| seed.parse().unwrap());
    let workers = (0..4_u64).map(|worker| {
        tokio::spawn(async move {
            let (handlers, rpcs) = (handlers(), rpcs());
            let mut dice = MessageDice::new(set(), seed + worker, WORDS);
            let mut codes: BTreeMap<String, usize> = BTreeMap::new();
            for n in 0..INPUTS * scale / 4 {
                let (rpc, input) = &rpcs[n % rpcs.len()];
                let bytes = dice.message(input);
                let role = dice.one_of(&[Role::Attendee, Role::Organizer, Role::Admin, Role::Service]);
                let code = ask(&handlers, rpc, role, bytes.clone()).await;
                let known = [
                    Code::Ok,
                    Code::InvalidArgument,
                    Code::Unauthenticated,
                    Code::PermissionDenied,
                    Code::Unavailable,
                ];
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
    println!("{} inputs to identity, by the code of their answer: {codes:?}", codes.values().sum::<usize>());
}

async fn ask(handlers: &Routes, rpc: &str, role: Role, bytes: Vec<u8>) -> Code {
    let mut request = Request::new(bytes.into());
    request.extensions_mut().insert(Principal {
        user_id: Uuid::from_u128(1),
        role,
        session_id: None,
        session_version: 1,
        expires: Sources::system().clock.now() + Duration::from_secs(600),
    });
    match raw::send(handlers.clone(), rpc, request).await {
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
