//! Deleting users: themselves, or by an admin.

use std::net::IpAddr;
use std::sync::Arc;

use service_core::auth::Principal;
use uuid::Uuid;

use super::Accounts;
use super::sign_in::TRIES;
use crate::domain::{Error, Password, Result};
use crate::store::{self, Deleted, FailureKey, UserDeletion};

impl Accounts {
    /// Deletes the caller, whose password is asked for once more. It comes from `address`, if that is known.
    ///
    /// # Errors
    /// [`Error::CredentialsInvalid`] if the password is wrong; [`Error::TooManyAttempts`]; [`Error::LastAdmin`];
    /// [`Error::TokenRevoked`] if the caller is gone or deactivated.
    pub async fn delete_me(
        self: &Arc<Self>,
        caller: &Principal,
        password: Password,
        address: Option<IpAddr>,
    ) -> Result<()> {
        let user_id = caller.user_id;
        for _ in 0..TRIES {
            let (found, keys) = self.judge_own_password(caller, password.clone(), address).await?;
            let deletion = UserDeletion {
                user_id,
                of_admin: found.user.is_active_admin(),
                judged_hash: Some(found.password_hash),
                act: self.act(Some(user_id)),
            };
            match store::delete_user(&self.pool, keys.account, &deletion).await? {
                Deleted::Done => {
                    tracing::info!(%user_id, "user deleted by themselves");
                    return Ok(());
                }
                Deleted::Unknown | Deleted::Changed => {}
            }
        }
        Err(Error::CredentialsInvalid)
    }

    /// Deletes anyone.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::LastAdmin`], [`Error::TokenRevoked`].
    pub async fn delete_user(&self, caller: &Principal, user_id: Uuid) -> Result<()> {
        self.must_stand(caller).await?;
        loop {
            let user = self.user(user_id).await?;
            let deletion = UserDeletion {
                user_id,
                of_admin: user.is_active_admin(),
                judged_hash: None,
                act: self.act(Some(caller.user_id)),
            };
            match store::delete_user(&self.pool, FailureKey::account(&user.email), &deletion).await? {
                Deleted::Done => break,
                Deleted::Unknown => return Err(Error::UserNotFound { user_id }),
                // Somebody has made an admin of the user at this moment.
                Deleted::Changed => {}
            }
        }
        tracing::info!(%user_id, by = %caller.user_id, "user deleted");
        Ok(())
    }
}
