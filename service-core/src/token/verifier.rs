//! Verifying an access token.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use time::OffsetDateTime;
use tonic::Code;
use uuid::Uuid;

use super::keys::KeySet;
use super::revocations::KnownRevocations;
use super::verified::VerifiedTokens;
use super::{ACCESS_TOKEN_TYP, Claims};
use crate::auth::Principal;
use crate::clock::Clock;
use crate::digest::sha256;
use crate::status::{Failure, reason};

/// What is missing is tried for again and again; it comes when identity-service does.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Malformed, badly signed, of an unknown key, of another kind, not valid yet, or for somebody else.
    #[error("the access token is not valid")]
    Invalid,
    /// It was good once.
    #[error("the access token has expired")]
    Expired,
    /// It was withdrawn before its time.
    #[error("the access token has been revoked")]
    Revoked,
    /// It may be good: the issuer's keys have not been fetched yet.
    #[error("access tokens cannot be checked yet")]
    NoKeys,
    /// It was good once; whether it was revoked since is not known.
    #[error("access tokens cannot be checked now")]
    RevocationsUnknown,
}

impl TokenError {
    /// As the client of a service sees it; `domain` such as `booking.rowlock`.
    #[must_use]
    pub fn failure(self, domain: &'static str) -> Failure {
        let (code, why) = match self {
            Self::Invalid => (Code::Unauthenticated, reason::TOKEN_INVALID),
            Self::Expired => (Code::Unauthenticated, reason::TOKEN_EXPIRED),
            Self::Revoked => (Code::Unauthenticated, reason::TOKEN_REVOKED),
            Self::NoKeys | Self::RevocationsUnknown => (Code::Unavailable, reason::IDENTITY_UNAVAILABLE),
        };
        let failure = Failure::new(code, domain, why, self.to_string());
        if code == Code::Unavailable { failure.push_back(RETRY_AFTER) } else { failure }
    }
}

/// What a verifier accepts.
#[derive(Clone, Debug)]
pub struct VerifierConfig {
    /// The `iss` that tokens must have.
    pub issuer: String,
    /// The `aud` that tokens must have.
    pub audience: String,
    /// The algorithms that tokens may be signed with. Symmetric ones are never accepted.
    pub algorithms: Vec<Algorithm>,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
    /// How many verified tokens are remembered.
    pub remembered_tokens: usize,
}

impl VerifierConfig {
    /// ES256, a leeway of 5 seconds, 10,000 remembered tokens.
    #[must_use]
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            algorithms: vec![Algorithm::ES256],
            leeway: Duration::from_secs(5),
            remembered_tokens: 10_000,
        }
    }
}

/// Verifies access tokens, offline and without I/O.
pub struct TokenVerifier {
    config: VerifierConfig,
    keys: Arc<KeySet>,
    clock: Arc<dyn Clock>,
    revocations: Option<Arc<KnownRevocations>>,
    remembered: VerifiedTokens,
}

impl TokenVerifier {
    /// A verifier of tokens that are signed with one of `keys`.
    #[must_use]
    pub fn new(config: VerifierConfig, keys: Arc<KeySet>, clock: Arc<dyn Clock>) -> Self {
        let remembered = VerifiedTokens::new(config.remembered_tokens);
        Self { config, keys, clock, revocations: None, remembered }
    }

    /// Also asks `revocations` about every token, remembered or not.
    #[must_use]
    pub fn with_revocations(mut self, revocations: Arc<KnownRevocations>) -> Self {
        self.revocations = Some(revocations);
        self
    }

    /// Who holds `token`.
    ///
    /// # Errors
    /// [`TokenError`]. Of what is wrong with an invalid token nothing is told.
    pub fn verify(&self, token: &str) -> Result<Principal, TokenError> {
        let now = self.clock.now();
        let digest = sha256(&[token.as_bytes()]);
        // Read before the keys: if they change in between, what is remembered is verified again.
        let generation = self.keys.generation();
        let principal = match self.remembered.find(&digest, generation, now) {
            Some(principal) => {
                metrics::counter!("token_verifications_total", "outcome" => "remembered").increment(1);
                principal
            }
            None => {
                metrics::counter!("token_verifications_total", "outcome" => "checked").increment(1);
                let principal = self.check(token, now)?;
                self.remembered.remember(digest, generation, now, principal.clone());
                principal
            }
        };
        if let Some(revocations) = &self.revocations {
            revocations.judge(&principal)?;
        }
        Ok(principal)
    }

    #[cfg(all(test, feature = "test-support"))]
    pub(super) fn remembered(&self) -> usize {
        self.remembered.len()
    }

    fn check(&self, token: &str, now: OffsetDateTime) -> Result<Principal, TokenError> {
        let claims = self.signed_claims(token)?;
        self.in_time(&claims, now)?;
        principal(&claims).ok_or(TokenError::Invalid)
    }

    /// The claims, if the header is acceptable, the signature is good and issuer and audience are right. Of the header
    /// only `alg`, `typ`, `kid` and `crit` are read: a key or a URL that a token brings along is never used.
    fn signed_claims(&self, token: &str) -> Result<Claims, TokenError> {
        let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
        let typ = header.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
        if typ.strip_prefix("application/").unwrap_or(&typ) != ACCESS_TOKEN_TYP
            || names_critical_fields(token)
        {
            return Err(TokenError::Invalid);
        }
        if !self.config.algorithms.contains(&header.alg) {
            return Err(TokenError::Invalid);
        }
        let kid = header.kid.as_deref().unwrap_or_default();
        let Some(public) = self.keys.find(kid) else {
            self.keys.unknown_kid.notify_one();
            return Err(if self.keys.is_empty() { TokenError::NoKeys } else { TokenError::Invalid });
        };
        // The key says what it is for: a token that claims another algorithm is refused.
        let mut validation = Validation::new(public.algorithm);
        // Time is judged by our own clock, see `in_time`.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        decode(token, &public.key, &validation).map(|data| data.claims).map_err(|_| TokenError::Invalid)
    }

    fn in_time(&self, claims: &Claims, now: OffsetDateTime) -> Result<(), TokenError> {
        if now >= instant(claims.exp)?.saturating_add(self.leeway()) {
            return Err(TokenError::Expired);
        }
        let latest = now.saturating_add(self.leeway());
        if instant(claims.nbf)? > latest || instant(claims.iat)? > latest {
            return Err(TokenError::Invalid);
        }
        Ok(())
    }

    fn leeway(&self) -> time::Duration {
        time::Duration::try_from(self.config.leeway).unwrap_or(time::Duration::ZERO)
    }
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenVerifier")
            .field("config", &self.config)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

/// Whether the header has a `crit` of any kind. The library takes `null` for none.
fn names_critical_fields(token: &str) -> bool {
    let header = token.split('.').next().unwrap_or_default();
    let header = URL_SAFE_NO_PAD.decode(header).ok().and_then(|json| serde_json::from_slice(&json).ok());
    header.is_none_or(|header: serde_json::Value| header.get("crit").is_some())
}

fn instant(seconds: i64) -> Result<OffsetDateTime, TokenError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| TokenError::Invalid)
}

fn principal(claims: &Claims) -> Option<Principal> {
    Some(Principal {
        user_id: Uuid::try_parse(&claims.sub).ok()?,
        role: claims.role.parse().ok()?,
        session_id: match &claims.sid {
            Some(sid) => Some(Uuid::try_parse(sid).ok()?),
            None => None,
        },
        session_version: claims.sv,
        expires: instant(claims.exp).ok()?,
    })
}
