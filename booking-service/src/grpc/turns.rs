//! Readings that may take long take turns, so that look-ups, watches and the sweeper find a connection of the pool.

use std::sync::Arc;

use service_core::trace::Span;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::CallError;
use crate::store::StoreError;

/// The most readings at a time that read all rows of an event.
const MOST_COUNTS: usize = 2;

/// The turns of readings. Whoever has none yet waits, for the call's deadline at most.
pub struct Turns {
    /// Of all of them: for half of the pool's connections.
    places: Arc<Semaphore>,
    /// Of those that read all rows of an event: for half of that, and [`MOST_COUNTS`] at most.
    counts: Arc<Semaphore>,
}

impl Turns {
    /// For a pool of so many connections, 2 or more: of a single one nothing can be left to others.
    #[must_use]
    pub fn new(connections: u32) -> Self {
        let places = usize::try_from(connections / 2).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        let counts = (places / 2).clamp(1, MOST_COUNTS);
        Self { places: Arc::new(Semaphore::new(places)), counts: Arc::new(Semaphore::new(counts)) }
    }

    /// Reads a page of a list.
    pub(super) async fn page<T: Send + 'static>(
        &self,
        reading: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, CallError> {
        self.read("page", None, reading).await
    }

    /// Reads all rows of an event.
    pub(super) async fn count<T: Send + 'static>(
        &self,
        reading: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, CallError> {
        let turn = turn(&self.counts).await;
        self.read("count", turn, reading).await
    }

    /// Reads when it is this call's turn, in a task of its own: whoever gives the call up has not ended what the database does
    /// for it.
    async fn read<T: Send + 'static>(
        &self,
        name: &'static str,
        turn_to_count: Option<OwnedSemaphorePermit>,
        reading: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, CallError> {
        let place = turn(&self.places).await;
        let reading = async move {
            let _turns = (turn_to_count, place);
            reading.await
        };
        let reading = tokio::spawn(Span::child(name).enclose(reading));
        Ok(reading.await.map_err(|_| CallError::UnexpectedOutcome)??)
    }
}

async fn turn(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // It is never closed.
    Arc::clone(of).acquire_owned().await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn all_readings_together_leave_half_of_the_pool_and_counts_leave_half_of_that_to_lists() {
        for (connections, of_all, of_counts) in
            [(1, 1, 1), (2, 1, 1), (4, 2, 1), (5, 2, 1), (8, 4, 2), (100, 50, 2)]
        {
            let turns = Arc::new(Turns::new(connections));
            let (pages, counts) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let without_end = |running: &Arc<AtomicUsize>| {
                let running = Arc::clone(running);
                async move {
                    running.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<Result<(), StoreError>>().await
                }
            };
            for _ in 0..60 {
                let (turns, counting) = (Arc::clone(&turns), without_end(&counts));
                tokio::spawn(async move { turns.count(counting).await });
            }
            // All of them stand where they stay.
            for _ in 0..10 {
                yield_now().await;
            }
            for _ in 0..60 {
                let (turns, listing) = (Arc::clone(&turns), without_end(&pages));
                tokio::spawn(async move { turns.page(listing).await });
            }
            for _ in 0..10 {
                yield_now().await;
            }
            let found = (counts.load(Ordering::SeqCst), pages.load(Ordering::SeqCst));
            assert_eq!(found, (of_counts, of_all - of_counts), "{connections} connections");
        }
    }
}
