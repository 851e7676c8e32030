//! All keys of this service, in memory.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, Header, encode};
use service_core::secret::Secret;
use service_core::token::{ACCESS_TOKEN_TYP, Claims};

use super::SigningKey;

/// The key that signs, and the public halves of all.
pub struct KeyRing {
    signing: SigningKey,
    algorithms: Vec<Algorithm>,
    jwks_json: String,
    etag: String,
}

impl KeyRing {
    /// A ring that signs with `signing` and publishes it together with `others`.
    ///
    /// # Errors
    /// If the keys cannot be written as JSON, which would be a bug.
    pub fn new(signing: SigningKey, others: &[SigningKey]) -> Result<Self, serde_json::Error> {
        let mut algorithms = Vec::new();
        for algorithm in std::iter::once(&signing).chain(others).map(|key| key.algorithm().jwt()) {
            if !algorithms.contains(&algorithm) {
                algorithms.push(algorithm);
            }
        }
        let mut keys: Vec<_> =
            others.iter().chain(std::iter::once(&signing)).map(|key| key.public().clone()).collect();
        // In an order of their own, so that every replica publishes the same text.
        keys.sort_by(|a, b| a.common.key_id.cmp(&b.common.key_id));
        let jwks_json = serde_json::to_string(&JwkSet { keys })?;
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest(&SHA256, jwks_json.as_bytes())));
        Ok(Self { signing, algorithms, jwks_json, etag })
    }

    /// The id of the key that signs.
    #[must_use]
    pub fn signing_kid(&self) -> &str {
        self.signing.kid()
    }

    /// What tokens may be signed with: the algorithms of all keys, that of the signing key first.
    #[must_use]
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// The JSON Web Key Set (RFC 7517) of all public keys.
    #[must_use]
    pub fn jwks_json(&self) -> &str {
        &self.jwks_json
    }

    /// Names this version of the key set, quoted as HTTP has it.
    #[must_use]
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Signs an access token.
    ///
    /// # Errors
    /// If the cryptography library fails.
    pub fn sign(&self, claims: &Claims) -> Result<Secret, jsonwebtoken::errors::Error> {
        let mut header = Header::new(self.signing.algorithm().jwt());
        header.typ = Some(ACCESS_TOKEN_TYP.to_owned());
        header.kid = Some(self.signing.kid().to_owned());
        encode(&header, claims, self.signing.private()).map(Secret::new)
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing").field("signing", &self.signing).finish_non_exhaustive()
    }
}
