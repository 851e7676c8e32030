//! The table `users`: deleting somebody.

use service_core::database::run_tx;
use service_core::secret::Secret;
use sqlx::PgPool;
use uuid::Uuid;

use super::FailureKey;
use super::audit::{Entry, append};
use super::failures::{clear_failures, existing_failures_for_update};
use super::revocations::record;
use super::sweep::forget_what_has_ended;
use super::user_changes::lock_other_admins;
use super::users::{lock_user_fully, user_by_id};
use crate::domain::{Act, AuditAction, Error, Result, Revocation, RevokedTokens};

/// A user who is to be deleted.
#[derive(Clone, Debug)]
pub struct UserDeletion {
    /// Who.
    pub user_id: Uuid,
    /// Whether the user was an active admin when this was read, so that it has to be known whether others are left.
    pub of_admin: bool,
    /// The PHC string that the password was judged by, if it was asked for: then only an active user with this very
    /// password is deleted.
    pub judged_hash: Option<Secret>,
    /// The deletion.
    pub act: Act,
}

/// What became of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The user is no more.
    Done,
    /// There is no such user.
    Unknown,
    /// The user is not what was read before: the password was changed, the user deactivated, or made an admin. Nothing was
    /// done.
    Changed,
}

/// Deletes a user with all sessions and tokens, and forgets the failures of the account.
///
/// # Errors
/// [`Error::LastAdmin`] if no active admin would be left; [`Error::TooManyAttempts`] if a password was judged and so many
/// failures were counted meanwhile that no attempt is answered now.
pub async fn delete_user(pool: &PgPool, account: FailureKey, deletion: &UserDeletion) -> Result<Deleted> {
    // In pieces, before anything is locked: what the deletion takes along in one statement is then as many sessions as a user can
    // have, and their tokens. Not an admin's, who may have to stay.
    if !deletion.of_admin {
        forget_what_has_ended(pool, deletion.user_id).await?;
    }
    match delete(pool, account, deletion).await {
        // Nobody comes back: without a row, it was this deletion or another.
        Err(Error::CommitUnknown) => match user_by_id(pool, deletion.user_id).await {
            Ok(None) => Ok(Deleted::Done),
            Ok(Some(_)) | Err(_) => Err(Error::CommitUnknown),
        },
        deleted => deleted,
    }
}

async fn delete(pool: &PgPool, account: FailureKey, deletion: &UserDeletion) -> Result<Deleted> {
    run_tx(pool, "user.delete", |tx| {
        let deletion = deletion.clone();
        Box::pin(async move {
            let UserDeletion { user_id, of_admin, act, .. } = deletion;
            // Failures before the user, in the order in which a sign-in locks them.
            let failures = existing_failures_for_update(tx, account).await?;
            if deletion.judged_hash.is_some() {
                failures.unwrap_or_default().must_not_block(act.time)?;
            }
            // The admins are not kept from signing in for everybody who goes.
            let other_admins = of_admin && lock_other_admins(tx, user_id).await?;
            let Some(present) = lock_user_fully(tx, user_id).await? else {
                return Ok(Deleted::Unknown);
            };
            let is_judged = |judged: &Secret| present.user.active && *judged == present.password_hash;
            let became_admin = present.user.is_active_admin() && !of_admin;
            if became_admin || !deletion.judged_hash.as_ref().is_none_or(is_judged) {
                return Ok(Deleted::Changed);
            }
            present.user.may_cease_to_be_admin(other_admins)?;
            clear_failures(tx, account).await?;
            // Sessions, their tokens and a password's reset go with the user. Whoever signs in or refreshes meanwhile waits for the
            // user's lock, and then finds nobody.
            sqlx::query!("DELETE FROM users WHERE id = $1", user_id).execute(&mut *tx).await?;
            let tokens = RevokedTokens::BelowVersion(present.user.session_version.saturating_add(1));
            record(tx, &[Revocation { user_id, tokens }], act.time).await?;
            let entry = Entry::about(AuditAction::UserDeleted, user_id);
            append(tx, act, entry).await?;
            Ok(Deleted::Done)
        })
    })
    .await
}
