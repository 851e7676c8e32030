//! Reading the change log: as a feed, in an order that never has to be corrected, and as an audit trail.
//!
//! # How far the log can be read
//!
//! The log is ordered by (batch, event, version). Numbers of batches are drawn in order but committed out of order, so
//! the highest number that can be seen says nothing about those below it. Instead, [`look`] reads the last number that was
//! drawn, L, and a *later* look reads the next transaction id, N. Whoever drew a number up to L held locks, and with
//! them a transaction id, which is below N. So once every transaction below N has ended, everything up to L is final:
//! visible now, or never.

use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::StoreError;
use crate::domain::change::{Change, ChangeAction};
use crate::domain::command::{Actor, ActorRole};
use crate::domain::event::EventState;

/// One look at the log's end. Transaction ids are those of `pg_current_snapshot()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The last number drawn, 0 if none was.
    pub last_batch: i64,
    /// Every transaction id below this one has ended.
    pub all_ended_below: i64,
    /// Transaction ids from this one on had not been given out yet.
    pub next_transaction: i64,
    /// When the server was started, or had recovered from a crash. Another run of it, or another server, may lack the end of what this
    /// one told, and give its numbers again.
    pub server_start: OffsetDateTime,
}

/// A place in the log: everything up to and including this change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The number of the batch: of its transaction, which draws another for each portion of a queue that it seats.
    pub batch: i64,
    /// The event.
    pub event_id: Uuid,
    /// Its version.
    pub version: i64,
}

/// A change and where it stands.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Where.
    pub place: Place,
    /// What.
    pub change: Change,
}

/// A part of the log.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In order.
    pub changes: Vec<Placed>,
    /// When the server that told them was started; `None` where it told none.
    pub server_start: Option<OffsetDateTime>,
}

/// What watchers of an event are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seats {
    /// The event.
    pub event_id: Uuid,
    /// Its state.
    pub state: EventState,
    /// Seats in all.
    pub capacity: i32,
    /// Seats that nobody holds.
    pub seats_remaining: i32,
    /// Entries that wait.
    pub waitlist_size: i32,
    /// The last version.
    pub version: i64,
    /// As in [`Look`].
    pub server_start: OffsetDateTime,
}

/// Looks at the end of the log.
///
/// The next transaction id comes from `age()`, which counts from the counter itself. A snapshot's xmax does not do: it
/// lies one above the last transaction that has *ended*, below others that are in flight.
///
/// When the server was started is, where one of its processes has crashed since, when it had recovered from that: like another run
/// it may lack the end of what it has shown. The time that `pg_postmaster_start_time` gives stays then; PostgreSQL
/// begins its statistics anew.
///
/// # Errors
/// Whatever the database says.
pub async fn look(pool: &PgPool) -> Result<Look, StoreError> {
    let row = sqlx::query!(
        r#"SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS "last_batch!",
                  pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS "all_ended_below!",
                  age('3'::xid)::bigint + 3 AS "next_transaction!",
                  (SELECT GREATEST(pg_postmaster_start_time(), (pg_stat_get_wal()).stats_reset)) AS "server_start!"
             FROM change_batches"#
    )
    .fetch_one(pool)
    .await?;
    // age() knows 32 bits; the id lies less than 2^31 above one that has its epoch.
    let ahead = (row.next_transaction - row.all_ended_below) & i64::from(u32::MAX);
    Ok(Look {
        last_batch: row.last_batch,
        all_ended_below: row.all_ended_below,
        next_transaction: row.all_ended_below + ahead,
        server_start: row.server_start,
    })
}

/// How far retention has removed the beginning of the log: what lies behind this place, itself included, may be gone.
///
/// # Errors
/// Whatever the database says.
pub async fn floor(pool: &PgPool) -> Result<Place, StoreError> {
    Ok(sqlx::query_as!(Place, "SELECT batch, event_id, version FROM change_log_floor")
        .fetch_one(pool)
        .await?)
}

struct ChangeRow {
    event_id: Uuid,
    version: i64,
    actor_id: Uuid,
    actor_role: String,
    action: String,
    entity_id: Uuid,
    subject_id: Option<Uuid>,
    details: String,
    change_time: OffsetDateTime,
    batch: i64,
    server_start: Option<OffsetDateTime>,
}

macro_rules! query_changes {
    ($rest:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            ChangeRow,
            r#"SELECT c.event_id, c.version, c.actor_id, c.actor_role, c.action, c.entity_id, c.subject_id,
                      c.details::text AS "details!", c.change_time, c.batch,
                      (SELECT GREATEST(pg_postmaster_start_time(), (pg_stat_get_wal()).stats_reset)) AS server_start
                 FROM changes c "# + $rest
            $(, $argument)*
        )
    };
}

/// Up to `limit` changes of all events after `after`, up to batch `horizon`. Rehearsals are not told.
///
/// # Errors
/// Whatever the database says.
pub async fn after(pool: &PgPool, after: Place, horizon: i64, limit: i64) -> Result<Page, StoreError> {
    let rows = query_changes!(
        "WHERE (c.batch, c.event_id, c.version) > ($1, $2, $3) AND c.batch <= $4
           AND NOT EXISTS (SELECT FROM events e WHERE e.id = c.event_id AND e.simulation_lease_time IS NOT NULL)
         ORDER BY c.batch, c.event_id, c.version LIMIT $5",
        after.batch,
        after.event_id,
        after.version,
        horizon,
        limit,
    )
    .fetch_all(pool)
    .await?;
    page(rows)
}

/// Up to `limit` changes of one event after `version`. Versions of one event are committed in order, so whatever is
/// visible is final.
///
/// # Errors
/// Whatever the database says.
pub async fn of_event_after(
    pool: &PgPool,
    event_id: Uuid,
    version: i64,
    limit: i64,
) -> Result<Page, StoreError> {
    let rows = query_changes!(
        "WHERE c.event_id = $1 AND c.version > $2 ORDER BY c.version LIMIT $3",
        event_id,
        version,
        limit
    )
    .fetch_all(pool)
    .await?;
    page(rows)
}

fn page(rows: Vec<ChangeRow>) -> Result<Page, StoreError> {
    let server_start = rows.first().and_then(|row| row.server_start);
    let changes = rows.into_iter().map(Placed::try_from).collect::<Result<_, _>>()?;
    Ok(Page { changes, server_start })
}

/// The change with this version of an event, if it is kept.
///
/// # Errors
/// Whatever the database says.
pub async fn at(pool: &PgPool, event_id: Uuid, version: i64) -> Result<Option<Placed>, StoreError> {
    let row = query_changes!("WHERE c.event_id = $1 AND c.version = $2", event_id, version);
    row.fetch_optional(pool).await?.map(Placed::try_from).transpose()
}

/// The last change up to batch `horizon`, if there is one. Rehearsals are not told.
///
/// # Errors
/// Whatever the database says.
pub async fn last(pool: &PgPool, horizon: i64) -> Result<Option<Placed>, StoreError> {
    let row = query_changes!(
        "WHERE c.batch <= $1
           AND NOT EXISTS (SELECT FROM events e WHERE e.id = c.event_id AND e.simulation_lease_time IS NOT NULL)
         ORDER BY c.batch DESC, c.event_id DESC, c.version DESC LIMIT 1",
        horizon,
    );
    row.fetch_optional(pool).await?.map(Placed::try_from).transpose()
}

/// The last change of an event, if any is kept.
///
/// # Errors
/// Whatever the database says.
pub async fn last_of_event(pool: &PgPool, event_id: Uuid) -> Result<Option<Placed>, StoreError> {
    let row = query_changes!("WHERE c.event_id = $1 ORDER BY c.version DESC LIMIT 1", event_id);
    row.fetch_optional(pool).await?.map(Placed::try_from).transpose()
}

/// How these events are now; those that are gone are missing.
///
/// # Errors
/// Whatever the database says.
pub async fn seats(pool: &PgPool, events: &[Uuid]) -> Result<Vec<Seats>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT id, state, capacity, seats_remaining, waitlist_size, version,
                  (SELECT GREATEST(pg_postmaster_start_time(), (pg_stat_get_wal()).stats_reset)) AS "server_start!"
             FROM events WHERE id = ANY($1)"#,
        events
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            let state = EventState::from_word(&row.state).ok_or_else(|| StoreError::Inconsistent {
                table: "events",
                what: format!("{}: state is {:?}", row.id, row.state),
            })?;
            Ok(Seats {
                event_id: row.id,
                state,
                capacity: row.capacity,
                seats_remaining: row.seats_remaining,
                waitlist_size: row.waitlist_size,
                version: row.version,
                server_start: row.server_start,
            })
        })
        .collect()
}

/// The first version of an event that is kept, if any is.
///
/// # Errors
/// Whatever the database says.
pub async fn first_version(pool: &PgPool, event_id: Uuid) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar!("SELECT min(version) FROM changes WHERE event_id = $1", event_id)
        .fetch_one(pool)
        .await?)
}

/// Which entries of the audit trail to list.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only this event's.
    pub event_id: Option<Uuid>,
    /// Only by this actor.
    pub actor_id: Option<Uuid>,
    /// Only these actions; empty: all.
    pub actions: Vec<ChangeAction>,
    /// Only from then on.
    pub time_after: Option<OffsetDateTime>,
    /// Only from before then.
    pub time_before: Option<OffsetDateTime>,
}

/// Up to `limit` changes before `before`, the last one first.
///
/// # Errors
/// Whatever the database says.
pub async fn audit(
    pool: &PgPool,
    filter: &AuditFilter,
    before: Option<Place>,
    limit: i64,
) -> Result<Vec<Placed>, StoreError> {
    let before = before.unwrap_or(Place { batch: i64::MAX, event_id: Uuid::max(), version: i64::MAX });
    let actions: Vec<&str> = filter.actions.iter().map(|action| action.word()).collect();
    // One statement for each index, so that none of them reads the whole log for a page, unless what it looks for is rare and
    // neither an event, an actor nor a time is named.
    let rows = match (filter.event_id, filter.actor_id) {
        (Some(event_id), actor_id) => {
            query_changes!(
                "WHERE c.event_id = $1 AND c.version < $2 AND ($3::uuid IS NULL OR c.actor_id = $3)
                   AND (cardinality($4::text[]) = 0 OR c.action = ANY($4))
                   AND ($5::timestamptz IS NULL OR c.change_time >= $5)
                   AND ($6::timestamptz IS NULL OR c.change_time < $6)
                 ORDER BY c.version DESC LIMIT $7",
                event_id,
                before.version,
                actor_id,
                &actions as &[&str],
                filter.time_after,
                filter.time_before,
                limit,
            )
            .fetch_all(pool)
            .await?
        }
        (None, Some(actor_id)) => {
            let mut rows = query_changes!(
                "WHERE c.actor_id = $1 AND c.actor_role <> 'ATTENDEE'
                   AND (c.batch, c.event_id, c.version) < ($2, $3, $4)
                   AND (cardinality($5::text[]) = 0 OR c.action = ANY($5))
                   AND ($6::timestamptz IS NULL OR c.change_time >= $6)
                   AND ($7::timestamptz IS NULL OR c.change_time < $7)
                 ORDER BY c.batch DESC, c.event_id DESC, c.version DESC LIMIT $8",
                actor_id,
                before.batch,
                before.event_id,
                before.version,
                &actions as &[&str],
                filter.time_after,
                filter.time_before,
                limit,
            )
            .fetch_all(pool)
            .await?;
            // Attendees act on registrations and entries of their own, at events where they have or had one.
            let own = query_changes!(
                "WHERE c.event_id IN (SELECT r.event_id FROM registrations r WHERE r.user_id = $1
                                      UNION SELECT w.event_id FROM waitlist_entries w WHERE w.user_id = $1)
                   AND c.actor_id = $1 AND c.actor_role = 'ATTENDEE'
                   AND (c.batch, c.event_id, c.version) < ($2, $3, $4)
                   AND (cardinality($5::text[]) = 0 OR c.action = ANY($5))
                   AND ($6::timestamptz IS NULL OR c.change_time >= $6)
                   AND ($7::timestamptz IS NULL OR c.change_time < $7)
                 ORDER BY c.batch DESC, c.event_id DESC, c.version DESC LIMIT $8",
                actor_id,
                before.batch,
                before.event_id,
                before.version,
                &actions as &[&str],
                filter.time_after,
                filter.time_before,
                limit,
            )
            .fetch_all(pool)
            .await?;
            rows.extend(own);
            rows.sort_by_key(|row| std::cmp::Reverse((row.batch, row.event_id, row.version)));
            rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            rows
        }
        (None, None) => {
            query_changes!(
                "WHERE (c.batch, c.event_id, c.version) < ($1, $2, $3)
                   AND (cardinality($4::text[]) = 0 OR c.action = ANY($4))
                   AND ($5::timestamptz IS NULL OR c.change_time >= $5)
                   AND ($6::timestamptz IS NULL OR c.change_time < $6)
                 ORDER BY c.batch DESC, c.event_id DESC, c.version DESC LIMIT $7",
                before.batch,
                before.event_id,
                before.version,
                &actions as &[&str],
                filter.time_after,
                filter.time_before,
                limit,
            )
            .fetch_all(pool)
            .await?
        }
    };
    rows.into_iter().map(Placed::try_from).collect()
}

/// Passes up to `limit` changes, up to the batch `final_to`, that are older than `keep`, oldest first, and removes them; the
/// last change of each event stays, so that its version can be checked. What is kept of an event has no gaps. Returns how
/// many were passed.
///
/// # Errors
/// Whatever the database says.
pub async fn trim(pool: &PgPool, keep: Duration, final_to: i64, limit: i64) -> Result<i64, StoreError> {
    let mut tx = pool.begin().await?;
    // The floor rises with the same commit: no reader finds a gap that is not announced. The row lock keeps the
    // replicas from trimming at the same time.
    let floor = sqlx::query_as!(Place, "SELECT batch, event_id, version FROM change_log_floor FOR UPDATE")
        .fetch_one(&mut *tx)
        .await?;
    // The next changes, and of these the old ones up to the first that is not: times do not quite follow the order of the log,
    // and what is passed too early would expire tokens, and never be passed again. (What is of a day that is still to come was
    // written by a clock that was wrong, and shall not hold up the rest until then.) To look for old ones would go through the
    // whole log when there are few. Rehearsals keep theirs: nobody who reads the log has to know how far those were passed.
    let passed = sqlx::query_as!(
        Place,
        r#"SELECT batch, event_id, version FROM (
             SELECT batch, event_id, version, bool_and(change_time < now() - make_interval(secs => $4)
                                                        OR change_time > now() + interval '1 day')
                      OVER (ORDER BY batch, event_id, version) AS are_old
               FROM (SELECT c.batch, c.event_id, c.version, c.change_time FROM changes c
                WHERE (c.batch, c.event_id, c.version) > ($1, $2, $3) AND c.batch <= $6
                  AND NOT EXISTS (SELECT FROM events e WHERE e.id = c.event_id AND e.simulation_lease_time IS NOT NULL)
                ORDER BY c.batch, c.event_id, c.version LIMIT $5) next) up_to_here
            WHERE are_old
            ORDER BY batch, event_id, version"#,
        floor.batch,
        floor.event_id,
        floor.version,
        keep.as_secs_f64(),
        limit,
        final_to,
    )
    .fetch_all(&mut *tx)
    .await?;
    let Some(last) = passed.last() else { return Ok(0) };
    let (events, versions): (Vec<Uuid>, Vec<i64>) =
        passed.iter().map(|place| (place.event_id, place.version)).unzip();
    // With what was once the last of its event, and stayed: it would stand before a gap.
    sqlx::query!(
        "DELETE FROM changes c
          USING (SELECT event_id, max(version) AS version FROM unnest($1::uuid[], $2::bigint[]) AS p(event_id, version)
                  GROUP BY event_id) old
          WHERE c.event_id = old.event_id AND c.version <= old.version
            AND NOT EXISTS (SELECT FROM events e WHERE e.id = c.event_id AND e.version = c.version)",
        &events,
        &versions,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "UPDATE change_log_floor SET batch = $1, event_id = $2, version = $3",
        last.batch,
        last.event_id,
        last.version
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(i64::try_from(passed.len()).unwrap_or(limit))
}

impl TryFrom<ChangeRow> for Placed {
    type Error = StoreError;

    fn try_from(row: ChangeRow) -> Result<Self, StoreError> {
        let inconsistent = |what: String| StoreError::Inconsistent {
            table: "changes",
            what: format!("event {} version {}: {what}", row.event_id, row.version),
        };
        let role = ActorRole::from_word(&row.actor_role)
            .ok_or_else(|| inconsistent(format!("actor_role is {:?}", row.actor_role)))?;
        let action = ChangeAction::from_word(&row.action)
            .ok_or_else(|| inconsistent(format!("action is {:?}", row.action)))?;
        let details = serde_json::from_str(&row.details)
            .map_err(|_| inconsistent("details are not JSON".to_owned()))?;
        Ok(Self {
            place: Place { batch: row.batch, event_id: row.event_id, version: row.version },
            change: Change {
                event_id: row.event_id,
                version: row.version,
                actor: Actor { id: row.actor_id, role },
                action,
                entity_id: row.entity_id,
                subject_id: row.subject_id,
                details,
                time: row.change_time,
            },
        })
    }
}
