//! The table `users`: changing somebody who is there.

use service_core::database::run_tx;
use service_core::secret::Secret;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::FailureKey;
use super::audit::{Entry, append};
use super::failures::{clear_failures, existing_failures_for_update};
use super::password_resets::end_password_reset;
use super::revocations::record;
use super::sessions::end_sessions;
use super::users::{lock_user_fully, set_password};
use crate::domain::{
    Act, AuditAction, Email, Error, Result, Revocation, RevokedTokens, UpdatedUser, User, UserUpdate,
};

/// Changes a user, and ends what the change ends. It is written down if somebody else does it: what users call
/// themselves is their own business.
///
/// # Errors
/// [`Error::UserNotFound`], [`Error::EtagMismatch`], [`Error::LastAdmin`]; [`Error::TokenRevoked`] if users who are not active
/// change themselves.
pub async fn update_user(pool: &PgPool, user_id: Uuid, update: &UserUpdate, act: Act) -> Result<User> {
    run_tx(pool, "user.update", |tx| {
        let update = update.clone();
        Box::pin(async move {
            let other_admins = !update.may_remove_an_admin() || lock_other_admins(tx, user_id).await?;
            let Some(present) = lock_user_fully(tx, user_id).await? else {
                return Err(Error::UserNotFound { user_id });
            };
            // Deactivated since the token was looked at.
            if act.actor_id == Some(user_id) && !present.user.active {
                return Err(Error::TokenRevoked);
            }
            let updated = update.apply(&present.user, other_admins)?;
            if updated.changed {
                write(tx, &updated, act).await?;
            }
            Ok(updated.user)
        })
    })
    .await
}

/// Locks all active admins, in the order of their ids, and tells whether there is one besides `user_id`. Of two
/// admins who demote each other at once, the second waits for the first and then is not one that counts: without
/// the lock each would see the other as the one who is left.
pub(super) async fn lock_other_admins(connection: &mut PgConnection, user_id: Uuid) -> Result<bool> {
    let admins =
        sqlx::query_scalar!("SELECT id FROM users WHERE role = 'admin' AND active ORDER BY id FOR UPDATE")
            .fetch_all(connection)
            .await?;
    Ok(admins.into_iter().any(|id| id != user_id))
}

async fn write(tx: &mut PgConnection, updated: &UpdatedUser, act: Act) -> Result<()> {
    let user = &updated.user;
    sqlx::query!(
        "UPDATE users SET display_name = $2, role = $3, active = $4, session_version = $5, revision = $6,
                          update_time = $7
         WHERE id = $1",
        user.id,
        user.display_name,
        user.role.as_str(),
        user.active,
        user.session_version,
        user.revision,
        act.time
    )
    .execute(&mut *tx)
    .await?;
    if updated.ends_sessions {
        end_sessions(tx, user.id, None, act.time).await?;
        end_password_reset(tx, user.id).await?;
    }
    if updated.ends_tokens {
        let tokens = RevokedTokens::BelowVersion(user.session_version);
        record(tx, &[Revocation { user_id: user.id, tokens }], act.time).await?;
    }
    if act.actor_id == Some(user.id) && !updated.ends_tokens {
        return Ok(());
    }
    let entry = Entry { details: Some(&updated.details), ..Entry::about(AuditAction::UserUpdated, user.id) };
    append(tx, act, entry).await
}

/// A password that its user changes.
#[derive(Clone, Debug)]
pub struct PasswordChange {
    /// Whose.
    pub user_id: Uuid,
    /// The PHC string that the present password was judged by.
    pub judged_hash: Secret,
    /// The PHC string of the new one.
    pub new_hash: Secret,
    /// The session that goes on; `None`: all end.
    pub keep: Option<Uuid>,
    /// The change.
    pub act: Act,
}

/// Stores a new password for a user whose present one was found right, forgets the failures of the account, and
/// ends all other sessions: how many were alive. `None` if the password was changed or the user deactivated
/// meanwhile.
///
/// # Errors
/// [`Error::TooManyAttempts`] if so many failures were counted meanwhile that no attempt is answered now.
pub async fn change_password(
    pool: &PgPool,
    account: FailureKey,
    change: &PasswordChange,
) -> Result<Option<usize>> {
    run_tx(pool, "user.change_password", |tx| {
        let change = change.clone();
        Box::pin(async move {
            let PasswordChange { user_id, act, .. } = change;
            let failures = existing_failures_for_update(tx, account).await?;
            failures.unwrap_or_default().must_not_block(act.time)?;
            let present = lock_user_fully(tx, user_id).await?;
            if !present.is_some_and(|p| p.user.active && p.password_hash == change.judged_hash) {
                return Ok(None);
            }
            if failures.is_some() {
                clear_failures(tx, account).await?;
            }
            set_password(tx, user_id, &change.new_hash).await?;
            let ended = end_sessions(tx, user_id, change.keep, act.time).await?;
            record(tx, &Revocation::of_sessions(user_id, ended.with_tokens), act.time).await?;
            let details = serde_json::json!({ "sessions": ended.alive });
            let entry = Entry {
                session_id: change.keep,
                details: Some(&details),
                ..Entry::about(AuditAction::PasswordChanged, user_id)
            };
            append(tx, act, entry).await?;
            Ok::<_, Error>(Some(ended.alive))
        })
    })
    .await
}

/// Puts a dearer hash of the same password in the place of `old`. Does nothing if the password was changed
/// meanwhile.
///
/// # Errors
/// If the database fails.
pub async fn replace_password_hash(pool: &PgPool, id: Uuid, old: &Secret, new: &Secret) -> Result<()> {
    sqlx::query!(
        "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2",
        id,
        old.expose(),
        new.expose()
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Makes the user with this address an active admin with this password, forgets failed sign-ins, and voids
/// every session and token from before. `None` if nobody has the address.
///
/// # Errors
/// If the database fails.
pub async fn reset_to_admin(
    pool: &PgPool,
    account: FailureKey,
    email: &Email,
    password_hash: &Secret,
    act: Act,
) -> Result<Option<Uuid>> {
    run_tx(pool, "user.reset_to_admin", |tx| {
        let (email, password_hash) = (email.clone(), password_hash.clone());
        Box::pin(async move {
            // Failures before the user, in the order in which a sign-in locks them.
            clear_failures(tx, account).await?;
            let reset = sqlx::query!(
                "UPDATE users
                 SET password_hash = $2, role = 'admin', active = true,
                     session_version = session_version + 1, revision = revision + 1, update_time = $3
                 WHERE lower(email) = lower($1)
                 RETURNING id, session_version",
                email.as_str(),
                password_hash.expose(),
                act.time
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(reset) = reset else { return Ok(None) };
            end_sessions(tx, reset.id, None, act.time).await?;
            end_password_reset(tx, reset.id).await?;
            let tokens = RevokedTokens::BelowVersion(reset.session_version);
            record(tx, &[Revocation { user_id: reset.id, tokens }], act.time).await?;
            let entry = Entry::about(AuditAction::AdminReset, reset.id);
            append(tx, act, entry).await?;
            Ok::<_, Error>(Some(reset.id))
        })
    })
    .await
}
