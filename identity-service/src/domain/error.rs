//! Everything that can go wrong, once. How a client sees it is decided in `grpc/error.rs` and nowhere else.

use std::time::Duration;

use service_core::page::PageTokenInvalid;
use service_core::validation::Invalid;
use uuid::Uuid;

/// A result of this service.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks rules.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The page token is not of this list.
    #[error(transparent)]
    PageTokenInvalid(#[from] PageTokenInvalid),
    /// Another account has this address.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// The address is unknown, the password wrong, or the user deactivated. Which of them is nobody's
    /// business.
    #[error("the credentials are invalid")]
    CredentialsInvalid,
    /// The client id is unknown or the secret wrong. Which of them is nobody's business.
    #[error("the client credentials are invalid")]
    ClientInvalid,
    /// There is no such service account.
    #[error("service account {id} does not exist")]
    ServiceAccountNotFound {
        /// The id that was asked for.
        id: Uuid,
    },
    /// The refresh token is unknown, lapsed or used up, or its session has ended. Which of them is not told.
    #[error("the refresh token is invalid")]
    RefreshTokenInvalid,
    /// The token that was to replace a password is unknown, lapsed or used up, or its user is not active. Which of them is
    /// not told.
    #[error("the reset token is invalid")]
    PasswordResetInvalid,
    /// There is no such user.
    #[error("user {user_id} does not exist")]
    UserNotFound {
        /// Who was asked for.
        user_id: Uuid,
    },
    /// The caller has no such session.
    #[error("session {session_id} does not exist")]
    SessionNotFound {
        /// What was asked for.
        session_id: Uuid,
    },
    /// The user was changed since it was read.
    #[error("user {user_id} has changed")]
    EtagMismatch {
        /// Who was to be changed.
        user_id: Uuid,
        /// The present etag.
        etag: String,
    },
    /// Nobody would be left who may make admins.
    #[error("user {user_id} is the last active admin")]
    LastAdmin {
        /// Who was to be demoted, deactivated or deleted.
        user_id: Uuid,
    },
    /// There were too many failed attempts for this account or from this address.
    #[error("too many failed attempts")]
    TooManyAttempts {
        /// When the next attempt is judged.
        retry_after: Duration,
    },
    /// This user is given tokens too often.
    #[error("too many tokens for one user")]
    RateLimited {
        /// When there is the next one.
        retry_after: Duration,
    },
    /// The token is genuine, but its user is gone or deactivated.
    #[error("the token was revoked")]
    TokenRevoked,
    /// More work is waiting than can be done in time.
    #[error("too much work is waiting")]
    Overloaded,
    /// The database cannot be reached, or was lost before an answer.
    #[error("the database is unavailable")]
    DatabaseUnavailable(#[source] Cause),
    /// A statement took longer than it may.
    #[error("a statement took too long")]
    StatementTimedOut(#[source] Cause),
    /// The connection was lost while a transaction committed: whether it did is not known.
    #[error("the outcome of the transaction is unknown")]
    CommitUnknown,
    /// A bug, or a failure that nobody foresaw. The cause is logged and not told.
    #[error("internal error")]
    Internal(#[source] Cause),
}

/// Where an error came from; for the log.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Error {
    /// An error that should not happen.
    pub fn internal(cause: impl Into<Cause>) -> Self {
        Self::Internal(cause.into())
    }
}
