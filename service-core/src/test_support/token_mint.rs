//! Access tokens of a test's own making.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;
use uuid::Uuid;

use crate::auth::Role;
use crate::clock::{Clock, SystemClock};
use crate::token::{ACCESS_TOKEN_TYP, Claims, KeySet, TokenVerifier, VerifierConfig};

/// The issuer of the tokens of a [`TokenMint`].
pub const TEST_ISSUER: &str = "https://identity.rowlock.test";
/// The audience of the tokens of a [`TokenMint`].
pub const TEST_AUDIENCE: &str = "rowlock";

/// How long its tokens are valid, in seconds.
const LIFETIME: i64 = 300;

/// Signs access tokens with an ES256 key that is made at random.
pub struct TokenMint {
    key: EncodingKey,
    jwk: Jwk,
    kid: String,
    clock: Arc<dyn Clock>,
}

impl Default for TokenMint {
    fn default() -> Self {
        Self::new()
    }
}

impl TokenMint {
    /// A mint by the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Arc::new(SystemClock))
    }

    /// A mint by another clock.
    #[must_use]
    pub fn at(clock: Arc<dyn Clock>) -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        Self::of(EncodingKey::from_ec_der(pkcs8.expect("a P-256 key can be made").as_ref()), clock)
    }

    /// A mint with a service's own key, a P-256 key in PEM.
    #[must_use]
    pub fn with_key(pem: &[u8], clock: Arc<dyn Clock>) -> Self {
        Self::of(EncodingKey::from_ec_pem(pem).expect("it is the PEM of a P-256 key"), clock)
    }

    fn of(key: EncodingKey, clock: Arc<dyn Clock>) -> Self {
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("the key has a public half");
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).expect("the key has a thumbprint");
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Self { key, jwk, kid, clock }
    }

    /// The key set that its tokens are verified with, as an issuer publishes it.
    #[must_use]
    pub fn jwks_json(&self) -> String {
        serde_json::json!({ "keys": [self.jwk] }).to_string()
    }

    /// The same, loaded.
    #[must_use]
    pub fn key_set(&self) -> Arc<KeySet> {
        let keys = KeySet::new();
        keys.replace_from_jwks(&self.jwks_json()).expect("the key set is well-formed");
        Arc::new(keys)
    }

    /// A verifier of its tokens, by its clock.
    #[must_use]
    pub fn verifier(&self) -> Arc<TokenVerifier> {
        let config = VerifierConfig::new(TEST_ISSUER, TEST_AUDIENCE);
        Arc::new(TokenVerifier::new(config, self.key_set(), self.clock.clone()))
    }

    /// A valid token.
    #[must_use]
    pub fn token(&self, user_id: Uuid, role: Role) -> String {
        self.sign(&self.header(), &self.claims(user_id, role))
    }

    /// A token that is valid but for what is changed.
    #[must_use]
    pub fn token_with(
        &self,
        user_id: Uuid,
        role: Role,
        edit_claims: impl FnOnce(&mut Claims),
        edit_header: impl FnOnce(&mut Header),
    ) -> String {
        let (mut claims, mut header) = (self.claims(user_id, role), self.header());
        edit_claims(&mut claims);
        edit_header(&mut header);
        self.sign(&header, &claims)
    }

    /// The claims of a valid token.
    #[must_use]
    pub fn claims(&self, user_id: Uuid, role: Role) -> Claims {
        let now = self.clock.now().unix_timestamp();
        Claims {
            iss: TEST_ISSUER.to_owned(),
            sub: user_id.to_string(),
            aud: TEST_AUDIENCE.to_owned(),
            exp: now + LIFETIME,
            nbf: now,
            iat: now,
            jti: super::supervisor::random_word(),
            role: role.as_str().to_owned(),
            sid: None,
            sv: 1,
        }
    }

    /// The header of a valid token.
    #[must_use]
    pub fn header(&self) -> Header {
        Header {
            typ: Some(ACCESS_TOKEN_TYP.to_owned()),
            kid: Some(self.kid.clone()),
            ..Header::new(Algorithm::ES256)
        }
    }

    /// Signs whatever is given, for tokens that no issuer would make.
    ///
    /// # Panics
    /// If the header names another family of algorithms than ES256's.
    #[must_use]
    pub fn sign(&self, header: &Header, claims: &impl Serialize) -> String {
        encode(header, claims, &self.key).expect("the claims can be signed")
    }

    /// Signs a header and claims that need not even be JSON.
    #[must_use]
    pub fn sign_bytes(&self, header: &[u8], claims: &[u8]) -> String {
        self.sign_text(&format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims)))
    }

    /// Signs what stands before the last dot of a token.
    #[must_use]
    pub fn sign_text(&self, message: &str) -> String {
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, Algorithm::ES256);
        format!("{message}.{}", signature.expect("anything can be signed"))
    }
}

impl std::fmt::Debug for TokenMint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenMint").field("kid", &self.kid).finish_non_exhaustive()
    }
}
