//! Attempts with a password or a secret: which are judged, and counting those that fail.

use std::net::IpAddr;

use uuid::Uuid;

use super::Accounts;
use crate::domain::{Error, Failures, Result};
use crate::store::{self, FailureKey};

/// What the failures of an attempt are counted for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub(super) account: FailureKey,
    pub(super) address: Option<FailureKey>,
}

impl Accounts {
    /// The keys of an attempt on an account from an address, if addresses are counted.
    pub(super) fn keys(&self, account: FailureKey, address: Option<IpAddr>) -> Keys {
        Keys { account, address: self.limits.address.and(address).map(FailureKey::address) }
    }

    /// Refuses an attempt that is not to be judged, before it costs a hash. It decides nothing else.
    pub(super) async fn may_attempt(&self, keys: Keys) -> Result<()> {
        let blocked_until = store::blocked_until(&self.pool, keys.account, keys.address).await?;
        Failures { blocked_until, ..Failures::default() }.must_not_block(self.now())
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
