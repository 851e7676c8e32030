//! SQL, and nothing but SQL. A function is one statement or one small transaction, named after what it does;
//! none decides anything that is a rule.

mod failures;
mod revocations;
mod service_accounts;
mod sessions;
mod sweep;
mod users;

pub use failures::{FailureKey, blocked_until, count_failure};
pub use revocations::{Look, StoredRevocation, look};
pub use service_accounts::{
    AdminAct, NewSecret, create_service_account, delete_service_account, forget_failures, rotate_secret,
    service_account_by_client_id, service_accounts, service_token_stands, user_token_stands,
};
pub use sessions::{NewSession, begin_session};
pub use sweep::{Swept, sweep};
pub use users::{
    Credentials, create_user, credentials_by_email, replace_password_hash, reset_to_admin, user_by_id,
};

use service_core::database::{TxError, unavailable};

use crate::domain::Error;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if unavailable(&error) {
            Self::DatabaseUnavailable(error.into())
        } else {
            Self::Internal(error.into())
        }
    }
}

impl TxError for Error {
    fn database(&self) -> Option<&sqlx::Error> {
        match self {
            Self::DatabaseUnavailable(cause) | Self::Internal(cause) => cause.downcast_ref(),
            Self::Invalid(_)
            | Self::EmailTaken
            | Self::CredentialsInvalid
            | Self::ClientInvalid
            | Self::ServiceAccountNotFound { .. }
            | Self::PageTokenInvalid(_)
            | Self::TooManyAttempts { .. }
            | Self::TokenRevoked
            | Self::MethodUnimplemented { .. }
            | Self::Overloaded
            | Self::CommitUnknown => None,
        }
    }

    fn commit_unknown() -> Self {
        Self::CommitUnknown
    }
}
