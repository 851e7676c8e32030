//! Readings that may take long take turns, so that look-ups, watches and the sweeper find a connection of the pool.

use std::sync::Arc;

use service_core::trace::Span;
use tokio::sync::Semaphore;

use super::CallError;
use crate::store::StoreError;

/// The turns of one kind of reading. Whoever has none yet waits, for the call's deadline at most.
pub struct Turns {
    name: &'static str,
    places: Arc<Semaphore>,
}

impl Turns {
    /// Of those that read all rows of an event: two at a time.
    #[must_use]
    pub fn to_count() -> Self {
        Self::new("count", 2)
    }

    /// Of those that read a page of a list: half of the pool's connections at a time.
    #[must_use]
    pub fn to_list(connections: u32) -> Self {
        Self::new("page", usize::try_from(connections / 2).unwrap_or(usize::MAX).max(1))
    }

    fn new(name: &'static str, at_once: usize) -> Self {
        Self { name, places: Arc::new(Semaphore::new(at_once)) }
    }

    /// Reads when it is this call's turn, in a task of its own: whoever gives the call up has not ended what the database does
    /// for it.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        reading: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, CallError> {
        // It is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await;
        let reading = async move {
            let _place = place;
            reading.await
        };
        let reading = tokio::spawn(Span::child(self.name).enclose(reading));
        Ok(reading.await.map_err(|_| CallError::UnexpectedOutcome)??)
    }
}
