//! What the rpcs about accounts do, free of gRPC and of SQL: the order of the steps, and what each failure
//! means.

mod admin;
mod attempts;
mod change_password;
mod client_secret;
mod delete_user;
mod password_reset;
mod random_token;
mod service_accounts;
mod sessions;
mod sign_in;
mod sign_up;
mod users;

use std::time::Duration;

use service_core::pace::Pace;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::{Act, Backoff, Error, Result, SessionLifetimes};
use crate::hashing::{HashError, PasswordHasher};
use crate::signing::AccessTokens;
use crate::sources::{NoEntropy, Sources};

pub use admin::{AdminCreated, NewAdmin, create_admin};
pub use change_password::ChangePassword;
pub use random_token::{ClientSecret, RefreshToken, ResetToken};
pub use service_accounts::{ServiceSignIn, create_first_service_account, take_back_first_service_account};
pub use sessions::SessionTokens;
pub use sign_in::SignIn;
pub use sign_up::SignUp;

/// How failed sign-ins slow the next ones down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignInLimits {
    /// For one account, from wherever.
    pub account: Backoff,
    /// For one client address, whatever the account. `None`: not counted.
    pub address: Option<Backoff>,
}

/// Accounts, and what their operations need.
pub struct Accounts {
    /// The database.
    pub pool: PgPool,
    /// Hashes passwords.
    pub hasher: PasswordHasher,
    /// Issues access tokens.
    pub tokens: AccessTokens,
    /// How long sessions live.
    pub sessions: SessionLifetimes,
    /// How long a token lives that replaces a password.
    pub reset_lifetime: Duration,
    /// How failed sign-ins slow the next ones down.
    pub limits: SignInLimits,
    /// How often each user is given tokens.
    pub pace: Pace<Uuid>,
    /// Time, ids and randomness.
    pub sources: Sources,
}

impl Accounts {
    /// The present in microseconds, as PostgreSQL keeps it: what is told now is what is read later.
    fn now(&self) -> OffsetDateTime {
        let now = self.sources.clock.now();
        now.replace_nanosecond(now.microsecond() * 1_000).unwrap_or(now)
    }

    /// Counts that this user is given tokens, or a new password: each time leaves rows.
    fn at_their_pace(&self, user_id: Uuid) -> Result<()> {
        self.pace.take(&user_id).map_err(|retry_after| Error::RateLimited { retry_after })
    }

    /// Something that is done now; `actor_id` as in [`Act`].
    fn act(&self, actor_id: Option<Uuid>) -> Act {
        Act { entry_id: self.sources.ids.new_id(), actor_id, time: self.now() }
    }
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts")
            .field("hasher", &self.hasher)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl From<HashError> for Error {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Overloaded => Self::Overloaded,
            HashError::Failed(_) => Self::internal(error),
        }
    }
}

impl From<NoEntropy> for Error {
    fn from(error: NoEntropy) -> Self {
        Self::internal(error)
    }
}
