//! The public keys of the issuer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use tokio::sync::Notify;

/// Far more than an issuer in the middle of a rotation publishes.
const MAX_KEYS: usize = 100;
/// The length of the modulus of the weakest RSA key that is accepted: 2048 bits.
const MIN_RSA_BYTES: usize = 256;

/// The text is no key set that can be used. The keys from before stay.
#[derive(Debug, thiserror::Error)]
pub enum JwksInvalid {
    /// It is not the JSON of a key set.
    #[error("not a JSON Web Key Set: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It holds more keys than any issuer needs.
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
    /// None of its keys can be used.
    #[error("the key set has no usable public key")]
    Empty,
    /// Two keys claim the same id.
    #[error("two keys have the id {0}")]
    Duplicate(String),
}

/// A key and the one algorithm that it is for.
#[derive(Clone)]
pub(super) struct PublicKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The public keys of the issuer, by their id. Read by every verification, replaced by [`super::refresh_keys`].
#[derive(Default)]
pub struct KeySet {
    keys: RwLock<HashMap<String, PublicKey>>,
    /// The set as it came, to tell a change from a repetition.
    source: RwLock<String>,
    generation: AtomicU64,
    /// Somebody asked for a key that is not here.
    pub(super) unknown_kid: Notify,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Without keys: every token is invalid.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all keys with those of a JSON Web Key Set. Symmetric keys, encryption keys, weak RSA keys and those of an
    /// unknown kind are passed over.
    ///
    /// # Errors
    /// [`JwksInvalid`] if nothing usable is left; the keys from before stay.
    pub fn replace_from_jwks(&self, jwks: &str) -> Result<(), JwksInvalid> {
        if *self.source.read().unwrap_or_else(PoisonError::into_inner) == jwks {
            return Ok(());
        }
        let parsed: Jwks = serde_json::from_str(jwks)?;
        if parsed.keys.len() > MAX_KEYS {
            return Err(JwksInvalid::TooMany);
        }
        let mut keys = HashMap::new();
        for value in parsed.keys {
            match usable(value) {
                Some((kid, _)) if keys.contains_key(&kid) => return Err(JwksInvalid::Duplicate(kid)),
                Some((kid, key)) => _ = keys.insert(kid, key),
                None => tracing::warn!("the key set has a key that cannot be used; it is passed over"),
            }
        }
        if keys.is_empty() {
            return Err(JwksInvalid::Empty);
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = jwks.to_owned();
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Whether there are no keys yet, so that no token can be verified.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Changes with every change of the keys: what was verified under another generation must be verified again.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn find(&self, kid: &str) -> Option<PublicKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(kid).cloned()
    }
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(keys.keys()).finish()
    }
}

/// The id and the key of an entry that may sign access tokens.
fn usable(mut value: serde_json::Value) -> Option<(String, PublicKey)> {
    // RFC 9864 renames EdDSA with this curve to Ed25519, which the JWT library does not know.
    if value.get("alg").is_some_and(|alg| alg == "Ed25519") {
        value.as_object_mut()?.insert("alg".to_owned(), "EdDSA".into());
    }
    let stated = value.get("alg").and_then(|alg| alg.as_str()).map(str::to_owned);
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P384 => Algorithm::ES384,
        AlgorithmParameters::OctetKeyPair(p) if p.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::RSA(p) if p.n.len() >= MIN_RSA_BYTES * 4 / 3 => match stated.as_deref() {
            None | Some("RS256") => Algorithm::RS256,
            Some("RS384") => Algorithm::RS384,
            Some("RS512") => Algorithm::RS512,
            Some("PS256") => Algorithm::PS256,
            Some(_) => return None,
        },
        _ => return None,
    };
    if stated.is_some_and(|alg| alg.parse() != Ok(algorithm)) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some((jwk.common.key_id.filter(|kid| !kid.is_empty())?, PublicKey { algorithm, key }))
}
