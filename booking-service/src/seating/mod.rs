//! Seating: every command for an event goes through here, in batches, under the event's row lock.
//!
//! A replica does not open a transaction per request. [`Seating::submit`] hashes the event to one of a few shards; a
//! shard owns one database session and takes whatever is waiting, for whatever events, into one transaction:
//! lock → load → decide → write → commit → reply. No timer and no artificial delay: while one batch is in flight the next
//! one gathers. Alone, a command pays for one transaction; in a rush, hundreds share one lock, one commit, one fsync.

mod batch;
mod busy;
mod session;
mod shard;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use service_core::ids::IdSource;
use service_core::trace::Span;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::command::Command;
use crate::domain::decide::Outcome;
use crate::domain::refusal::Refusal;

use session::Session;
use shard::Shard;

/// The most commands that one batch takes from the inbox. More do not make it faster: at 256 the costs that are shared
/// are small beside those that are not.
const BATCH: usize = 256;

/// How often it is measured how much waits.
const MEASURE: Duration = Duration::from_secs(1);

/// How a replica seats.
#[derive(Clone, Debug)]
pub struct SeatingConfig {
    /// Shards, each with one database session.
    pub shards: usize,
    /// Commands that may wait in a shard; more are refused at once.
    pub queue: usize,
    /// How long a batch waits for an event's lock before it goes on without that event.
    pub lock_timeout: Duration,
    /// How long a command is tried again while the database cannot be used. Its own deadline ends it earlier.
    pub retry_window: Duration,
    /// The longest that one statement may go without an answer before the session is given up.
    pub statement_timeout: Duration,
}

impl Default for SeatingConfig {
    fn default() -> Self {
        Self {
            shards: 2,
            queue: 8192,
            lock_timeout: Duration::from_millis(250),
            retry_window: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

/// Why a command has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The rules say no. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too much is waiting. Nothing was changed.
    #[error("too many commands are waiting")]
    Overloaded,
    /// The deadline passed. Usually nothing was changed; the same request id tells.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The database could not be used in time. Nothing was changed.
    #[error("the database cannot be reached")]
    DatabaseUnavailable,
    /// The session broke at COMMIT and what became of it could not be found out in time. The same request id tells.
    #[error("the outcome is not known")]
    OutcomeUnknown,
    /// This replica is going away. Nothing was changed.
    #[error("the service is shutting down")]
    ShuttingDown,
    /// The database refused this command for a reason that should not exist. Nothing was changed.
    #[error("internal error")]
    Internal,
}

/// A command's answer.
pub type Answer = Result<Outcome, CommandError>;

/// A command on its way.
struct Pending {
    command: Command,
    deadline: Instant,
    reply: oneshot::Sender<Answer>,
    /// From the queue to the answer.
    span: Span,
}

impl Pending {
    /// Whether nobody waits for it any more. Such a command is dropped before it is applied, never after.
    fn is_dead(&self) -> bool {
        self.reply.is_closed() || Instant::now() >= self.deadline
    }

    fn answer(self, answer: Answer) {
        match answer {
            Err(CommandError::Overloaded) => count_shed(),
            Err(CommandError::DeadlineExceeded) => {
                let reason = if self.reply.is_closed() { "gone" } else { "late" };
                metrics::counter!("booking_commands_dropped_total", "reason" => reason).increment(1);
            }
            _ => {}
        }
        // A client that is gone does not hear it; the change log does.
        let _ = self.reply.send(answer);
    }
}

/// Shows the counters from the start on: an alert on a rise needs the value before it.
fn show_counters() {
    metrics::counter!("booking_commands_shed_total").increment(0);
    metrics::counter!("booking_seats_sold_total").increment(0);
    metrics::counter!("booking_batch_retries_total", "code" => "55P03").increment(0);
    for reason in ["gone", "late"] {
        metrics::counter!("booking_commands_dropped_total", "reason" => reason).increment(0);
    }
    for outcome in ["committed", "not_committed", "unknown"] {
        metrics::counter!("booking_unknown_commits_total", "outcome" => outcome).increment(0);
    }
}

/// A command was refused because too much waits.
fn count_shed() {
    metrics::counter!("booking_commands_shed_total").increment(1);
}

/// The way to the shards.
#[derive(Debug)]
pub struct Seating {
    shards: Vec<mpsc::Sender<Pending>>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Seating {
    /// Starts the shards. They connect when the first command comes, and again whenever they have to.
    pub fn start(config: &SeatingConfig, database: &PgConnectOptions, ids: &Arc<dyn IdSource>) -> Self {
        show_counters();
        let closing = CancellationToken::new();
        let tasks = TaskTracker::new();
        let shards: Vec<_> = (0..config.shards.max(1))
            .map(|_| {
                let (sender, inbox) = mpsc::channel(config.queue.max(1));
                let session = Session::new(database.clone(), config);
                let shard = Shard::new(inbox, session, Arc::clone(ids), config.clone());
                // A task of the shard's own: a client that cancels, or a handler that is dropped, never drops a COMMIT
                // in flight.
                tasks.spawn(shard.run(closing.clone()));
                sender
            })
            .collect();
        tasks.close();
        tokio::spawn(
            closing.clone().run_until_cancelled_owned(measure_queues(
                shards.iter().map(mpsc::Sender::downgrade).collect(),
            )),
        );
        Self { shards, closing, tasks }
    }

    /// Gives a command to its event's shard and waits for the answer, until `deadline` at the latest.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn submit(&self, command: Command, deadline: Instant) -> Answer {
        let mut hasher = DefaultHasher::new();
        command.event_id.hash(&mut hasher);
        let index = usize::try_from(hasher.finish()).unwrap_or_default() % self.shards.len();
        let Some(shard) = self.shards.get(index) else { return Err(CommandError::Internal) };

        let (reply, answer) = oneshot::channel();
        let pending = Pending { command, deadline, reply, span: Span::child("command") };
        shard.try_send(pending).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                count_shed();
                CommandError::Overloaded
            }
            mpsc::error::TrySendError::Closed(_) => CommandError::ShuttingDown,
        })?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CommandError::ShuttingDown),
            Err(_) => Err(CommandError::DeadlineExceeded),
        }
    }

    /// Takes no more commands, finishes those that were accepted, and returns when the last one is answered.
    pub async fn drain(&self) {
        self.closing.cancel();
        self.tasks.wait().await;
    }
}

/// Says once a second how many commands wait in the shards. Not the shards themselves do: one that waits for the
/// database says nothing.
async fn measure_queues(shards: Vec<mpsc::WeakSender<Pending>>) {
    loop {
        for (index, shard) in shards.iter().enumerate() {
            let Some(shard) = shard.upgrade() else { return };
            let waiting = shard.max_capacity() - shard.capacity();
            metrics::gauge!("booking_queue_commands", "shard" => index.to_string())
                .set(f64::from(u32::try_from(waiting).unwrap_or(u32::MAX)));
        }
        sleep(MEASURE).await;
    }
}
