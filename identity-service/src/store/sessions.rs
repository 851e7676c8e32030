//! The table `sessions`: beginning, listing and ending.
//!
//! Locks are taken in one order everywhere: counts of failures, then users, then sessions. Several sessions of a user
//! are locked only by who holds the lock of the user.

use service_core::database::run_tx;
use service_core::secret::Secret;
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::FailureKey;
use super::audit::{Entry, append};
use super::failures::{clear_failures, existing_failures_for_update};
use super::revocations::record;
use super::users::{lock_user, raise_session_version};
use crate::domain::{
    Act, AuditAction, Error, MOST_SESSIONS, Result, Revocation, RevokedTokens, Session, User,
};

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
    /// When the refresh token lapses.
    pub expire_time: OffsetDateTime,
    /// The sign-in.
    pub act: Act,
}

/// Stores a session for a user whose password was found to be the one that `judged_hash` was made of, forgets
/// the failures of the account (not those of the client's `address`), and returns the user as of now. `None` if the password was changed or the
/// user deactivated meanwhile.
///
/// # Errors
/// [`Error::TooManyAttempts`] if so many failures were counted meanwhile that no attempt is answered now.
pub async fn begin_session(
    pool: &PgPool,
    account: FailureKey,
    address: Option<FailureKey>,
    judged_hash: &Secret,
    session: &NewSession,
) -> Result<Option<User>> {
    run_tx(pool, "session.begin", |tx| {
        let (session, judged_hash) = (session.clone(), judged_hash.clone());
        Box::pin(async move {
            let failures = existing_failures_for_update(tx, account).await?;
            failures.unwrap_or_default().must_not_block(session.act.time)?;
            // In the order of those who count.
            if let Some(address) = address {
                let failures = existing_failures_for_update(tx, address).await?;
                failures.unwrap_or_default().must_not_block(session.act.time)?;
            }
            let present = lock_user(tx, session.user_id).await?;
            let Some(present) = present.filter(|p| p.user.active && p.password_hash == judged_hash) else {
                return Ok(None);
            };
            if failures.is_some() {
                clear_failures(tx, account).await?;
            }
            let ended = end_oldest_sessions(tx, session.user_id, session.act.time).await?;
            insert_session(&mut *tx, &session).await?;
            let details = serde_json::json!({ "sessions_ended": ended });
            let entry = Entry {
                session_id: Some(session.id),
                details: Some(&details).filter(|_| !ended.is_empty()),
                ..Entry::about(AuditAction::SignedIn, session.user_id)
            };
            append(tx, session.act, entry).await?;
            Ok(Some(present.user))
        })
    })
    .await
}

/// Ends the sessions of a user, who is locked, for which there is no room beside another one: those that were used longest ago.
/// (Of a user who has far more from before there was a limit, a part.) Which ones.
async fn end_oldest_sessions(
    connection: &mut PgConnection,
    user_id: Uuid,
    now: OffsetDateTime,
) -> Result<Vec<String>> {
    // Whoever ends one of them at this moment has its lock: then it is not ended once more.
    let ended = sqlx::query!(
        r#"UPDATE sessions SET revoke_time = $2
            WHERE revoke_time IS NULL
              AND id IN (SELECT id FROM sessions WHERE user_id = $1 AND revoke_time IS NULL AND expire_time > $2
                          ORDER BY last_use_time DESC, id DESC OFFSET $3 LIMIT $4)
           RETURNING id, last_use_time >= $5 AS "has_tokens!""#,
        user_id,
        now,
        MOST_SESSIONS - 1,
        MOST_SESSIONS,
        Revocation::tokens_may_be_out_since(now)
    )
    .fetch_all(&mut *connection)
    .await?;
    let with_tokens = ended.iter().filter(|row| row.has_tokens).map(|row| row.id);
    record(connection, &Revocation::of_sessions(user_id, with_tokens), now).await?;
    Ok(ended.into_iter().map(|row| row.id.to_string()).collect())
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
        session.act.time,
        session.expire_time
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// At most `limit` sessions of a user that are alive at `now`, newest first, from below `before` on.
///
/// # Errors
/// If the database fails.
pub async fn live_sessions(
    executor: impl PgExecutor<'_>,
    user_id: Uuid,
    now: OffsetDateTime,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Session>> {
    let sessions = sqlx::query_as!(
        Session,
        "SELECT id, user_agent, create_time, last_use_time, expire_time FROM sessions
         WHERE user_id = $1 AND id < $2 AND revoke_time IS NULL AND expire_time > $3
         ORDER BY id DESC LIMIT $4",
        user_id,
        before.unwrap_or(Uuid::max()),
        now,
        limit
    )
    .fetch_all(executor)
    .await?;
    Ok(sessions)
}

/// Ends a session of the user who acts. One that has ended already stays as it is.
///
/// # Errors
/// [`Error::SessionNotFound`] if the user has no such session.
pub async fn revoke_session(pool: &PgPool, user_id: Uuid, session_id: Uuid, act: Act) -> Result<()> {
    run_tx(pool, "session.revoke", move |tx| {
        Box::pin(async move {
            let owner = sqlx::query_scalar!("SELECT user_id FROM sessions WHERE id = $1", session_id)
                .fetch_optional(&mut *tx)
                .await?;
            if owner != Some(user_id) {
                return Err(Error::SessionNotFound { session_id });
            }
            end_session(tx, user_id, session_id, AuditAction::SessionRevoked, act).await
        })
    })
    .await
}

/// Ends one session, unless it has ended, and writes down why.
pub(super) async fn end_session(
    connection: &mut PgConnection,
    user_id: Uuid,
    session_id: Uuid,
    why: AuditAction,
    act: Act,
) -> Result<()> {
    // Of two who end it at once, the second waits here and then finds nothing to do.
    let ended = sqlx::query!(
        "UPDATE sessions SET revoke_time = $2 WHERE id = $1 AND revoke_time IS NULL",
        session_id,
        act.time
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if ended == 0 {
        return Ok(());
    }
    record(connection, &Revocation::of_sessions(user_id, [session_id]), act.time).await?;
    let entry = Entry { session_id: Some(session_id), ..Entry::about(why, user_id) };
    append(connection, act, entry).await
}

/// Ends every session of a user; the next sign-in is welcome. How many were alive.
///
/// # Errors
/// [`Error::UserNotFound`].
pub async fn revoke_user_sessions(pool: &PgPool, user_id: Uuid, act: Act) -> Result<usize> {
    run_tx(pool, "session.revoke_all", move |tx| {
        Box::pin(async move {
            let ended = end_all_sessions(tx, user_id, act.time).await?;
            let ended = ended.ok_or(Error::UserNotFound { user_id })?;
            let details = serde_json::json!({ "sessions": ended });
            let entry =
                Entry { details: Some(&details), ..Entry::about(AuditAction::SessionsRevoked, user_id) };
            append(tx, act, entry).await?;
            Ok(ended)
        })
    })
    .await
}

/// Ends every session of a user and voids every token that is out: how many sessions were alive. `None` if there is no such
/// user.
pub(super) async fn end_all_sessions(
    connection: &mut PgConnection,
    user_id: Uuid,
    now: OffsetDateTime,
) -> Result<Option<usize>> {
    // Raising it locks the user, so that whoever signs in or refreshes meanwhile does so before, and is ended, or
    // after.
    let Some(version) = raise_session_version(connection, user_id).await? else { return Ok(None) };
    let ended = end_sessions(connection, user_id, None, now).await?;
    let tokens = RevokedTokens::BelowVersion(version);
    record(connection, &[Revocation { user_id, tokens }], now).await?;
    Ok(Some(ended.alive))
}

/// Sessions that were ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Those whose access tokens may still be out, also if they had lapsed.
    pub(super) with_tokens: Vec<Uuid>,
    /// How many had not lapsed.
    pub(super) alive: usize,
}

/// Ends every session of a user but `except`. The caller has locked the user, and writes the revocations.
pub(super) async fn end_sessions(
    connection: &mut PgConnection,
    user_id: Uuid,
    except: Option<Uuid>,
    now: OffsetDateTime,
) -> Result<Ended> {
    let rows = sqlx::query!(
        r#"UPDATE sessions SET revoke_time = $2
         WHERE user_id = $1 AND revoke_time IS NULL AND id IS DISTINCT FROM $3
         RETURNING id, expire_time > $2 AS "alive!", last_use_time >= $4 AS "has_tokens!""#,
        user_id,
        now,
        except,
        Revocation::tokens_may_be_out_since(now)
    )
    .fetch_all(connection)
    .await?;
    let alive = rows.iter().filter(|row| row.alive).count();
    let with_tokens = rows.into_iter().filter(|row| row.has_tokens).map(|row| row.id).collect();
    Ok(Ended { with_tokens, alive })
}
