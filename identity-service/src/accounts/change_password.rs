//! Changing one's password. The present one is judged as a sign-in's is, and guesses count alike.

use std::net::IpAddr;
use std::sync::Arc;

use service_core::auth::Principal;

use super::Accounts;
use super::sign_in::TRIES;
use crate::domain::{Error, NewPassword, Password, Result};
use crate::store::{self, PasswordChange};

/// A password that its user changes. Every part has been checked.
#[derive(Clone, Debug)]
pub struct ChangePassword {
    /// The present password.
    pub current: Password,
    /// The new one.
    pub new: NewPassword,
    /// Where the call comes from, if that is known.
    pub address: Option<IpAddr>,
}

impl Accounts {
    /// Changes the caller's password and ends the caller's other sessions: how many were alive.
    ///
    /// # Errors
    /// [`Error::CredentialsInvalid`] if the present password is wrong; [`Error::TooManyAttempts`]; [`Error::RateLimited`];
    /// [`Error::TokenRevoked`] if the caller is gone or deactivated.
    pub async fn change_password(
        self: &Arc<Self>,
        caller: &Principal,
        request: ChangePassword,
    ) -> Result<usize> {
        for attempt in 0..TRIES {
            let (found, keys) =
                self.judge_own_password(caller, request.current.clone(), request.address).await?;
            if attempt == 0 {
                self.at_their_pace(caller.user_id)?;
            }
            let new = request.new.clone().into_inner();
            let change = PasswordChange {
                user_id: caller.user_id,
                judged_hash: found.password_hash,
                new_hash: self.hasher.hash_known(keys.account, keys.address, new).await?,
                keep: caller.session_id,
                act: self.act(Some(caller.user_id)),
            };
            if let Some(ended) = store::change_password(&self.pool, keys.account, &change).await? {
                tracing::info!(user_id = %caller.user_id, ended, "password changed");
                return Ok(ended);
            }
        }
        Err(Error::CredentialsInvalid)
    }
}
