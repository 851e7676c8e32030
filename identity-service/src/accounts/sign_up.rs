//! Making a user.

use std::net::IpAddr;

use service_core::auth::Role;

use super::Accounts;
use crate::domain::{Email, NewPassword, NewUser, Result, User};
use crate::store;

/// Who signs up. Every part has been checked.
#[derive(Clone, Debug)]
pub struct SignUp {
    /// The address.
    pub email: Email,
    /// The password.
    pub password: NewPassword,
    /// What to call the user.
    pub display_name: String,
    /// Attendee or organizer.
    pub role: Role,
    /// Where the call comes from, if that is known.
    pub address: Option<IpAddr>,
}

impl Accounts {
    /// Makes a user.
    ///
    /// # Errors
    /// [`crate::domain::Error::EmailTaken`]; also after an answer that was lost, if the user was made then.
    pub async fn sign_up(&self, request: SignUp) -> Result<User> {
        // Before the id: it tells when the user was made, and whoever hashes may have waited.
        let password_hash = self
            .hasher
            .hash_newcomers(self.address_key(request.address), request.password.into_inner())
            .await?;
        let user = NewUser {
            id: self.sources.ids.new_id(),
            email: request.email,
            password_hash,
            display_name: request.display_name,
            role: request.role,
            create_time: self.now(),
        };
        let user = store::create_user(&self.pool, &user, None).await?;
        tracing::info!(user_id = %user.id, role = %user.role, "user signed up");
        Ok(user)
    }
}
