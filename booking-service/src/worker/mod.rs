//! What happens by itself: lapsed holds and offers end, abandoned rehearsals go, the log is trimmed.
//!
//! Every replica does all of it, without a leader. Whatever is due goes through seating like anyone's command and is
//! judged again under the event's lock: two replicas that find the same hold release it once.

mod retention;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
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
/// Which part of the inbox the expiries of all events may take: what callers ask for has the rest.
const SHARE: usize = 4;
/// How long an expiry may wait to be seated. If it is late it is found again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the rest is looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(30);

/// How many lapsed holds and offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// What a look has found.
#[derive(Debug, Default)]
struct Due {
    /// What is ended now, by event, and how much is due of that event.
    now: HashMap<Uuid, (Vec<Action>, Count)>,
    /// Whether there may be more.
    more: bool,
}

impl Due {
    /// Takes no more than `room` of all that is due: of each event so much, and of those that are stuck one, by which it shows
    /// that they are free again.
    fn take(due: impl Iterator<Item = (Uuid, Action)>, mut room: usize, stuck: &HashSet<Uuid>) -> Self {
        let mut taken = Self::default();
        for (event_id, action) in due {
            let most = if stuck.contains(&event_id) { 1 } else { OF_ONE_EVENT };
            let known = taken.now.contains_key(&event_id);
            if room == 0 && !known {
                taken.more = true;
                continue;
            }
            let (actions, count) = taken.now.entry(event_id).or_default();
            *count = count.and(std::iter::once(&Count::of(std::slice::from_ref(&action))));
            if room > 0 && actions.len() < most {
                room -= 1;
                actions.push(action);
            } else {
                taken.more |= !stuck.contains(&event_id);
            }
        }
        taken
    }
}

/// An event whose expiries are under way.
struct UnderWay {
    /// How much was due of it as it was found: it is not looked for again before these have ended.
    due: Count,
    /// How many of these are under way.
    taken: usize,
}

/// One of each in turn.
fn in_turn<T>(one: impl Iterator<Item = T>, other: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let (mut one, mut other) = (one.fuse(), other.fuse());
    std::iter::from_fn(move || {
        let first = one.next();
        let second = other.next();
        (first.is_some() || second.is_some()).then_some([first, second])
    })
    .flatten()
    .flatten()
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
        // One whose lock somebody keeps holds up its own, nobody else's.
        let mut under_way: HashMap<Uuid, UnderWay> = HashMap::new();
        let mut stuck: HashSet<Uuid> = HashSet::new();
        let mut had_their_turn: HashSet<Uuid> = HashSet::new();
        let mut others_sought = Instant::now();
        loop {
            // Those that have just had their turn come after the others: what is longest overdue may all be of one event. Not at
            // each turn: who looks for others walks past all that is due of that one.
            let after_others = if others_sought.elapsed() < LOOK {
                HashSet::new()
            } else {
                others_sought = Instant::now();
                std::mem::take(&mut had_their_turn)
            };
            let due = self.due(&under_way, &after_others, &stuck).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "cannot look for lapsed holds and offers");
                Due::default()
            });
            if !due.more && after_others.is_empty() {
                // Those that are due no more are forgotten.
                stuck.retain(|event_id| under_way.contains_key(event_id) || due.now.contains_key(event_id));
            }
            for (event_id, (actions, count)) in due.now {
                under_way.insert(event_id, UnderWay { due: count, taken: actions.len() });
                running.push(self.end(event_id, actions));
            }
            if !after_others.is_empty() {
                continue;
            }
            let next = sleep(LOOK);
            tokio::pin!(next);
            loop {
                let first = tokio::select! {
                    () = &mut next => break,
                    Some(ended) = running.next() => ended,
                };
                // With all others that have ended by now: a look for each of them would find little room.
                let others = std::iter::from_fn(|| running.next().now_or_never().flatten());
                let mut all_ended = true;
                for (event_id, is_over) in std::iter::once(first).chain(others) {
                    under_way.remove(&event_id);
                    had_their_turn.insert(event_id);
                    if is_over {
                        stuck.remove(&event_id);
                    } else {
                        stuck.insert(event_id);
                    }
                    all_ended &= is_over;
                }
                if due.more && all_ended {
                    break;
                }
            }
        }
    }

    /// What is due, as far as there is room beside what is under way.
    async fn due(
        &self,
        under_way: &HashMap<Uuid, UnderWay>,
        after_others: &HashSet<Uuid>,
        stuck: &HashSet<Uuid>,
    ) -> Result<Due, StoreError> {
        let except: Vec<Uuid> = under_way.keys().chain(after_others).copied().collect();
        let (holds, offers) = tokio::try_join!(
            due::holds(&self.pool, &except, ROUND),
            due::offers(&self.pool, &except, ROUND)
        )?;
        let found = Count { holds: holds.len(), offers: offers.len() };
        if after_others.is_empty() {
            found.and(under_way.values().map(|event| &event.due)).tell();
        }
        let is_full = i64::try_from(holds.len().max(offers.len())).unwrap_or(ROUND) >= ROUND;
        let holds = holds
            .into_iter()
            .map(|(event_id, registration_id)| (event_id, Action::ExpireHold { registration_id }));
        let offers =
            offers.into_iter().map(|(event_id, entry_id)| (event_id, Action::ExpireOffer { entry_id }));
        let taken: usize = under_way.values().map(|event| event.taken).sum();
        let room = self.seating.queue().div_ceil(SHARE).saturating_sub(taken);
        let mut due = Due::take(in_turn(holds, offers), room, stuck);
        due.more |= is_full;
        Ok(due)
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
    fn so_much_of_each_event_and_so_much_of_all_is_ended_at_once_and_all_of_it_is_counted() {
        let due = |event, count: u128| {
            let hold = |id| Action::ExpireHold { registration_id: Uuid::from_u128(id) };
            (0..count).map(move |id| (Uuid::from_u128(event), hold(id)))
        };
        let of = |due: &Due, event| {
            due.now.get(&Uuid::from_u128(event)).map(|(now, count)| (now.len(), count.holds))
        };
        let nobody = HashSet::new();
        let found = Due::take(due(1, 1_000).chain(due(2, 10)), 1_000, &nobody);
        assert_eq!((of(&found, 1), of(&found, 2)), (Some((OF_ONE_EVENT, 1_000)), Some((10, 10))));
        assert!(found.more);
        let found = Due::take(due(1, 10).chain(due(2, 10)).chain(due(3, 1)), 15, &nobody);
        assert_eq!((of(&found, 1), of(&found, 2), of(&found, 3)), (Some((10, 10)), Some((5, 10)), None));
        assert!(found.more);
        let found = Due::take(due(1, 10).chain(due(2, 10)), 20, &nobody);
        assert!(!found.more);
        assert!(Due::take(due(1, 1), 0, &nobody).more);
        let stuck = HashSet::from([Uuid::from_u128(1)]);
        let found = Due::take(due(1, 1_000).chain(due(2, 10)), 1_000, &stuck);
        assert_eq!((of(&found, 1), of(&found, 2)), (Some((1, 1_000)), Some((10, 10))));
        assert!(!found.more, "what is stuck is no reason to look again at once");
    }

    #[test]
    fn holds_and_offers_have_their_turn() {
        let turns: Vec<_> = in_turn([1, 3, 5].into_iter(), [2].into_iter()).collect();
        assert_eq!(turns, [1, 2, 3, 5]);
        let turns: Vec<_> = in_turn([1].into_iter(), [2, 4].into_iter()).collect();
        assert_eq!(turns, [1, 2, 4]);
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
