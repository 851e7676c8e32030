//! The private copies of simulated rushes.

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::StoreError;

/// Removes a copy with its registrations, its queue and its change log. Only a copy: real events have no lease.
///
/// # Errors
/// Whatever the database says.
pub async fn delete(connection: &mut PgConnection, event_id: Uuid) -> Result<(), StoreError> {
    // The event first: its lock waits for a batch that still writes, and afterwards no batch finds the event.
    let deleted =
        sqlx::query!("DELETE FROM events WHERE id = $1 AND simulation_lease_time IS NOT NULL", event_id)
            .execute(&mut *connection)
            .await?;
    if deleted.rows_affected() == 0 {
        return Ok(());
    }
    sqlx::query!("DELETE FROM registrations WHERE event_id = $1", event_id).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM waitlist_entries WHERE event_id = $1", event_id)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("DELETE FROM changes WHERE event_id = $1", event_id).execute(connection).await?;
    Ok(())
}

/// Keeps a copy for a week: it stays unlisted until it is swept.
///
/// # Errors
/// Whatever the database says.
pub async fn keep(pool: &PgPool, event_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE events SET simulation_lease_time = clock_timestamp() + interval '7 days'
          WHERE id = $1 AND simulation_lease_time IS NOT NULL",
        event_id
    )
    .execute(pool)
    .await?;
    Ok(())
}
