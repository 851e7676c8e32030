//! The table `users`: deleting somebody.

use service_core::database::run_tx;
use service_core::secret::Secret;
use sqlx::PgPool;
use uuid::Uuid;

use super::FailureKey;
use super::audit::{Entry, append};
use super::failures::{clear_failures, existing_failures_for_update};
use super::revocations::record;
use super::user_changes::lock_other_admins;
use super::users::{credentials_for_update, user_by_id};
use crate::domain::{Act, AuditAction, Error, Result, Revocation, RevokedTokens};

/// A user who is to be deleted.
#[derive(Clone, Debug)]
pub struct UserDeletion {
    /// Who.
    pub user_id: Uuid,
    /// The PHC string that the password was judged by, if it was asked for: then only an active user with this very
    /// password is deleted.
    pub judged_hash: Option<Secret>,
    /// The deletion.
    pub act: Act,
}

/// Deletes a user with all sessions and tokens, and forgets the failures of the account. `false` if there is no such user, or
/// the password was changed or the user deactivated since it was judged.
///
/// # Errors
/// [`Error::LastAdmin`] if no active admin would be left; [`Error::TooManyAttempts`] if a password was judged and so many
/// failures were counted meanwhile that no attempt is answered now.
pub async fn delete_user(pool: &PgPool, account: FailureKey, deletion: &UserDeletion) -> Result<bool> {
    match delete(pool, account, deletion).await {
        // Nobody comes back: without a row, it was this deletion or another.
        Err(Error::CommitUnknown) => match user_by_id(pool, deletion.user_id).await {
            Ok(None) => Ok(true),
            Ok(Some(_)) | Err(_) => Err(Error::CommitUnknown),
        },
        deleted => deleted,
    }
}

async fn delete(pool: &PgPool, account: FailureKey, deletion: &UserDeletion) -> Result<bool> {
    run_tx(pool, "user.delete", |tx| {
        let deletion = deletion.clone();
        Box::pin(async move {
            let UserDeletion { user_id, act, .. } = deletion;
            if deletion.judged_hash.is_some() {
                let failures = existing_failures_for_update(tx, account).await?;
                failures.unwrap_or_default().must_not_block(act.time)?;
            }
            clear_failures(tx, account).await?;
            let other_admins = lock_other_admins(tx, user_id).await?;
            let Some(present) = credentials_for_update(tx, user_id).await? else { return Ok(false) };
            if deletion
                .judged_hash
                .is_some_and(|judged| !present.user.active || judged != present.password_hash)
            {
                return Ok(false);
            }
            present.user.may_cease_to_be_admin(other_admins)?;
            // Sessions, their tokens and a password's reset go with the user. Whoever signs in or refreshes meanwhile waits for the
            // user's lock, and then finds nobody.
            sqlx::query!("DELETE FROM users WHERE id = $1", user_id).execute(&mut *tx).await?;
            let tokens = RevokedTokens::BelowVersion(present.user.session_version.saturating_add(1));
            record(tx, &[Revocation { user_id, tokens }], act.time).await?;
            let entry = Entry {
                action: AuditAction::UserDeleted,
                subject_id: Some(user_id),
                session_id: None,
                details: None,
            };
            append(tx, act, entry).await?;
            Ok(true)
        })
    })
    .await
}
