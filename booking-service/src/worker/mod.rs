//! What happens by itself: lapsed holds and offers end, abandoned rehearsals go, the log is trimmed.
//!
//! Every replica does all of it, without a leader. Whatever is due goes through the shards like anyone's command and is
//! judged again under the event's lock: two replicas that find the same hold release it once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::domain::command::{Action, Actor, Command};
use crate::seating::Seating;
use crate::simulate::delete_copy;
use crate::store::{StoreError, changes, due};

/// How often it is looked what is due. A hold is released at most this, a look and a batch after its time.
const LOOK: Duration = Duration::from_millis(250);
/// How much is looked at, and given to the shards, at once.
const ROUND: i64 = 2_000;
/// How long an expiry may wait in its shard. If it is late it is found again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the rest is looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(30);

/// What works by itself, and how.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Where commands go.
    pub seating: Arc<Seating>,
    /// For looking.
    pub pool: PgPool,
    /// How long changes are kept; `None`: for ever.
    pub change_retention: Option<Duration>,
}

impl Worker {
    /// Works until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(async { tokio::join!(self.expire(), self.keep_house()) }).await;
    }

    /// Ends holds and offers.
    async fn expire(&self) {
        loop {
            match self.expire_round().await {
                // As much as fits into a round: there may be more.
                Ok(found) if found >= ROUND => {}
                Ok(_) => sleep(LOOK).await,
                Err(error) => {
                    tracing::debug!(%error, "cannot look for lapsed holds and offers");
                    sleep(LOOK * 4).await;
                }
            }
        }
    }

    /// Finds what is due and has it ended. Returns how much of the fuller kind was found.
    async fn expire_round(&self) -> Result<i64, StoreError> {
        let (holds, offers) =
            tokio::try_join!(due::holds(&self.pool, ROUND), due::offers(&self.pool, ROUND))?;
        let found = holds.len().max(offers.len());
        let expiries = holds
            .into_iter()
            .map(|(event_id, registration_id)| (event_id, Action::ExpireHold { registration_id }))
            .chain(
                offers.into_iter().map(|(event_id, entry_id)| (event_id, Action::ExpireOffer { entry_id })),
            );
        let deadline = Instant::now() + PATIENCE;
        let mut answers: FuturesUnordered<_> = expiries
            .map(|(event_id, action)| {
                self.seating.submit(Command { event_id, actor: Actor::SYSTEM, action }, deadline)
            })
            .collect();
        let mut failed = None;
        while let Some(answer) = answers.next().await {
            failed = failed.or(answer.err());
        }
        if let Some(error) = failed {
            tracing::debug!(%error, "a lapsed hold or offer is ended later");
            sleep(LOOK).await;
        }
        Ok(i64::try_from(found).unwrap_or(ROUND))
    }

    async fn keep_house(&self) {
        loop {
            if let Err(error) = self.sweep().await {
                tracing::debug!(%error, "housekeeping is tried again later");
            }
            sleep(HOUSEKEEPING).await;
        }
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        for copy in due::abandoned_simulations(&self.pool).await? {
            tracing::info!(event_id = %copy, "an abandoned simulation is removed");
            delete_copy(&self.pool, copy).await?;
        }
        if let Some(keep) = self.change_retention {
            // In pieces, so that no transaction is long.
            while changes::trim(&self.pool, keep, ROUND).await? > 0 {}
        }
        Ok(())
    }
}
