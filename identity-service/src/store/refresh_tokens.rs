//! The table `refresh_tokens`: exchanging a token for the next one, and finding its session.

use service_core::database::run_tx;
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::sessions::end_session;
use super::users::{UserRow, lock_user};
use crate::domain::{Act, AuditAction, Error, Result, SessionLifetimes, User};

/// A refresh token that is exchanged for the next one.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// The digest of the token that was presented.
    pub presented: [u8; 32],
    /// Whose it is.
    pub owner: Owner,
    /// The digest of the next one.
    pub next: [u8; 32],
    /// How long sessions live.
    pub lifetimes: SessionLifetimes,
    /// The exchange; without an actor, since nobody is known to be signed in.
    pub act: Act,
}

/// What came of a refresh token.
#[derive(Debug)]
pub enum Rotated {
    /// It was exchanged.
    Next {
        /// Whose session it is, as of now.
        user: User,
        /// The session.
        session_id: Uuid,
        /// When the next token lapses.
        expire_time: OffsetDateTime,
    },
    /// It was used before, and its session has been ended now.
    Reused {
        /// Whose session it was.
        user_id: Uuid,
        /// The session.
        session_id: Uuid,
    },
    /// It is unknown or lapsed, its session has ended, or its user is not active.
    Refused,
}

/// Exchanges a refresh token. The exchange and the end of a session whose token comes a second time are both
/// committed.
///
/// # Errors
/// If the database fails. [`Error::CommitUnknown`] if it is lost as it commits and what became of that cannot be found out:
/// whoever repeats the exchange then may end the session.
pub async fn rotate_refresh_token(pool: &PgPool, rotation: Rotation) -> Result<Rotated> {
    match rotate(pool, rotation).await {
        // The next token was made for this exchange, so a row that has it was written just now.
        Err(Error::CommitUnknown) => {
            exchanged(pool, rotation.next).await.ok().flatten().ok_or(Error::CommitUnknown)
        }
        rotated => rotated,
    }
}

/// The exchange that gave this token, if there was one and its session goes on. The user is of the same moment: whoever ends
/// the session or deactivates the user after it ends the tokens that are given for this.
async fn exchanged(pool: &PgPool, next: [u8; 32]) -> Result<Option<Rotated>> {
    let given = sqlx::query!(
        "SELECT u.id, u.email, u.display_name, u.role, u.active, u.session_version, u.revision, u.create_time,
                t.session_id, t.expire_time
           FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id JOIN users u ON u.id = s.user_id
          WHERE t.token_hash = $1 AND s.revoke_time IS NULL AND u.active",
        &next
    )
    .fetch_optional(pool)
    .await?;
    let Some(given) = given else { return Ok(None) };
    let user = UserRow {
        id: given.id,
        email: given.email,
        display_name: given.display_name,
        role: given.role,
        active: given.active,
        session_version: given.session_version,
        revision: given.revision,
        create_time: given.create_time,
    };
    let (session_id, expire_time) = (given.session_id, given.expire_time);
    Ok(Some(Rotated::Next { user: user.try_into()?, session_id, expire_time }))
}

async fn rotate(pool: &PgPool, rotation: Rotation) -> Result<Rotated> {
    run_tx(pool, "refresh_token.rotate", move |tx| {
        Box::pin(async move {
            // Only what never changes is taken from that look: it was made before the locks.
            let Owner { user_id, session_id, .. } = rotation.owner;
            // The user before the session, as everywhere. Whoever deactivates the user, or gives another role, waits
            // for this exchange and ends what it gave, or is seen by it.
            let user = lock_user(tx, user_id).await?.map(|found| found.user);
            exchange(tx, rotation, user.filter(|user| user.active), user_id, session_id).await
        })
    })
    .await
}

async fn exchange(
    tx: &mut PgConnection,
    rotation: Rotation,
    user: Option<User>,
    user_id: Uuid,
    session_id: Uuid,
) -> Result<Rotated> {
    let now = rotation.act.time;
    // The lock on the session decides between two who bring one token at once: the second waits here, and the next
    // statement then shows it the token as used. The token has to be read by a later statement: this one would
    // show it as it was before the wait.
    let session = sqlx::query!(
        "SELECT create_time FROM sessions WHERE id = $1 AND revoke_time IS NULL FOR UPDATE",
        session_id
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(session) = session else { return Ok(Rotated::Refused) };
    let token = sqlx::query!(
        r#"SELECT use_time IS NOT NULL AS "used!", expire_time FROM refresh_tokens WHERE token_hash = $1 FOR UPDATE"#,
        &rotation.presented
    )
    .fetch_optional(&mut *tx)
    .await?;
    // A used one goes ahead of its user who is deleted at this moment.
    let Some(token) = token else { return Ok(Rotated::Refused) };
    if token.used {
        end_session(tx, user_id, session_id, AuditAction::RefreshTokenReused, rotation.act).await?;
        return Ok(Rotated::Reused { user_id, session_id });
    }
    let Some(user) = user.filter(|_| token.expire_time > now) else { return Ok(Rotated::Refused) };
    let expire_time = rotation.lifetimes.expire_time(session.create_time, now);
    if expire_time <= now {
        return Ok(Rotated::Refused);
    }
    sqlx::query!(
        "WITH used AS (UPDATE refresh_tokens SET use_time = $4 WHERE token_hash = $1),
              session AS (UPDATE sessions SET last_use_time = $4, expire_time = $5 WHERE id = $3)
         INSERT INTO refresh_tokens (token_hash, session_id, create_time, expire_time)
         VALUES ($2, $3, $4, $5)",
        &rotation.presented,
        &rotation.next,
        session_id,
        now,
        expire_time
    )
    .execute(tx)
    .await?;
    Ok(Rotated::Next { user, session_id, expire_time })
}

/// Ends the session of a refresh token, be it used or not. Whether there is such a token.
///
/// # Errors
/// If the database fails.
pub async fn sign_out(pool: &PgPool, token_hash: [u8; 32], act: Act) -> Result<bool> {
    // Anybody may come with anything: only what ends a session is worth a transaction.
    let Some(Owner { user_id, session_id, ended, .. }) = owner(pool, token_hash).await? else {
        return Ok(false);
    };
    if !ended {
        run_tx(pool, "session.sign_out", move |tx| {
            Box::pin(end_session(tx, user_id, session_id, AuditAction::SignedOut, act))
        })
        .await?;
    }
    Ok(true)
}

/// Whose a refresh token is; that never changes.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// The user.
    pub user_id: Uuid,
    /// The session.
    pub session_id: Uuid,
    /// Whether the session had ended when this was read.
    pub ended: bool,
    /// Whether the token had been used when this was read.
    pub used: bool,
}

/// Whose a refresh token is, if there is such a token.
///
/// # Errors
/// If the database fails.
pub async fn owner(executor: impl PgExecutor<'_>, token_hash: [u8; 32]) -> Result<Option<Owner>> {
    let owner = sqlx::query_as!(
        Owner,
        r#"SELECT s.user_id, s.id AS session_id, s.revoke_time IS NOT NULL AS "ended!", t.use_time IS NOT NULL AS "used!"
         FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id WHERE t.token_hash = $1"#,
        &token_hash
    )
    .fetch_optional(executor)
    .await?;
    Ok(owner)
}
