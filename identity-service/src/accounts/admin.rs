//! The first admin, who cannot come from a sign-up.

use service_core::auth::Role;
use sqlx::PgPool;
use uuid::Uuid;

use crate::domain::{Act, Email, Error, NewPassword, NewUser, Result};
use crate::hashing::PasswordHasher;
use crate::sources::Sources;
use crate::store::{self, FailureKey};

/// What [`create_admin`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCreated {
    /// There is a new admin.
    Created(Uuid),
    /// The user was there: now an active admin with the given password, and signed out everywhere.
    Reset(Uuid),
    /// An active admin has the address already. Nothing was changed, the password neither.
    Unchanged(Uuid),
    /// Somebody else, or a deactivated admin, has the address. Nothing was changed.
    Taken(Uuid),
}

/// Who becomes an admin. Every part has been checked.
#[derive(Clone, Debug)]
pub struct NewAdmin {
    /// The address.
    pub email: Email,
    /// The password.
    pub password: NewPassword,
    /// What to call the admin; not used for a user who is there already.
    pub display_name: String,
}

/// Makes an admin. If a user has the address already, that user is left alone, or with `reset` made an active
/// admin with this password.
///
/// # Errors
/// If the password cannot be hashed or the database fails.
pub async fn create_admin(
    pool: &PgPool,
    hasher: &PasswordHasher,
    sources: &Sources,
    admin: NewAdmin,
    reset: bool,
) -> Result<AdminCreated> {
    let user = NewUser {
        id: sources.ids.new_id(),
        email: admin.email,
        password_hash: hasher.hash(admin.password.into_inner()).await?,
        display_name: admin.display_name,
        role: Role::Admin,
        create_time: sources.clock.now(),
    };
    let act = Act { entry_id: sources.ids.new_id(), actor_id: None, time: user.create_time };
    loop {
        match store::create_user(pool, &user, Some(act)).await {
            Ok(user) => return Ok(AdminCreated::Created(user.id)),
            Err(Error::EmailTaken) => {}
            Err(error) => return Err(error),
        }
        if reset {
            let account = FailureKey::account(&user.email);
            let id = store::reset_to_admin(pool, account, &user.email, &user.password_hash, act).await?;
            if let Some(id) = id {
                return Ok(AdminCreated::Reset(id));
            }
        } else if let Some(found) = store::credentials_by_email(pool, &user.email).await? {
            let user = found.user;
            let unchanged = AdminCreated::Unchanged(user.id);
            return Ok(if user.is_active_admin() { unchanged } else { AdminCreated::Taken(user.id) });
        }
        // Whoever had the address was deleted at this moment: it is free.
    }
}
