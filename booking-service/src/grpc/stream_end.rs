//! How streams end that would go on for ever: with their token, or with this replica.

use service_core::clock::Clock;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::CallError;

/// When a stream has to end, whatever there still is to say.
#[derive(Clone, Debug)]
pub(super) struct StreamEnd {
    token_ends: Instant,
    draining: CancellationToken,
}

impl StreamEnd {
    pub(super) fn new(token_expires: OffsetDateTime, clock: &dyn Clock, draining: CancellationToken) -> Self {
        let left = (token_expires - clock.now()).try_into().unwrap_or_default();
        Self { token_ends: Instant::now() + left, draining }
    }

    /// Why the stream ended. Does not return before it has to.
    pub(super) async fn reached(&self) -> CallError {
        tokio::select! {
            () = tokio::time::sleep_until(self.token_ends) => CallError::TokenExpired,
            () = self.draining.cancelled() => CallError::Draining,
        }
    }
}
