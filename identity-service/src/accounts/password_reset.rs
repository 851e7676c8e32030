//! Replacing a password that was forgotten: the token for it, and its use.

use service_core::auth::Principal;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Accounts, ResetToken};
use crate::domain::{Error, NewPassword, Result, User};
use crate::store::{self, FailureKey, NewPasswordReset, PasswordReset};

impl Accounts {
    /// Makes a token that replaces a user's password, and tells when it lapses.
    ///
    /// # Errors
    /// [`Error::UserNotFound`]; [`Error::TokenRevoked`].
    pub async fn create_password_reset(
        &self,
        caller: &Principal,
        user_id: Uuid,
    ) -> Result<(ResetToken, OffsetDateTime)> {
        self.must_stand(caller).await?;
        let token = ResetToken::generate(self.sources.entropy.as_ref())?;
        let act = self.act(Some(caller.user_id));
        let expire_time = act.time + self.reset_lifetime;
        let reset = NewPasswordReset { user_id, token_hash: token.digest(), expire_time, act };
        store::create_password_reset(&self.pool, reset).await?;
        tracing::info!(%user_id, by = %caller.user_id, "a token was made that replaces a password");
        Ok((token, expire_time))
    }

    /// Whose password the token may replace. A look that decides nothing: it spares hashing, and says by whose address the
    /// new password is judged.
    ///
    /// # Errors
    /// [`Error::PasswordResetInvalid`].
    pub async fn reset_holder(&self, token: &ResetToken) -> Result<User> {
        let holder = store::reset_holder(&self.pool, token.digest(), self.now()).await?;
        holder.ok_or(Error::PasswordResetInvalid)
    }

    /// Replaces the password of `holder` and ends all sessions. It is not kept back by failed sign-ins: nobody guesses 256
    /// bits.
    ///
    /// # Errors
    /// [`Error::PasswordResetInvalid`]; [`Error::Overloaded`].
    pub async fn reset_password(&self, token: &ResetToken, holder: &User, new: NewPassword) -> Result<()> {
        let account = FailureKey::account(&holder.email);
        let reset = PasswordReset {
            user_id: holder.id,
            token_hash: token.digest(),
            new_hash: self.hasher.hash_known(account, None, new.into_inner()).await?,
            act: self.act(None),
        };
        let ended = store::reset_password(&self.pool, account, &reset).await?;
        tracing::info!(user_id = %holder.id, ended, "password replaced");
        Ok(())
    }
}
