//! The one place where an error becomes a status.

use std::time::Duration;

use rowlock_proto::identity::v1::ErrorReason;
use service_core::auth::NoPrincipal;
use service_core::status::Failure;
use service_core::stream_end::StreamEnded;
use service_core::token::TokenError;
use tonic::{Code, Status};

use crate::domain::Error;

/// The domain of this service's error reasons.
pub const DOMAIN: &str = "identity.rowlock";

/// When to come back after a refusal for load: the queue of hashes empties in a few seconds.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);
/// When to come back while the database is away.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        failure(error).into()
    }
}

/// How a client sees the end of a stream.
pub(super) fn ended(ended: StreamEnded) -> Status {
    ended.failure(DOMAIN).into()
}

/// How a client sees `error`. The causes of failures that are ours are logged here, and told to nobody.
fn failure(error: Error) -> Failure {
    let new = |code, reason: ErrorReason, message: &str| Failure::new(code, DOMAIN, reason.reason(), message);
    match error {
        Error::Invalid(invalid) => {
            new(Code::InvalidArgument, ErrorReason::ValidationFailed, &invalid.to_string())
                .violations(invalid.0)
        }
        Error::PageTokenInvalid(cause) => {
            new(Code::InvalidArgument, ErrorReason::PageTokenInvalid, &cause.to_string())
        }
        Error::RefreshTokenInvalid => {
            new(Code::Unauthenticated, ErrorReason::RefreshTokenInvalid, "the refresh token is not valid")
        }
        Error::PasswordResetInvalid => {
            new(Code::Unauthenticated, ErrorReason::PasswordResetInvalid, "the reset token is not valid")
        }
        Error::UserNotFound { user_id } => {
            new(Code::NotFound, ErrorReason::UserNotFound, &format!("user {user_id} does not exist"))
                .with("user_id", user_id)
        }
        Error::SessionNotFound { session_id } => {
            new(Code::NotFound, ErrorReason::SessionNotFound, &format!("session {session_id} does not exist"))
                .with("session_id", session_id)
        }
        Error::EtagMismatch { user_id, etag } => new(
            Code::Aborted,
            ErrorReason::EtagMismatch,
            &format!("user {user_id} has changed since it was read"),
        )
        .with("user_id", user_id)
        .with("etag", etag),
        Error::LastAdmin { user_id } => new(
            Code::FailedPrecondition,
            ErrorReason::LastAdmin,
            &format!("user {user_id} is the last active admin"),
        )
        .with("user_id", user_id),
        Error::EmailTaken => {
            new(Code::AlreadyExists, ErrorReason::EmailTaken, "a user with this e-mail address exists")
        }
        Error::CredentialsInvalid => {
            new(Code::Unauthenticated, ErrorReason::CredentialsInvalid, "e-mail address or password is wrong")
        }
        Error::ClientInvalid => {
            new(Code::Unauthenticated, ErrorReason::CredentialsInvalid, "client id or client secret is wrong")
        }
        Error::ServiceAccountNotFound { id } => new(
            Code::NotFound,
            ErrorReason::ServiceAccountNotFound,
            &format!("service account {id} does not exist"),
        )
        .with("service_account_id", id.to_string()),
        Error::TooManyAttempts { retry_after } => {
            metrics::counter!("sign_ins_paused_total").increment(1);
            new(Code::ResourceExhausted, ErrorReason::TooManyAttempts, "too many failed attempts")
                .stop(retry_after)
        }
        Error::RateLimited { retry_after } => {
            metrics::counter!("grpc_rate_limited_total").increment(1);
            new(Code::ResourceExhausted, ErrorReason::RateLimited, "too many tokens for this user")
                .push_back(retry_after)
        }
        Error::TokenRevoked => TokenError::Revoked.failure(DOMAIN),
        Error::Overloaded => {
            new(Code::ResourceExhausted, ErrorReason::Overloaded, "too many passwords to check at once")
                .push_back(OVERLOAD_PAUSE)
        }
        Error::DatabaseUnavailable(cause) => {
            tracing::warn!(%cause, "the database is unavailable");
            new(Code::Unavailable, ErrorReason::DatabaseUnavailable, "the database cannot be reached")
                .retry_after(DATABASE_PAUSE)
        }
        Error::StatementTimedOut(cause) => {
            tracing::warn!(%cause, "a query took too long");
            let message = "the deadline passed before the answer was ready";
            new(Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, message)
        }
        Error::CommitUnknown => {
            tracing::warn!("the database was lost at COMMIT: the outcome is unknown");
            new(
                Code::Unavailable,
                ErrorReason::DatabaseUnavailable,
                "the database was lost before it answered: the outcome is unknown",
            )
            .retry_after(DATABASE_PAUSE)
        }
        Error::Internal(cause) => {
            tracing::error!(%cause, "internal error");
            internal()
        }
    }
}

/// A handler of a method for callers with a token met a call without one: the access table and the handler
/// disagree.
pub(super) fn no_principal(bug: NoPrincipal) -> Status {
    tracing::error!(cause = %bug, "internal error");
    internal().into()
}

fn internal() -> Failure {
    Failure::new(
        Code::Internal,
        DOMAIN,
        ErrorReason::InternalError.reason(),
        "something went wrong on our side",
    )
}

#[cfg(test)]
mod tests {
    use service_core::page::PageTokenInvalid;
    use service_core::status::PUSHBACK;
    use service_core::validation::Violations;
    use tonic_types::StatusExt;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn every_error_has_a_code_a_reason_and_no_word_of_its_cause() {
        let cause = || "SELECT secret FROM /etc/passwd".into();
        let invalid = || {
            let mut violations = Violations::default();
            violations.add("email", "is required");
            violations.finish().unwrap_err()
        };
        let retry_after = Duration::from_secs(8);
        let id = Uuid::from_u128(1);
        for (error, code, reason, retries) in [
            (Error::Invalid(invalid()), Code::InvalidArgument, "VALIDATION_FAILED", false),
            (Error::PageTokenInvalid(PageTokenInvalid), Code::InvalidArgument, "PAGE_TOKEN_INVALID", false),
            (Error::RefreshTokenInvalid, Code::Unauthenticated, "REFRESH_TOKEN_INVALID", false),
            (Error::PasswordResetInvalid, Code::Unauthenticated, "PASSWORD_RESET_INVALID", false),
            (Error::UserNotFound { user_id: id }, Code::NotFound, "USER_NOT_FOUND", false),
            (Error::SessionNotFound { session_id: id }, Code::NotFound, "SESSION_NOT_FOUND", false),
            (Error::EtagMismatch { user_id: id, etag: "7".into() }, Code::Aborted, "ETAG_MISMATCH", false),
            (Error::LastAdmin { user_id: id }, Code::FailedPrecondition, "LAST_ADMIN", false),
            (Error::EmailTaken, Code::AlreadyExists, "EMAIL_TAKEN", false),
            (Error::CredentialsInvalid, Code::Unauthenticated, "CREDENTIALS_INVALID", false),
            (Error::ClientInvalid, Code::Unauthenticated, "CREDENTIALS_INVALID", false),
            (
                Error::ServiceAccountNotFound { id: uuid::Uuid::nil() },
                Code::NotFound,
                "SERVICE_ACCOUNT_NOT_FOUND",
                false,
            ),
            (Error::TooManyAttempts { retry_after }, Code::ResourceExhausted, "TOO_MANY_ATTEMPTS", true),
            (Error::RateLimited { retry_after }, Code::ResourceExhausted, "RATE_LIMITED", true),
            (Error::TokenRevoked, Code::Unauthenticated, "TOKEN_REVOKED", false),
            (Error::Overloaded, Code::ResourceExhausted, "OVERLOADED", true),
            (Error::DatabaseUnavailable(cause()), Code::Unavailable, "DATABASE_UNAVAILABLE", true),
            (Error::CommitUnknown, Code::Unavailable, "DATABASE_UNAVAILABLE", true),
            (Error::Internal(cause()), Code::Internal, "INTERNAL_ERROR", false),
        ] {
            let status = Status::from(error);
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, DOMAIN));
            assert_eq!(details.retry_info().is_some(), retries, "{reason}");
            let pushback = status.metadata().get(PUSHBACK).map(|pause| pause.to_str().unwrap());
            match reason {
                "OVERLOADED" | "RATE_LIMITED" => {
                    assert!(pushback.unwrap().parse::<u32>().is_ok(), "{reason}");
                }
                "TOO_MANY_ATTEMPTS" => assert_eq!(pushback, Some("-1")),
                _ => assert_eq!(pushback, None, "{reason}"),
            }
            assert_eq!(details.bad_request().is_some(), reason == "VALIDATION_FAILED");
            assert!(!format!("{status:?}").contains("SELECT"), "{status:?}");
        }
    }
}
