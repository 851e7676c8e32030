//! A shard: takes what is waiting, runs it as a batch, answers, and never gives up on the truth.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use service_core::ids::IdSource;
use service_core::trace::Span;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::batch::{Attempt, attempt, find_out};
use super::busy::BusyEvents;
use super::session::{Session, Setback};
use super::{BATCH, CommandError, Pending, SeatingConfig};
use crate::domain::command::{Action, Command};
use crate::domain::decide::Verdict;
use crate::store::seating::Mark;

/// How often an event that somebody else holds is looked at again.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// What was put off comes in addition to what arrived, up to this many in all.
const LARGEST_BATCH: usize = 2 * BATCH;
/// How many commands for one busy event are tried with each batch.
const BUSY_BATCH: usize = 64;
/// The longest pause before the first repetition after a passing setback; doubled up to 16 times that.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Shard {
    inbox: mpsc::Receiver<Pending>,
    session: Session,
    ids: Arc<dyn IdSource>,
    config: SeatingConfig,
    /// Accepted and put off, in order of arrival: their event is busy, or is being cancelled in the batch before.
    deferred: VecDeque<Pending>,
    /// Commands of the batch at work whose event turned out to be busy, in order of arrival.
    skipped: Vec<Pending>,
    /// Events whose lock was not to be had in time. Their commands wait without the others.
    busy: BusyEvents,
}

impl Shard {
    pub(super) fn new(
        inbox: mpsc::Receiver<Pending>,
        session: Session,
        ids: Arc<dyn IdSource>,
        config: SeatingConfig,
    ) -> Self {
        Self {
            inbox,
            session,
            ids,
            config,
            deferred: VecDeque::new(),
            skipped: Vec::new(),
            busy: BusyEvents::default(),
        }
    }

    /// Runs until `closing`, and then until nothing accepted is left.
    pub(super) async fn run(mut self, closing: CancellationToken) {
        let mut arrived = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled(), if !self.inbox.is_closed() => {
                    self.inbox.close();
                    continue;
                }
                () = gather(&mut self.inbox, &mut arrived, self.deferred.is_empty(), &self.busy) => {}
            }
            if arrived.is_empty()
                && self.deferred.is_empty()
                && self.inbox.is_closed()
                && self.inbox.is_empty()
            {
                return;
            }
            let batch = self.form_batch(&mut arrived);
            self.run_batch(batch).await;
        }
    }

    /// The next batch: what was put off, then what arrived.
    ///
    /// An event's commands keep their order: once one of them is put off, so are all behind it. Of a busy event only a few
    /// come along, in addition to what arrived and never instead of it, so that other events go on.
    fn form_batch(&mut self, arrived: &mut Vec<Pending>) -> Vec<Pending> {
        let mut batch = Vec::with_capacity(arrived.len());
        let mut put_off: HashSet<Uuid> = HashSet::new();
        let mut asked_for: HashSet<Uuid> = HashSet::new();
        let mut tried: HashMap<Uuid, usize> = HashMap::new();
        let before = std::mem::take(&mut self.deferred);
        let (held, full) = (before.len(), before.len() >= self.config.queue);
        for (index, pending) in before.into_iter().chain(arrived.drain(..)).enumerate() {
            if pending.is_dead() {
                pending.answer(Err(CommandError::DeadlineExceeded));
                continue;
            }
            let event_id = pending.command.event_id;
            asked_for.insert(event_id);
            // What waits for busy events is bounded like what waits in the inbox.
            if full && index >= held && self.busy.contains(event_id) {
                pending.answer(Err(CommandError::Overloaded));
                continue;
            }
            let tried = tried.entry(event_id).or_default();
            *tried += 1;
            let crowded = self.busy.contains(event_id) && *tried > BUSY_BATCH;
            if crowded || batch.len() >= LARGEST_BATCH {
                put_off.insert(event_id);
            }
            if put_off.contains(&event_id) {
                self.put_off(pending);
                continue;
            }
            // The end of an event is carried out by statements that come last in their batch (see `Ending`).
            if matches!(pending.command.action, Action::CancelEvent { .. }) {
                put_off.insert(event_id);
            }
            batch.push(pending);
        }
        self.busy.retain(|event_id| asked_for.contains(&event_id));
        batch
    }

    fn put_off(&mut self, pending: Pending) {
        if self.deferred.len() < self.config.queue {
            self.deferred.push_back(pending);
        } else {
            pending.answer(Err(CommandError::Overloaded));
        }
    }

    /// Runs a batch to its end: every command is answered or put off.
    async fn run_batch(&mut self, batch: Vec<Pending>) {
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            // An event that was skipped in an earlier half is skipped in the later ones: its commands keep their order.
            let late: Vec<Pending> =
                part.extract_if(.., |pending| self.skips(pending.command.event_id)).collect();
            self.skipped.extend(late);
            if let Err(mut culprits) = self.run_part(part).await {
                // One of them meets with something unforeseen. Its neighbours must not fail with it: halves are run
                // again, the earlier one first, until the culprit stands alone.
                let later = culprits.split_off(culprits.len() / 2);
                parts.push(later);
                parts.push(culprits);
            }
        }
        // What this batch put off before it ran came later than what it skipped.
        for pending in self.skipped.drain(..).rev() {
            self.deferred.push_front(pending);
        }
    }

    fn skips(&self, event_id: Uuid) -> bool {
        self.skipped.iter().any(|pending| pending.command.event_id == event_id)
    }

    /// Runs a part until it is over. Gives back two or more commands that the database refuses together.
    async fn run_part(&mut self, mut part: Vec<Pending>) -> Result<(), Vec<Pending>> {
        let mut pause = FIRST_PAUSE;
        let mut failing_since = None;
        loop {
            self.drop_dead(&mut part);
            if part.is_empty() {
                return Ok(());
            }
            let began = Instant::now();
            let commands: Vec<&Command> = part.iter().map(|pending| &pending.command).collect();
            let span = Span::for_many("batch", part.iter().map(|pending| &pending.span));
            span.set("rowlock.batch.commands", i64::try_from(part.len()).unwrap_or(i64::MAX));
            part.iter().for_each(|pending| pending.span.joins(&span));
            let result =
                span.enclose(attempt(&mut self.session, &commands, &mut self.busy, self.ids.as_ref())).await;
            drop(span);
            match result {
                Ok(Attempt::Done(verdicts)) => {
                    metrics::histogram!("booking_batch_commands")
                        .record(f64::from(u32::try_from(part.len()).unwrap_or(u32::MAX)));
                    metrics::histogram!("booking_batch_duration_seconds")
                        .record(began.elapsed().as_secs_f64());
                    self.answer(part, verdicts);
                    return Ok(());
                }
                Ok(Attempt::Unknown(verdicts, mark)) => {
                    self.session.discard();
                    let (decided, verdicts) = self.set_aside_skipped(part, verdicts);
                    match self.resolve(decided, verdicts, &mark).await {
                        Some(not_committed) => part = not_committed,
                        None => return Ok(()),
                    }
                }
                Err(Setback::Busy) => {
                    metrics::counter!("booking_batch_retries_total", "code" => "55P03").increment(1);
                }
                Err(Setback::Passing { code, lost }) => {
                    tracing::warn!(%code, commands = part.len(), "batch is tried again");
                    metrics::counter!("booking_batch_retries_total", "code" => code).increment(1);
                    if lost {
                        self.session.discard();
                    }
                    let since = *failing_since.get_or_insert(began);
                    if since.elapsed() >= self.config.retry_window {
                        for pending in part {
                            pending.answer(Err(CommandError::DatabaseUnavailable));
                        }
                        return Ok(());
                    }
                    rest(&mut pause).await;
                }
                Err(Setback::Unforeseen(error)) => {
                    // Whatever it was, it may have left the session out of step.
                    self.session.discard();
                    if part.len() > 1 {
                        return Err(part);
                    }
                    tracing::error!(%error, event_id = ?part.first().map(|p| p.command.event_id), "a command was refused by the database");
                    for pending in part {
                        pending.answer(Err(CommandError::Internal));
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Finds out what became of a COMMIT without an answer. Gives the commands back if it did not happen.
    async fn resolve(
        &mut self,
        part: Vec<Pending>,
        verdicts: Vec<Verdict>,
        mark: &Mark,
    ) -> Option<Vec<Pending>> {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let found_out = loop {
            match find_out(&mut self.session, mark).await {
                Ok(committed) => break Some(committed),
                Err(setback) => {
                    tracing::warn!(?setback, "the outcome of a batch is still unknown");
                    self.session.discard();
                }
            }
            // Some may be gone, but verdicts go with commands by position: they are given up together.
            let nobody_waits = part.iter().all(|pending| pending.reply.is_closed());
            if nobody_waits || began.elapsed() >= self.config.retry_window {
                break None;
            }
            rest(&mut pause).await;
        };
        let outcome = match found_out {
            Some(true) => "committed",
            Some(false) => "not_committed",
            None => "unknown",
        };
        metrics::counter!("booking_unknown_commits_total", "outcome" => outcome).increment(1);
        match found_out {
            Some(false) => return Some(part),
            Some(true) => {
                for (pending, verdict) in part.into_iter().zip(verdicts) {
                    pending.answer(verdict.map_err(CommandError::Refused));
                }
            }
            None => {
                for pending in part {
                    pending.answer(Err(CommandError::OutcomeUnknown));
                }
            }
        }
        None
    }

    fn answer(&mut self, part: Vec<Pending>, verdicts: Vec<Option<Verdict>>) {
        let (decided, verdicts) = self.set_aside_skipped(part, verdicts);
        for (pending, verdict) in decided.into_iter().zip(verdicts) {
            pending.answer(verdict.map_err(CommandError::Refused));
        }
    }

    /// Keeps the commands without a verdict for later and gives back the others.
    fn set_aside_skipped(
        &mut self,
        part: Vec<Pending>,
        verdicts: Vec<Option<Verdict>>,
    ) -> (Vec<Pending>, Vec<Verdict>) {
        let mut decided = (Vec::with_capacity(part.len()), Vec::with_capacity(part.len()));
        for (pending, verdict) in part.into_iter().zip(verdicts) {
            match verdict {
                Some(verdict) => {
                    decided.0.push(pending);
                    decided.1.push(verdict);
                }
                None => self.skipped.push(pending),
            }
        }
        decided
    }

    fn drop_dead(&self, part: &mut Vec<Pending>) {
        let (dead, alive): (Vec<_>, Vec<_>) = std::mem::take(part).into_iter().partition(Pending::is_dead);
        *part = alive;
        for pending in dead {
            pending.answer(Err(CommandError::DeadlineExceeded));
        }
    }
}

/// Waits for something to do, and takes what is there.
async fn gather(
    inbox: &mut mpsc::Receiver<Pending>,
    arrived: &mut Vec<Pending>,
    nothing_deferred: bool,
    busy: &BusyEvents,
) {
    if nothing_deferred {
        inbox.recv_many(arrived, BATCH).await;
    } else if busy.is_empty() {
        while arrived.len() < BATCH
            && let Ok(pending) = inbox.try_recv()
        {
            arrived.push(pending);
        }
    } else if inbox.is_closed() && inbox.is_empty() {
        sleep(BUSY_PAUSE).await;
    } else {
        // Whoever arrives in the meantime does not wait for the busy ones.
        let _ = timeout(BUSY_PAUSE, inbox.recv_many(arrived, BATCH)).await;
    }
}

/// A random pause, longer each time: replicas that fell over together must not come back together.
async fn rest(pause: &mut Duration) {
    let length = rand::rng().random_range(Duration::ZERO..=*pause);
    sleep(length).await;
    *pause = (*pause * 2).min(FIRST_PAUSE * 16);
}
