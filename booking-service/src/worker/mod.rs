//! What happens by itself: lapsed holds and offers end, abandoned rehearsals go, the log is trimmed.
//!
//! Every replica does all of it, without a leader. Whatever is due goes through seating like anyone's command and is
//! judged again under the event's lock: two replicas that find the same hold release it once.

mod retention;

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
use crate::store::{StoreError, due};

pub use retention::Retention;

/// How often it is looked what is due. A hold is released at most this, a look and a batch after its time.
const LOOK: Duration = Duration::from_millis(250);
/// How many of a kind one look finds, and how many changes are removed in one transaction.
const ROUND: i64 = 2_000;
/// How many expiries of one event are under way at most: as many as two batches take.
const OF_ONE_EVENT: usize = 256;
/// How many of all events: what callers ask for has the better part of the inbox (16,384 by default).
const UNDER_WAY: usize = 4_000;
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

    fn total(self) -> usize {
        self.holds + self.offers
    }

    fn tell(self) {
        metrics::gauge!("booking_holds_due").set(f64::from(u32::try_from(self.holds).unwrap_or(u32::MAX)));
        metrics::gauge!("booking_offers_due").set(f64::from(u32::try_from(self.offers).unwrap_or(u32::MAX)));
    }
}

/// What a look has found.
#[derive(Debug, Default)]
struct Due {
    /// What is ended now, by event.
    now: HashMap<Uuid, Vec<Action>>,
    /// Whether there may be more.
    more: bool,
}

/// Takes what is due, so much of each event and no more than `room` of all, and says whether that was everything.
fn take(due: impl Iterator<Item = (Uuid, Action)>, mut room: usize) -> (HashMap<Uuid, Vec<Action>>, bool) {
    let (mut taken, mut all): (HashMap<Uuid, Vec<Action>>, bool) = (HashMap::new(), true);
    for (event_id, action) in due {
        let is_full = taken.get(&event_id).is_some_and(|actions| actions.len() >= OF_ONE_EVENT);
        if room == 0 || is_full {
            all = false;
            continue;
        }
        room -= 1;
        taken.entry(event_id).or_default().push(action);
    }
    (taken, all)
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
        stop.run_until_cancelled(async { tokio::join!(self.expire(), Box::pin(self.keep_house())) }).await;
    }

    /// Ends holds and offers.
    async fn expire(&self) {
        let mut running = FuturesUnordered::new();
        // Events whose expiries are under way, and how many. One whose lock somebody keeps holds up its own, nobody else's.
        let mut busy: HashMap<Uuid, Count> = HashMap::new();
        loop {
            let due = self.due(&busy).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "cannot look for lapsed holds and offers");
                Due::default()
            });
            for (event_id, actions) in due.now {
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
                        if due.more && all_ended {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// What is due, as far as there is room beside what is under way.
    async fn due(&self, busy: &HashMap<Uuid, Count>) -> Result<Due, StoreError> {
        let except: Vec<Uuid> = busy.keys().copied().collect();
        let (holds, offers) = tokio::try_join!(
            due::holds(&self.pool, &except, ROUND),
            due::offers(&self.pool, &except, ROUND)
        )?;
        // With what is under way: an event that is stuck is found once and not looked for again, and is due all the same.
        let found = Count { holds: holds.len(), offers: offers.len() };
        let all = found.and(busy.values());
        all.tell();
        let is_full = i64::try_from(holds.len().max(offers.len())).unwrap_or(ROUND) >= ROUND;
        let holds = holds
            .into_iter()
            .map(|(event_id, registration_id)| (event_id, Action::ExpireHold { registration_id }));
        let offers =
            offers.into_iter().map(|(event_id, entry_id)| (event_id, Action::ExpireOffer { entry_id }));
        let under_way = all.total() - found.total();
        let (now, all_taken) = take(holds.chain(offers), UNDER_WAY.saturating_sub(under_way));
        Ok(Due { now, more: is_full || !all_taken })
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

    /// Does what is not urgent. What keeps one of them from its end does not keep the other.
    async fn keep_house(&self) {
        let retention = self.change_retention.map(|keep| Retention::new(self.pool.clone(), keep));
        tokio::join!(
            async {
                loop {
                    rest_after(self.remove_copies().await).await;
                }
            },
            async {
                let Some(mut retention) = retention else { return };
                loop {
                    rest_after(retention.trim().await).await;
                }
            }
        );
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
}

async fn rest_after(swept: Result<(), StoreError>) {
    if let Err(error) = swept {
        tracing::warn!(%error, "housekeeping is tried again later");
    }
    sleep(HOUSEKEEPING).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_of_each_event_and_so_much_of_all_is_ended_at_once() {
        let due = |event, count: u128| {
            let hold = |id| Action::ExpireHold { registration_id: Uuid::from_u128(id) };
            (0..count).map(move |id| (Uuid::from_u128(event), hold(id)))
        };
        let of = |taken: &HashMap<Uuid, Vec<Action>>, event| {
            taken.get(&Uuid::from_u128(event)).map_or(0, Vec::len)
        };
        let (taken, all) = take(due(1, 1_000).chain(due(2, 10)), 1_000);
        assert_eq!((of(&taken, 1), of(&taken, 2), all), (OF_ONE_EVENT, 10, false));
        let (taken, all) = take(due(1, 10).chain(due(2, 10)), 15);
        assert_eq!((of(&taken, 1), of(&taken, 2), all), (10, 5, false));
        let (taken, all) = take(due(1, 10).chain(due(2, 10)), 20);
        assert_eq!((of(&taken, 1), of(&taken, 2), all), (10, 10, true));
        assert!(!take(due(1, 1), 0).1);
    }

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
