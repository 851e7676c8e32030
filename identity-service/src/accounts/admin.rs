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
    match store::create_user(pool, &user, Some(act)).await {
        Ok(user) => return Ok(AdminCreated::Created(user.id)),
        Err(Error::EmailTaken) => {}
        Err(error) => return Err(error),
    }
    let vanished = || Error::internal("the user vanished");
    if reset {
        let account = FailureKey::account(&user.email);
        let id = store::reset_to_admin(pool, account, &user.email, &user.password_hash, act).await?;
        return id.map(AdminCreated::Reset).ok_or_else(vanished);
    }
    let found = store::credentials_by_email(pool, &user.email).await?.ok_or_else(vanished)?.user;
    let is_admin = found.is_active_admin();
    Ok(if is_admin { AdminCreated::Unchanged(found.id) } else { AdminCreated::Taken(found.id) })
}
