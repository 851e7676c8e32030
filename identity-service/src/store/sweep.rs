//! Removing what nobody asks for any more.

use sqlx::PgPool;
use time::OffsetDateTime;

use crate::domain::Result;

/// How many rows one statement removes, so that none holds locks for long.
const BATCH: i64 = 1_000;

/// How much was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Sessions, each with its refresh tokens.
    pub sessions: u64,
    /// Counts of failed sign-ins.
    pub failures: u64,
    /// Revocations.
    pub revocations: u64,
}

/// Removes sessions that expired before `sessions_before`, failures whose newest is from before
/// `failures_before`, and revocations that expired before `revocations_before`. Replicas that sweep at once skip
/// what another one is removing.
///
/// # Errors
/// If the database fails; what was removed until then stays removed.
pub async fn sweep(
    pool: &PgPool,
    sessions_before: OffsetDateTime,
    failures_before: OffsetDateTime,
    revocations_before: OffsetDateTime,
) -> Result<Swept> {
    let mut swept = Swept::default();
    loop {
        let removed = sqlx::query!(
            "DELETE FROM sessions WHERE id IN (
                 SELECT id FROM sessions WHERE expire_time < $1 ORDER BY expire_time LIMIT $2
                 FOR UPDATE SKIP LOCKED)",
            sessions_before,
            BATCH
        )
        .execute(pool)
        .await?
        .rows_affected();
        swept.sessions += removed;
        if removed == 0 {
            break;
        }
    }
    loop {
        let removed = sqlx::query!(
            "DELETE FROM sign_in_failures WHERE (scope, key_hash) IN (
                 SELECT scope, key_hash FROM sign_in_failures WHERE last_failure_time < $1
                 ORDER BY last_failure_time LIMIT $2 FOR UPDATE SKIP LOCKED)",
            failures_before,
            BATCH
        )
        .execute(pool)
        .await?
        .rows_affected();
        swept.failures += removed;
        if removed == 0 {
            break;
        }
    }
    loop {
        let removed = sqlx::query!(
            "DELETE FROM revocations WHERE id IN (
                 SELECT id FROM revocations WHERE expire_time < $1 ORDER BY expire_time LIMIT $2
                 FOR UPDATE SKIP LOCKED)",
            revocations_before,
            BATCH
        )
        .execute(pool)
        .await?
        .rows_affected();
        swept.revocations += removed;
        if removed == 0 {
            return Ok(swept);
        }
    }
}
