//! The table `audit_entries`: writing, by the transaction that does what it says.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::{Act, AuditAction, Result};

/// What is written down about an act, besides who did it and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    /// What was done.
    pub(super) action: AuditAction,
    /// To whom. `None`, an account that does not exist, writes nothing and takes as long.
    pub(super) subject_id: Option<Uuid>,
    /// The session that began, ended or acted.
    pub(super) session_id: Option<Uuid>,
    /// What else there is to say, an object; `None`: nothing.
    pub(super) details: Option<&'a serde_json::Value>,
}

impl Entry<'_> {
    /// That this was done to somebody, with nothing else to say.
    pub(super) fn about(action: AuditAction, subject_id: Uuid) -> Self {
        Self { action, subject_id: Some(subject_id), session_id: None, details: None }
    }
}

/// Writes an entry.
pub(super) async fn append(connection: &mut PgConnection, act: Act, entry: Entry<'_>) -> Result<()> {
    sqlx::query!(
        "INSERT INTO audit_entries (id, action, actor_id, subject_id, session_id, details, create_time)
         SELECT $1, $2, $3, subject_id, $5, coalesce(($6::text)::jsonb, '{}'), $7
         FROM (VALUES ($4::uuid)) AS subject (subject_id) WHERE subject_id IS NOT NULL",
        act.entry_id,
        entry.action.as_str(),
        act.actor_id,
        entry.subject_id,
        entry.session_id,
        entry.details.map(ToString::to_string),
        act.time
    )
    .execute(connection)
    .await?;
    Ok(())
}
