//! The table `service_accounts`.

use service_core::database::run_tx;
use sqlx::{PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::FailureKey;
use super::audit::{Entry, append};
use super::failures::clear_failures;
use super::revocations::record;
use crate::domain::{
    Act, AuditAction, Error, NewServiceAccount, Result, Revocation, RevokedTokens, SecretDigests,
    ServiceAccount,
};

/// Stores a new service account.
///
/// # Errors
/// If the database fails.
pub async fn create_service_account(
    pool: &PgPool,
    account: &NewServiceAccount,
    act: Act,
) -> Result<ServiceAccount> {
    run_tx(pool, "service_account.create", |tx| {
        let account = account.clone();
        Box::pin(async move {
            let row = sqlx::query_as!(
                ServiceAccount,
                "INSERT INTO service_accounts
                     (id, client_id, display_name, secret_hash, secret_create_time, create_time)
                 VALUES ($1, $2, $3, $4, $5, $5)
                 RETURNING id, client_id, display_name, session_version, create_time, secret_create_time,
                     old_secret_expire_time, secret_last_use_time, old_secret_last_use_time",
                account.id,
                account.client_id,
                account.display_name,
                &account.secret_hash,
                act.time
            )
            .fetch_one(&mut *tx)
            .await?;
            append(tx, act, Entry::about(AuditAction::ServiceAccountCreated, account.id)).await?;
            Ok(row)
        })
    })
    .await
}

/// The service accounts after `after`, at most `limit`, by id.
///
/// # Errors
/// If the database fails.
pub async fn service_accounts(
    executor: impl PgExecutor<'_>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<ServiceAccount>> {
    let rows = sqlx::query_as!(
        ServiceAccount,
        "SELECT id, client_id, display_name, session_version, create_time, secret_create_time,
             old_secret_expire_time, secret_last_use_time, old_secret_last_use_time
         FROM service_accounts WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2",
        after,
        limit
    )
    .fetch_all(executor)
    .await?;
    Ok(rows)
}

/// A new secret, and what becomes of the one before.
#[derive(Clone, Copy, Debug)]
pub struct NewSecret {
    /// The digest of the new secret.
    pub hash: [u8; 32],
    /// Until when the present secret goes on working. `None`: it ends at once, and with it every token from before.
    pub old_until: Option<OffsetDateTime>,
}

/// Replaces the secret. `None` if there is no such account.
///
/// # Errors
/// If the database fails.
pub async fn rotate_secret(
    pool: &PgPool,
    id: Uuid,
    secret: NewSecret,
    act: Act,
) -> Result<Option<ServiceAccount>> {
    run_tx(pool, "service_account.rotate", move |tx| {
        Box::pin(async move {
            // The right-hand sides see the row as it was: the present secret becomes the old one. Of two who rotate
            // at once the second waits for the row's lock, and then replaces what the first one made.
            let row = sqlx::query_as!(
                ServiceAccount,
                "UPDATE service_accounts
                 SET secret_hash = $2, secret_create_time = $3, old_secret_expire_time = $4,
                     old_secret_hash = CASE WHEN $4::timestamptz IS NOT NULL THEN secret_hash END,
                     secret_last_use_time = NULL,
                     old_secret_last_use_time = CASE WHEN $4::timestamptz IS NOT NULL THEN secret_last_use_time END,
                     session_version = session_version + CASE WHEN $4::timestamptz IS NULL THEN 1 ELSE 0 END
                 WHERE id = $1
                 RETURNING id, client_id, display_name, session_version, create_time, secret_create_time,
                     old_secret_expire_time, secret_last_use_time, old_secret_last_use_time",
                id,
                &secret.hash,
                act.time,
                secret.old_until
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok::<_, Error>(None) };
            if secret.old_until.is_none() {
                let tokens = RevokedTokens::BelowVersion(row.session_version);
                record(tx, &[Revocation { user_id: id, tokens }], act.time).await?;
            }
            append(tx, act, Entry::about(AuditAction::ServiceAccountSecretRotated, id)).await?;
            Ok(Some(row))
        })
    })
    .await
}

/// Removes a service account and ends its tokens. Whether there was one.
///
/// # Errors
/// If the database fails.
pub async fn delete_service_account(pool: &PgPool, id: Uuid, act: Act) -> Result<bool> {
    run_tx(pool, "service_account.delete", move |tx| {
        Box::pin(async move {
            let version = sqlx::query_scalar!(
                "DELETE FROM service_accounts WHERE id = $1 RETURNING session_version",
                id
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(version) = version else { return Ok::<_, Error>(false) };
            let tokens = RevokedTokens::BelowVersion(version.saturating_add(1));
            record(tx, &[Revocation { user_id: id, tokens }], act.time).await?;
            append(tx, act, Entry::about(AuditAction::ServiceAccountDeleted, id)).await?;
            Ok(true)
        })
    })
    .await
}

/// The service account with this client id, and the digests of its secrets.
///
/// # Errors
/// If the database fails.
pub async fn service_account_by_client_id(
    executor: impl PgExecutor<'_>,
    client_id: &str,
) -> Result<Option<(ServiceAccount, SecretDigests)>> {
    let row = sqlx::query!(
        "SELECT id, client_id, display_name, session_version, create_time, secret_create_time,
             old_secret_expire_time, secret_last_use_time, old_secret_last_use_time, secret_hash, old_secret_hash
         FROM service_accounts WHERE client_id = $1",
        client_id
    )
    .fetch_optional(executor)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let digest = |bytes: Vec<u8>| {
        <[u8; 32]>::try_from(bytes)
            .map_err(|_| Error::internal(format!("service account {}: a stored digest is not valid", row.id)))
    };
    let present = digest(row.secret_hash)?;
    let old = row.old_secret_hash.map(digest).transpose()?.zip(row.old_secret_expire_time);
    let account = ServiceAccount {
        id: row.id,
        client_id: row.client_id,
        display_name: row.display_name,
        session_version: row.session_version,
        create_time: row.create_time,
        secret_create_time: row.secret_create_time,
        old_secret_expire_time: row.old_secret_expire_time,
        secret_last_use_time: row.secret_last_use_time,
        old_secret_last_use_time: row.old_secret_last_use_time,
    };
    Ok(Some((account, SecretDigests { present, old })))
}

/// Writes down that the secret with this digest was used. If it was replaced since it was judged, nothing is written, or what
/// belongs to the old one. Nobody waits for it: while somebody else writes to the account, nothing is.
///
/// # Errors
/// If the database fails.
pub async fn note_secret_use(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    digest: [u8; 32],
    now: OffsetDateTime,
) -> Result<()> {
    sqlx::query!(
        "UPDATE service_accounts
         SET secret_last_use_time = CASE WHEN secret_hash = $2 THEN $3 ELSE secret_last_use_time END,
             old_secret_last_use_time = CASE WHEN old_secret_hash = $2 THEN $3 ELSE old_secret_last_use_time END
         WHERE id = (SELECT id FROM service_accounts WHERE id = $1 AND (secret_hash = $2 OR old_secret_hash = $2)
                        FOR NO KEY UPDATE SKIP LOCKED)",
        id,
        &digest,
        now
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Forgets the failures of an account whose secret was right.
///
/// # Errors
/// If the database fails.
pub async fn forget_failures(pool: &PgPool, account: FailureKey) -> Result<()> {
    clear_failures(&mut *pool.acquire().await?, account).await
}

/// Whether tokens of this service account with this `sv` claim are good.
///
/// # Errors
/// If the database fails.
pub async fn service_token_stands(executor: impl PgExecutor<'_>, id: Uuid, version: i64) -> Result<bool> {
    let stands = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM service_accounts WHERE id = $1 AND session_version <= $2) AS "stands!""#,
        id,
        version
    )
    .fetch_one(executor)
    .await?;
    Ok(stands)
}

/// Whether tokens of this user with this `sv` claim, of this session if they name one, are good.
///
/// # Errors
/// If the database fails.
pub async fn user_token_stands(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    version: i64,
    session: Option<Uuid>,
) -> Result<bool> {
    // A session that is not there has expired and was swept, or never was a row of this database: its tokens are
    // judged by the rest.
    let stands = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM users WHERE id = $1 AND active AND session_version <= $2)
               AND NOT EXISTS (SELECT FROM sessions WHERE id = $3 AND revoke_time IS NOT NULL) AS "stands!""#,
        id,
        version,
        session
    )
    .fetch_one(executor)
    .await?;
    Ok(stands)
}
