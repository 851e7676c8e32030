//! Removing what nobody asks for any more.

use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

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
    /// Tokens that would have replaced a password.
    pub password_resets: u64,
}

/// Removes sessions that expired before `sessions_before`, failures whose newest is from before
/// `failures_before`, and revocations and tokens for passwords that have expired by `now`. Replicas that sweep at once skip
/// what another one is removing.
///
/// # Errors
/// If the database fails; what was removed until then stays removed, and one kind is swept though another cannot be.
pub async fn sweep(
    pool: &PgPool,
    sessions_before: OffsetDateTime,
    failures_before: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<Swept> {
    let sessions = sweep_sessions(pool, sessions_before).await;
    let failures = sweep_failures(pool, failures_before).await;
    let revocations = sweep_revocations(pool, now).await;
    let password_resets = sweep_password_resets(pool, now).await;
    Ok(Swept {
        sessions: sessions?,
        failures: failures?,
        revocations: revocations?,
        password_resets: password_resets?,
    })
}

/// The tokens of a session before the session: one that lived for long has tens of thousands, and a statement that took a
/// thousand such sessions with all that they have would never come to its end.
async fn sweep_sessions(pool: &PgPool, before: OffsetDateTime) -> Result<u64> {
    let tokens = || async {
        let removed = sqlx::query!(
            "DELETE FROM refresh_tokens WHERE token_hash IN (
                 SELECT t.token_hash
                   FROM (SELECT id FROM sessions WHERE expire_time < $1 ORDER BY expire_time LIMIT $2) AS s
                   JOIN refresh_tokens t ON t.session_id = s.id
                  LIMIT $2 FOR UPDATE OF t SKIP LOCKED)",
            before,
            BATCH
        );
        Ok(removed.execute(pool).await?.rows_affected())
    };
    in_batches(|| async {
        in_batches(tokens).await?;
        let removed = sqlx::query!(
            "DELETE FROM sessions WHERE id IN (
                 SELECT id FROM sessions s
                  WHERE id IN (SELECT id FROM sessions WHERE expire_time < $1 ORDER BY expire_time LIMIT $2)
                    AND NOT EXISTS (SELECT FROM refresh_tokens t WHERE t.session_id = s.id)
                  FOR UPDATE SKIP LOCKED)",
            before,
            BATCH
        );
        Ok(removed.execute(pool).await?.rows_affected())
    })
    .await
}

/// Removes what has ended of a user: refresh tokens that are used up, and sessions. Should the user stay, whoever brings such a
/// token again is refused, and no longer ends a session.
pub(super) async fn forget_what_has_ended(pool: &PgPool, user_id: Uuid) -> Result<()> {
    in_batches(|| async {
        let removed = sqlx::query!(
            "DELETE FROM refresh_tokens WHERE token_hash IN (
                 SELECT t.token_hash FROM sessions s JOIN refresh_tokens t ON t.session_id = s.id
                  WHERE s.user_id = $1 AND (t.use_time IS NOT NULL OR s.revoke_time IS NOT NULL)
                  LIMIT $2 FOR UPDATE OF t SKIP LOCKED)",
            user_id,
            BATCH
        );
        Ok(removed.execute(pool).await?.rows_affected())
    })
    .await?;
    in_batches(|| async {
        let removed = sqlx::query!(
            "DELETE FROM sessions WHERE id IN (
                 SELECT id FROM sessions s
                  WHERE user_id = $1 AND revoke_time IS NOT NULL
                    AND NOT EXISTS (SELECT FROM refresh_tokens t WHERE t.session_id = s.id)
                  LIMIT $2 FOR UPDATE SKIP LOCKED)",
            user_id,
            BATCH
        );
        Ok(removed.execute(pool).await?.rows_affected())
    })
    .await?;
    Ok(())
}

async fn sweep_failures(pool: &PgPool, before: OffsetDateTime) -> Result<u64> {
    in_batches(|| async {
        let removed = sqlx::query!(
            "DELETE FROM sign_in_failures WHERE (scope, key_hash) IN (
                 SELECT scope, key_hash FROM sign_in_failures WHERE last_failure_time < $1
                 ORDER BY last_failure_time LIMIT $2 FOR UPDATE SKIP LOCKED)",
            before,
            BATCH
        );
        Ok(removed.execute(pool).await?.rows_affected())
    })
    .await
}

async fn sweep_revocations(pool: &PgPool, before: OffsetDateTime) -> Result<u64> {
    in_batches(|| async {
        let removed = sqlx::query!(
            "DELETE FROM revocations WHERE id IN (
                 SELECT id FROM revocations WHERE expire_time < $1 ORDER BY expire_time LIMIT $2
                 FOR UPDATE SKIP LOCKED)",
            before,
            BATCH
        );
        Ok(removed.execute(pool).await?.rows_affected())
    })
    .await
}

async fn sweep_password_resets(pool: &PgPool, before: OffsetDateTime) -> Result<u64> {
    in_batches(|| async {
        let removed = sqlx::query!(
            "DELETE FROM password_resets WHERE user_id IN (
                 SELECT user_id FROM password_resets WHERE expire_time < $1 ORDER BY expire_time LIMIT $2
                 FOR UPDATE SKIP LOCKED)",
            before,
            BATCH
        );
        Ok(removed.execute(pool).await?.rows_affected())
    })
    .await
}

/// Removes until a batch is not full: how much it was. What is left then is little, or locked by somebody, and goes the next time.
/// Not until nothing is: somebody may add to it as quickly as it is removed.
async fn in_batches<Removed: Future<Output = Result<u64>>>(remove: impl Fn() -> Removed) -> Result<u64> {
    let mut swept = 0;
    loop {
        let removed = remove().await?;
        swept += removed;
        if i64::try_from(removed).unwrap_or(i64::MAX) < BATCH {
            return Ok(swept);
        }
    }
}
