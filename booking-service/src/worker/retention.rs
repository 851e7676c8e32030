//! How long the log is kept.

use std::time::Duration;

use sqlx::PgPool;

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
}

impl Retention {
    /// Changes are kept for so long.
    pub fn new(pool: PgPool, keep: Duration) -> Self {
        Self { pool, keep, ends: Ends::default() }
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
        self.ends.see(changes::look(&self.pool).await?);
        let Some(final_to) = self.ends.see(changes::look(&self.pool).await?) else { return Ok(()) };
        while changes::trim(&self.pool, self.keep, final_to, ROUND).await? == ROUND {}
        Ok(())
    }
}
