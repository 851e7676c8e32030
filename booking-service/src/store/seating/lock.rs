//! Step one of a batch: the row lock that stands between every seat and every race.

use sqlx::PgConnection;
use uuid::Uuid;

use super::super::StoreError;
use super::super::rows::EventRow;
use crate::domain::event::{Event, EventRecord};

macro_rules! lock_rows {
    ($rest:tt, $($argument:expr),*) => {
        sqlx::query_as!(
            EventRow,
            // The rules do not read texts, so they stay where they are.
            "SELECT id, organizer_id, '' AS \"title!\", '' AS \"description!\", '' AS \"location!\", start_time, \
             end_time, registration_open_time, registration_close_time, capacity, \
             seats_remaining, waitlist_size, largest_party, next_position, max_seats_per_registration, \
             waitlist_policy, offer_ttl_ms, queue_discipline, state, cancel_reason, revision, version, create_time, \
             update_time FROM events WHERE id = ANY($1) ORDER BY id " + $rest,
            $($argument),*
        )
    };
}

/// Locks these events and reads them.
///
/// Race: two replicas that both read `seats_remaining = 1`. The second waits here until the first has committed, and then
/// gets the row as the first left it. In order of id, so that two batches with the same two events cannot wait for
/// each other. Events that do not exist are missing from the answer.
///
/// # Errors
/// SQLSTATE 55P03 when a lock was not granted within the session's `lock_timeout`; whatever else the database says.
pub async fn lock_events(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Event>, StoreError> {
    let rows = lock_rows!("FOR UPDATE", ids).fetch_all(connection).await?;
    events(rows)
}

/// What [`lock_events_that_are_free`] found.
#[derive(Debug)]
pub struct Locked {
    /// Locked now.
    pub events: Vec<Event>,
    /// Locked by somebody else.
    pub busy: Vec<Uuid>,
}

/// Locks those of these events that nobody else holds, without waiting.
///
/// For events whose lock was not to be had in time: the other events of the batch must not wait for them again.
///
/// # Errors
/// Whatever the database says.
pub async fn lock_events_that_are_free(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Locked, StoreError> {
    let rows = lock_rows!("FOR UPDATE SKIP LOCKED", ids).fetch_all(&mut *connection).await?;
    let events = events(rows)?;
    // Skipped and missing look alike above; a plain read tells them apart.
    let missed: Vec<Uuid> =
        ids.iter().copied().filter(|id| !events.iter().any(|event| event.id == *id)).collect();
    let busy = if missed.is_empty() {
        missed
    } else {
        sqlx::query_scalar!("SELECT id FROM events WHERE id = ANY($1)", &missed).fetch_all(connection).await?
    };
    Ok(Locked { events, busy })
}

fn events(rows: Vec<EventRow>) -> Result<Vec<Event>, StoreError> {
    rows.into_iter().map(|row| EventRecord::try_from(row).map(|record| record.event)).collect()
}
