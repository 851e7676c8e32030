//! The table `sign_in_failures`.

use std::net::IpAddr;
use std::time::Duration;

use service_core::database::run_tx;
use service_core::digest::sha256;
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::{Entry, append};
use crate::domain::{Act, AuditAction, Backoff, Email, Error, Failures, Result};

/// What failures are counted for: an account or a client address, as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FailureKey {
    scope: &'static str,
    hash: [u8; 32],
}

impl FailureKey {
    /// An account, whether it exists or not.
    #[must_use]
    pub fn account(email: &Email) -> Self {
        Self { scope: "account", hash: sha256(&[email.as_str().as_bytes()]) }
    }

    /// A service account, whether it exists or not.
    #[must_use]
    pub fn client(client_id: &str) -> Self {
        Self { scope: "account", hash: sha256(&[b"client", client_id.as_bytes()]) }
    }

    /// A client address. Of IPv6 the first 64 bits: whoever has one address has the others behind it too.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        let hash = match address.to_canonical() {
            IpAddr::V4(v4) => sha256(&[b"v4", &v4.octets()]),
            IpAddr::V6(v6) => sha256(&[b"v6", v6.octets().split_at(8).0]),
        };
        Self { scope: "address", hash }
    }
}

struct FailuresRow {
    failures: i32,
    last_failure_time: OffsetDateTime,
    blocked_until: Option<OffsetDateTime>,
}

impl From<FailuresRow> for Failures {
    fn from(row: FailuresRow) -> Self {
        Self {
            count: u32::try_from(row.failures).unwrap_or_default(),
            last: Some(row.last_failure_time),
            blocked_until: row.blocked_until,
        }
    }
}

/// Until when either of the keys is blocked at most. A look without a lock: it spares hashing, and decides
/// nothing.
///
/// # Errors
/// If the database fails.
pub async fn blocked_until(
    executor: impl PgExecutor<'_>,
    account: FailureKey,
    address: Option<FailureKey>,
) -> Result<Option<OffsetDateTime>> {
    let address_hash = address.map(|key| key.hash);
    let until = sqlx::query_scalar!(
        "SELECT max(blocked_until) FROM sign_in_failures
         WHERE (scope = 'account' AND key_hash = $1) OR (scope = 'address' AND key_hash = $2)",
        &account.hash,
        address_hash.as_ref().map(<[u8; 32]>::as_slice)
    )
    .fetch_one(executor)
    .await?;
    Ok(until)
}

/// A failed attempt, and what is to be counted for it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The account, and the rule for accounts.
    pub account: (FailureKey, Backoff),
    /// The client address, and the rule for addresses.
    pub address: Option<(FailureKey, Backoff)>,
    /// Whose account it is; `None` if there is none.
    pub subject_id: Option<Uuid>,
    /// The attempt.
    pub act: Act,
}

/// Counts one failure for the account, and one for the address, each by its rule; a pause of the account is
/// written down. A key that is blocked already is not counted; then the answer is for how long no attempt is
/// answered.
///
/// # Errors
/// If the database fails.
pub async fn count_failure(pool: &PgPool, attempt: Attempt) -> Result<Option<Duration>> {
    run_tx(pool, "sign_in.count_failure", move |tx| {
        Box::pin(async move {
            let now = attempt.act.time;
            let mut longest = None;
            // Always the account first, so that two who count never wait for each other.
            for (key, rule) in [Some(attempt.account), attempt.address].into_iter().flatten() {
                let before = failures_for_update(tx, key, now).await?;
                let blocked = before.blocked_for(now);
                if blocked.is_none() {
                    let counted = rule.count(before, now);
                    set_failures(tx, key, counted, now).await?;
                    if key == attempt.account.0 && counted.blocked_until.is_some() {
                        write_pause(tx, attempt, counted).await?;
                    }
                }
                longest = longest.max(blocked);
            }
            Ok::<_, Error>(longest)
        })
    })
    .await
}

/// Writes down that an account pauses. For an account that does not exist that is a statement too, which writes
/// nothing: the time tells nobody which accounts exist.
async fn write_pause(connection: &mut PgConnection, attempt: Attempt, counted: Failures) -> Result<()> {
    let details = serde_json::json!({ "failures": counted.count });
    let entry = Entry {
        action: AuditAction::SignInPaused,
        subject_id: attempt.subject_id,
        session_id: None,
        details: Some(&details),
    };
    append(connection, attempt.act, entry).await
}

/// The failures of `key`, locked until the transaction ends; none yet are stored as such. Whoever counts one
/// more waits here for whoever counted before, so that guesses sent at once are counted one after the other.
async fn failures_for_update(
    connection: &mut PgConnection,
    key: FailureKey,
    now: OffsetDateTime,
) -> Result<Failures> {
    // DO UPDATE, though it changes nothing, so that the row that is there is locked and returned in its
    // newest version.
    let row = sqlx::query_as!(
        FailuresRow,
        "INSERT INTO sign_in_failures AS f (scope, key_hash, failures, last_failure_time)
         VALUES ($1, $2, 0, $3)
         ON CONFLICT (scope, key_hash) DO UPDATE SET failures = f.failures
         RETURNING failures, last_failure_time, blocked_until",
        key.scope,
        &key.hash,
        now
    )
    .fetch_one(connection)
    .await?;
    Ok(row.into())
}

/// The failures of `key` if there are any, locked until the transaction ends.
pub(super) async fn existing_failures_for_update(
    connection: &mut PgConnection,
    key: FailureKey,
) -> Result<Option<Failures>> {
    let row = sqlx::query_as!(
        FailuresRow,
        "SELECT failures, last_failure_time, blocked_until FROM sign_in_failures
         WHERE scope = $1 AND key_hash = $2 FOR UPDATE",
        key.scope,
        &key.hash
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(Into::into))
}

/// Stores what [`failures_for_update`] locked and the rule counted.
async fn set_failures(
    connection: &mut PgConnection,
    key: FailureKey,
    failures: Failures,
    now: OffsetDateTime,
) -> Result<()> {
    sqlx::query!(
        "UPDATE sign_in_failures SET failures = $3, last_failure_time = $4, blocked_until = $5
         WHERE scope = $1 AND key_hash = $2",
        key.scope,
        &key.hash,
        i32::try_from(failures.count).unwrap_or(i32::MAX),
        failures.last.unwrap_or(now),
        failures.blocked_until
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets the failures of `key`.
pub(super) async fn clear_failures(connection: &mut PgConnection, key: FailureKey) -> Result<()> {
    sqlx::query!("DELETE FROM sign_in_failures WHERE scope = $1 AND key_hash = $2", key.scope, &key.hash)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_ipv6_share_a_count_and_others_do_not() {
        let key = |text: &str| FailureKey::address(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
