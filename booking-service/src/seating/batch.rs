//! One batch, one transaction.

use std::time::Duration;

use service_core::ids::IdSource;
use service_core::trace::Span;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

use super::busy::BusyEvents;
use super::session::{Session, Setback, within};
use crate::domain::command::Command;
use crate::domain::decide::{Outcome, Verdict, decide};
use crate::domain::effects::{Effects, Ending};
use crate::store::StoreError;
use crate::store::seating::{
    Mark, load_facts, lock_events, lock_events_that_are_free, was_committed, write_effects,
};

/// How long the end of a cancelled event may take: longer than its statement is given.
const ENDING_PATIENCE: Duration = Duration::from_secs(11 * 60);

/// What became of a batch.
pub(super) enum Attempt {
    /// It is over: a verdict for each command, or `None` for those whose event somebody else holds.
    Done(Vec<Option<Verdict>>),
    /// The session broke at COMMIT. The verdicts are true if, and only if, the mark is found.
    Unknown(Vec<Option<Verdict>>, Mark),
}

/// Runs the commands as one transaction. `busy` names events whose lock is not to be waited for; it is told which
/// locks were granted and which were not.
///
/// # Errors
/// Nothing was committed; see [`Setback`].
pub(super) async fn attempt(
    session: &mut Session,
    commands: &[&Command],
    busy: &mut BusyEvents,
    ids: &dyn IdSource,
) -> Result<Attempt, Setback> {
    let patience = session.patience();
    let connection = session.connection().await?;
    let mut tx = within(patience, async { Ok(connection.begin().await?) }).await?;
    let (mut verdicts, effects, written) = match apply(&mut tx, patience, commands, busy, ids).await {
        Ok(applied) => applied,
        Err(setback) => {
            // At once, not when the session is used next: until then it would hold the locks.
            if !setback.lost_session() {
                within(patience, async { Ok(tx.rollback().await?) }).await?;
            }
            return Err(setback);
        }
    };
    let Some((mark, last_versions)) = written else {
        // Nothing but refusals and repetitions, and they are true: the lock was held when they were decided. A commit
        // would only cost a flush.
        within(patience, async { Ok(tx.rollback().await?) }).await?;
        return Ok(Attempt::Done(verdicts));
    };
    complete_endings(&mut verdicts, &effects.endings, &last_versions);
    // From here on an error does not say what happened: the server may have committed before the answer was lost.
    let began = Instant::now();
    let span = Span::statement("COMMIT");
    let committed = within(patience, async { Ok(tx.commit().await?) }).await;
    drop(span);
    metrics::histogram!("booking_batch_commit_seconds").record(began.elapsed().as_secs_f64());
    match committed {
        Ok(()) => {
            metrics::counter!("booking_seats_sold_total").increment(seats_sold(&effects));
            Ok(Attempt::Done(verdicts))
        }
        Err(setback) => {
            tracing::warn!(?setback, "no answer to COMMIT");
            Ok(Attempt::Unknown(verdicts, mark))
        }
    }
}

type Applied = (Vec<Option<Verdict>>, Effects, Option<(Mark, Vec<i64>)>);

/// Lock, load, decide, write.
async fn apply(
    tx: &mut PgConnection,
    patience: Duration,
    commands: &[&Command],
    busy: &mut BusyEvents,
    ids: &dyn IdSource,
) -> Result<Applied, Setback> {
    let now = Instant::now();
    let (awaited, others): (Vec<Uuid>, Vec<Uuid>) =
        event_ids(commands).into_iter().partition(|&id| busy.may_wait_for(id, now));
    let locked = within(patience, lock_events(tx, &awaited)).await;
    metrics::histogram!("booking_batch_lock_seconds").record(now.elapsed().as_secs_f64());
    let mut events = match locked {
        Ok(events) => events,
        Err(setback) => {
            if matches!(setback, Setback::Busy) {
                // Which of them it was is not said.
                busy.timed_out(&awaited, Instant::now());
            }
            return Err(setback);
        }
    };
    let mut skipped = Vec::new();
    if !others.is_empty() {
        let locked = within(patience, lock_events_that_are_free(tx, &others)).await?;
        events.extend(locked.events);
        skipped = locked.busy;
    }
    for id in awaited.iter().chain(&others).filter(|id| !skipped.contains(id)) {
        busy.granted(*id);
    }
    let applies = |command: &Command| !skipped.contains(&command.event_id);

    let applied = commands.iter().copied().filter(|command| applies(command));
    let facts = within(patience, load_facts(tx, events, applied.clone())).await?;
    let decision = decide(facts, applied, ids);
    let patience = if decision.effects.endings.is_empty() { patience } else { ENDING_PATIENCE };
    let written = within(patience, write_effects(tx, &decision.effects)).await?;

    let mut decided = decision.verdicts.into_iter();
    let verdicts =
        commands.iter().map(|command| if applies(command) { decided.next() } else { None }).collect();
    Ok((verdicts, decision.effects, written))
}

/// The events of these commands, each once, in the order in which everybody locks them.
fn event_ids(commands: &[&Command]) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = commands.iter().map(|command| command.event_id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Finds out whether a batch whose COMMIT went unanswered took effect.
///
/// # Errors
/// It could not be found out now; see [`Setback`].
pub(super) async fn find_out(session: &mut Session, mark: &Mark) -> Result<bool, Setback> {
    let patience = session.patience();
    let connection = session.connection().await?;
    within(patience, async {
        let mut tx = connection.begin().await?;
        // The lost transaction holds these locks until it has ended: without waiting for them, a COMMIT that is
        // still under way would be taken for one that never was.
        lock_events(&mut tx, mark.events()).await?;
        let committed = was_committed(&mut tx, mark).await?;
        tx.rollback().await?;
        Ok::<bool, StoreError>(committed)
    })
    .await
}

/// How many seats new registrations have taken, also those that are only held as yet.
fn seats_sold(effects: &Effects) -> u64 {
    effects.new_registrations.iter().map(|registration| u64::from(registration.seats.unsigned_abs())).sum()
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
