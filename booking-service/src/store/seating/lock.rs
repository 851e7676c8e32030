//! The transaction of a batch that locks first: the row lock that stands between every seat and every race.

use std::fmt::Write;

use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::super::StoreError;

/// Prepares a session for [`begin_and_lock_events`] and what follows, if its server can lock. A standby cannot, and what has
/// nothing to write would never notice: after a failover, or while one is prepared, refusals would be told from the past.
///
/// The server's C library gives memory back to the system after each large statement, and takes it again, page by page, for
/// the next: most of what a lone registration would cost. Who has once freed a large piece keeps twice as much from then
/// on (glibc's M_TRIM_THRESHOLD; elsewhere this does nothing).
///
/// # Errors
/// SQLSTATE 25006 from a standby; whatever else the database says.
pub async fn prepare_lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql(
        "SELECT FROM events LIMIT 0 FOR UPDATE;
         PREPARE lock_events(uuid[]) AS SELECT FROM events WHERE id = ANY($1) ORDER BY id FOR UPDATE;
         SELECT length(repeat('.', 4194304))",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Begins a transaction and locks these events, in one round trip.
///
/// Race: two replicas that both read `seats_remaining = 1`. The second waits here until the first has committed, and reads
/// in a LATER statement (see `load`); or it has read before, or remembers, and takes the lock as it writes (see `write`).
/// In order of id, so that two batches with the same two events cannot wait for each other. Events that do not exist are
/// passed over.
///
/// # Errors
/// SQLSTATE 55P03 when a lock was not granted within the session's `lock_timeout`; whatever else the database says. The
/// session is left in a failed transaction: [`rollback`].
pub async fn begin_and_lock_events(connection: &mut PgConnection, ids: &[Uuid]) -> Result<(), StoreError> {
    // Several statements in one message have no parameters. A UUID is written in digits and hyphens.
    let mut statement = String::with_capacity(64 + ids.len() * 37);
    statement.push_str("BEGIN; EXECUTE lock_events('{");
    for (index, id) in ids.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // A String takes whatever is written to it.
        let _ = write!(statement, "{comma}{id}");
    }
    statement.push_str("}')");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

/// Commits.
///
/// # Errors
/// Whatever the database says. If it says nothing, it may have committed.
pub async fn commit(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(())
}

/// Ends a transaction without effect, if there is one.
///
/// # Errors
/// Whatever the database says.
pub async fn rollback(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("ROLLBACK").execute(connection).await?;
    Ok(())
}

/// Begins a transaction, locks those of these events that nobody else holds, without waiting, and says which events are nobody else's, in order:
/// they are locked now, or do not exist.
///
/// For events whose lock was not to be had in time: those that are free must not wait for the others again.
///
/// # Errors
/// Whatever the database says.
pub async fn begin_and_lock_free_events(
    connection: &mut PgConnection,
    mut ids: Vec<Uuid>,
) -> Result<Vec<Uuid>, StoreError> {
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    let locked = sqlx::query_scalar!(
        "SELECT id FROM events WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED",
        &ids
    )
    .fetch_all(&mut *connection)
    .await?;
    ids.retain(|id| !locked.contains(id));
    if ids.is_empty() {
        return Ok(locked);
    }
    // Skipped and missing look alike above; a plain read tells them apart.
    let busy =
        sqlx::query_scalar!("SELECT id FROM events WHERE id = ANY($1)", &ids).fetch_all(connection).await?;
    ids.retain(|id| !busy.contains(id));
    ids.extend(locked);
    ids.sort_unstable();
    Ok(ids)
}
