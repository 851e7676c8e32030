//! What time has caught up with.
//!
//! The clock is read in a subquery: once for the statement, and so it bounds the range of the index. Read for each row it would
//! be a filter, and everything that is not due yet would be looked at as well.

use sqlx::PgPool;
use uuid::Uuid;

use super::StoreError;

/// A hold or an offer whose time has passed, as (event, registration or entry).
pub type Due = (Uuid, Uuid);

/// Up to `limit` holds that have lapsed, the longest overdue first, but for those of the events `except`.
///
/// # Errors
/// Whatever the database says.
pub async fn holds(pool: &PgPool, except: &[Uuid], limit: i64) -> Result<Vec<Due>, StoreError> {
    let rows = sqlx::query!(
        "SELECT event_id, id FROM registrations
          WHERE state = 'HELD' AND hold_expire_time <= (SELECT clock_timestamp()) AND event_id <> ALL($1)
          ORDER BY hold_expire_time LIMIT $2",
        except,
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.event_id, row.id)).collect())
}

/// Up to `limit` offers that have lapsed, the longest overdue first, but for those of the events `except`.
///
/// # Errors
/// Whatever the database says.
pub async fn offers(pool: &PgPool, except: &[Uuid], limit: i64) -> Result<Vec<Due>, StoreError> {
    let rows = sqlx::query!(
        "SELECT event_id, id FROM waitlist_entries
          WHERE state = 'OFFERED' AND offer_expire_time <= (SELECT clock_timestamp()) AND event_id <> ALL($1)
          ORDER BY offer_expire_time LIMIT $2",
        except,
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.event_id, row.id)).collect())
}

/// Private copies of simulated rushes whose lease has lapsed: their replica died.
///
/// # Errors
/// Whatever the database says.
pub async fn abandoned_simulations(pool: &PgPool) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        "SELECT id FROM events
          WHERE simulation_lease_time IS NOT NULL AND simulation_lease_time <= (SELECT clock_timestamp()) LIMIT 100"
    )
    .fetch_all(pool)
    .await?)
}
