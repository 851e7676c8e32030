//! The tables `sessions` and `refresh_tokens`.

use service_core::database::run_tx;
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::FailureKey;
use super::failures::{clear_failures, existing_failures_for_update};
use super::users::credentials_for_session;
use crate::domain::{Result, User};

/// A session that begins, and its first refresh token.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The id, made by the service.
    pub id: Uuid,
    /// Who signed in.
    pub user_id: Uuid,
    /// What the client calls itself, at most 200 characters.
    pub user_agent: String,
    /// The digest of the refresh token.
    pub token_hash: [u8; 32],
    /// The present.
    pub create_time: OffsetDateTime,
    /// When the refresh token lapses.
    pub expire_time: OffsetDateTime,
}

/// Stores a session for a user whose password was found to be the one that `judged_hash` was made of, forgets
/// the failures of the account, and returns the user as of now. `None` if the password was changed or the
/// user deactivated meanwhile.
///
/// # Errors
/// [`crate::domain::Error::TooManyAttempts`] if so many failures were counted meanwhile that no attempt is
/// answered now.
pub async fn begin_session(
    pool: &PgPool,
    account: FailureKey,
    judged_hash: &str,
    session: &NewSession,
) -> Result<Option<User>> {
    run_tx(pool, "session.begin", |tx| {
        let (session, judged_hash) = (session.clone(), judged_hash.to_owned());
        Box::pin(async move {
            let failures = existing_failures_for_update(tx, account).await?;
            failures.unwrap_or_default().must_not_block(session.create_time)?;
            let present = credentials_for_session(tx, session.user_id).await?;
            let Some(present) = present.filter(|p| p.user.active && p.password_hash == judged_hash) else {
                return Ok(None);
            };
            if failures.is_some() {
                clear_failures(tx, account).await?;
            }
            insert_session(tx, &session).await?;
            Ok(Some(present.user))
        })
    })
    .await
}

/// Stores a session and its first refresh token.
async fn insert_session(executor: impl PgExecutor<'_>, session: &NewSession) -> Result<()> {
    sqlx::query!(
        "WITH session AS (
             INSERT INTO sessions (id, user_id, user_agent, create_time, last_use_time, expire_time)
             VALUES ($1, $2, $3, $5, $5, $6)
             RETURNING id
         )
         INSERT INTO refresh_tokens (token_hash, session_id, create_time, expire_time)
         SELECT $4, id, $5, $6 FROM session",
        session.id,
        session.user_id,
        session.user_agent,
        &session.token_hash,
        session.create_time,
        session.expire_time
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Ends every session of a user that still lives.
pub(super) async fn revoke_sessions(
    connection: &mut PgConnection,
    user_id: Uuid,
    now: OffsetDateTime,
) -> Result<()> {
    sqlx::query!(
        "UPDATE sessions SET revoke_time = $2 WHERE user_id = $1 AND revoke_time IS NULL",
        user_id,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}
