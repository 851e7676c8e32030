//! The table `users`.

use service_core::auth::Role;
use service_core::database::run_tx;
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::FailureKey;
use super::failures::clear_failures;
use super::revocations::record;
use super::sessions::revoke_sessions;
use crate::domain::{Email, Error, NewUser, Result, Revocation, RevokedTokens, User};

/// The index that keeps addresses unique; named in `migrations/identity`.
const EMAIL_INDEX: &str = "users_email_key";

/// A user as the columns have it.
struct UserRow {
    id: Uuid,
    email: String,
    display_name: String,
    role: String,
    active: bool,
    session_version: i64,
    revision: i64,
    create_time: OffsetDateTime,
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
    pub password_hash: String,
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
        Ok(Self { user: user.try_into()?, password_hash })
    }
}

/// Stores a new user.
///
/// # Errors
/// [`Error::EmailTaken`] if another user has the address.
pub async fn create_user(pool: &PgPool, user: &NewUser) -> Result<User> {
    let written = run_tx(pool, "user.create", |tx| {
        let user = user.clone();
        Box::pin(async move { insert_user(tx, &user).await })
    })
    .await;
    match written {
        // The id was made for this user, so a row that has it was written just now.
        Err(Error::CommitUnknown) => user_by_id(pool, user.id).await?.ok_or(Error::CommitUnknown),
        written => written,
    }
}

/// The unique index decides: of two who insert one address at once, one waits for the other and then loses.
async fn insert_user(executor: impl PgExecutor<'_>, user: &NewUser) -> Result<User> {
    sqlx::query_as!(
        UserRow,
        "INSERT INTO users (id, email, password_hash, display_name, role, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $6)
         RETURNING id, email, display_name, role, active, session_version, revision, create_time",
        user.id,
        user.email.as_str(),
        user.password_hash,
        user.display_name,
        user.role.as_str(),
        user.create_time
    )
    .fetch_one(executor)
    .await
    .map_err(|error| {
        let constraint = error.as_database_error().and_then(sqlx::error::DatabaseError::constraint);
        if constraint == Some(EMAIL_INDEX) { Error::EmailTaken } else { error.into() }
    })?
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
/// this transaction begins.
pub(super) async fn credentials_for_session(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Option<Credentials>> {
    sqlx::query_as!(
        CredentialsRow,
        "SELECT id, email, display_name, role, active, session_version, revision, create_time, password_hash
         FROM users WHERE id = $1 FOR SHARE",
        id
    )
    .fetch_optional(connection)
    .await?
    .map(TryInto::try_into)
    .transpose()
}

/// Puts a dearer hash of the same password in the place of `old`. Does nothing if the password was changed
/// meanwhile.
///
/// # Errors
/// If the database fails.
pub async fn replace_password_hash(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    old: &str,
    new: &str,
) -> Result<()> {
    sqlx::query!("UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2", id, old, new)
        .execute(executor)
        .await?;
    Ok(())
}

/// Makes the user with this address an active admin with this password, forgets failed sign-ins, and voids
/// every session and token from before. `None` if nobody has the address.
///
/// # Errors
/// If the database fails.
pub async fn reset_to_admin(
    pool: &PgPool,
    account: FailureKey,
    email: &Email,
    password_hash: &str,
    now: OffsetDateTime,
) -> Result<Option<Uuid>> {
    run_tx(pool, "user.reset_to_admin", |tx| {
        let (email, password_hash) = (email.clone(), password_hash.to_owned());
        Box::pin(async move {
            // Failures before the user, in the order in which a sign-in locks them.
            clear_failures(tx, account).await?;
            let reset = sqlx::query!(
                "UPDATE users
                 SET password_hash = $2, role = 'admin', active = true,
                     session_version = session_version + 1, revision = revision + 1, update_time = $3
                 WHERE lower(email) = lower($1)
                 RETURNING id, session_version",
                email.as_str(),
                password_hash,
                now
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(reset) = reset else { return Ok(None) };
            revoke_sessions(tx, reset.id, now).await?;
            let tokens = RevokedTokens::BelowVersion(reset.session_version);
            record(tx, &[Revocation { user_id: reset.id, tokens }], now).await?;
            Ok::<_, Error>(Some(reset.id))
        })
    })
    .await
}
