//! SQL, and nothing else. Every statement is checked against the schema when it is compiled.
//!
//! Hot statements (those of [`seating`]) run on sessions that never scan a table sequentially and never hash or merge a
//! join (see [`seating::session_options`]): their plans are nested loops over the indexes of `migrations/booking`,
//! whatever the statistics said when the plan was cached.

pub mod changes;
pub mod due;
pub mod events;
pub mod lookup;
pub mod registrations;
mod rows;
pub mod seating;
pub mod simulations;
pub mod stats;
pub mod verify;
pub mod waitlist;

use std::sync::Arc;

use service_core::database::{TxError, overwhelmed, timed_out};
use sqlx::PgConnection;

/// Settings of the sessions that read, besides what every session has.
///
/// Lists are filtered by whatever the caller names. One plan for all combinations reads the whole table for most of them;
/// a plan for each call, by the size that the tables have by then, costs a fraction of a millisecond.
pub fn reading_options() -> [(&'static str, &'static str); 1] {
    [("plan_cache_mode", "force_custom_plan")]
}

/// Writes a word that means nothing, and commits it where no transaction has begun: when that is answered, all that this server
/// has shown until now is as safe as what it commits, at its synchronous standby, too.
///
/// # Errors
/// Whatever the database says.
pub async fn commit_nothing(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("SELECT pg_logical_emit_message(true, 'rowlock', '')").execute(connection).await?;
    Ok(())
}

impl StoreError {
    /// Whether it lies neither in the statement nor in the session: whoever asks the same again at once waits as long, in vain.
    pub(crate) fn is_congestion(&self) -> bool {
        let Self::Database(cause) = self else { return false };
        matches!(**cause, sqlx::Error::PoolTimedOut) || overwhelmed(cause) || timed_out(cause)
    }
}

/// What can go wrong between the rules and the rows.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or could not be reached. One statement may fail for many callers.
    #[error(transparent)]
    Database(Arc<sqlx::Error>),
    /// A row holds what no code of ours writes.
    #[error("{table}: {what}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// What was found.
        what: String,
    },
    /// The connection was lost at COMMIT.
    #[error("the outcome of the transaction is not known")]
    CommitUnknown,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl TxError for StoreError {
    fn database(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Inconsistent { .. } | Self::CommitUnknown => None,
        }
    }

    fn commit_unknown() -> Self {
        Self::CommitUnknown
    }
}
