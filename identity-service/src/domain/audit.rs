//! What is written down about accounts, for ever.
//!
//! The rule: whatever begins or ends somebody's access, or changes what they may do, leaves an entry, written by the
//! transaction that does it. Failed sign-ins are counted, not written down one by one, so that strangers cannot fill the
//! table: what is written down is each pause that they lead to. A refresh that goes well leaves no entry: it happens every few
//! minutes, and the session tells when it was used last.

use time::OffsetDateTime;
use uuid::Uuid;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditAction {
    /// A session began.
    SignedIn,
    /// So many attempts failed that no further one is judged for a while.
    SignInPaused,
    /// A session was ended by whoever held one of its refresh tokens.
    SignedOut,
    /// A refresh token came a second time, and its session was ended.
    RefreshTokenReused,
    /// A session was ended by its user.
    SessionRevoked,
    /// All sessions were ended by an admin.
    SessionsRevoked,
    /// The password was changed by its user, and all other sessions were ended.
    PasswordChanged,
    /// A token that replaces a password was made by an admin.
    PasswordResetCreated,
    /// The password was replaced by whoever held such a token, and all sessions were ended.
    PasswordReset,
    /// Role, activity or name were changed by an admin.
    UserUpdated,
    /// A user was deleted, by themselves or by an admin.
    UserDeleted,
    /// An admin was made on the command line.
    AdminCreated,
    /// A user was made an admin with a new password on the command line.
    AdminReset,
    /// A service account was made.
    ServiceAccountCreated,
    /// A service account got a new secret.
    ServiceAccountSecretRotated,
    /// A service account was removed.
    ServiceAccountDeleted,
}

impl AuditAction {
    /// The word that is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SignedIn => "signed_in",
            Self::SignInPaused => "sign_in_paused",
            Self::SignedOut => "signed_out",
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::SessionRevoked => "session_revoked",
            Self::SessionsRevoked => "sessions_revoked",
            Self::PasswordChanged => "password_changed",
            Self::PasswordResetCreated => "password_reset_created",
            Self::PasswordReset => "password_reset",
            Self::UserDeleted => "user_deleted",
            Self::UserUpdated => "user_updated",
            Self::AdminCreated => "admin_created",
            Self::AdminReset => "admin_reset",
            Self::ServiceAccountCreated => "service_account_created",
            Self::ServiceAccountSecretRotated => "service_account_secret_rotated",
            Self::ServiceAccountDeleted => "service_account_deleted",
        }
    }
}

/// Who acts, when, and under which id it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// The id of the entry, made by the service.
    pub entry_id: Uuid,
    /// Who acts; `None`: nobody who is signed in, or the command line.
    pub actor_id: Option<Uuid>,
    /// The present.
    pub time: OffsetDateTime,
}
