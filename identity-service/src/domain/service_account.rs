//! Service accounts: what other backends sign in with.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

/// The longest that an old secret may go on working beside a new one.
pub const LONGEST_OVERLAP: Duration = Duration::from_secs(30 * 86_400);

/// A service account, as stored. The digests of its secrets are not part of it.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// The id; the `sub` claim.
    pub id: Uuid,
    /// What the backend names itself by.
    pub client_id: String,
    /// What the account is for, 1 to 100 characters.
    pub display_name: String,
    /// The `sv` claim: tokens with a lower number are void.
    pub session_version: i64,
    /// When it was made.
    pub create_time: OffsetDateTime,
    /// When its present secret was made.
    pub secret_create_time: OffsetDateTime,
    /// Until when the secret before works too.
    pub old_secret_expire_time: Option<OffsetDateTime>,
}

/// The digests of the secrets of a service account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretDigests {
    /// Of the present secret.
    pub present: [u8; 32],
    /// Of the one before, and until when it works.
    pub old: Option<([u8; 32], OffsetDateTime)>,
}

/// A service account that is about to be stored.
#[derive(Clone, Debug)]
pub struct NewServiceAccount {
    /// The id, made by the service.
    pub id: Uuid,
    /// What the backend will name itself by.
    pub client_id: String,
    /// What the account is for.
    pub display_name: String,
    /// The digest of its secret.
    pub secret_hash: [u8; 32],
}
