//! Rehearsals: a rush of made-up users on a private copy of an event, through the same seating as anyone's calls.

mod rush;

use std::sync::Arc;
use std::time::Duration;

use service_core::database::run_tx;
use service_core::ids::IdSource;
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use futures_util::FutureExt;

use crate::domain::command::Actor;
use crate::domain::event::{Event, EventRecord, EventState};
use crate::store::{StoreError, events, simulations};

pub use rush::{Progress, Rush, Tally, run};

/// The copy's registration window is open for this long, and then it takes place.
const OPEN: Duration = Duration::from_secs(60 * 60);
/// A copy whose rush is over long since (the replica died) is swept after this long. Once registration has closed, whatever is
/// left of a rush is refused as fast as it can be asked for.
const LEASE: Duration = Duration::from_secs(2 * 60 * 60);

/// A rehearsal cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// This replica is busy with another one.
    #[error("a simulation is running")]
    Running,
}

/// Lets one rehearsal at a time begin.
#[derive(Clone, Debug)]
pub struct Simulator(Arc<Semaphore>);

impl Default for Simulator {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Simulator {
    /// The right to run one rehearsal, until it is dropped.
    ///
    /// # Errors
    /// [`SimulationError::Running`].
    pub fn begin(&self) -> Result<OwnedSemaphorePermit, SimulationError> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| SimulationError::Running)
    }
}

/// Makes the private copy: the same capacity and policies, empty, published, open now, listed nowhere.
///
/// # Errors
/// Whatever the database says.
pub async fn copy_event(
    pool: &PgPool,
    source: &EventRecord,
    actor: Actor,
    ids: &dyn IdSource,
) -> Result<EventRecord, StoreError> {
    let id = ids.new_id();
    run_tx(pool, "simulation.copy", |connection| {
        let source = source.clone();
        async move {
            let now = events::database_time(&mut *connection).await?;
            let copy = EventRecord {
                event: Event {
                    id,
                    seats_remaining: source.event.capacity,
                    waitlist_size: 0,
                    largest_party: 1,
                    next_position: 1,
                    state: EventState::Published,
                    cancel_reason: String::new(),
                    revision: 1,
                    version: 1,
                    start_time: now + OPEN,
                    end_time: now + OPEN * 2,
                    registration_open_time: None,
                    registration_close_time: None,
                    create_time: now,
                    update_time: now,
                    ..source.event
                },
                text: source.text,
            };
            events::insert(connection, &copy, actor, None, Some(now + LEASE)).await?;
            Ok(copy)
        }
        .boxed()
    })
    .await
}

/// Removes the copy with everything that belongs to it.
///
/// # Errors
/// Whatever the database says.
pub async fn delete_copy(pool: &PgPool, copy: uuid::Uuid) -> Result<(), StoreError> {
    run_tx(pool, "simulation.delete", |connection| {
        async move { simulations::delete(connection, copy).await }.boxed()
    })
    .await
}
