//! How long the log is kept.

use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;

use super::ROUND;
use crate::feed::Ends;
use crate::store::StoreError;
use crate::store::changes;

/// Removes what is older than the log is kept.
#[derive(Debug)]
pub struct Retention {
    pool: PgPool,
    keep: Duration,
    ends: Ends,
    /// Of which run of the server `ends` knows.
    server_start: Option<OffsetDateTime>,
}

impl Retention {
    /// Changes are kept for so long.
    pub fn new(pool: PgPool, keep: Duration) -> Self {
        Self { pool, keep, ends: Ends::default(), server_start: None }
    }

    /// Removes what is old and final by now. In pieces, so that no transaction is long.
    ///
    /// Race: a long transaction has drawn its number and is still open, and what others have committed since is old enough.
    /// Were the floor raised past its number, nobody would ever hear of what it commits.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn trim(&mut self) -> Result<(), StoreError> {
        // Two looks, since the second bounds the first.
        self.look().await?;
        let Some(final_to) = self.look().await? else { return Ok(()) };
        while changes::trim(&self.pool, self.keep, final_to, ROUND).await? == ROUND {}
        Ok(())
    }

    /// How far the log is final, if that is known.
    async fn look(&mut self) -> Result<Option<i64>, StoreError> {
        let look = changes::look(&self.pool).await?;
        if self.server_start.replace(look.server_start) != Some(look.server_start) {
            self.ends = Ends::default();
        }
        Ok(self.ends.see(look))
    }
}
