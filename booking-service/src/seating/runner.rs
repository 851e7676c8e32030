//! A runner: takes what is waiting, runs it as a batch, answers, and never gives up on the truth.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use service_core::ids::IdSource;
use service_core::trace::Span;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::batch::{Attempt, attempt, attempt_remembered, attempt_unlocked, count_seats, find_out, lock};
use super::contended::Contended;
use super::inbox::{Batch, Inbox, Locking};
use super::recent::Recent;
use super::session::{Session, Setback};
use super::{CommandError, Pending, SeatingConfig};
use crate::domain::command::Command;
use crate::domain::decide::Verdict;
use crate::store::seating::Mark;

/// The longest pause before the first repetition after a passing setback; doubled up to 16 times that.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const BATCH_SPAN: &str = "batch";

pub(super) struct Runner {
    inbox: Arc<Inbox>,
    session: Session,
    ids: Arc<dyn IdSource>,
    config: SeatingConfig,
    contended: Contended,
    recent: Arc<Recent>,
}

impl Runner {
    pub(super) fn new(
        inbox: Arc<Inbox>,
        session: Session,
        ids: Arc<dyn IdSource>,
        config: SeatingConfig,
        recent: Arc<Recent>,
    ) -> Self {
        Self { inbox, session, ids, config, contended: Contended::default(), recent }
    }

    /// Runs until the inbox is closed and nothing is left in it.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.inbox.next().await {
            self.run_batch(batch).await;
        }
    }

    /// Runs a batch to its end: every command is answered or put back.
    async fn run_batch(&mut self, mut batch: Batch) {
        let mut parts = vec![std::mem::take(&mut batch.commands)];
        while let Some(mut part) = parts.pop() {
            // What was put back in an earlier half is put back in the later ones: an event's commands keep their order.
            let late: Vec<Pending> =
                part.extract_if(.., |pending| batch.puts_back(pending.command.event_id)).collect();
            batch.put_back(late);
            if let Err(mut culprits) = self.run_part(part, &mut batch, parts.is_empty()).await {
                // One of them meets with something unforeseen. Its neighbours must not fail with it: halves are run
                // again, the earlier one first, until the culprit stands alone.
                let later = culprits.split_off(culprits.len() / 2);
                parts.push(later);
                parts.push(culprits);
            }
        }
    }

    /// Runs a part until it is over. Gives back two or more commands that the database refuses together.
    async fn run_part(
        &mut self,
        mut part: Vec<Pending>,
        batch: &mut Batch,
        is_last: bool,
    ) -> Result<(), Vec<Pending>> {
        let mut pause = FIRST_PAUSE;
        let mut failing_since = None;
        loop {
            drop_dead(&mut part);
            if part.is_empty() {
                return Ok(());
            }
            let began = Instant::now();
            let result = self.attempt(&mut part, batch, is_last).await;
            let surely_undone = matches!(&result, Err(setback) if setback.surely_undone());
            match result {
                Ok(Attempt::Done { verdicts, wrote }) => {
                    metrics::histogram!("booking_batch_commands")
                        .record(f64::from(u32::try_from(part.len()).unwrap_or(u32::MAX)));
                    metrics::histogram!("booking_batch_duration_seconds")
                        .record(began.elapsed().as_secs_f64());
                    let (decided, verdicts) = put_back_undecided(part, verdicts, batch);
                    let answers = decided.into_iter().zip(verdicts);
                    if wrote {
                        // The next batch is on its way to the database before these answers are on theirs.
                        tokio::spawn(async move { tell(answers) });
                    } else {
                        tell(answers);
                    }
                    return Ok(());
                }
                Ok(Attempt::Unknown { verdicts, mark, seats_sold }) => {
                    self.session.discard();
                    self.recent.forget(events(&part), Instant::now());
                    let (decided, verdicts) = put_back_undecided(part, verdicts, batch);
                    let Some(not_committed) = self.resolve(decided, verdicts, &mark, seats_sold).await else {
                        return Ok(());
                    };
                    part = not_committed;
                    // It may be this very batch that the server falls over.
                    if !self.may_try_again(*failing_since.get_or_insert_with(Instant::now), &mut pause).await
                    {
                        give_up(part);
                        return Ok(());
                    }
                }
                Err(Setback::Busy) => {
                    metrics::counter!("booking_batch_retries_total", "code" => "55P03").increment(1);
                    self.contended.learn(events(&part), Instant::now());
                    batch.timed_out();
                    batch.put_back(part);
                    return Ok(());
                }
                Err(Setback::Passing { code, lost }) => {
                    tracing::warn!(%code, commands = part.len(), "batch is tried again");
                    metrics::counter!("booking_batch_retries_total", "code" => code).increment(1);
                    if lost {
                        self.session.discard();
                    }
                    if !self.may_try_again(*failing_since.get_or_insert_with(Instant::now), &mut pause).await
                    {
                        give_up(part);
                        return Ok(());
                    }
                }
                Err(Setback::Unforeseen(error)) => {
                    if !surely_undone {
                        // Whatever it was, it may have left the session out of step.
                        self.session.discard();
                    }
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

    /// Whether there is time left of the retry window, which began with the first failure; then after a pause.
    async fn may_try_again(&self, failing_since: Instant, pause: &mut Duration) -> bool {
        if failing_since.elapsed() >= self.config.retry_window {
            return false;
        }
        pause_for(pause).await;
        true
    }

    /// Runs a part as one transaction. First without waiting for a lock, if nobody else was seen at its events lately; and
    /// first of all without reading, if all of them are remembered.
    ///
    /// Otherwise whoever comes for the same events while their locks are waited for is let in: facts are read after that.
    /// Where replicas take turns at one event, a batch is so as large as if it were alone.
    async fn attempt(
        &mut self,
        part: &mut Vec<Pending>,
        batch: &mut Batch,
        is_last: bool,
    ) -> Result<Attempt, Setback> {
        let mut span = Span::for_many(BATCH_SPAN, part.iter().map(|pending| &pending.span));
        joins(part.iter(), &span);
        count_commands(part, &span);
        if batch.locking == Locking::Wait && self.may_go_unlocked(part) {
            let commands = commands(part);
            let (recent, ids) = (self.recent.as_ref(), self.ids.as_ref());
            let remembered = attempt_remembered(&mut self.session, &commands, recent, ids);
            if let Some(attempt) = span.enclose(remembered).await? {
                count_batch("remembered");
                return Ok(attempt);
            }
            let unlocked = attempt_unlocked(&mut self.session, &commands, recent, ids);
            match span.enclose(unlocked).await? {
                Some(attempt) => {
                    count_batch("read");
                    return Ok(attempt);
                }
                None => self.contended.learn(events(part), Instant::now()),
            }
        }
        // Whoever locks leaves the events as nobody remembers.
        self.recent.forget(events(part), Instant::now());
        let to_lock = part.iter().map(|pending| &pending.command);
        let events = span.enclose(lock(&mut self.session, to_lock, batch.locking)).await?;
        if is_last {
            let first = part.len();
            batch.let_in(part);
            span = span.for_more(BATCH_SPAN, part.iter().skip(first).map(|pending| &pending.span));
            joins(part.iter().skip(first), &span);
        }
        drop_dead(part);
        count_commands(part, &span);
        let commands = commands(part);
        let locked = attempt(&mut self.session, &commands, &events, self.ids.as_ref());
        let attempt = span.enclose(locked).await?;
        count_batch("locked");
        Ok(attempt)
    }

    fn may_go_unlocked(&mut self, part: &[Pending]) -> bool {
        let now = Instant::now();
        part.iter().all(|pending| {
            !pending.command.revises_event() && !self.contended.contains(pending.command.event_id, now)
        })
    }

    /// Finds out what became of a COMMIT without an answer. Gives the commands back if it did not happen.
    async fn resolve(
        &mut self,
        part: Vec<Pending>,
        verdicts: Vec<Verdict>,
        mark: &Mark,
        seats_sold: u64,
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
            pause_for(&mut pause).await;
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
                count_seats(seats_sold);
                tell(part.into_iter().zip(verdicts));
            }
            None => {
                for pending in part {
                    pending.answer(Err(CommandError::OutcomeUnknown));
                }
            }
        }
        None
    }
}

/// Keeps the commands without a verdict for later and gives back the others.
fn put_back_undecided(
    part: Vec<Pending>,
    verdicts: Vec<Option<Verdict>>,
    batch: &mut Batch,
) -> (Vec<Pending>, Vec<Verdict>) {
    let mut decided = (Vec::with_capacity(part.len()), Vec::with_capacity(part.len()));
    for (pending, verdict) in part.into_iter().zip(verdicts) {
        match verdict {
            Some(verdict) => {
                decided.0.push(pending);
                decided.1.push(verdict);
            }
            None => batch.put_back([pending]),
        }
    }
    decided
}

fn events(part: &[Pending]) -> impl Iterator<Item = Uuid> {
    part.iter().map(|pending| pending.command.event_id)
}

fn commands(part: &[Pending]) -> Vec<&Command> {
    part.iter().map(|pending| &pending.command).collect()
}

/// Says in the metrics by which facts a batch was decided: the words are those of `show_counters`.
fn count_batch(facts: &'static str) {
    metrics::counter!("booking_batches_total", "facts" => facts).increment(1);
}

/// Says in the traces how many commands a batch has.
fn count_commands(part: &[Pending], span: &Span) {
    span.set("rowlock.batch.commands", i64::try_from(part.len()).unwrap_or(i64::MAX));
}

/// Says in the traces that these are in this batch.
fn joins<'a>(pending: impl Iterator<Item = &'a Pending>, span: &Span) {
    pending.for_each(|pending| pending.span.joins(span));
}

fn tell(answers: impl Iterator<Item = (Pending, Verdict)>) {
    for (pending, verdict) in answers {
        pending.answer(verdict.map_err(CommandError::Refused));
    }
}

/// Nothing of these was written.
fn give_up(part: Vec<Pending>) {
    for pending in part {
        pending.answer(Err(CommandError::DatabaseUnavailable));
    }
}

fn drop_dead(part: &mut Vec<Pending>) {
    for pending in part.extract_if(.., |pending| pending.is_dead()) {
        pending.answer(Err(CommandError::DeadlineExceeded));
    }
}

/// A random pause, longer each time: replicas that fell over together must not come back together.
async fn pause_for(pause: &mut Duration) {
    let length = rand::rng().random_range(Duration::ZERO..=*pause);
    sleep(length).await;
    *pause = (*pause * 2).min(FIRST_PAUSE * 16);
}
