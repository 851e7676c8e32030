//! Deleting users: themselves, or by an admin.

use std::net::IpAddr;

use service_core::auth::Principal;
use uuid::Uuid;

use super::Accounts;
use super::sign_in::TRIES;
use crate::domain::{Error, Password, Result};
use crate::store::{self, FailureKey, UserDeletion};

impl Accounts {
    /// Deletes the caller, whose password is asked for once more. It comes from `address`, if that is known.
    ///
    /// # Errors
    /// [`Error::CredentialsInvalid`] if the password is wrong; [`Error::TooManyAttempts`]; [`Error::LastAdmin`];
    /// [`Error::TokenRevoked`] if the caller is gone or deactivated.
    pub async fn delete_me(
        &self,
        caller: &Principal,
        password: Password,
        address: Option<IpAddr>,
    ) -> Result<()> {
        let user_id = caller.user_id;
        for _ in 0..TRIES {
            let (found, keys) = self.judge_own_password(caller, password.clone(), address).await?;
            let act = self.act(Some(user_id));
            let deletion = UserDeletion { user_id, judged_hash: Some(found.password_hash), act };
            if store::delete_user(&self.pool, keys.account, &deletion).await? {
                tracing::info!(%user_id, "user deleted by themselves");
                return Ok(());
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
        // Addresses never change.
        let account = FailureKey::account(&self.user(user_id).await?.email);
        let deletion = UserDeletion { user_id, judged_hash: None, act: self.act(Some(caller.user_id)) };
        if !store::delete_user(&self.pool, account, &deletion).await? {
            return Err(Error::UserNotFound { user_id });
        }
        tracing::info!(%user_id, by = %caller.user_id, "user deleted");
        Ok(())
    }
}
