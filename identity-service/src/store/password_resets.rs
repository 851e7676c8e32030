//! The table `password_resets`: tokens that replace a password.

use service_core::database::run_tx;
use service_core::secret::Secret;
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::FailureKey;
use super::audit::{Entry, append};
use super::failures::clear_failures;
use super::sessions::end_all_sessions;
use super::users::{UserRow, lock_user, lock_user_fully, set_password};
use crate::domain::{Act, AuditAction, Error, Result, User};

/// A token that may replace a user's password.
#[derive(Clone, Copy, Debug)]
pub struct NewPasswordReset {
    /// Whose.
    pub user_id: Uuid,
    /// The digest of the token.
    pub token_hash: [u8; 32],
    /// When it lapses.
    pub expire_time: OffsetDateTime,
    /// The making.
    pub act: Act,
}

/// Stores the token in the place of the one before, if there is one.
///
/// # Errors
/// [`Error::UserNotFound`].
pub async fn create_password_reset(pool: &PgPool, reset: NewPasswordReset) -> Result<()> {
    run_tx(pool, "password_reset.create", move |tx| {
        Box::pin(async move {
            let NewPasswordReset { user_id, act, .. } = reset;
            // The user's lock: whoever changes the password or deletes the user at this moment does so before, or after and
            // ends this token too.
            if lock_user(tx, user_id).await?.is_none() {
                return Err(Error::UserNotFound { user_id });
            }
            sqlx::query!(
                "INSERT INTO password_resets (user_id, token_hash, expire_time) VALUES ($1, $2, $3)
                 ON CONFLICT (user_id) DO UPDATE SET token_hash = $2, expire_time = $3",
                user_id,
                &reset.token_hash,
                reset.expire_time
            )
            .execute(&mut *tx)
            .await?;
            append(tx, act, Entry::about(AuditAction::PasswordResetCreated, user_id)).await
        })
    })
    .await
}

/// Whose password a token may replace at `now`; `None` if nobody's.
///
/// # Errors
/// If the database fails.
pub async fn reset_holder(
    executor: impl PgExecutor<'_>,
    token_hash: [u8; 32],
    now: OffsetDateTime,
) -> Result<Option<User>> {
    sqlx::query_as!(
        UserRow,
        "SELECT u.id, u.email, u.display_name, u.role, u.active, u.session_version, u.revision, u.create_time
           FROM password_resets r JOIN users u ON u.id = r.user_id
          WHERE r.token_hash = $1 AND r.expire_time > $2 AND u.active",
        &token_hash,
        now
    )
    .fetch_optional(executor)
    .await?
    .map(TryInto::try_into)
    .transpose()
}

/// A password that takes the place of one that was forgotten.
#[derive(Clone, Debug)]
pub struct PasswordReset {
    /// Whose, by [`reset_holder`].
    pub user_id: Uuid,
    /// The digest of the token.
    pub token_hash: [u8; 32],
    /// The PHC string of the new password.
    pub new_hash: Secret,
    /// The replacement; without an actor, since nobody is known to be signed in.
    pub act: Act,
}

/// Replaces the password and uses the token up, forgets the failures of the account, and ends all sessions: how many were
/// alive.
///
/// # Errors
/// [`Error::PasswordResetInvalid`] if the token was used up or ended, or the user deactivated or deleted, meanwhile.
pub async fn reset_password(pool: &PgPool, account: FailureKey, reset: &PasswordReset) -> Result<usize> {
    run_tx(pool, "password_reset.use", |tx| {
        let reset = reset.clone();
        Box::pin(async move {
            let PasswordReset { user_id, act, .. } = reset;
            // Failures before the user, in the order in which a sign-in locks them.
            clear_failures(tx, account).await?;
            // Of two who bring one token at once, the second waits here, and then finds no token.
            let present = lock_user_fully(tx, user_id).await?;
            present.filter(|present| present.user.active).ok_or(Error::PasswordResetInvalid)?;
            let used = sqlx::query!(
                "DELETE FROM password_resets WHERE user_id = $1 AND token_hash = $2 AND expire_time > $3",
                user_id,
                &reset.token_hash,
                act.time
            )
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if used == 0 {
                return Err(Error::PasswordResetInvalid);
            }
            set_password(tx, user_id, &reset.new_hash).await?;
            let ended = end_all_sessions(tx, user_id, act.time).await?.ok_or(Error::PasswordResetInvalid)?;
            let details = serde_json::json!({ "sessions": ended });
            let entry =
                Entry { details: Some(&details), ..Entry::about(AuditAction::PasswordReset, user_id) };
            append(tx, act, entry).await?;
            Ok(ended)
        })
    })
    .await
}

/// Ends the token of a user, if there is one. The caller has locked the user.
pub(super) async fn end_password_reset(connection: &mut PgConnection, user_id: Uuid) -> Result<()> {
    sqlx::query!("DELETE FROM password_resets WHERE user_id = $1", user_id).execute(connection).await?;
    Ok(())
}
