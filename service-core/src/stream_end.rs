//! How streams end that would go on for ever: with their token, or with this replica.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::auth::Principal;
use crate::clock::Clock;
use crate::status::{Failure, reason};
use crate::token::{KnownRevocations, TokenError};

/// Another replica is there at once.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Why a stream had to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnded {
    /// The token that it was opened with is good no longer.
    #[error(transparent)]
    Token(TokenError),
    /// The replica is going away.
    #[error("this replica is shutting down")]
    Draining,
}

impl StreamEnded {
    /// As the client of a service sees it; `domain` such as `booking.rowlock`.
    #[must_use]
    pub fn failure(self, domain: &'static str) -> Failure {
        match self {
            Self::Token(error) => error.failure(domain),
            Self::Draining => {
                Failure::new(Code::Unavailable, domain, reason::SHUTTING_DOWN, self.to_string())
                    .retry_after(RETRY_AFTER)
            }
        }
    }
}

/// When a stream has to end, whatever there still is to say.
#[derive(Clone, Debug)]
pub struct StreamEnd {
    principal: Principal,
    token_ends: Instant,
    revocations: Arc<KnownRevocations>,
    draining: CancellationToken,
}

impl StreamEnd {
    /// For a stream that `principal` opens, at the time `now`.
    #[must_use]
    pub fn new(
        principal: &Principal,
        clock: &dyn Clock,
        revocations: Arc<KnownRevocations>,
        draining: CancellationToken,
    ) -> Self {
        let left = left(principal.expires, clock.now());
        Self { principal: principal.clone(), token_ends: Instant::now() + left, revocations, draining }
    }

    /// Why the stream ended. Does not return before it has to.
    pub async fn reached(&self) -> StreamEnded {
        tokio::select! {
            () = sleep_until(self.token_ends) => StreamEnded::Token(TokenError::Expired),
            error = self.revocations.refused(&self.principal) => StreamEnded::Token(error),
            () = self.draining.cancelled() => StreamEnded::Draining,
        }
    }
}

fn left(expires: OffsetDateTime, now: OffsetDateTime) -> Duration {
    (expires - now).try_into().unwrap_or_default()
}
