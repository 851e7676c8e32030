//! The table `revocations`. Whoever ends a session or raises a session_version calls [`record`] in the same
//! transaction; [`look`] finds what is new.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use tokio::time::timeout;
use uuid::Uuid;

use crate::domain::{Error, Result, Revocation, RevokedTokens};

/// Stores that these tokens are refused from `now` on.
///
/// # Errors
/// If the database fails.
pub(super) async fn record(
    connection: &mut PgConnection,
    revocations: &[Revocation],
    now: OffsetDateTime,
) -> Result<()> {
    if revocations.is_empty() {
        return Ok(());
    }
    let user_ids: Vec<Uuid> = revocations.iter().map(|revocation| revocation.user_id).collect();
    let (session_ids, versions): (Vec<Option<Uuid>>, Vec<Option<i64>>) = revocations
        .iter()
        .map(|revocation| match revocation.tokens {
            RevokedTokens::OfSession(session_id) => (Some(session_id), None),
            RevokedTokens::BelowVersion(version) => (None, Some(version)),
        })
        .unzip();
    sqlx::query!(
        "INSERT INTO revocations (user_id, session_id, minimum_session_version, revoke_time, expire_time)
         SELECT user_id, session_id, version, $4, $5
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS revoked (user_id, session_id, version)",
        &user_ids,
        &session_ids as &[Option<Uuid>],
        &versions as &[Option<i64>],
        now,
        Revocation::expire_time(now)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A revocation as it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoredRevocation {
    /// Its own id.
    pub id: i64,
    /// Which tokens.
    pub revocation: Revocation,
    /// When they were revoked.
    pub revoke_time: OffsetDateTime,
    /// When none of them can be alive any more.
    pub expire_time: OffsetDateTime,
}

/// What one look found.
#[derive(Clone, Debug)]
pub struct Look {
    /// What is new, and some of what is not.
    pub revocations: Vec<StoredRevocation>,
    /// Every transaction below this id had ended: what it wrote was there to be found.
    pub all_ended_below: i64,
    /// The database's time when the look began. Whatever was committed before is in this look or an earlier one.
    pub time: OffsetDateTime,
    /// Of which session it was: another one may be of another server, whose transactions have ids of their own.
    pub session: i32,
}

struct LookRow {
    session: i32,
    all_ended_below: i64,
    time: OffsetDateTime,
    id: Option<i64>,
    user_id: Option<Uuid>,
    session_id: Option<Uuid>,
    minimum_session_version: Option<i64>,
    revoke_time: Option<OffsetDateTime>,
    expire_time: Option<OffsetDateTime>,
}

/// What was revoked by transactions from `since` on, an earlier look's `all_ended_below`, and has not expired by
/// `now`; 0 is for everything. A transaction that was open at the earlier look and has committed since has an id
/// from there on, so nothing is missed, whatever the order of commits. One statement: rows and snapshot belong
/// together.
///
/// # Errors
/// If the database fails, or does not answer within `patience`.
pub async fn look(pool: &PgPool, since: i64, now: OffsetDateTime, patience: Duration) -> Result<Look> {
    let unanswered = || Error::DatabaseUnavailable("a look at the revocations was not answered".into());
    let mut connection = timeout(patience, pool.acquire()).await.map_err(|_| unanswered())??;
    let rows = match timeout(patience, query(&mut connection, since, now)).await {
        Ok(rows) => rows?,
        Err(_) => {
            // Nobody is to wait for it, not even the pool.
            drop(connection.detach());
            return Err(unanswered());
        }
    };
    let first =
        rows.first().ok_or_else(|| Error::internal("a look at the revocations found not even itself"))?;
    let (all_ended_below, time, session) = (first.all_ended_below, first.time, first.session);
    let revocations = rows.into_iter().filter(|row| row.id.is_some()).map(TryInto::try_into);
    Ok(Look { revocations: revocations.collect::<Result<_>>()?, all_ended_below, time, session })
}

async fn query(connection: &mut PgConnection, since: i64, now: OffsetDateTime) -> Result<Vec<LookRow>> {
    // The upper bound holds for every row that can be seen. It is there for the planner, who takes a range with
    // two ends for small and uses the index, also before the table has statistics.
    let rows = sqlx::query_as!(
        LookRow,
        r#"SELECT pg_backend_pid() AS "session!", pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS "all_ended_below!",
                  now() AS "time!",
                  r.id AS "id?", r.user_id AS "user_id?", r.session_id, r.minimum_session_version,
                  r.revoke_time AS "revoke_time?", r.expire_time AS "expire_time?"
           FROM (SELECT) AS always
           LEFT JOIN revocations r
               ON r.transaction_id >= $1::bigint::text::xid8
              AND r.transaction_id < pg_snapshot_xmax(pg_current_snapshot())
              AND r.expire_time > $2"#,
        since,
        now
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

impl TryFrom<LookRow> for StoredRevocation {
    type Error = Error;

    fn try_from(row: LookRow) -> Result<Self> {
        let tokens = match (row.session_id, row.minimum_session_version) {
            (Some(session), None) => Some(RevokedTokens::OfSession(session)),
            (None, Some(version)) => Some(RevokedTokens::BelowVersion(version)),
            (Some(_), Some(_)) | (None, None) => None,
        };
        let stored = || {
            let revocation = Revocation { user_id: row.user_id?, tokens: tokens? };
            Some(Self {
                id: row.id?,
                revocation,
                revoke_time: row.revoke_time?,
                expire_time: row.expire_time?,
            })
        };
        stored().ok_or_else(|| {
            Error::internal(format!("revocation {:?}: the stored target is not valid", row.id))
        })
    }
}
