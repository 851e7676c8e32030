//! What happens by itself: lapsed holds and offers end, abandoned rehearsals go, the log is trimmed.
//!
//! Every replica does all of it, without a leader. Whatever is due goes through seating like anyone's command and is
//! judged again under the event's lock: two replicas that find the same hold release it once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::domain::command::{Action, Actor, Command};
use crate::seating::Seating;
use crate::simulate::delete_copy;
use crate::store::{StoreError, changes, due};

/// How often it is looked what is due. A hold is released at most this, a look and a batch after its time.
const LOOK: Duration = Duration::from_millis(250);
/// How many of a kind one look finds.
const ROUND: i64 = 2_000;
/// How long an expiry may wait to be seated. If it is late it is found again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the rest is looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(30);

/// How many lapsed holds and offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    holds: usize,
    offers: usize,
}

impl Count {
    fn of(actions: &[Action]) -> Self {
        let holds = actions.iter().filter(|action| matches!(action, Action::ExpireHold { .. })).count();
        Self { holds, offers: actions.len() - holds }
    }

    fn and<'a>(self, others: impl Iterator<Item = &'a Self>) -> Self {
        others.fold(self, |sum, other| Self {
            holds: sum.holds + other.holds,
            offers: sum.offers + other.offers,
        })
    }

    fn tell(self) {
        metrics::gauge!("booking_holds_due").set(f64::from(u32::try_from(self.holds).unwrap_or(u32::MAX)));
        metrics::gauge!("booking_offers_due").set(f64::from(u32::try_from(self.offers).unwrap_or(u32::MAX)));
    }
}

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
        let mut running = FuturesUnordered::new();
        // Events whose expiries are under way, and how many. One whose lock somebody keeps holds up its own, nobody else's.
        let mut busy: HashMap<Uuid, Count> = HashMap::new();
        loop {
            let (due, full) = self.due(&busy).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "cannot look for lapsed holds and offers");
                Default::default()
            });
            for (event_id, actions) in due {
                busy.insert(event_id, Count::of(&actions));
                running.push(self.end(event_id, actions));
            }
            let next = sleep(LOOK);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    () = &mut next => break,
                    Some((event_id, all_ended)) = running.next() => {
                        busy.remove(&event_id);
                        // There was as much as fits into a look: there may be more.
                        if full && all_ended {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// What is due, by event, and whether there may be more.
    async fn due(
        &self,
        busy: &HashMap<Uuid, Count>,
    ) -> Result<(HashMap<Uuid, Vec<Action>>, bool), StoreError> {
        let except: Vec<Uuid> = busy.keys().copied().collect();
        let (holds, offers) = tokio::try_join!(
            due::holds(&self.pool, &except, ROUND),
            due::offers(&self.pool, &except, ROUND)
        )?;
        // With what is under way: an event that is stuck is found once and not looked for again, and is due all the same.
        let found = Count { holds: holds.len(), offers: offers.len() };
        found.and(busy.values()).tell();
        let full = i64::try_from(holds.len().max(offers.len())).unwrap_or(ROUND) >= ROUND;
        let mut due: HashMap<Uuid, Vec<Action>> = HashMap::new();
        for (event_id, registration_id) in holds {
            due.entry(event_id).or_default().push(Action::ExpireHold { registration_id });
        }
        for (event_id, entry_id) in offers {
            due.entry(event_id).or_default().push(Action::ExpireOffer { entry_id });
        }
        Ok((due, full))
    }

    /// Ends what is due of one event. Returns the event, and whether it all has ended.
    async fn end(&self, event_id: Uuid, actions: Vec<Action>) -> (Uuid, bool) {
        let deadline = Instant::now() + PATIENCE;
        let answers =
            join_all(actions.into_iter().map(|action| {
                self.seating.submit(Command { event_id, actor: Actor::SYSTEM, action }, deadline)
            }))
            .await;
        let failed = answers.into_iter().find_map(Result::err);
        if let Some(error) = &failed {
            tracing::debug!(%error, %event_id, "a lapsed hold or offer is ended later");
        }
        (event_id, failed.is_none())
    }

    async fn keep_house(&self) {
        loop {
            // What keeps one from its end does not keep the other.
            for swept in [self.remove_copies().await, self.trim().await] {
                if let Err(error) = swept {
                    tracing::warn!(%error, "housekeeping is tried again later");
                }
            }
            sleep(HOUSEKEEPING).await;
        }
    }

    /// Removes the copies of simulations that nobody runs any more.
    async fn remove_copies(&self) -> Result<(), StoreError> {
        let mut removed = Ok(());
        for copy in due::abandoned_simulations(&self.pool).await? {
            tracing::info!(event_id = %copy, "an abandoned simulation is removed");
            removed = removed.and(delete_copy(&self.pool, copy).await);
        }
        removed
    }

    /// Removes what is older than the log is kept. In pieces, so that no transaction is long.
    async fn trim(&self) -> Result<(), StoreError> {
        let Some(keep) = self.change_retention else { return Ok(()) };
        while changes::trim(&self.pool, keep, ROUND).await? == ROUND {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_due_too() {
        let hold = || Action::ExpireHold { registration_id: Uuid::from_u128(1) };
        let offer = || Action::ExpireOffer { entry_id: Uuid::from_u128(2) };
        let under_way = [Count::of(&[hold(), offer(), hold()]), Count::of(&[offer()])];
        assert_eq!(under_way, [Count { holds: 2, offers: 1 }, Count { holds: 0, offers: 1 }]);
        let found = Count { holds: 5, offers: 0 };
        assert_eq!(found.and(under_way.iter()), Count { holds: 7, offers: 2 });
    }
}
