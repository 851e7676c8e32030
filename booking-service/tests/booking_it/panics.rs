//! Panics of the service, which a client would only see as INTERNAL, or not at all.

use std::panic;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};

use service_core::clock::SystemClock;
use service_core::ids::{IdSource, UuidV7};
use uuid::Uuid;

use crate::refusal::refused;
use crate::system::System;

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
static WATCHED: Once = Once::new();

/// Notes from now on where anything panics that is not a test.
pub(crate) fn watch() {
    WATCHED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(place) = info.location().filter(|place| !place.file().contains("/tests/")) {
                // `at_once` hands the panics of tests on from the standard library.
                if !place.file().starts_with("/rustc/") {
                    SEEN.lock().unwrap().push(info.to_string());
                }
            }
            before(info);
        }));
    });
}

/// Asserts that there was none so far, in whatever test.
pub(crate) fn assert_none() {
    assert_eq!(*SEEN.lock().unwrap(), Vec::<String>::new());
}

/// Panics once, at the call whose number from now on this is; 0: never.
struct Trap {
    ids: UuidV7,
    left: AtomicU32,
}

impl IdSource for Trap {
    fn new_id(&self) -> Uuid {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert_ne!(left, Ok(1), "a trap of the test's");
        self.ids.new_id()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_panics_takes_neither_its_event_nor_its_session_along() {
    let trap = Arc::new(Trap { ids: UuidV7::new(Arc::new(SystemClock)), left: AtomicU32::new(0) });
    let mut system = System::with_replicas(0).await;
    let ids: Arc<dyn IdSource> = trap.clone();
    system.add_replica_with(|config| config.seating.sessions = 1, ids).await;
    system.replicas[0].ready().await;
    let event = system.event(3).await;
    system.attendee().seat(&event).await;
    // The first id is the call's own, the second the registration's.
    trap.left.store(2, Ordering::Relaxed);
    // Whoever does not know does not say that nothing was done.
    refused(system.attendee().register(&event).await, "DATABASE_UNAVAILABLE");
    system.attendee().seat(&event).await;
    system.assert_consistent(&event).await;
}
