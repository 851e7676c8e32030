//! Users: reading and changing them.

use std::collections::HashMap;

use service_core::auth::Principal;
use uuid::Uuid;

use super::Accounts;
use crate::domain::{Email, Error, Result, User, UserUpdate};
use crate::store::{self, UserFilter};

impl Accounts {
    /// The user who calls.
    ///
    /// # Errors
    /// [`Error::TokenRevoked`] if the user was deactivated since the token was issued.
    pub async fn me(&self, caller: &Principal) -> Result<User> {
        store::user_by_id(&self.pool, caller.user_id)
            .await?
            .filter(|user| user.active)
            .ok_or(Error::TokenRevoked)
    }

    /// Changes what the caller is called.
    ///
    /// # Errors
    /// [`Error::EtagMismatch`]; [`Error::TokenRevoked`] if the caller is gone or deactivated.
    pub async fn update_me(&self, caller: &Principal, update: &UserUpdate) -> Result<User> {
        self.must_stand(caller).await?;
        store::update_user(&self.pool, caller.user_id, update, self.act(Some(caller.user_id))).await
    }

    /// Anyone.
    ///
    /// # Errors
    /// [`Error::UserNotFound`].
    pub async fn user(&self, user_id: Uuid) -> Result<User> {
        store::user_by_id(&self.pool, user_id).await?.ok_or(Error::UserNotFound { user_id })
    }

    /// At most `limit` users who pass the filter, by id, from above `after` on. With an address, that user if it
    /// passes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn list_users(
        &self,
        filter: &UserFilter,
        email: Option<&Email>,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<User>> {
        let Some(email) = email else { return store::users(&self.pool, filter, after, limit).await };
        let found = store::credentials_by_email(&self.pool, email).await?.map(|found| found.user);
        let passes = |user: &User| {
            (filter.roles.is_empty() || filter.roles.contains(&user.role))
                && filter.active.is_none_or(|active| active == user.active)
                && after.is_none_or(|after| user.id > after)
        };
        Ok(found.into_iter().filter(passes).collect())
    }

    /// These users, each once, in the order of the ids. Ids that name nobody are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn users(&self, ids: &[Uuid]) -> Result<Vec<User>> {
        let found = store::users_by_ids(&self.pool, ids).await?;
        let mut found: HashMap<Uuid, User> = found.into_iter().map(|user| (user.id, user)).collect();
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// Changes anyone.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::EtagMismatch`], [`Error::LastAdmin`], [`Error::TokenRevoked`].
    pub async fn update_user(&self, caller: &Principal, user_id: Uuid, update: &UserUpdate) -> Result<User> {
        self.must_stand(caller).await?;
        let user = store::update_user(&self.pool, user_id, update, self.act(Some(caller.user_id))).await?;
        tracing::info!(%user_id, by = %caller.user_id, role = %user.role, active = user.active, "user updated");
        Ok(user)
    }
}
