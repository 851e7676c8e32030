//! Counting what the invariant is about.

use sqlx::{Connection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::StoreError;
use super::rows::query_events;
use crate::domain::event::EventRecord;
use crate::domain::verify::Counted;

/// An event and the sums over its rows, all from one snapshot, with the database's time.
///
/// # Errors
/// Whatever the database says.
pub async fn count(
    pool: &PgPool,
    event_id: Uuid,
) -> Result<Option<(EventRecord, Counted, OffsetDateTime)>, StoreError> {
    let mut connection = pool.acquire().await?;
    // One snapshot for all statements: under READ COMMITTED a commit between two of them would look like a fault.
    let mut tx = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let Some(row) = query_events!("WHERE id = $1", event_id).fetch_optional(&mut *tx).await? else {
        return Ok(None);
    };
    let registrations = sqlx::query!(
        r#"
        SELECT COALESCE(sum(seats) FILTER (WHERE state = 'HELD'), 0) AS "held!",
               COALESCE(sum(seats) FILTER (WHERE state = 'CONFIRMED'), 0) AS "confirmed!",
               COALESCE(sum(seats) FILTER (WHERE state = 'CHECKED_IN'), 0) AS "checked_in!",
               count(*) - count(DISTINCT user_id) AS "twice!"
          FROM registrations
         WHERE event_id = $1 AND state IN ('HELD', 'CONFIRMED', 'CHECKED_IN')
        "#,
        event_id,
    )
    .fetch_one(&mut *tx)
    .await?;
    let entries = sqlx::query!(
        r#"
        SELECT COALESCE(sum(seats) FILTER (WHERE state = 'OFFERED'), 0) AS "offered!",
               count(*) FILTER (WHERE state = 'WAITING') AS "waiting!",
               count(*) FILTER (WHERE state IN ('WAITING', 'OFFERED'))
                   - count(DISTINCT user_id) FILTER (WHERE state IN ('WAITING', 'OFFERED')) AS "twice!",
               count(DISTINCT user_id) FILTER (WHERE state IN ('WAITING', 'OFFERED') AND EXISTS (
                   SELECT FROM registrations r
                    WHERE r.event_id = $1 AND r.user_id = w.user_id
                      AND r.state IN ('HELD', 'CONFIRMED', 'CHECKED_IN'))) AS "registered!",
               COALESCE(max(position), 0) AS "last_position!",
               min(seats) FILTER (WHERE state = 'WAITING') AS smallest,
               (SELECT h.seats FROM waitlist_entries h WHERE h.event_id = $1 AND h.state = 'WAITING'
                 ORDER BY h.position LIMIT 1) AS head
          FROM waitlist_entries w
         WHERE event_id = $1
        "#,
        event_id,
    )
    .fetch_one(&mut *tx)
    .await?;
    let log = sqlx::query!(
        r#"SELECT count(*) AS "changes!", COALESCE(max(version), 0) AS "last!", COALESCE(min(version), 1) AS "first!",
                  clock_timestamp() AS "now!"
             FROM changes WHERE event_id = $1"#,
        event_id,
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.rollback().await?;

    let counted = Counted {
        seats_held: registrations.held,
        seats_confirmed: registrations.confirmed,
        seats_checked_in: registrations.checked_in,
        seats_offered: entries.offered,
        waiting_entries: entries.waiting,
        users_registered_twice: registrations.twice,
        users_queued_twice: entries.twice,
        users_registered_and_queued: entries.registered,
        last_position: entries.last_position,
        head_seats: entries.head.map(i64::from),
        smallest_waiting: entries.smallest.map(i64::from),
        changes: log.changes,
        last_version: log.last,
        first_version: log.first,
    };
    Ok(Some((row.try_into()?, counted, log.now)))
}
