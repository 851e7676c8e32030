//! Revocations as they become known to this replica, whichever replica wrote them: one reader of the table, for the
//! own verifier and for every stream.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use service_core::clock::Clock;
use service_core::lifecycle::ReadinessHandle;
use service_core::token::{KnownRevocation, KnownRevocations, RevocationTarget};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::domain::RevokedTokens;
use crate::store::{self, Look, StoredRevocation};

/// How often the table is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long to wait after a look that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// For how long looks may fail before the readiness tells. Streams are silent then, and verifiers ask another replica.
const STALE: Duration = Duration::from_secs(3);

/// What this replica knows, and who listens.
#[derive(Debug)]
pub struct RevocationFeed {
    known: Arc<KnownRevocations>,
    arrived: Mutex<Arrived>,
    /// `None` until the first look.
    complete_to: watch::Sender<Option<OffsetDateTime>>,
}

/// Revocations in the order in which this replica learned of them, without those that have expired.
#[derive(Debug, Default)]
struct Arrived {
    /// How many have expired.
    gone: u64,
    revocations: VecDeque<StoredRevocation>,
    /// The same ones. Not their ids alone: a database that was restored gives those again.
    seen: HashSet<StoredRevocation>,
}

impl Default for RevocationFeed {
    fn default() -> Self {
        Self {
            known: Arc::new(KnownRevocations::new()),
            arrived: Mutex::default(),
            complete_to: watch::Sender::new(None),
        }
    }
}

impl RevocationFeed {
    /// For verifiers of this process.
    pub fn known(&self) -> Arc<KnownRevocations> {
        self.known.clone()
    }

    /// After every look: everything that was committed before this time, by the database's clock, has become known.
    /// `None` before the first look.
    pub fn complete_to(&self) -> watch::Receiver<Option<OffsetDateTime>> {
        self.complete_to.subscribe()
    }

    /// What became known after the first `count`, without what has expired, and how many are known now.
    pub fn after(&self, count: u64) -> (Vec<StoredRevocation>, u64) {
        let arrived = self.arrived();
        let skip = usize::try_from(count.saturating_sub(arrived.gone)).unwrap_or(usize::MAX);
        (arrived.revocations.iter().skip(skip).copied().collect(), arrived.count())
    }

    /// Looks at the table again and again, until `stop`. Ready after the first look: before it, tokens that were
    /// revoked would pass. Degraded while looks fail.
    pub async fn run(
        &self,
        pool: &PgPool,
        clock: &dyn Clock,
        check: &ReadinessHandle,
        stop: &CancellationToken,
    ) {
        check.set_unready("revocations have not been read yet");
        let looking = async {
            // The session of the last look, and what it has left to the next one.
            let mut last: Option<(i32, i64)> = None;
            let (mut looked, mut failing) = (Instant::now(), false);
            loop {
                let since = last.map_or(0, |(_, since)| since);
                match store::look(pool, since, clock.now(), STALE).await {
                    Ok(look) if last.is_some_and(|last| is_of_another_server(last, &look)) => last = None,
                    Ok(look) => {
                        last = Some((look.session, look.all_ended_below));
                        self.learn(look, clock.now());
                        check.set_ready();
                        (looked, failing) = (Instant::now(), false);
                        metrics::gauge!("revocations_age_seconds").set(0);
                        sleep(LOOK_EVERY).await;
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%error, "revocations cannot be read; it is tried again");
                        }
                        metrics::gauge!("revocations_age_seconds").set(looked.elapsed().as_secs_f64());
                        let ever = self.complete_to.borrow().is_some();
                        if ever && looked.elapsed() > STALE {
                            check.set_degraded(
                                "revocations cannot be read: a revoked access token may pass here",
                            );
                        }
                        // Whatever is there next time may be another server.
                        last = None;
                        sleep(PAUSE).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    fn learn(&self, look: Look, now: OffsetDateTime) {
        let mut arrived = self.arrived();
        let news: Vec<_> =
            look.revocations.into_iter().filter(|stored| arrived.seen.insert(*stored)).collect();
        self.known.add(news.iter().map(known));
        arrived.revocations.extend(news);
        if arrived.forget_expired(now) {
            self.known.forget_expired(now);
        }
        drop(arrived);
        self.complete_to.send_replace(Some(look.time));
    }

    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arrived {
    fn count(&self) -> u64 {
        self.gone + u64::try_from(self.revocations.len()).unwrap_or(u64::MAX)
    }

    /// Whether there was any. They live equally long, so the first to come are the first to go, or nearly.
    fn forget_expired(&mut self, now: OffsetDateTime) -> bool {
        let before = self.gone;
        while let Some(expired) = self.revocations.pop_front_if(|first| first.expire_time <= now) {
            self.seen.remove(&expired);
            self.gone += 1;
        }
        self.gone > before
    }
}

/// Whether a look may be at another server than the last one: then it has looked from somewhere in the middle of other
/// transactions, and has to be made again from the beginning. The pool opens another session without a word, after a failover
/// as well; and transaction ids only rise.
fn is_of_another_server((session, since): (i32, i64), look: &Look) -> bool {
    look.session != session || look.all_ended_below < since
}

fn known(stored: &StoredRevocation) -> KnownRevocation {
    let target = match stored.revocation.tokens {
        RevokedTokens::OfSession(session) => RevocationTarget::Session(session),
        RevokedTokens::BelowVersion(minimum_session_version) => {
            RevocationTarget::User { user_id: stored.revocation.user_id, minimum_session_version }
        }
    };
    KnownRevocation { target, expire_time: stored.expire_time }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::Revocation;

    const NOW: OffsetDateTime = datetime!(2026-01-01 12:00 UTC);

    fn look(ids: &[i64], expire_time: OffsetDateTime) -> Look {
        let stored = |id| StoredRevocation {
            id,
            revocation: Revocation { user_id: Uuid::nil(), tokens: RevokedTokens::BelowVersion(id) },
            revoke_time: NOW,
            expire_time,
        };
        Look {
            revocations: ids.iter().map(|id| stored(*id)).collect(),
            all_ended_below: 9,
            time: NOW,
            session: 1,
        }
    }

    #[test]
    fn a_look_of_another_session_or_from_before_the_last_one_is_of_another_server() {
        let look = look(&[], NOW);
        assert!(!is_of_another_server((1, 9), &look) && !is_of_another_server((1, 8), &look));
        assert!(is_of_another_server((2, 8), &look), "its transactions may have other ids");
        assert!(is_of_another_server((1, 10), &look), "transaction ids only rise");
    }

    fn ids(feed: &RevocationFeed, count: u64) -> Vec<i64> {
        feed.after(count).0.iter().map(|stored| stored.id).collect()
    }

    #[test]
    fn what_a_look_finds_again_is_told_once_and_what_was_late_is_told_then() {
        let feed = RevocationFeed::default();
        let later = NOW + Duration::from_secs(60);
        feed.learn(look(&[1, 3], later), NOW);
        assert_eq!(feed.after(0).1, 2);
        feed.learn(look(&[3, 2, 4], later), NOW);
        assert_eq!((ids(&feed, 0), ids(&feed, 2)), (vec![1, 3, 2, 4], vec![2, 4]));
        assert_eq!(feed.after(0).1, 4);
        assert!(ids(&feed, 4).is_empty());
    }

    #[test]
    fn an_id_that_a_restored_database_gives_again_is_another_revocation() {
        let feed = RevocationFeed::default();
        let later = NOW + Duration::from_secs(60);
        feed.learn(look(&[1, 2], later), NOW);
        let mut restored = look(&[1, 2], later);
        restored.revocations[1].revocation.user_id = Uuid::max();
        feed.learn(restored, NOW);
        assert_eq!(ids(&feed, 0), [1, 2, 2]);
    }

    #[test]
    fn what_has_expired_is_forgotten_and_the_counting_goes_on() {
        let feed = RevocationFeed::default();
        let later = NOW + Duration::from_secs(60);
        feed.learn(look(&[1, 2], NOW), NOW - Duration::from_secs(1));
        feed.learn(look(&[3], later), NOW);
        assert_eq!((ids(&feed, 0), ids(&feed, 2)), (vec![3], vec![3]));
        assert!(ids(&feed, 3).is_empty());
        assert_eq!(feed.after(0).1, 3);
    }
}
