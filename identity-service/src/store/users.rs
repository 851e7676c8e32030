//! The table `users`: making and reading.

use service_core::auth::Role;
use service_core::database::run_tx;
use service_core::secret::Secret;
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::{Entry, append};
use super::password_resets::end_password_reset;
use crate::domain::{Act, AuditAction, Email, Error, NewUser, Result, User};

/// A user as the columns have it.
pub(super) struct UserRow {
    pub(super) id: Uuid,
    pub(super) email: String,
    pub(super) display_name: String,
    pub(super) role: String,
    pub(super) active: bool,
    pub(super) session_version: i64,
    pub(super) revision: i64,
    pub(super) create_time: OffsetDateTime,
}

impl TryFrom<UserRow> for User {
    type Error = Error;

    fn try_from(row: UserRow) -> Result<Self> {
        let inconsistent =
            |what: &str| Error::internal(format!("user {}: the stored {what} is not valid", row.id));
        Ok(Self {
            id: row.id,
            email: Email::parse(&row.email).map_err(|_| inconsistent("e-mail"))?,
            role: row.role.parse::<Role>().map_err(|_| inconsistent("role"))?,
            display_name: row.display_name,
            active: row.active,
            session_version: row.session_version,
            revision: row.revision,
            create_time: row.create_time,
        })
    }
}

/// A user and the hash of the password.
#[derive(Debug)]
pub struct Credentials {
    /// The user.
    pub user: User,
    /// The PHC string.
    pub password_hash: Secret,
}

struct CredentialsRow {
    id: Uuid,
    email: String,
    display_name: String,
    role: String,
    active: bool,
    session_version: i64,
    revision: i64,
    create_time: OffsetDateTime,
    password_hash: String,
}

impl TryFrom<CredentialsRow> for Credentials {
    type Error = Error;

    fn try_from(row: CredentialsRow) -> Result<Self> {
        let CredentialsRow {
            id,
            email,
            display_name,
            role,
            active,
            session_version,
            revision,
            create_time,
            password_hash,
        } = row;
        let user = UserRow { id, email, display_name, role, active, session_version, revision, create_time };
        Ok(Self { user: user.try_into()?, password_hash: password_hash.into() })
    }
}

/// Stores a new user. A sign-up leaves no audit entry, since the user's row says the same; an admin who is made
/// does: `admin_made` is who did it and when.
///
/// # Errors
/// [`Error::EmailTaken`] if another user has the address.
pub async fn create_user(pool: &PgPool, user: &NewUser, admin_made: Option<Act>) -> Result<User> {
    let written = run_tx(pool, "user.create", |tx| {
        let user = user.clone();
        Box::pin(async move {
            let created = insert_user(&mut *tx, &user).await?;
            if let Some(act) = admin_made {
                let entry = Entry::about(AuditAction::AdminCreated, user.id);
                append(tx, act, entry).await?;
            }
            Ok(created)
        })
    })
    .await;
    match written {
        // The id was made for this user, so a row that has it was written just now.
        Err(Error::CommitUnknown) => user_by_id(pool, user.id).await?.ok_or(Error::CommitUnknown),
        written => written,
    }
}

/// The unique index decides: of two who insert one address at once, one waits for the other and then loses. No error of
/// the database's: that one has the address in the server's log.
async fn insert_user(executor: impl PgExecutor<'_>, user: &NewUser) -> Result<User> {
    sqlx::query_as!(
        UserRow,
        "INSERT INTO users (id, email, password_hash, display_name, role, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $6)
         ON CONFLICT (lower(email)) DO NOTHING
         RETURNING id, email, display_name, role, active, session_version, revision, create_time",
        user.id,
        user.email.as_str(),
        user.password_hash.expose(),
        user.display_name,
        user.role.as_str(),
        user.create_time
    )
    .fetch_optional(executor)
    .await?
    .ok_or(Error::EmailTaken)?
    .try_into()
}

/// The user with this id.
///
/// # Errors
/// If the database fails.
pub async fn user_by_id(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Option<User>> {
    sqlx::query_as!(
        UserRow,
        "SELECT id, email, display_name, role, active, session_version, revision, create_time
         FROM users WHERE id = $1",
        id
    )
    .fetch_optional(executor)
    .await?
    .map(TryInto::try_into)
    .transpose()
}

/// The user with this address.
///
/// # Errors
/// If the database fails.
pub async fn credentials_by_email(
    executor: impl PgExecutor<'_>,
    email: &Email,
) -> Result<Option<Credentials>> {
    sqlx::query_as!(
        CredentialsRow,
        "SELECT id, email, display_name, role, active, session_version, revision, create_time, password_hash
         FROM users WHERE lower(email) = lower($1)",
        email.as_str()
    )
    .fetch_optional(executor)
    .await?
    .map(TryInto::try_into)
    .transpose()
}

/// The user as of now, kept from changing until the transaction ends. The lock is the race's end: whoever
/// deactivates the user or changes the password either is seen here, or waits and then finds the session that
/// this transaction begins. A shared lock would do for that, but those are given past whoever waits for the row: who refreshes
/// without a pause could keep an admin from ever getting it. Rows that refer to the user may still be written by others.
pub(super) async fn lock_user(connection: &mut PgConnection, id: Uuid) -> Result<Option<Credentials>> {
    sqlx::query_as!(
        CredentialsRow,
        "SELECT id, email, display_name, role, active, session_version, revision, create_time, password_hash
         FROM users WHERE id = $1 FOR NO KEY UPDATE",
        id
    )
    .fetch_optional(connection)
    .await?
    .map(TryInto::try_into)
    .transpose()
}

/// The user as of now, locked until the transaction ends against everything: nobody may even write a row that refers to the
/// user. For who deletes the user, or ends what the user has.
pub(super) async fn lock_user_fully(connection: &mut PgConnection, id: Uuid) -> Result<Option<Credentials>> {
    sqlx::query_as!(
        CredentialsRow,
        "SELECT id, email, display_name, role, active, session_version, revision, create_time, password_hash
         FROM users WHERE id = $1 FOR UPDATE",
        id
    )
    .fetch_optional(connection)
    .await?
    .map(TryInto::try_into)
    .transpose()
}

/// Voids every token of a user that is out, and locks the user until the transaction ends. The version that tokens
/// need from now on; `None` if there is no such user.
pub(super) async fn raise_session_version(connection: &mut PgConnection, id: Uuid) -> Result<Option<i64>> {
    let version = sqlx::query_scalar!(
        "UPDATE users SET session_version = session_version + 1 WHERE id = $1 RETURNING session_version",
        id
    )
    .fetch_optional(connection)
    .await?;
    Ok(version)
}

/// Gives a user another password, and ends the token that might replace it. The caller has locked the user.
pub(super) async fn set_password(connection: &mut PgConnection, id: Uuid, hash: &Secret) -> Result<()> {
    sqlx::query!("UPDATE users SET password_hash = $2 WHERE id = $1", id, hash.expose())
        .execute(&mut *connection)
        .await?;
    end_password_reset(connection, id).await
}

/// Which users are listed.
#[derive(Clone, Debug, Default)]
pub struct UserFilter {
    /// Of one of these roles; empty: all.
    pub roles: Vec<Role>,
    /// Active or not; `None`: both.
    pub active: Option<bool>,
}

/// At most `limit` users who pass the filter, by id, from above `after` on.
///
/// # Errors
/// If the database fails.
pub async fn users(
    executor: impl PgExecutor<'_>,
    filter: &UserFilter,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<User>> {
    let roles: Vec<String> = filter.roles.iter().map(|role| role.as_str().to_owned()).collect();
    sqlx::query_as!(
        UserRow,
        "SELECT id, email, display_name, role, active, session_version, revision, create_time FROM users
         WHERE id > $1 AND (cardinality($2::text[]) = 0 OR role = ANY ($2))
           AND ($3::boolean IS NULL OR active = $3)
         ORDER BY id LIMIT $4",
        after.unwrap_or_default(),
        &roles,
        filter.active,
        limit
    )
    .fetch_all(executor)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

/// The users with these ids, in no order. Ids that name nobody are left out.
///
/// # Errors
/// If the database fails.
pub async fn users_by_ids(executor: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<User>> {
    sqlx::query_as!(
        UserRow,
        "SELECT id, email, display_name, role, active, session_version, revision, create_time
         FROM users WHERE id = ANY ($1)",
        ids
    )
    .fetch_all(executor)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

/// The user with this id, and the hash of the password.
///
/// # Errors
/// If the database fails.
pub async fn credentials_by_id(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Option<Credentials>> {
    sqlx::query_as!(
        CredentialsRow,
        "SELECT id, email, display_name, role, active, session_version, revision, create_time, password_hash
         FROM users WHERE id = $1",
        id
    )
    .fetch_optional(executor)
    .await?
    .map(TryInto::try_into)
    .transpose()
}
