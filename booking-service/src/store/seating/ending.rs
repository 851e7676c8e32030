//! The end of everything that a cancelled event has, without passing through memory.

use sqlx::PgConnection;

use super::super::StoreError;
use crate::domain::effects::Ending;

/// A time in UTC as it stands in `details`, but for the zeros in its end and the Z.
const RFC3339: &str = r#"YYYY-MM-DD"T"HH24:MI:SS.US"#;

/// Cancels every active registration and queue entry of the event and logs each, with what the log says of those that end one by one
/// (`domain::change`). Returns the event's last version.
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
            RETURNING id, user_id, jsonb_strip_nulls(jsonb_build_object(
                          'seats', seats, 'hold_expire_time', rtrim(rtrim(to_char(hold_expire_time AT TIME ZONE 'UTC', $7), '0'), '.') || 'Z',
                          'waitlist_entry_id', waitlist_entry_id, 'labels', NULLIF(labels, '{}'))) AS details
        ), entries_ended AS (
            UPDATE waitlist_entries SET state = 'CANCELLED', update_time = $5
             WHERE event_id = $1 AND state IN ('WAITING', 'OFFERED')
            RETURNING id, user_id, position, jsonb_strip_nulls(jsonb_build_object(
                          'seats', seats, 'position', position,
                          'offer_expire_time', rtrim(rtrim(to_char(offer_expire_time AT TIME ZONE 'UTC', $7), '0'), '.') || 'Z',
                          'labels', NULLIF(labels, '{}'))) AS details
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
        RFC3339,
    )
    .fetch_one(connection)
    .await?;
    Ok(last_version)
}
