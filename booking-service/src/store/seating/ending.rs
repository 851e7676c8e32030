//! The end of everything that a cancelled event has, without passing through memory.

use sqlx::PgConnection;

use super::super::StoreError;
use crate::domain::effects::Ending;

/// Cancels every active registration and queue entry of the event and logs each. Returns the event's last version.
///
/// # Errors
/// Whatever the database says.
pub(super) async fn end_event(
    connection: &mut PgConnection,
    ending: &Ending,
    batch: i64,
) -> Result<i64, StoreError> {
    let last_version = sqlx::query_scalar!(
        r#"
        WITH registrations_ended AS (
            UPDATE registrations SET state = 'CANCELLED', cancel_time = $5, update_time = $5
             WHERE event_id = $1 AND state IN ('HELD', 'CONFIRMED', 'CHECKED_IN')
            RETURNING id, user_id, jsonb_build_object('seats', seats) AS details
        ), entries_ended AS (
            UPDATE waitlist_entries SET state = 'CANCELLED', update_time = $5
             WHERE event_id = $1 AND state IN ('WAITING', 'OFFERED')
            RETURNING id, user_id, position, jsonb_build_object('seats', seats, 'position', position) AS details
        ), ended AS (
            SELECT 1 AS kind, NULL::bigint AS position, 'REGISTRATION_CANCELLED' AS action, id, user_id, details
              FROM registrations_ended
            UNION ALL
            SELECT 2, position, 'WAITLIST_CANCELLED', id, user_id, details FROM entries_ended
        ), logged AS (
            INSERT INTO changes (event_id, version, actor_id, actor_role, action, entity_id, subject_id, details,
                                 change_time, batch)
            SELECT $1, $2 + row_number() OVER (ORDER BY kind, position, id), $3, $4, action, id, user_id, details, $5, $6
              FROM ended
            RETURNING version
        )
        UPDATE events SET version = $2 + (SELECT count(*) FROM logged) WHERE id = $1 RETURNING version
        "#,
        ending.event_id,
        ending.after_version,
        ending.actor.id,
        ending.actor.role.word(),
        ending.time,
        batch,
    )
    .fetch_one(connection)
    .await?;
    Ok(last_version)
}
