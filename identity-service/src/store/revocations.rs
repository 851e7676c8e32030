//! The table `revocations`: writing. Whoever ends a session or raises a session_version calls [`record`] in the
//! same transaction; how readers find what is new is told in the migration.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::{Result, Revocation, RevokedTokens};

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
