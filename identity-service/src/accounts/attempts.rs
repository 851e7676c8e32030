//! Attempts with a password or a secret: which are judged, and counting those that fail.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use service_core::auth::Principal;
use tokio::time::timeout;
use tracing::Instrument;
use uuid::Uuid;

use super::Accounts;
use crate::domain::{Error, Failures, Password, Result};
use crate::store::{self, Credentials, FailureKey};

/// How long an attempt may take once its password is being judged.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the failures of an attempt are counted for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub(super) account: FailureKey,
    pub(super) address: Option<FailureKey>,
}

impl Accounts {
    /// The keys of an attempt on an account from an address, if addresses are counted.
    pub(super) fn keys(&self, account: FailureKey, address: Option<IpAddr>) -> Keys {
        Keys { account, address: self.address_key(address) }
    }

    /// The key of an address, if addresses are counted.
    pub(super) fn address_key(&self, address: Option<IpAddr>) -> Option<FailureKey> {
        self.limits.address.and(address).map(FailureKey::address)
    }

    /// Refuses an attempt that is not to be judged, before it costs a hash. It decides nothing else.
    pub(super) async fn may_attempt(&self, keys: Keys) -> Result<()> {
        let blocked_until = store::blocked_until(&self.pool, keys.account, keys.address).await?;
        Failures { blocked_until, ..Failures::default() }.must_not_block(self.now())
    }

    /// The user who was found for an attempt, if this is the password and the user is active. Once the password is being
    /// judged the attempt counts, also where its caller goes away: guesses that are given up early would be free otherwise.
    ///
    /// # Errors
    /// [`Error::CredentialsInvalid`]; [`Error::TooManyAttempts`] whatever the password, if so many failures were counted
    /// meanwhile that no attempt is answered now; [`Error::Overloaded`].
    pub(super) async fn judge(
        self: &Arc<Self>,
        keys: Keys,
        found: Option<Credentials>,
        password: Password,
    ) -> Result<Credentials> {
        let stored = found.as_ref().map(|found| found.password_hash.expose());
        let verdict = self.hasher.verify(keys.account, keys.address, password, stored).await?;
        let accounts = Arc::clone(self);
        let judged = async move {
            let is_right = verdict.done().await?;
            // Before anything tells a right password from a wrong one, be it the time that it takes.
            accounts.may_attempt(keys).await?;
            let subject_id = found.as_ref().map(|found| found.user.id);
            match found.filter(|found| is_right && found.user.active) {
                Some(found) => Ok(found),
                None => Err(accounts.failed_attempt(keys, subject_id, Error::CredentialsInvalid).await),
            }
        };
        // A database that has gone without a word holds it up no longer than any call.
        let bounded = timeout(PATIENCE, judged).in_current_span();
        let judged = tokio::spawn(bounded).await.map_err(Error::internal)?;
        judged.map_err(|_| Error::DatabaseUnavailable("an attempt was not counted in time".into()))?
    }

    /// The caller as stored, whose present password this is. `address`: where the call comes from, if that is known.
    ///
    /// # Errors
    /// [`Error::CredentialsInvalid`] if it is not; [`Error::TooManyAttempts`]; [`Error::TokenRevoked`] if the caller is gone
    /// or deactivated.
    pub(super) async fn judge_own_password(
        self: &Arc<Self>,
        caller: &Principal,
        password: Password,
        address: Option<IpAddr>,
    ) -> Result<(Credentials, Keys)> {
        let found = store::credentials_by_id(&self.pool, caller.user_id).await?;
        let found = found.filter(|found| found.user.active).ok_or(Error::TokenRevoked)?;
        let keys = self.keys(FailureKey::account(&found.user.email), address);
        self.may_attempt(keys).await?;
        Ok((self.judge(keys, Some(found), password).await?, keys))
    }

    /// Counts an attempt that failed: what it is answered with, `wrong` while attempts are answered.
    /// `subject_id`: whose account it is, if there is one.
    pub(super) async fn failed_attempt(&self, keys: Keys, subject_id: Option<Uuid>, wrong: Error) -> Error {
        let attempt = store::Attempt {
            account: (keys.account, self.limits.account),
            address: keys.address.zip(self.limits.address),
            subject_id,
            act: self.act(None),
        };
        match store::count_failure(&self.pool, attempt).await {
            Ok(Some(retry_after)) => Error::TooManyAttempts { retry_after },
            Ok(None) => wrong,
            Err(error) => error,
        }
    }
}
