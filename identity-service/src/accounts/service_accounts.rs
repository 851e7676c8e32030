//! Service accounts, and the tokens that they get.

use std::net::IpAddr;
use std::time::Duration;

use service_core::auth::{Principal, Role};
use sqlx::PgPool;
use uuid::Uuid;

use super::client_secret::new_client_id;
use super::{Accounts, ClientSecret};
use crate::domain::{Act, Error, NewServiceAccount, Result, ServiceAccount};
use crate::signing::AccessToken;
use crate::sources::Sources;
use crate::store::{self, FailureKey, NewSecret};

/// What a backend presents for an access token.
#[derive(Clone, Debug)]
pub struct ServiceSignIn {
    /// What it names itself by.
    pub client_id: String,
    /// Its secret.
    pub secret: ClientSecret,
    /// Where the call comes from, if that is known.
    pub address: Option<IpAddr>,
}

impl Accounts {
    /// Makes a service account, and its secret, which is shown this once.
    ///
    /// # Errors
    /// [`Error::TokenRevoked`]; if there is no randomness or the database fails.
    pub async fn create_service_account(
        &self,
        caller: &Principal,
        display_name: String,
    ) -> Result<(ServiceAccount, ClientSecret)> {
        self.must_stand(caller).await?;
        create_service_account(&self.pool, &self.sources, display_name, self.act(Some(caller.user_id))).await
    }

    /// The service accounts after `after`, at most `limit`, by id.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn service_accounts(&self, after: Option<Uuid>, limit: i64) -> Result<Vec<ServiceAccount>> {
        store::service_accounts(&self.pool, after, limit).await
    }

    /// Replaces the secret of a service account. For `overlap` the old one works beside the new one; without, it
    /// stops at once, and with it every token from before.
    ///
    /// # Errors
    /// [`Error::ServiceAccountNotFound`]; [`Error::TokenRevoked`].
    pub async fn rotate_secret(
        &self,
        caller: &Principal,
        id: Uuid,
        overlap: Option<Duration>,
    ) -> Result<(ServiceAccount, ClientSecret)> {
        self.must_stand(caller).await?;
        let secret = ClientSecret::generate(self.sources.entropy.as_ref())?;
        let act = self.act(Some(caller.user_id));
        let old_until = overlap.filter(|overlap| !overlap.is_zero()).map(|overlap| act.time + overlap);
        let new = NewSecret { hash: secret.digest(), old_until };
        let account = store::rotate_secret(&self.pool, id, new, act).await?;
        let account = account.ok_or(Error::ServiceAccountNotFound { id })?;
        tracing::info!(service_account_id = %id, overlap = overlap.is_some(), "service account's secret rotated");
        Ok((account, secret))
    }

    /// Deletes a service account; its tokens end.
    ///
    /// # Errors
    /// [`Error::ServiceAccountNotFound`]; [`Error::TokenRevoked`].
    pub async fn delete_service_account(&self, caller: &Principal, id: Uuid) -> Result<()> {
        self.must_stand(caller).await?;
        if !store::delete_service_account(&self.pool, id, self.act(Some(caller.user_id))).await? {
            return Err(Error::ServiceAccountNotFound { id });
        }
        tracing::info!(service_account_id = %id, "service account deleted");
        Ok(())
    }

    /// An access token for a service account. Failures are counted as those of sign-ins are, and the answer to a
    /// wrong secret is that to an unknown client. A right secret is judged and welcome all the same: nobody guesses 256
    /// bits, and whoever shares an address with somebody who tries is not to be kept out with them.
    ///
    /// # Errors
    /// [`Error::ClientInvalid`]; [`Error::TooManyAttempts`] whether or not the account exists.
    pub async fn issue_service_token(&self, request: ServiceSignIn) -> Result<AccessToken> {
        let keys = self.keys(FailureKey::client(&request.client_id), request.address);
        let now = self.now();
        let found = store::service_account_by_client_id(&self.pool, &request.client_id).await?;
        let which = request.secret.which(found.as_ref().map(|(_, secrets)| secrets), now);
        let subject_id = found.as_ref().map(|(account, _)| account.id);
        if let Some(((found, _), which)) = found.zip(which) {
            if let Err(error) = store::forget_failures(&self.pool, keys.account).await {
                tracing::warn!(%error, "failures of a service account are forgotten another time");
            }
            if found.use_is_news(which, now) {
                let noted = store::note_secret_use(&self.pool, found.id, request.secret.digest(), now).await;
                if let Err(error) = noted {
                    tracing::warn!(%error, "the use of a service account's secret is written down another time");
                }
            }
            // If the account is deleted or its secret rotated at this moment, the version ends this token too.
            let issued = self.tokens.issue(found.id, Role::Service, None, found.session_version, now);
            return issued.map_err(Error::internal);
        }
        self.may_attempt(keys).await?;
        Err(self.failed_attempt(keys, subject_id, Error::ClientInvalid).await)
    }

    /// Asks that the caller's token is good by the database, not by what this replica has heard: what an admin does with
    /// accounts cannot be taken back by a revocation that comes a moment later.
    ///
    /// # Errors
    /// [`Error::TokenRevoked`].
    pub(super) async fn must_stand(&self, caller: &Principal) -> Result<()> {
        if self.stands(caller).await? { Ok(()) } else { Err(Error::TokenRevoked) }
    }

    /// Whether the genuine token of `holder` is still good: nobody has deactivated, deleted or signed out its holder
    /// since, or changed their role.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn stands(&self, holder: &Principal) -> Result<bool> {
        let version = holder.session_version;
        match holder.role {
            Role::Service => store::service_token_stands(&self.pool, holder.user_id, version).await,
            Role::Attendee | Role::Organizer | Role::Admin => {
                store::user_token_stands(&self.pool, holder.user_id, version, holder.session_id).await
            }
        }
    }
}

/// Makes a service account from the command line, where no admin can call yet.
///
/// # Errors
/// If there is no randomness or the database fails.
pub async fn create_first_service_account(
    pool: &PgPool,
    sources: &Sources,
    display_name: String,
) -> Result<(ServiceAccount, ClientSecret)> {
    let act = Act { entry_id: sources.ids.new_id(), actor_id: None, time: sources.clock.now() };
    create_service_account(pool, sources, display_name, act).await
}

/// Takes back what [`create_first_service_account`] made, if nobody can be told its secret.
///
/// # Errors
/// If the database fails.
pub async fn take_back_first_service_account(pool: &PgPool, sources: &Sources, id: Uuid) -> Result<()> {
    let act = Act { entry_id: sources.ids.new_id(), actor_id: None, time: sources.clock.now() };
    store::delete_service_account(pool, id, act).await?;
    Ok(())
}

async fn create_service_account(
    pool: &PgPool,
    sources: &Sources,
    display_name: String,
    act: Act,
) -> Result<(ServiceAccount, ClientSecret)> {
    let entropy = sources.entropy.as_ref();
    let secret = ClientSecret::generate(entropy)?;
    let account = NewServiceAccount {
        id: sources.ids.new_id(),
        client_id: new_client_id(entropy)?,
        display_name,
        secret_hash: secret.digest(),
    };
    let account = store::create_service_account(pool, &account, act).await?;
    tracing::info!(service_account_id = %account.id, "service account created");
    Ok((account, secret))
}
