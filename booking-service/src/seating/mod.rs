//! Seating: every command for an event goes through here, in batches, and the event's row lock decides between replicas.
//!
//! A replica does not open a transaction per request. [`Seating::submit`] puts the command into an inbox, behind those for
//! the same event; a few runners, each with one database session, take whatever is waiting, event by event in turn, into
//! one transaction. No timer and no artificial delay: while one batch is in flight the next one gathers. Alone, a command
//! pays for two round trips, or one; in a rush, up to 128 share one lock, one commit, one fsync.
//!
//! There are three ways (`batch`):
//! - load → decide → write → reply: the one statement that writes locks the events, makes sure that they are still what
//!   they were when they were read, and commits. What leaves nothing to be written needs no lock at all.
//! - decide → write → reply: the same without reading, for newcomers alone, at events that the last batch left a moment
//!   ago (`recent`). That none of them is known there is made sure of by the statement, too.
//! - lock → load → decide → write → commit → reply: where somebody else was seen at the event a moment ago (`contended`),
//!   and for what an organizer changes of the event itself.

mod batch;
mod bounded;
mod busy;
mod contended;
mod inbox;
mod recent;
mod runner;
mod session;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use service_core::ids::IdSource;
use service_core::trace::Span;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;

use crate::domain::command::Command;
use crate::domain::decide::Outcome;
use crate::domain::refusal::Refusal;

use inbox::Inbox;
use recent::Recent;
use runner::Runner;
use session::Session;

/// How often it is measured how much waits.
const MEASURE: Duration = Duration::from_secs(1);

/// How a replica seats.
#[derive(Clone, Debug)]
pub struct SeatingConfig {
    /// Database sessions, each with one batch at a time.
    pub sessions: usize,
    /// Commands that may wait or be under way, half of them for one event; more are refused at once.
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
            sessions: 2,
            queue: 16384,
            lock_timeout: Duration::from_millis(250),
            retry_window: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

/// Why a command has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The rules say no. Nothing of what was asked for was done.
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
#[derive(Debug)]
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
        if let Err(CommandError::DeadlineExceeded) = answer {
            // Whoever was late is gone by now, too.
            let reason = if Instant::now() >= self.deadline { "late" } else { "gone" };
            metrics::counter!("booking_commands_dropped_total", "reason" => reason).increment(1);
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
    metrics::counter!("booking_batch_retries_total", "code" => "overtaken").increment(0);
    metrics::counter!("booking_batch_retries_total", "code" => "outdated").increment(0);
    metrics::counter!("booking_batch_retries_total", "code" => "refused").increment(0);
    for facts in ["remembered", "read", "locked"] {
        metrics::counter!("booking_batches_total", "facts" => facts).increment(0);
    }
    for reason in ["gone", "late"] {
        metrics::counter!("booking_commands_dropped_total", "reason" => reason).increment(0);
    }
    for outcome in ["committed", "not_committed", "unknown"] {
        metrics::counter!("booking_unknown_commits_total", "outcome" => outcome).increment(0);
    }
}

/// The way to the seats.
#[derive(Debug)]
pub struct Seating {
    inbox: Arc<Inbox>,
    /// How many commands may wait or be under way.
    queue: usize,
    runners: TaskTracker,
}

impl Seating {
    /// Starts the runners. They connect when the first command comes, and again whenever they have to.
    pub fn start(config: &SeatingConfig, database: &PgConnectOptions, ids: &Arc<dyn IdSource>) -> Self {
        show_counters();
        let inbox = Arc::new(Inbox::new(config.queue.max(1)));
        let recent = Arc::<Recent>::default();
        let runners = TaskTracker::new();
        for _ in 0..config.sessions.max(1) {
            let (inbox, database) = (Arc::clone(&inbox), database.clone());
            let (ids, config, recent) = (Arc::clone(ids), config.clone(), Arc::clone(&recent));
            // A task of the runner's own: a client that cancels, or a handler that is dropped, never drops a COMMIT in
            // flight.
            runners.spawn(async move {
                loop {
                    let session = Session::new(database.clone(), &config);
                    let runner = Runner::new(
                        Arc::clone(&inbox),
                        session,
                        Arc::clone(&ids),
                        config.clone(),
                        Arc::clone(&recent),
                    );
                    // A bug in the rules costs the batch that meets with it, and not all those after it.
                    match AssertUnwindSafe(runner.run()).catch_unwind().await {
                        Ok(()) => return,
                        Err(_) => {
                            metrics::counter!("grpc_panics_total").increment(1);
                            tracing::error!("a batch panicked");
                        }
                    }
                }
            });
        }
        runners.close();
        tokio::spawn(measure(Arc::downgrade(&inbox)));
        Self { inbox, queue: config.queue.max(1), runners }
    }

    /// How many commands may wait or be under way.
    pub fn queue(&self) -> usize {
        self.queue
    }

    /// Gives a command to its event's queue and waits for the answer, until `deadline` at the latest.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn submit(&self, command: Command, deadline: Instant) -> Answer {
        let (reply, answer) = oneshot::channel();
        let pending = Pending { command, deadline, reply, span: Span::child("command") };
        self.inbox.push(pending).inspect_err(|error| {
            if matches!(error, CommandError::Overloaded) {
                metrics::counter!("booking_commands_shed_total").increment(1);
            }
        })?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            // Every command is answered, but if its batch panicked, and who knows where.
            Ok(Err(_)) => Err(CommandError::OutcomeUnknown),
            Err(_) => Err(CommandError::DeadlineExceeded),
        }
    }

    /// Takes no more commands, finishes those that were accepted, and returns when the last one is decided.
    pub async fn drain(&self) {
        self.inbox.close();
        self.runners.wait().await;
    }
}

impl Drop for Seating {
    /// Runners end when nobody can ask them any more.
    fn drop(&mut self) {
        self.inbox.close();
    }
}

/// Says once a second how many commands wait, and for how many events somebody else keeps the lock. Not the runners do: one
/// that waits for the database says nothing.
async fn measure(inbox: Weak<Inbox>) {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    while let Some(inbox) = inbox.upgrade() {
        metrics::gauge!("booking_queue_commands").set(number(inbox.waiting()));
        metrics::gauge!("booking_busy_events").set(number(inbox.busy()));
        drop(inbox);
        sleep(MEASURE).await;
    }
}
