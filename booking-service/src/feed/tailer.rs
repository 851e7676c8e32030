//! The tailer: finds out how far the log is final, and how watched events are now.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::ends::Ends;
use super::watchers::{Watched, Watchers};
use crate::store::StoreError;
use crate::store::changes;

/// How often the end of the log is looked at while somebody listens.
const TICK: Duration = Duration::from_millis(20);
/// However much is watched, looking takes no more than a fifth of the time of one connection,
const REST: u32 = 4;
/// unless looks take longer than a quarter of this: then the network or the database stands still, and who listens has waited
/// long enough.
const LONGEST_REST: Duration = Duration::from_secs(1);
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
        stop.run_until_cancelled(async {
            loop {
                if self.is_alone() {
                    // Also after a failure, in whose pause the last listener has gone.
                    metrics::gauge!("booking_feed_lag_seconds").set(0.0);
                    // Who comes next does not take for the present what was so as somebody last listened.
                    self.horizon.send_replace(Horizon::default());
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

    /// Whether nobody listens.
    fn is_alone(&self) -> bool {
        self.horizon.receiver_count() == 0 && self.watchers.is_empty()
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
                told = 0;
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
            if self.is_alone() {
                return Ok(());
            }
            sleep((began.elapsed() * REST).clamp(TICK, LONGEST_REST)).await;
        }
    }
}
