//! SQL, and nothing but SQL. A function is one statement or one small transaction, named after what it does;
//! none decides anything that is a rule.

mod audit;
mod failures;
mod password_resets;
mod refresh_tokens;
mod revocations;
mod service_accounts;
mod sessions;
mod sweep;
mod user_changes;
mod user_deletion;
mod users;

pub use failures::{Attempt, FailureKey, blocked_until, count_failure};
pub use password_resets::{
    NewPasswordReset, PasswordReset, create_password_reset, reset_holder, reset_password,
};
pub use refresh_tokens::{Owner, Rotated, Rotation, owner, rotate_refresh_token, sign_out};
pub use revocations::{Look, StoredRevocation, look};
pub use service_accounts::{
    NewSecret, create_service_account, delete_service_account, forget_failures, note_secret_use,
    rotate_secret, service_account_by_client_id, service_accounts, service_token_stands, user_token_stands,
};
pub use sessions::{NewSession, begin_session, live_sessions, revoke_session, revoke_user_sessions};
pub use sweep::{Swept, sweep};
pub use user_changes::{PasswordChange, change_password, replace_password_hash, reset_to_admin, update_user};
pub use user_deletion::{Deleted, UserDeletion, delete_user};
pub use users::{
    Credentials, UserFilter, create_user, credentials_by_email, credentials_by_id, user_by_id, users,
    users_by_ids,
};

use service_core::database::{TxError, overwhelmed, timed_out, unavailable};

use crate::domain::Error;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if unavailable(&error) || overwhelmed(&error) {
            Self::DatabaseUnavailable(error.into())
        } else if timed_out(&error) {
            Self::StatementTimedOut(error.into())
        } else {
            Self::Internal(error.into())
        }
    }
}

impl TxError for Error {
    fn database(&self) -> Option<&sqlx::Error> {
        match self {
            Self::DatabaseUnavailable(cause) | Self::StatementTimedOut(cause) | Self::Internal(cause) => {
                cause.downcast_ref()
            }
            Self::Invalid(_)
            | Self::PageTokenInvalid(_)
            | Self::RefreshTokenInvalid
            | Self::PasswordResetInvalid
            | Self::UserNotFound { .. }
            | Self::SessionNotFound { .. }
            | Self::EtagMismatch { .. }
            | Self::LastAdmin { .. }
            | Self::EmailTaken
            | Self::CredentialsInvalid
            | Self::ClientInvalid
            | Self::ServiceAccountNotFound { .. }
            | Self::TooManyAttempts { .. }
            | Self::RateLimited { .. }
            | Self::TokenRevoked
            | Self::Overloaded
            | Self::CommitUnknown => None,
        }
    }

    fn commit_unknown() -> Self {
        Self::CommitUnknown
    }
}
