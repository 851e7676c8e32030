//! One batch, one transaction.

use std::time::Duration;

use service_core::ids::IdSource;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::inbox::Locking;
use super::recent::{Recent, Remembered};
use super::session::{Session, Setback, within};
use crate::domain::command::{Action, Actor, Command, Served};
use crate::domain::decide::{Decision, Outcome, Verdict, decide};
use crate::domain::effects::{Effects, Ending};
use crate::domain::event::Event;
use crate::domain::facts::Wanted;
use crate::store::seating::{
    Mark, Moment, are_unchanged, begin_and_lock_events, begin_and_lock_free_events, commit, discard_plans,
    load_facts, rollback, rule_out, was_committed, write_effects, write_if_unchanged,
    write_newcomers_if_unchanged,
};
use crate::store::{StoreError, commit_nothing};

/// How long it may take to write what takes long: longer than its statement is given.
const LONG_PATIENCE: Duration = Duration::from_secs(11 * 60);

/// What became of a batch.
pub(super) enum Attempt {
    /// It is over: a verdict for each command, or `None` for those whose event somebody else holds.
    Done {
        verdicts: Vec<Option<Verdict>>,
        /// Whether anything was written.
        wrote: bool,
    },
    /// The session broke at COMMIT, or as what commits itself was written. The verdicts are true, and so many seats sold,
    /// if, and only if, the mark is found.
    Unknown { verdicts: Vec<Option<Verdict>>, mark: Mark, seats_sold: u64 },
}

/// Decides the commands by the events as this replica's last batch has left them, and as if nobody in this one were known
/// to them: nothing is read, and one statement writes if all of that is so. `None`: it is not, or may not be, or nothing
/// would be written, which must not be said on the ground of a memory. Nothing was written.
///
/// # Errors
/// Nothing was committed; see [`Setback`].
pub(super) async fn attempt_remembered(
    session: &mut Session,
    commands: &[&Command],
    recent: &Recent,
    ids: &dyn IdSource,
) -> Result<Option<Attempt>, Setback> {
    if !commands.iter().all(|command| command.comes_in()) {
        return Ok(None);
    }
    let patience = session.patience();
    // First: to connect takes time, in which a memory ages.
    let connection = session.connection().await?;
    let events = event_ids(commands.iter().copied());
    let Some(remembered) = recent.recall(&events, Instant::now()) else { return Ok(None) };
    let Remembered { facts, versions, server_start } = remembered;
    let Decision { verdicts, effects, .. } = decide(facts, commands.iter().copied(), ids);
    if effects.is_empty() || !effects.only_add() {
        return Ok(None);
    }
    let newcomers = Wanted::by(commands.iter().copied());
    let mark = Mark::new(ids.new_id(), &effects);
    let sent = Instant::now();
    let step = write_newcomers_if_unchanged(connection, &versions, server_start, &newcomers, &effects, &mark);
    let written = committing(patience, step).await;
    match &written {
        Ok(Some(moment)) => recent.learn(&effects.events, &versions, *moment, sent, Instant::now()),
        Ok(None) | Err(_) => recent.doubt(&events, Instant::now()),
    }
    match written.transpose() {
        None => {
            metrics::counter!("booking_batch_retries_total", "code" => "outdated").increment(1);
            Ok(None)
        }
        // It may be the memory that is at fault. If it is a command, those find out who read.
        Some(Err(setback @ Setback::Unforeseen(_))) if setback.surely_undone() => {
            tracing::warn!(?setback, "the database refused what was decided by what is remembered");
            metrics::counter!("booking_batch_retries_total", "code" => "refused").increment(1);
            Ok(None)
        }
        Some(written) => conclude(written, verdicts, &effects, mark).map(Some),
    }
}

/// Decides the commands by what is there now, without waiting for a lock and without a transaction. What that leaves to be
/// written is written by one statement, if nobody has changed the events since; what leaves nothing to be written is true of
/// one moment. `None`: somebody has changed one of the events meanwhile, or writing it takes longer than a statement that
/// no lock protects is given, or somebody may be told of a refusal for something that is just being done. Nothing was written.
///
/// # Errors
/// Nothing was committed; see [`Setback`].
pub(super) async fn attempt_unlocked(
    session: &mut Session,
    commands: &[&Command],
    recent: &Recent,
    ids: &dyn IdSource,
) -> Result<Option<Attempt>, Setback> {
    let patience = session.patience();
    let connection = session.connection().await?;
    let events = event_ids(commands.iter().copied());
    let loaded = within(patience, load_facts(connection, &events, commands.iter().copied(), None)).await?;
    let Decision { verdicts, effects, .. } = decide(loaded.facts, commands.iter().copied(), ids);
    if effects.is_empty() {
        let is_true =
            loaded.at_one_moment || within(patience, are_unchanged(connection, &loaded.versions)).await?;
        if !is_true {
            return Ok(overtaken());
        }
        // It may be this very call, sent before, that somebody else is about to commit. Who waits for the lock sees that.
        let refused = commands.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_err());
        if loaded.being_written && refused.into_iter().any(|(command, _)| command.may_be_a_repetition()) {
            return Ok(None);
        }
        if acknowledges(&verdicts) {
            within(patience, commit_nothing(connection)).await?;
        }
        let verdicts = verdicts.into_iter().map(Some).collect();
        return Ok(Some(Attempt::Done { verdicts, wrote: false }));
    }
    if effects.take_long() || !effects.are_one_statement() {
        return Ok(None);
    }
    let mark = Mark::new(ids.new_id(), &effects);
    let sent = Instant::now();
    let step = write_if_unchanged(connection, &loaded.versions, &effects, &mark);
    let Some(written) = committing(patience, step).await.transpose() else { return Ok(overtaken()) };
    if let Ok(moment) = &written {
        recent.learn(&effects.events, &loaded.versions, *moment, sent, Instant::now());
    }
    conclude(written, verdicts, &effects, mark).map(Some)
}

/// Whether somebody is told that something is so that was written before. The server shows what it has committed before its
/// synchronous standby has it, if the session that waited for that has ended: it must not be acknowledged on that ground alone.
fn acknowledges(verdicts: &[Verdict]) -> bool {
    verdicts.iter().any(|verdict| verdict.as_ref().is_ok_and(|outcome| *outcome != Outcome::Unchanged))
}

/// Somebody else was faster.
fn overtaken() -> Option<Attempt> {
    metrics::counter!("booking_batch_retries_total", "code" => "overtaken").increment(1);
    None
}

/// What became of a batch that one statement has written and committed, unless it failed.
fn conclude(
    written: Result<Moment, Setback>,
    verdicts: Vec<Verdict>,
    effects: &Effects,
    mark: Mark,
) -> Result<Attempt, Setback> {
    let verdicts = verdicts.into_iter().map(Some).collect();
    match written {
        Ok(_) => Ok(done(verdicts, seats_sold(effects))),
        Err(setback) if setback.surely_undone() => Err(setback),
        Err(setback) => {
            tracing::warn!(?setback, "no answer to a batch that was written");
            Ok(Attempt::Unknown { verdicts, mark, seats_sold: seats_sold(effects) })
        }
    }
}

/// Begins the transaction of a batch: locks the events of these commands and says which of them it has, or do not exist.
///
/// # Errors
/// None of them is locked; see [`Setback`].
pub(super) async fn lock<'a>(
    session: &mut Session,
    commands: impl Iterator<Item = &'a Command>,
    locking: Locking,
) -> Result<Vec<Uuid>, Setback> {
    let patience = session.patience();
    let connection = session.connection().await?;
    let began = Instant::now();
    let locked = within(patience, begin_and_lock(connection, event_ids(commands), locking)).await;
    metrics::histogram!("booking_batch_lock_seconds").record(began.elapsed().as_secs_f64());
    match locked {
        Ok(events) => Ok(events),
        Err(setback) => Err(undo(connection, patience, setback).await),
    }
}

/// Runs the commands to the end of the transaction in which `events` were locked.
///
/// # Errors
/// Nothing was committed; see [`Setback`].
pub(super) async fn attempt(
    session: &mut Session,
    commands: &[&Command],
    events: &[Uuid],
    ids: &dyn IdSource,
) -> Result<Attempt, Setback> {
    let patience = session.patience();
    let connection = session.locked_connection()?;
    let applied = apply(connection, patience, commands, events, ids).await;
    let Applied { verdicts, seats_sold, mark, acknowledges } = match applied {
        Ok(applied) => applied,
        Err(setback) => return Err(undo(connection, patience, setback).await),
    };
    let Some(mark) = mark else {
        // Nothing but refusals and repetitions, and they are true: the lock was held when they were decided. For refusals a
        // commit would only cost a flush.
        within(patience, rollback(connection)).await?;
        if acknowledges {
            within(patience, commit_nothing(connection)).await?;
        }
        return Ok(Attempt::Done { verdicts, wrote: false });
    };
    // From here on an error does not say what happened: the server may have committed before the answer was lost.
    match committing(patience, commit(connection)).await {
        Ok(()) => Ok(done(verdicts, seats_sold)),
        Err(setback) => {
            tracing::warn!(?setback, "no answer to COMMIT");
            Ok(Attempt::Unknown { verdicts, mark, seats_sold })
        }
    }
}

/// Waits for the step that commits, and says how long that took, if it did: a lock that was waited for in vain says nothing about
/// commits.
async fn committing<T>(
    patience: Duration,
    step: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, Setback> {
    let began = Instant::now();
    let committed = within(patience, step).await;
    if committed.is_ok() {
        metrics::histogram!("booking_batch_commit_seconds").record(began.elapsed().as_secs_f64());
    }
    committed
}

/// What was written is committed.
fn done(verdicts: Vec<Option<Verdict>>, seats_sold: u64) -> Attempt {
    count_seats(seats_sold);
    Attempt::Done { verdicts, wrote: true }
}

/// Rolls back what met with a setback, and says what to do about it. At once, not when the session is used next: until then
/// it would hold the locks.
async fn undo(connection: &mut PgConnection, patience: Duration, setback: Setback) -> Setback {
    if setback.lost_session() {
        return setback;
    }
    within(patience, rollback(connection)).await.err().unwrap_or(setback)
}

/// What was written and is not committed yet.
struct Applied {
    verdicts: Vec<Option<Verdict>>,
    seats_sold: u64,
    /// How to recognise it; `None`: there was nothing to write.
    mark: Option<Mark>,
    /// See [`acknowledges`].
    acknowledges: bool,
}

/// Says which of the events are this transaction's now, or do not exist.
async fn begin_and_lock(
    connection: &mut PgConnection,
    events: Vec<Uuid>,
    locking: Locking,
) -> Result<Vec<Uuid>, StoreError> {
    match locking {
        Locking::Wait => begin_and_lock_events(connection, &events).await.map(|()| events),
        Locking::IfFree => begin_and_lock_free_events(connection, events).await,
    }
}

/// Load, decide, write, for those of the commands whose event is locked.
async fn apply(
    connection: &mut PgConnection,
    patience: Duration,
    commands: &[&Command],
    events: &[Uuid],
    ids: &dyn IdSource,
) -> Result<Applied, Setback> {
    // In the order of their ids, as they were locked.
    let applies = |command: &Command| events.binary_search(&command.event_id).is_ok();

    let applied = commands.iter().copied().filter(|command| applies(command));
    let loaded = within(patience, load_facts(connection, events, applied.clone(), None)).await?;
    let now = loaded.facts.now;
    let Decision { verdicts, effects, unserved } = decide(loaded.facts, applied, ids);
    let acknowledges = acknowledges(&verdicts);
    let mut decided = verdicts.into_iter();
    let mut verdicts: Vec<_> =
        commands.iter().map(|command| if applies(command) { decided.next() } else { None }).collect();
    if effects.is_empty() {
        return Ok(Applied { verdicts, seats_sold: 0, mark: None, acknowledges });
    }
    let mark = Mark::new(ids.new_id(), &effects);
    let writing = if effects.take_long() { LONG_PATIENCE } else { patience };
    let written = write_effects(connection, &loaded.versions, &effects, &mark);
    let last_versions = within(writing, written).await?;
    complete_endings(&mut verdicts, &effects.endings, &last_versions);
    let mut seats_sold = seats_sold(&effects);
    for (event_id, served) in unserved {
        let rest = (event_id, served, now);
        seats_sold += serve_rest(connection, patience, rest, &mark, &mut verdicts, ids).await?;
    }
    Ok(Applied { verdicts, seats_sold, mark: Some(mark), acknowledges })
}

/// Gives the queue of an event what a portion has left, portion by portion, as of the same moment, and puts the event as it
/// stands then into the answer: how many seats were sold.
async fn serve_rest(
    connection: &mut PgConnection,
    patience: Duration,
    (event_id, mut served, now): (Uuid, Served, OffsetDateTime),
    mark: &Mark,
    verdicts: &mut [Option<Verdict>],
    ids: &dyn IdSource,
) -> Result<u64, Setback> {
    let (mut sold, mut portions) = (0, 0_u32);
    loop {
        portions += 1;
        if portions.is_power_of_two() {
            // The tables grow while this lasts, and nobody else sees it: a plan from its beginning walks all that was written since.
            within(patience, discard_plans(connection)).await?;
        }
        let action = Action::ServeQueue { after: served };
        let command = Command { event_id, actor: Actor::SYSTEM, action };
        let events = [event_id];
        let load = load_facts(connection, &events, std::iter::once(&command), Some(now));
        let loaded = within(patience, load).await?;
        let Decision { effects, mut unserved, .. } = decide(loaded.facts, [&command], ids);
        within(patience, write_effects(connection, &loaded.versions, &effects, mark)).await?;
        sold += seats_sold(&effects);
        effects.events.into_iter().for_each(|event| complete_event(verdicts, event));
        let Some((_, so_far)) = unserved.pop() else { return Ok(sold) };
        served = so_far;
    }
}

/// The events of these commands, each once, in the order in which everybody locks them.
fn event_ids<'a>(commands: impl Iterator<Item = &'a Command>) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = commands.map(|command| command.event_id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Finds out whether a batch whose COMMIT went unanswered took effect. If it did not, it never will.
///
/// # Errors
/// It could not be found out now; see [`Setback`].
pub(super) async fn find_out(session: &mut Session, mark: &Mark) -> Result<bool, Setback> {
    let patience = session.patience();
    let connection = session.connection().await?;
    within(patience, async {
        // The lost transaction holds these locks until it has ended: without waiting for them, a COMMIT that is
        // still under way would be taken for one that never was.
        begin_and_lock_events(connection, mark.events()).await?;
        let committed = was_committed(connection, mark).await?;
        // What does not hold them yet is not to take effect when it does. And what is there may be here alone: the server shows
        // what it has committed before its synchronous standby has it, if the session that waited for that is ended. This
        // commit comes later in the log, and is not answered before.
        rule_out(connection, mark.events()).await?;
        Ok::<bool, StoreError>(committed)
    })
    .await
}

/// Seats that are committed.
pub(super) fn count_seats(sold: u64) {
    metrics::counter!("booking_seats_sold_total").increment(sold);
}

/// How many seats new registrations have taken, also those that are only held as yet.
fn seats_sold(effects: &Effects) -> u64 {
    effects.new_registrations.iter().map(|registration| u64::from(registration.seats.unsigned_abs())).sum()
}

/// Puts an event as it stands now into the answer of the last who has changed it.
fn complete_event(verdicts: &mut [Option<Verdict>], now: Event) {
    let last = verdicts.iter_mut().rev().flatten().find_map(|verdict| match verdict {
        Ok(Outcome::Event(record)) if record.event.id == now.id => Some(&mut record.event),
        _ => None,
    });
    if let Some(event) = last {
        *event = now;
    }
}

/// Puts the versions that a cancelled event's end was logged under into its answer.
fn complete_endings(verdicts: &mut [Option<Verdict>], endings: &[Ending], last_versions: &[i64]) {
    for (ending, &version) in endings.iter().zip(last_versions) {
        for verdict in verdicts.iter_mut().flatten() {
            if let Ok(Outcome::Event(record)) = verdict
                && record.event.id == ending.event_id
                && record.event.version == ending.after_version
            {
                record.event.version = version;
            }
        }
    }
}
