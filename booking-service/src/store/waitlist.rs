//! Reading queue entries.

use std::collections::HashMap;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::StoreError;
use super::rows::{query_entries, query_events_of, read};
use crate::domain::waitlist::{Entry, EntryState};

/// The events that entries belong to. That never changes, so it may be read before the lock.
///
/// # Errors
/// Whatever the database says.
pub async fn events_of(
    connection: &mut PgConnection,
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, Uuid>, StoreError> {
    let rows = query_events_of!("waitlist_entries", &ids).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.event_id)).collect())
}

/// One entry and its event's organizer.
///
/// # Errors
/// Whatever the database says.
pub async fn get(pool: &PgPool, id: Uuid) -> Result<Option<(Entry, Uuid)>, StoreError> {
    let row = query_entries!("FROM waitlist_entries w WHERE w.id = $1", id).fetch_optional(pool).await?;
    let Some(row) = row else { return Ok(None) };
    let entry = Entry::try_from(row)?;
    let organizer_id = sqlx::query_scalar!("SELECT organizer_id FROM events WHERE id = $1", entry.event_id)
        .fetch_optional(pool)
        .await?;
    // A simulated event may be swept in between.
    Ok(organizer_id.map(|organizer_id| (entry, organizer_id)))
}

/// How many wait up to and including this position: the rank of the entry there, 1 = next. `None`: it no longer waits.
///
/// Positions have no gaps, so a rank is the distance from the head less those in between who no longer wait. The head is
/// the least of the first positions of each size of party; both look-ups are short ranges of an index, however long the
/// queue is.
///
/// # Errors
/// Whatever the database says.
pub async fn rank(pool: &PgPool, event_id: Uuid, position: i64) -> Result<Option<i64>, StoreError> {
    // The state is compared outside of the look-up: as a part of it, it lets the planner walk the index of heads, that is the
    // whole queue, as long as it has no statistics.
    let rank = sqlx::query_scalar!(
        r#"
        SELECT $2 - head.position + 1
               - (SELECT count(*) FROM waitlist_entries w
                   WHERE w.event_id = $1 AND w.state <> 'WAITING' AND w.position > head.position AND w.position < $2)
               AS "rank!"
          FROM (SELECT min(first.position) AS position
                  FROM events e
                 CROSS JOIN generate_series(1, e.largest_party) AS size(seats)
                 CROSS JOIN LATERAL (SELECT w.position FROM waitlist_entries w
                                      WHERE w.event_id = $1 AND w.seats >= size.seats AND w.seats <= size.seats
                                        AND w.state = 'WAITING'
                                      ORDER BY w.seats, w.position LIMIT 1) AS first
                 WHERE e.id = $1) AS head
         WHERE (SELECT w.state FROM waitlist_entries w WHERE w.event_id = $1 AND w.position = $2) = 'WAITING'
        "#,
        event_id,
        position,
    )
    .fetch_optional(pool)
    .await?;
    Ok(rank)
}

/// Up to `limit` entries of one event in order of position, after the given position.
///
/// # Errors
/// Whatever the database says.
pub async fn list_of_event(
    pool: &PgPool,
    event_id: Uuid,
    states: &[EntryState],
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<Entry>, StoreError> {
    let states: Vec<&str> = states.iter().map(|state| state.word()).collect();
    let rows = query_entries!(
        "FROM waitlist_entries w
         WHERE w.event_id = $1 AND (cardinality($2::text[]) = 0 OR w.state = ANY($2)) AND w.position > $3
         ORDER BY w.position LIMIT $4",
        event_id,
        &states as &[&str],
        after.unwrap_or_default(),
        limit,
    )
    .fetch_all(pool)
    .await?;
    read(rows)
}

/// Up to `limit` entries of one user, of all events or of one, in order of creation, after the given id.
///
/// # Errors
/// Whatever the database says.
pub async fn list_of_user(
    pool: &PgPool,
    user_id: Uuid,
    event_id: Option<Uuid>,
    states: &[EntryState],
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Entry>, StoreError> {
    let states: Vec<&str> = states.iter().map(|state| state.word()).collect();
    let rows = query_entries!(
        "FROM waitlist_entries w
         WHERE w.user_id = $1 AND (cardinality($2::text[]) = 0 OR w.state = ANY($2)) AND w.id > $3
           AND ($5::uuid IS NULL OR w.event_id = $5)
         ORDER BY w.id LIMIT $4",
        user_id,
        &states as &[&str],
        after.unwrap_or_default(),
        limit,
        event_id,
    )
    .fetch_all(pool)
    .await?;
    read(rows)
}
