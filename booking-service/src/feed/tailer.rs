//! The tailer: finds out how far the log is final, and how watched events are now.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::watchers::{Watched, Watchers};
use crate::store::StoreError;
use crate::store::changes::{self, Look};

/// How often the end of the log is looked at while somebody listens.
const TICK: Duration = Duration::from_millis(20);
/// However much is watched, looking takes no more than a fifth of the time of one connection.
const REST: u32 = 4;
/// After a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// How far the log is final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Horizon {
    /// Everything up to this batch.
    pub batch: i64,
    /// When the server was started that said so; `None` before it was asked. One that was started since, or another server, may
    /// lack the end of the log: whatever was read of that may never have been, and its numbers come again.
    pub server_start: Option<OffsetDateTime>,
}

/// The tailer's listeners.
#[derive(Clone, Debug)]
pub struct Feed {
    horizon: watch::Sender<Horizon>,
    watchers: Arc<Watchers>,
    /// Somebody has begun to listen: nothing is asked of the database while nobody does.
    awake: Arc<Notify>,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            horizon: watch::Sender::default(),
            watchers: Arc::new(Watchers::default()),
            awake: Arc::new(Notify::new()),
        }
    }
}

impl Feed {
    /// How far the log is final, and when that changes.
    pub fn horizon(&self) -> watch::Receiver<Horizon> {
        let receiver = self.horizon.subscribe();
        self.awake.notify_one();
        receiver
    }

    /// Everything that happens to the event from now on.
    pub fn watch(&self, event_id: uuid::Uuid) -> Watched {
        let watched = Watchers::watch(&self.watchers, event_id, self.horizon.subscribe());
        self.awake.notify_one();
        watched
    }

    /// Tails the log until `stop`.
    pub async fn run(self, pool: PgPool, stop: CancellationToken) {
        metrics::gauge!("booking_watchers").increment(0.0);
        metrics::gauge!("booking_feed_lag_seconds").set(0.0);
        stop.run_until_cancelled(async {
            loop {
                if self.horizon.receiver_count() == 0 && self.watchers.is_empty() {
                    self.awake.notified().await;
                }
                if let Err(error) = self.tail(&pool).await {
                    tracing::debug!(%error, "the change log cannot be read now");
                    sleep(PAUSE).await;
                }
            }
        })
        .await;
    }

    /// Tails while somebody listens.
    async fn tail(&self, pool: &PgPool) -> Result<(), StoreError> {
        let mut ends = Ends::default();
        // Whoever watches has been told of everything up to this number. Those who come later look for themselves.
        let mut told = 0;
        loop {
            let began = Instant::now();
            let look = changes::look(pool).await?;
            let server_start = Some(look.server_start);
            let known = self.horizon.borrow().server_start;
            if known != server_start {
                // Not for its numbers: they go on from up to 32 above those that it has (sequences are logged ahead), so it need not
                // be behind what is known even if it has lost some.
                if known.is_some() {
                    tracing::info!(
                        last_batch = look.last_batch,
                        "the change log is that of another run of the server"
                    );
                }
                (ends, told) = (Ends::default(), 0);
                self.horizon.send_replace(Horizon { batch: 0, server_start });
                self.watchers.forget();
            }
            let horizon = ends.see(look).unwrap_or_default().max(self.horizon.borrow().batch);
            let watched = self.watchers.events();
            // Watchers do not wait until the log is final: a transaction of somebody else's, anywhere on the server, keeps it
            // from that for as long as it lasts.
            if look.last_batch > told && !watched.is_empty() {
                self.watchers.tell(&watched, &changes::seats(pool, &watched).await?);
            }
            told = horizon;
            metrics::gauge!("booking_feed_lag_seconds").set(ends.lag().as_secs_f64());
            self.horizon.send_if_modified(|known| std::mem::replace(&mut known.batch, horizon) < horizon);
            if self.horizon.receiver_count() == 0 && self.watchers.is_empty() {
                metrics::gauge!("booking_feed_lag_seconds").set(0.0);
                return Ok(());
            }
            sleep(TICK.max(began.elapsed() * REST)).await;
        }
    }
}

/// How many ends are remembered that are not final yet: those of 20 s and more.
const MOST_OPEN: usize = 1_000;

/// What earlier looks have seen and later ones have not yet shown to be final.
#[derive(Debug, Default)]
struct Ends {
    /// The last number of the look before, whose transactions are bounded by the present look.
    last: Option<i64>,
    /// Everything up to this number is final.
    final_to: Option<i64>,
    /// (L, N, T): all numbers up to L, seen at T, are final once all transactions below N have ended. All increase.
    open: VecDeque<(i64, i64, Instant)>,
}

impl Ends {
    /// Takes the next look; says how far the log is final, if that is known.
    fn see(&mut self, look: Look) -> Option<i64> {
        // L was read in an earlier statement than N, so whoever drew a number up to L has a transaction id below N. See
        // `store::changes`.
        if let Some(last) = self.last.replace(look.last_batch)
            && self.open.back().map(|&(open, ..)| open).max(self.final_to).is_none_or(|known| known < last)
        {
            // While somebody's long transaction keeps all of them from being final, one newest is enough.
            if self.open.len() >= MOST_OPEN {
                self.open.pop_back();
            }
            self.open.push_back((last, look.next_transaction, Instant::now()));
        }
        while let Some(&(last, bound, _)) = self.open.front()
            && bound <= look.all_ended_below
        {
            self.final_to = Some(last);
            self.open.pop_front();
        }
        self.final_to
    }

    /// For how long the oldest number that is not final yet has been known.
    fn lag(&self) -> Duration {
        self.open.front().map_or(Duration::ZERO, |(.., seen)| seen.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(last_batch: i64, all_ended_below: i64, next_transaction: i64) -> Look {
        Look { last_batch, all_ended_below, next_transaction, server_start: OffsetDateTime::UNIX_EPOCH }
    }

    #[test]
    fn a_number_is_final_once_every_transaction_that_may_have_drawn_a_lower_one_has_ended() {
        let mut ends = Ends::default();
        assert_eq!(ends.see(look(7, 100, 103)), None, "nothing bounds the first look");
        assert_eq!(ends.see(look(9, 100, 104)), None, "transaction 100 may still commit number 6");
        assert_eq!(ends.see(look(9, 103, 105)), None, "transaction 103 may have begun between the looks");
        assert_eq!(ends.see(look(9, 104, 106)), Some(7));
        assert_eq!(ends.see(look(9, 106, 106)), Some(9));
        assert_eq!(ends.see(look(9, 106, 106)), Some(9), "nothing new");
    }

    #[test]
    fn a_transaction_that_stays_open_costs_no_more_memory_the_longer_it_does() {
        let mut ends = Ends::default();
        let last = 10 * i64::try_from(MOST_OPEN).unwrap();
        for batch in 0..=last {
            assert_eq!(ends.see(look(batch, 5, 10 + batch)), None);
        }
        assert_eq!(ends.open.len(), MOST_OPEN);
        assert_eq!(ends.see(look(last, 11 + last, 11 + last)), Some(last));
    }

    #[test]
    fn an_idle_log_does_not_lag_behind_a_transaction_of_somebody_else_that_stays_open() {
        let mut ends = Ends::default();
        ends.see(look(5, 50, 50));
        assert_eq!(ends.see(look(5, 50, 50)), Some(5));
        assert_eq!(ends.see(look(5, 50, 51)), Some(5), "transaction 50 has drawn no number up to 5");
        assert!(ends.open.is_empty());
        assert_eq!(ends.see(look(6, 50, 52)), Some(5));
        assert_eq!(ends.see(look(6, 50, 52)), Some(5), "it may have drawn 6");
        assert_eq!(ends.open.len(), 1);
    }

    #[test]
    fn an_idle_log_is_final_to_its_end_at_the_second_look() {
        let mut ends = Ends::default();
        assert_eq!(ends.see(look(5, 50, 50)), None);
        assert_eq!(ends.see(look(5, 50, 50)), Some(5));
    }
}
