//! Signing in.
//!
//! Guesses are counted under a lock AFTER the password was judged, and the answer depends on the count: of
//! any number of guesses sent at once, only as many learn something as the rule lets through, while right
//! passwords sent at once all pass. The look before the hash decides nothing; it keeps blocked callers from
//! costing the time of a hash.

use std::net::IpAddr;

use time::OffsetDateTime;

use super::{Accounts, RefreshToken};
use crate::domain::{Email, Error, Failures, Password, Result, User};
use crate::signing::AccessToken;
use crate::store::{self, Credentials, FailureKey, NewSession};

/// How often a sign-in begins anew because the account was changed while its password was judged.
const TRIES: usize = 3;

/// Who wants to sign in.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// The address of the account.
    pub email: Email,
    /// The password.
    pub password: Password,
    /// Where the call comes from, if that is known.
    pub address: Option<IpAddr>,
    /// What the client calls itself, at most 200 characters.
    pub user_agent: String,
}

/// A session that began.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// The access token.
    pub access: AccessToken,
    /// The refresh token.
    pub refresh: RefreshToken,
    /// When the refresh token lapses.
    pub refresh_expire_time: OffsetDateTime,
    /// Who signed in.
    pub user: User,
}

impl Accounts {
    /// Begins a session.
    ///
    /// # Errors
    /// [`Error::CredentialsInvalid`] for an unknown address, a wrong password and a deactivated user alike,
    /// after the same time; [`Error::TooManyAttempts`] whether or not the account exists.
    pub async fn sign_in(&self, request: SignIn) -> Result<SignedIn> {
        let account = FailureKey::account(&request.email);
        let address = self.limits.address.and(request.address).map(FailureKey::address);
        for _ in 0..TRIES {
            let now = self.now();
            let blocked_until = store::blocked_until(&self.pool, account, address).await?;
            Failures { blocked_until, ..Failures::default() }.must_not_block(now)?;

            let found = store::credentials_by_email(&self.pool, &request.email).await?;
            let stored = found.as_ref().map(|found| found.password_hash.as_str());
            let right = self.hasher.verify(request.password.clone(), stored).await?;
            let Some(found) = found.filter(|found| right && found.user.active) else { break };
            if let Some(signed_in) = self.begin_session(account, &found, &request.user_agent).await? {
                self.renew_hash(&found, request.password).await;
                tracing::info!(user_id = %found.user.id, "signed in");
                return Ok(signed_in);
            }
        }
        let (account, address) = ((account, self.limits.account), address.zip(self.limits.address));
        match store::count_failure(&self.pool, account, address, self.now()).await? {
            Some(retry_after) => Err(Error::TooManyAttempts { retry_after }),
            None => Err(Error::CredentialsInvalid),
        }
    }

    /// Stores a session for the user whose password was right. `None` if the password was changed or the user
    /// deactivated since it was judged.
    async fn begin_session(
        &self,
        account: FailureKey,
        judged: &Credentials,
        user_agent: &str,
    ) -> Result<Option<SignedIn>> {
        let now = self.now();
        let refresh = RefreshToken::generate(self.sources.entropy.as_ref())?;
        let session = NewSession {
            id: self.sources.ids.new_id(),
            user_id: judged.user.id,
            user_agent: user_agent.to_owned(),
            token_hash: refresh.digest(),
            create_time: now,
            expire_time: now + self.refresh_lifetime,
        };
        let begun = store::begin_session(&self.pool, account, &judged.password_hash, &session).await?;
        let Some(user) = begun else { return Ok(None) };
        let access = self
            .tokens
            .issue(user.id, user.role, Some(session.id), user.session_version, now)
            .map_err(Error::internal)?;
        Ok(Some(SignedIn { access, refresh, refresh_expire_time: session.expire_time, user }))
    }

    /// Makes a hash at today's cost while the password is at hand. If that fails, the next sign-in tries
    /// again.
    async fn renew_hash(&self, found: &Credentials, password: Password) {
        if !self.hasher.is_outdated(&found.password_hash) {
            return;
        }
        let renewed = async {
            let new = self.hasher.hash(password).await?;
            store::replace_password_hash(&self.pool, found.user.id, &found.password_hash, &new).await
        };
        match renewed.await {
            Ok(()) => tracing::info!(user_id = %found.user.id, "password hash renewed at a higher cost"),
            Err(error) => tracing::warn!(user_id = %found.user.id, %error, "password hash was not renewed"),
        }
    }
}
