#![cfg(feature = "test-support")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::datetime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::auth::{Principal, Role};
use crate::clock::ManualClock;
use crate::test_support::{TEST_AUDIENCE, TEST_ISSUER, TokenMint};

const NOW: OffsetDateTime = datetime!(2026-01-01 12:00 UTC);
const USER: Uuid = Uuid::from_u128(7);

struct Bench {
    clock: Arc<ManualClock>,
    mint: TokenMint,
    keys: Arc<KeySet>,
    verifier: TokenVerifier,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(edit: impl FnOnce(&mut VerifierConfig)) -> Self {
        let clock = Arc::new(ManualClock::new(NOW));
        let mint = TokenMint::at(clock.clone());
        let keys = mint.key_set();
        let mut config = VerifierConfig::new(TEST_ISSUER, TEST_AUDIENCE);
        edit(&mut config);
        let verifier = TokenVerifier::new(config, keys.clone(), clock.clone());
        Self { clock, mint, keys, verifier }
    }

    /// Verifies a token whose claims, as JSON, were changed.
    fn verify_claims(
        &self,
        edit: impl FnOnce(&mut serde_json::Map<String, Value>),
    ) -> Result<Principal, TokenError> {
        let mut claims = serde_json::to_value(self.mint.claims(USER, Role::Attendee)).unwrap();
        edit(claims.as_object_mut().unwrap());
        self.verifier.verify(&self.mint.sign(&self.mint.header(), &claims))
    }

    fn verify_header(&self, edit: impl FnOnce(&mut Header)) -> Result<Principal, TokenError> {
        self.verifier.verify(&self.mint.token_with(USER, Role::Attendee, |_| {}, edit))
    }
}

#[test]
fn a_good_token_names_its_holder() {
    let bench = Bench::new();
    let session = Uuid::from_u128(9);
    let token = bench.mint.token_with(USER, Role::Organizer, |c| c.sid = Some(session.to_string()), |_| {});
    let expires = NOW + Duration::from_secs(300);
    let principal = Principal {
        user_id: USER,
        role: Role::Organizer,
        session_id: Some(session),
        session_version: 1,
        expires,
    };
    assert_eq!(bench.verifier.verify(&token), Ok(principal.clone()));
    assert_eq!(bench.verifier.verify(&token), Ok(principal));
}

#[test]
fn a_token_with_a_wrong_or_missing_claim_is_invalid() {
    let bench = Bench::new();
    for (claim, value) in [
        ("iss", json!("https://other.test")),
        ("iss", json!("")),
        ("iss", json!([TEST_ISSUER, "https://other.test"])),
        ("aud", json!("other")),
        ("aud", json!(["other"])),
        ("sub", json!("not-a-uuid")),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("role", json!("root")),
        ("role", json!("Admin")),
        ("role", json!(["admin"])),
        ("sid", json!("not-a-uuid")),
        ("exp", json!("soon")),
        ("exp", json!(i64::MAX)),
        ("exp", json!(-1)),
        ("nbf", json!(i64::MAX)),
        ("iat", json!("now")),
        ("sv", json!("1")),
    ] {
        let result = bench.verify_claims(|claims| _ = claims.insert(claim.to_owned(), value.clone()));
        assert_eq!(result, Err(TokenError::Invalid), "{claim} = {value}");
    }
    for claim in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "role", "sv"] {
        let result = bench.verify_claims(|claims| _ = claims.remove(claim));
        assert_eq!(result, Err(TokenError::Invalid), "without {claim}");
    }
    assert!(bench.verify_claims(|_| {}).is_ok());
}

#[test]
fn a_token_with_a_wrong_header_is_invalid() {
    let bench = Bench::new();
    for typ in [Some("JWT"), Some("at+jws"), Some(""), Some("application/jwt"), None] {
        assert_eq!(
            bench.verify_header(|h| h.typ = typ.map(str::to_owned)),
            Err(TokenError::Invalid),
            "{typ:?}"
        );
    }
    for typ in ["AT+JWT", "application/at+jwt", "Application/AT+jwt"] {
        assert!(bench.verify_header(|h| h.typ = Some(typ.to_owned())).is_ok(), "{typ}");
    }
    assert_eq!(bench.verify_header(|h| h.kid = None), Err(TokenError::Invalid));
    assert_eq!(bench.verify_header(|h| h.kid = Some("unknown".to_owned())), Err(TokenError::Invalid));
    assert_eq!(bench.verify_header(|h| h.crit = Some(vec!["b64".to_owned()])), Err(TokenError::Invalid));
}

#[test]
fn a_key_that_a_token_brings_along_is_not_used() {
    let bench = Bench::new();
    let foreign = TokenMint::at(bench.clock.clone());
    let jwks: Value = serde_json::from_str(&foreign.jwks_json()).unwrap();
    let own_kid = bench.mint.header().kid;
    for kid in [own_kid, foreign.header().kid, None] {
        let token = foreign.token_with(
            USER,
            Role::Admin,
            |_| {},
            |header| {
                header.kid = kid;
                header.jwk = serde_json::from_value(jwks["keys"][0].clone()).unwrap();
                header.jku = Some("https://evil.test/jwks.json".to_owned());
                header.x5u = Some("https://evil.test/cert.pem".to_owned());
            },
        );
        assert_eq!(bench.verifier.verify(&token), Err(TokenError::Invalid));
    }
}

#[test]
fn only_the_configured_algorithm_with_a_key_of_that_algorithm_is_accepted() {
    let bench = Bench::new();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = part(serde_json::to_value(bench.mint.claims(USER, Role::Admin)).unwrap());
    let kid = bench.mint.header().kid.unwrap();
    for alg in ["none", "None", "NONE", "HS256", "ES512", "", "es256"] {
        let header = part(json!({ "alg": alg, "typ": "at+jwt", "kid": kid }));
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{claims}.{signature}");
            assert_eq!(bench.verifier.verify(&token), Err(TokenError::Invalid), "{alg}");
        }
    }
    // The classic: the public key, which everybody knows, as the secret of a MAC.
    let bench = Bench::with(|config| config.algorithms = vec![Algorithm::ES256, Algorithm::HS256]);
    let jwks: Value = serde_json::from_str(&bench.mint.jwks_json()).unwrap();
    let public = [&[4_u8][..], &decoded(&jwks["keys"][0]["x"]), &decoded(&jwks["keys"][0]["y"])].concat();
    let header = Header {
        kid: bench.mint.header().kid,
        typ: Some("at+jwt".to_owned()),
        ..Header::new(Algorithm::HS256)
    };
    let token =
        encode(&header, &bench.mint.claims(USER, Role::Admin), &EncodingKey::from_secret(&public)).unwrap();
    assert_eq!(bench.verifier.verify(&token), Err(TokenError::Invalid));
    // A good key whose algorithm is not configured.
    let bench = Bench::with(|config| config.algorithms = vec![Algorithm::RS256]);
    assert_eq!(bench.verify_header(|_| {}), Err(TokenError::Invalid));
}

fn decoded(part: &Value) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part.as_str().unwrap()).unwrap()
}

#[test]
fn a_token_that_was_tampered_with_is_invalid() {
    let bench = Bench::new();
    let token = bench.mint.token(USER, Role::Attendee);
    assert!(bench.verifier.verify(&token).is_ok());
    for at in 0..token.len() {
        let mut damaged = token.clone();
        let other = if &token[at..=at] == "A" { "B" } else { "A" };
        damaged.replace_range(at..=at, other);
        assert_eq!(bench.verifier.verify(&damaged), Err(TokenError::Invalid), "letter {at}");
    }
    for odd in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        &token[..token.len() - 1],
        &format!("{token}A"),
        &format!(" {token}"),
    ] {
        assert_eq!(bench.verifier.verify(odd), Err(TokenError::Invalid), "{odd:?}");
    }
}

#[test]
fn time_is_judged_by_the_given_clock_with_leeway() {
    let bench = Bench::new();
    let at = |seconds: i64| NOW + time::Duration::seconds(seconds);
    let token = bench.mint.token(USER, Role::Attendee);
    for (seconds, expected) in [
        (-6, Some(TokenError::Invalid)),
        (-5, None),
        (0, None),
        (299, None),
        (304, None),
        (305, Some(TokenError::Expired)),
        (100_000, Some(TokenError::Expired)),
    ] {
        bench.clock.set(at(seconds));
        assert_eq!(bench.verifier.verify(&token).err(), expected, "{seconds} s");
    }
}

#[test]
fn a_token_issued_in_the_future_is_invalid() {
    let bench = Bench::new();
    let now = NOW.unix_timestamp();
    assert_eq!(
        bench.verify_claims(|c| _ = c.insert("iat".to_owned(), json!(now + 6))),
        Err(TokenError::Invalid)
    );
    assert_eq!(
        bench.verify_claims(|c| _ = c.insert("nbf".to_owned(), json!(now + 6))),
        Err(TokenError::Invalid)
    );
    assert!(bench.verify_claims(|c| _ = c.insert("nbf".to_owned(), json!(now + 5))).is_ok());
}

#[test]
fn a_remembered_token_is_not_accepted_after_it_expired() {
    let bench = Bench::with(|config| config.leeway = Duration::ZERO);
    let token = bench.mint.token(USER, Role::Attendee);
    assert!(bench.verifier.verify(&token).is_ok());
    bench.clock.advance(Duration::from_secs(299));
    assert!(bench.verifier.verify(&token).is_ok());
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.verifier.verify(&token), Err(TokenError::Expired));
}

#[test]
fn a_remembered_token_is_checked_again_when_the_keys_change() {
    let bench = Bench::new();
    let token = bench.mint.token(USER, Role::Attendee);
    assert!(bench.verifier.verify(&token).is_ok());
    bench.keys.replace_from_jwks(&TokenMint::new().jwks_json()).unwrap();
    assert_eq!(bench.verifier.verify(&token), Err(TokenError::Invalid));
}

#[test]
fn the_number_of_remembered_tokens_is_bounded() {
    let bench = Bench::with(|config| config.remembered_tokens = 64);
    let first = bench.mint.token(USER, Role::Attendee);
    for _ in 0..300 {
        assert!(bench.verifier.verify(&bench.mint.token(USER, Role::Attendee)).is_ok());
        assert!(bench.verifier.remembered() <= 64);
    }
    assert!(bench.verifier.remembered() > 16);
    assert!(bench.verifier.verify(&first).is_ok());
}

#[test]
fn a_revoked_token_is_refused_although_it_is_remembered() {
    let known = Arc::new(KnownRevocations::new());
    let mut bench = Bench::new();
    bench.verifier = bench.verifier.with_revocations(known.clone());
    let version = |sv| bench.mint.token_with(USER, Role::Attendee, |claims| claims.sv = sv, |_| {});
    let (old, new) = (version(1), version(2));
    assert!(bench.verifier.verify(&old).is_ok());
    let target = RevocationTarget::User { user_id: USER, minimum_session_version: 2 };
    known.add([KnownRevocation { target, expire_time: NOW + HOUR }]);
    assert_eq!(bench.verifier.verify(&old), Err(TokenError::Revoked));
    assert!(bench.verifier.verify(&new).is_ok());
    known.distrust(true);
    assert_eq!(bench.verifier.verify(&new), Err(TokenError::RevocationsUnknown));
    known.distrust(false);
    assert!(bench.verifier.verify(&new).is_ok());
}

#[test]
fn a_key_set_that_cannot_be_used_leaves_the_old_keys() {
    let bench = Bench::new();
    let token = bench.mint.token(USER, Role::Attendee);
    let ec = |edit: fn(&mut Value)| {
        let mut jwks: Value = serde_json::from_str(&TokenMint::new().jwks_json()).unwrap();
        edit(&mut jwks["keys"][0]);
        jwks.to_string()
    };
    let weak_rsa =
        json!({ "keys": [{ "kty": "RSA", "kid": "r", "n": "A".repeat(171), "e": "AQAB" }] }).to_string();
    let secret =
        json!({ "keys": [{ "kty": "oct", "kid": "s", "alg": "HS256", "k": "c2VjcmV0" }] }).to_string();
    let twice: Value = serde_json::from_str(&TokenMint::new().jwks_json()).unwrap();
    let twice = json!({ "keys": [twice["keys"][0], twice["keys"][0]] }).to_string();
    for bad in [
        String::new(),
        "{}".to_owned(),
        r#"{"keys":[]}"#.to_owned(),
        weak_rsa,
        secret,
        twice,
        ec(|key| key["use"] = json!("enc")),
        ec(|key| key["alg"] = json!("ES384")),
        ec(|key| key["kid"] = json!("")),
        ec(|key| key["kty"] = json!("new")),
    ] {
        assert!(bench.keys.replace_from_jwks(&bad).is_err(), "{bad}");
        assert!(bench.verifier.verify(&token).is_ok(), "{bad}");
    }
}

#[test]
fn keys_of_an_unknown_kind_are_passed_over() {
    let mint = TokenMint::new();
    let mut jwks: Value = serde_json::from_str(&mint.jwks_json()).unwrap();
    jwks["keys"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AA" }));
    jwks["keys"].as_array_mut().unwrap().push(json!({
        "kty": "OKP", "crv": "Ed25519", "alg": "Ed25519", "kid": "ed", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    }));
    let keys = KeySet::new();
    assert!(keys.is_empty());
    keys.replace_from_jwks(&jwks.to_string()).unwrap();
    assert!(keys.find("ed").is_some_and(|key| key.algorithm == Algorithm::EdDSA));
    assert!(keys.find("pq").is_none());
    assert!(keys.find(&mint.header().kid.unwrap()).is_some());
}

/// Gives one key set after `failures` failures, and tells of every fetch.
struct Source {
    jwks: String,
    failures: AtomicUsize,
    fetched: mpsc::UnboundedSender<Instant>,
}

impl JwksSource for Source {
    fn fetch(&self) -> BoxFuture<'_, Result<String, Box<dyn std::error::Error + Send + Sync>>> {
        async {
            self.fetched.send(Instant::now())?;
            let failing =
                self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if failing.is_ok() { Err("unreachable".into()) } else { Ok(self.jwks.clone()) }
        }
        .boxed()
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn source(mint: &TokenMint, failures: usize) -> (Source, mpsc::UnboundedReceiver<Instant>) {
    let (fetched, fetches) = mpsc::unbounded_channel();
    (Source { jwks: mint.jwks_json(), failures: AtomicUsize::new(failures), fetched }, fetches)
}

#[tokio::test]
async fn the_first_keys_are_fetched_again_and_again_until_they_come() {
    let mint = TokenMint::new();
    let (keys, shutdown) = (Arc::new(KeySet::new()), CancellationToken::new());
    let (source, mut fetches) = source(&mint, 2);
    let task = tokio::spawn(refresh_keys(keys.clone(), source, HOUR, HOUR, shutdown.clone()));
    let first = fetches.recv().await.unwrap();
    let second = fetches.recv().await.unwrap();
    let third = fetches.recv().await.unwrap();
    assert!(second - first >= Duration::from_millis(200) && third - second >= Duration::from_millis(400));
    shutdown.cancel();
    task.await.unwrap();
    assert!(!keys.is_empty());
}

#[tokio::test]
async fn an_unknown_key_is_fetched_but_not_at_the_will_of_callers() {
    let (old, new) = (TokenMint::new(), TokenMint::new());
    let (keys, shutdown, gap) = (old.key_set(), CancellationToken::new(), Duration::from_millis(100));
    let verifier = TokenVerifier::new(
        VerifierConfig::new(TEST_ISSUER, TEST_AUDIENCE),
        keys.clone(),
        Arc::new(crate::clock::SystemClock),
    );
    let (source, mut fetches) = source(&new, 1);
    tokio::spawn(refresh_keys(keys.clone(), source, HOUR, gap, shutdown.clone()));
    // The first fetch fails: the old keys stay.
    let mut last = fetches.recv().await.unwrap();
    assert!(verifier.verify(&old.token(USER, Role::Attendee)).is_ok());
    for _ in 0..3 {
        for _ in 0..100 {
            let made_up =
                old.token_with(USER, Role::Attendee, |_| {}, |h| h.kid = Some("made-up".to_owned()));
            assert_eq!(verifier.verify(&made_up), Err(TokenError::Invalid));
        }
        let next = fetches.recv().await.unwrap();
        assert!(next - last >= gap, "{:?}", next - last);
        last = next;
    }
    assert!(verifier.verify(&new.token(USER, Role::Attendee)).is_ok());
    assert!(fetches.try_recv().is_err());
    shutdown.cancel();
}
