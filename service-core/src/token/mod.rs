//! Access tokens: what they say, how they are verified, and the keys that they are verified with.
//!
//! Verifying never does I/O. [`refresh_keys`] keeps the [`KeySet`] fresh beside it.

mod algorithms;
mod keys;
mod refresh;
mod revocations;
mod verified;
mod verifier;

use serde::{Deserialize, Serialize};

pub use algorithms::{NotAlgorithms, TokenAlgorithms};
pub use keys::{JwksInvalid, KeySet};
pub use refresh::{JwksSource, refresh_keys};
pub use revocations::{KnownRevocation, KnownRevocations, RevocationTarget};
pub use verifier::{TokenError, TokenVerifier, VerifierConfig};

/// The `typ` of an access token (RFC 9068).
pub const ACCESS_TOKEN_TYP: &str = "at+jwt";

/// The claims of an access token. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// The id of the user or service account, a UUID.
    pub sub: String,
    /// Whom it is for.
    pub aud: String,
    /// From when on it is no longer valid.
    pub exp: i64,
    /// From when on it is valid.
    pub nbf: i64,
    /// When it was issued.
    pub iat: i64,
    /// Its own id.
    pub jti: String,
    /// A word of [`crate::auth::Role`].
    pub role: String,
    /// The session that it came from; service accounts have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The version of the user's sessions when it was issued: raised to revoke all of them.
    pub sv: i64,
}

#[cfg(test)]
mod tests;
