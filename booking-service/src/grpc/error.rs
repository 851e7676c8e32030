//! The one place where a refusal or a failure becomes a status.

use std::time::Duration;

use rowlock_proto::booking::v1::ErrorReason;
use service_core::auth::NoPrincipal;
use service_core::database::{overwhelmed, timed_out, unavailable};
use service_core::page::PageTokenInvalid;
use service_core::status::Failure;
use service_core::stream_end::StreamEnded;
use service_core::validation::Invalid;
use time::format_description::well_known::Rfc3339;
use tonic::{Code, Status};

use crate::domain::refusal::Refusal;
use crate::seating::CommandError;
use crate::simulate::SimulationError;
use crate::store::StoreError;

/// The domain of every reason of this service.
pub const DOMAIN: &str = "booking.rowlock";

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The rules say no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The request does not fit its own description.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The page token is of another list.
    #[error(transparent)]
    PageToken(#[from] PageTokenInvalid),
    /// The command has no outcome.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A read failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A handler was reached without its caller: a bug.
    #[error(transparent)]
    NoPrincipal(#[from] NoPrincipal),
    /// A command came to something that its method cannot say: a bug.
    #[error("the outcome does not fit the call")]
    UnexpectedOutcome,
    /// A rehearsal cannot begin.
    #[error(transparent)]
    Simulation(#[from] SimulationError),
    /// The log does not reach back to a resume token.
    #[error("the change log no longer reaches back to this token")]
    ResumeTokenExpired,
    /// A stream has to end: with its token, or with its replica.
    #[error(transparent)]
    Ended(#[from] StreamEnded),
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        failure(error).into()
    }
}

fn failure(error: CallError) -> Failure {
    use ErrorReason as Reason;
    let fail = |code, reason: Reason, message: &str| Failure::new(code, DOMAIN, reason.reason(), message);
    let internal = || fail(Code::Internal, Reason::InternalError, "internal error");
    let database_unavailable = || {
        fail(Code::Unavailable, Reason::DatabaseUnavailable, "the database cannot be reached")
            .retry_after(Duration::from_secs(1))
    };
    let deadline_exceeded = || {
        let message = "the deadline passed before the answer was ready";
        fail(Code::DeadlineExceeded, Reason::DeadlineExceeded, message)
    };
    match error {
        CallError::Refused(refusal) | CallError::Command(CommandError::Refused(refusal)) => refused(refusal),
        CallError::Invalid(invalid) => refused(Refusal::Invalid(invalid.0)),
        CallError::PageToken(invalid) => {
            fail(Code::InvalidArgument, Reason::PageTokenInvalid, &invalid.to_string())
        }
        CallError::Command(CommandError::Overloaded) => {
            fail(Code::ResourceExhausted, Reason::Overloaded, "too many calls at once")
                .push_back(Duration::from_millis(200))
        }
        CallError::Command(CommandError::DeadlineExceeded) => deadline_exceeded(),
        CallError::Command(CommandError::DatabaseUnavailable) => database_unavailable(),
        CallError::Command(CommandError::OutcomeUnknown) => fail(
            Code::Unavailable,
            Reason::DatabaseUnavailable,
            "the outcome is unknown: the same call again tells it, with the same request_id if it has one",
        )
        .retry_after(Duration::from_secs(1)),
        CallError::Command(CommandError::ShuttingDown) => StreamEnded::Draining.failure(DOMAIN),
        CallError::Command(CommandError::Internal) => internal(),
        CallError::Store(error) => match &error {
            StoreError::Database(cause) if unavailable(cause) || overwhelmed(cause) => {
                tracing::warn!(%error, "the database cannot be used");
                database_unavailable()
            }
            StoreError::Database(cause) if timed_out(cause) => {
                tracing::warn!(%error, "a query took too long");
                deadline_exceeded()
            }
            StoreError::Database(_) | StoreError::Inconsistent { .. } => {
                tracing::error!(%error, "a query failed");
                internal()
            }
            StoreError::CommitUnknown => failure(CallError::Command(CommandError::OutcomeUnknown)),
        },
        CallError::NoPrincipal(_) | CallError::UnexpectedOutcome => {
            tracing::error!(%error, "a handler is wrong");
            internal()
        }
        CallError::Simulation(SimulationError::Running) => {
            fail(Code::FailedPrecondition, Reason::SimulationRunning, "a simulation is running")
        }
        CallError::ResumeTokenExpired => {
            fail(Code::OutOfRange, Reason::ResumeTokenExpired, &error.to_string())
        }
        CallError::Ended(ended) => ended.failure(DOMAIN),
    }
}

fn refused(refusal: Refusal) -> Failure {
    use ErrorReason as Reason;
    let message = refusal.to_string();
    let fail = |code, reason: Reason| Failure::new(code, DOMAIN, reason.reason(), message.clone());
    match refusal {
        Refusal::Invalid(violations) => {
            let message = Invalid(violations.clone()).to_string();
            Failure::new(Code::InvalidArgument, DOMAIN, Reason::ValidationFailed.reason(), message)
                .violations(violations)
        }
        Refusal::RoleRequired { needed } => {
            fail(Code::PermissionDenied, Reason::RoleRequired).with("needed", needed)
        }
        Refusal::EventNotFound { event_id } => {
            fail(Code::NotFound, Reason::EventNotFound).with("event_id", event_id)
        }
        Refusal::RegistrationNotFound { registration_id } => {
            fail(Code::NotFound, Reason::RegistrationNotFound).with("registration_id", registration_id)
        }
        Refusal::EntryNotFound { entry_id } => {
            fail(Code::NotFound, Reason::WaitlistEntryNotFound).with("entry_id", entry_id)
        }
        Refusal::AlreadyRegistered { event_id, user_id, registration_id } => {
            fail(Code::AlreadyExists, Reason::AlreadyRegistered)
                .with("event_id", event_id)
                .with("user_id", user_id)
                .with("registration_id", registration_id)
        }
        Refusal::AlreadyWaitlisted { event_id, user_id, entry_id } => {
            fail(Code::AlreadyExists, Reason::AlreadyWaitlisted)
                .with("event_id", event_id)
                .with("user_id", user_id)
                .with("entry_id", entry_id)
        }
        Refusal::RequestIdReused { request_id } => {
            fail(Code::AlreadyExists, Reason::RequestIdReused).with("request_id", request_id)
        }
        Refusal::EventFull { event_id, seats, seats_remaining, waitlist_size } => {
            fail(Code::FailedPrecondition, Reason::EventFull)
                .with("event_id", event_id)
                .with("seats", seats)
                .with("seats_remaining", seats_remaining)
                .with("waitlist_size", waitlist_size)
        }
        Refusal::EventNotPublished { event_id } => {
            fail(Code::FailedPrecondition, Reason::EventNotPublished).with("event_id", event_id)
        }
        Refusal::EventCancelled { event_id } => {
            fail(Code::FailedPrecondition, Reason::EventCancelled).with("event_id", event_id)
        }
        Refusal::RegistrationClosed { event_id, opens, closes } => {
            let failure =
                fail(Code::FailedPrecondition, Reason::RegistrationClosed).with("event_id", event_id);
            let times = [("open_time", opens), ("close_time", Some(closes))];
            times.into_iter().fold(failure, |failure, (key, time)| {
                match time.and_then(|time| time.format(&Rfc3339).ok()) {
                    Some(time) => failure.with(key, time),
                    None => failure,
                }
            })
        }
        Refusal::SeatsAvailable { event_id, seats_remaining } => {
            fail(Code::FailedPrecondition, Reason::SeatsAvailable)
                .with("event_id", event_id)
                .with("seats_remaining", seats_remaining)
        }
        Refusal::HoldExpired { registration_id } => {
            fail(Code::FailedPrecondition, Reason::HoldExpired).with("registration_id", registration_id)
        }
        Refusal::OfferExpired { entry_id } => {
            fail(Code::FailedPrecondition, Reason::OfferExpired).with("entry_id", entry_id)
        }
        Refusal::RegistrationState { registration_id, state } => {
            fail(Code::FailedPrecondition, Reason::StateConflict)
                .with("registration_id", registration_id)
                .with("state", state.word())
        }
        Refusal::EntryState { entry_id, state } => fail(Code::FailedPrecondition, Reason::StateConflict)
            .with("entry_id", entry_id)
            .with("state", state.word()),
        Refusal::EventOver { event_id, .. } | Refusal::NotADraft { event_id } => {
            fail(Code::FailedPrecondition, Reason::StateConflict).with("event_id", event_id)
        }
        Refusal::CapacityBelowTaken { event_id, capacity, taken } => {
            fail(Code::FailedPrecondition, Reason::CapacityBelowTaken)
                .with("event_id", event_id)
                .with("capacity", capacity)
                .with("taken", taken)
        }
        Refusal::EtagMismatch { event_id, current } => {
            fail(Code::Aborted, Reason::EtagMismatch).with("event_id", event_id).with("etag", current)
        }
    }
}
