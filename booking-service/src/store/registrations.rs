//! Reading registrations.

use std::collections::HashMap;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::StoreError;
use super::rows::{query_events_of, query_registrations, read};
use crate::domain::registration::{Registration, RegistrationState};

/// The events that registrations belong to. That never changes, so it may be read before the lock.
///
/// # Errors
/// Whatever the database says.
pub async fn events_of(
    connection: &mut PgConnection,
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, Uuid>, StoreError> {
    let rows = query_events_of!("registrations", &ids).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.event_id)).collect())
}

/// One registration and its event's organizer.
///
/// # Errors
/// Whatever the database says.
pub async fn get(pool: &PgPool, id: Uuid) -> Result<Option<(Registration, Uuid)>, StoreError> {
    let row = query_registrations!("FROM registrations r WHERE r.id = $1", id).fetch_optional(pool).await?;
    let Some(row) = row else { return Ok(None) };
    let registration = Registration::try_from(row)?;
    let organizer_id =
        sqlx::query_scalar!("SELECT organizer_id FROM events WHERE id = $1", registration.event_id)
            .fetch_optional(pool)
            .await?;
    // A simulated event may be swept in between.
    Ok(organizer_id.map(|organizer_id| (registration, organizer_id)))
}

/// Up to `limit` registrations of one event in order of creation, after the given id.
///
/// # Errors
/// Whatever the database says.
pub async fn list_of_event(
    pool: &PgPool,
    event_id: Uuid,
    states: &[RegistrationState],
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Registration>, StoreError> {
    let states: Vec<&str> = states.iter().map(|state| state.word()).collect();
    let rows = query_registrations!(
        "FROM registrations r
         WHERE r.event_id = $1 AND (cardinality($2::text[]) = 0 OR r.state = ANY($2)) AND r.id > $3
         ORDER BY r.id LIMIT $4",
        event_id,
        &states as &[&str],
        after.unwrap_or_default(),
        limit,
    )
    .fetch_all(pool)
    .await?;
    read(rows)
}

/// Up to `limit` registrations of one user, of all events or of one, in order of creation, after the given id.
///
/// # Errors
/// Whatever the database says.
pub async fn list_of_user(
    pool: &PgPool,
    user_id: Uuid,
    event_id: Option<Uuid>,
    states: &[RegistrationState],
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Registration>, StoreError> {
    let states: Vec<&str> = states.iter().map(|state| state.word()).collect();
    let rows = query_registrations!(
        "FROM registrations r
         WHERE r.user_id = $1 AND (cardinality($2::text[]) = 0 OR r.state = ANY($2)) AND r.id > $3
           AND ($5::uuid IS NULL OR r.event_id = $5)
         ORDER BY r.id LIMIT $4",
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
