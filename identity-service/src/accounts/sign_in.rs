//! Signing in.
//!
//! Guesses are counted under a lock AFTER the password was judged, and the answer depends on the count: of
//! any number of guesses sent at once, only as many learn something as the rule lets through, while right
//! passwords sent at once all pass. The look before the hash decides nothing; it keeps blocked callers from
//! costing the time of a hash.

use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use super::attempts::Keys;
use super::{Accounts, RefreshToken, SessionTokens};
use crate::domain::{Email, Error, Password, Result};
use crate::store::{self, Credentials, FailureKey, NewSession};

/// How often an attempt begins anew because the account was changed while its password was judged.
pub(super) const TRIES: usize = 3;

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

impl Accounts {
    /// Begins a session.
    ///
    /// # Errors
    /// [`Error::CredentialsInvalid`] for an unknown address, a wrong password and a deactivated user alike,
    /// after the same time; [`Error::TooManyAttempts`] whether or not the account exists; [`Error::RateLimited`].
    pub async fn sign_in(self: &Arc<Self>, request: SignIn) -> Result<SessionTokens> {
        let keys = self.keys(FailureKey::account(&request.email), request.address);
        let mut subject_id: Option<Uuid> = None;
        for _ in 0..TRIES {
            self.may_attempt(keys).await?;
            let found = store::credentials_by_email(&self.pool, &request.email).await?;
            let found = self.judge(keys, found, request.password.clone()).await?;
            if subject_id.replace(found.user.id).is_none() {
                self.at_their_pace(found.user.id)?;
            }
            if let Some(tokens) = self.begin_session(keys, &found, &request.user_agent).await? {
                tracing::info!(user_id = %found.user.id, "signed in");
                self.renew_hash(keys, found, request.password);
                return Ok(tokens);
            }
        }
        Err(self.failed_attempt(keys, subject_id, Error::CredentialsInvalid).await)
    }

    /// Stores a session for the user whose password was right. `None` if the password was changed or the user
    /// deactivated since it was judged.
    async fn begin_session(
        &self,
        keys: Keys,
        judged: &Credentials,
        user_agent: &str,
    ) -> Result<Option<SessionTokens>> {
        let act = self.act(Some(judged.user.id));
        let refresh = RefreshToken::generate(self.sources.entropy.as_ref())?;
        let session = NewSession {
            id: self.sources.ids.new_id(),
            user_id: judged.user.id,
            user_agent: user_agent.to_owned(),
            token_hash: refresh.digest(),
            expire_time: self.sessions.expire_time(act.time, act.time),
            act,
        };
        let begun =
            store::begin_session(&self.pool, keys.account, keys.address, &judged.password_hash, &session)
                .await?;
        let Some(user) = begun else { return Ok(None) };
        let access = self
            .tokens
            .issue(user.id, user.role, Some(session.id), user.session_version, act.time)
            .map_err(Error::internal)?;
        Ok(Some(SessionTokens { access, refresh, refresh_expire_time: session.expire_time, user }))
    }

    /// Makes a hash at today's cost while the password is at hand, for which nobody waits. If that fails, the next sign-in tries
    /// again.
    fn renew_hash(self: &Arc<Self>, keys: Keys, found: Credentials, password: Password) {
        if !self.hasher.is_outdated(found.password_hash.expose()) {
            return;
        }
        let accounts = Arc::clone(self);
        tokio::spawn(async move {
            let user_id = found.user.id;
            let renewed = async {
                let new = accounts.hasher.hash_known(keys.account, keys.address, password).await?;
                store::replace_password_hash(&accounts.pool, user_id, &found.password_hash, &new).await
            };
            match renewed.await {
                Ok(()) => tracing::info!(%user_id, "password hash renewed at a higher cost"),
                Err(error) => tracing::warn!(%user_id, %error, "password hash was not renewed"),
            }
        });
    }
}
