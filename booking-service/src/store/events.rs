//! Events outside of the seating transactions: create, get, list.

use std::collections::HashMap;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::StoreError;
use super::rows::{query_events, read};
use crate::domain::change::ChangeAction;
use crate::domain::command::{Actor, RequestKey};
use crate::domain::event::{EventRecord, EventState};

/// Which events to list.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only these states; empty: all.
    pub states: Vec<EventState>,
    /// Only this organizer's.
    pub organizer_id: Option<Uuid>,
    /// Only those that start then or later.
    pub start_time_after: Option<OffsetDateTime>,
    /// Only those that start earlier.
    pub start_time_before: Option<OffsetDateTime>,
    /// Only those that are open now and have seats for a newcomer.
    pub only_available: bool,
    /// Only those that have all these words.
    pub text: Option<String>,
    /// Drafts of this organizer are listed with the rest, other drafts are not; `None`: all drafts are.
    pub drafts_of: Option<Uuid>,
}

/// The database's clock.
///
/// # Errors
/// Whatever the database says.
pub async fn database_time(connection: &mut PgConnection) -> Result<OffsetDateTime, StoreError> {
    Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(connection).await?)
}

/// Stores a new event with the first row of its change log. `false`: the request id was used before, and nothing is
/// stored.
///
/// Race: two copies of one request at once. The unique index on (caller, request id) lets one of them in.
///
/// # Errors
/// Whatever the database says.
pub async fn insert(
    connection: &mut PgConnection,
    record: &EventRecord,
    actor: Actor,
    request: Option<&RequestKey>,
    simulation_lease: Option<OffsetDateTime>,
) -> Result<bool, StoreError> {
    let EventRecord { event, text } = record;
    let inserted = sqlx::query!(
        "INSERT INTO events (id, organizer_id, title, description, location, start_time, end_time, registration_open_time,
                             registration_close_time, capacity, seats_remaining, max_seats_per_registration,
                             waitlist_policy, offer_ttl_ms, queue_discipline, state, version, request_actor_id,
                             request_id, request_fingerprint, simulation_lease_time, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $22)
         ON CONFLICT (request_actor_id, request_id) WHERE request_id IS NOT NULL DO NOTHING",
        event.id,
        event.organizer_id,
        text.title,
        text.description,
        text.location,
        event.start_time,
        event.end_time,
        event.registration_open_time,
        event.registration_close_time,
        event.capacity,
        event.seats_remaining,
        event.max_seats_per_registration,
        event.waitlist_policy.word(),
        i64::try_from(event.offer_ttl.as_millis()).unwrap_or(i64::MAX),
        event.queue_discipline.word(),
        event.state.word(),
        event.version,
        request.map(|key| key.actor_id),
        request.map(|key| key.id),
        request.map(|key| key.fingerprint.as_slice()),
        simulation_lease,
        event.create_time,
    )
    .execute(&mut *connection)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!(
        "INSERT INTO changes (event_id, version, actor_id, actor_role, action, entity_id, details, change_time, batch)
         VALUES ($1, $2, $3, $4, $5, $1, jsonb_build_object('capacity', $6::int), $7, nextval('change_batches'))",
        event.id,
        event.version,
        actor.id,
        actor.role.word(),
        ChangeAction::EventCreated.word(),
        event.capacity,
        event.create_time,
    )
    .execute(connection)
    .await?;
    Ok(true)
}

/// The event that a request id made, with the fingerprint of that request.
///
/// # Errors
/// Whatever the database says.
pub async fn made_by(
    connection: &mut PgConnection,
    actor_id: Uuid,
    request_id: Uuid,
) -> Result<Option<(EventRecord, Vec<u8>)>, StoreError> {
    let found = sqlx::query!(
        r#"SELECT id, request_fingerprint AS "fingerprint!" FROM events
            WHERE request_actor_id = $1 AND request_id = $2 AND request_id IS NOT NULL"#,
        actor_id,
        request_id,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(found) = found else { return Ok(None) };
    let row = query_events!("WHERE id = $1", found.id).fetch_optional(connection).await?;
    row.map(|row| Ok((row.try_into()?, found.fingerprint))).transpose()
}

/// Events by id.
///
/// # Errors
/// Whatever the database says.
pub async fn find(
    connection: &mut PgConnection,
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, EventRecord>, StoreError> {
    let rows = query_events!("WHERE id = ANY($1)", &ids).fetch_all(connection).await?;
    let records: Vec<EventRecord> = read(rows)?;
    Ok(records.into_iter().map(|record| (record.event.id, record)).collect())
}

/// Events that the filter lets through, of a part that the caller adds, in order of start after the given (start, id).
///
/// The row comparison is what makes the page a range of the index instead of a filter over it.
macro_rules! query_page {
    ($part:literal, $filter:expr, $after:expr, $limit:expr $(, $argument:expr)*) => {{
        let filter: &EventFilter = $filter;
        let states: Vec<&str> = filter.states.iter().map(|state| state.word()).collect();
        let after: Option<(OffsetDateTime, Uuid)> = $after;
        let (after_start, after_id) = after.unzip();
        // Where only drafts are asked for, whose they may be is a range of an index too.
        let only_drafts = !filter.states.is_empty() && filter.states.iter().all(|state| *state == EventState::Draft);
        let organizer_id = filter.organizer_id.or(filter.drafts_of.filter(|_| only_drafts));
        query_events!(
            "WHERE simulation_lease_time IS NULL
               AND (cardinality($1::text[]) = 0 OR state = ANY($1))
               AND ($2::uuid IS NULL OR organizer_id = $2)
               AND ($3::timestamptz IS NULL OR start_time >= $3)
               AND ($4::timestamptz IS NULL OR start_time < $4)
               AND ($5::text IS NULL OR search @@ plainto_tsquery('simple', $5))
               AND ($6::uuid IS NULL OR state <> 'DRAFT' OR organizer_id = $6)
               AND ($7::timestamptz IS NULL OR (start_time, id) > ($7, $8))"
            $part
            " ORDER BY start_time, id LIMIT $9",
            &states as &[&str],
            organizer_id,
            filter.start_time_after,
            filter.start_time_before,
            filter.text,
            filter.drafts_of,
            after_start,
            after_id,
            $limit
            $(, $argument)*
        )
    }};
}

/// Up to `limit` events in order of start, after the given (start, id).
///
/// # Errors
/// Whatever the database says.
pub async fn list(
    pool: &PgPool,
    filter: &EventFilter,
    after: Option<(OffsetDateTime, Uuid)>,
    limit: i64,
) -> Result<Vec<EventRecord>, StoreError> {
    // Asked on the pool itself, each row would pass through one more stream.
    let mut connection = pool.acquire().await?;
    if filter.only_available {
        return list_available(&mut connection, filter, after, limit).await;
    }
    read(query_page!("", filter, after, limit).fetch_all(&mut *connection).await?)
}

/// Those that are open now and have seats for a newcomer. Most have not begun; those that run and are open still have an
/// index of their own, so that whatever has ever begun and ended is passed over.
async fn list_available(
    connection: &mut PgConnection,
    filter: &EventFilter,
    after: Option<(OffsetDateTime, Uuid)>,
    limit: i64,
) -> Result<Vec<EventRecord>, StoreError> {
    // One moment parts the two, so that no event is in neither.
    let now = database_time(&mut *connection).await?;
    let mut rows = query_page!(
        " AND state = 'PUBLISHED' AND seats_remaining > 0 AND (waitlist_size = 0 OR queue_discipline = 'SKIP_AHEAD')
          AND COALESCE(registration_open_time <= $10, true)
          AND start_time <= $10 AND registration_close_time > start_time
          AND tstzrange(start_time, GREATEST(start_time, registration_close_time)) @> $10::timestamptz",
        filter,
        after,
        limit,
        now
    )
    .fetch_all(&mut *connection)
    .await?;
    let rest = limit - i64::try_from(rows.len()).unwrap_or(limit);
    if rest > 0 {
        let upcoming = query_page!(
            " AND state = 'PUBLISHED' AND seats_remaining > 0 AND (waitlist_size = 0 OR queue_discipline = 'SKIP_AHEAD')
              AND COALESCE(registration_open_time <= $10, true)
              AND start_time > $10 AND COALESCE(registration_close_time > $10, true)",
            filter,
            after,
            rest,
            now
        );
        rows.extend(upcoming.fetch_all(connection).await?);
    }
    read(rows)
}
