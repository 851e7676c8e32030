//! Who watches which event. A watcher holds the newest state and no queue: one that is slow skips ahead.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use uuid::Uuid;

use super::tailer::Horizon;
use crate::store::changes::Seats;

/// The least time between two messages to one watcher.
const PACE: Duration = Duration::from_millis(50);
/// For each watcher of the replica, that much, divided by the number of cores: a message was measured to cost about 150 µs
/// here and at its client together, so however many watch, telling them takes a twentieth of the machine, clients
/// included. 5,000 watchers on 2 cores hear of a rush every 7.5 s, and 100 every 150 ms.
const PACE_PER_WATCHER: Duration = Duration::from_millis(3);
/// Asked once: the answer is read from files.
static CORES: LazyLock<u32> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    u32::try_from(cores).unwrap_or(u32::MAX)
});

/// What became of a watched event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing since the watch began.
    Nothing,
    /// It is like this now.
    Present(Seats),
    /// It was deleted.
    Gone,
}

#[derive(Debug, Default)]
pub(super) struct Watchers {
    events: Mutex<HashMap<Uuid, watch::Sender<Seen>>>,
    /// How many watch, all events together.
    count: AtomicU32,
}

/// One watch of one event.
#[derive(Debug)]
pub struct Watched {
    /// The newest state.
    pub seen: watch::Receiver<Seen>,
    horizon: watch::Receiver<Horizon>,
    /// When the server was started, as known when that was last asked.
    server_start: Option<OffsetDateTime>,
    event_id: Uuid,
    watchers: Arc<Watchers>,
}

impl Watched {
    /// The event.
    pub fn event_id(&self) -> Uuid {
        self.event_id
    }

    /// Whether another run of the server answers since the watch began, or since this was last asked: it may have lost the end of
    /// the log, and versions that are lost come again, with another content.
    pub fn is_another_run(&mut self) -> bool {
        let server_start = self.horizon.borrow().server_start;
        std::mem::replace(&mut self.server_start, server_start)
            .is_some_and(|known| Some(known) != server_start)
    }

    /// How long to wait after one message before the next, by how many watch on this replica.
    pub fn pace(&self) -> Duration {
        let watchers = self.watchers.count.load(Ordering::Relaxed);
        PACE.max(PACE_PER_WATCHER * watchers / *CORES)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watchers.count.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("booking_watchers").decrement(1.0);
        let mut events = self.watchers.lock();
        // This one's receiver is still counted. So is that of another one that is dropped at the same time: then it is the
        // next look that finds nobody.
        if events.get(&self.event_id).is_some_and(|event| event.receiver_count() <= 1) {
            events.remove(&self.event_id);
        }
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<Seen>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.watched().is_empty()
    }

    /// The events that somebody watches.
    pub(super) fn events(&self) -> Vec<Uuid> {
        self.watched().keys().copied().collect()
    }

    /// Without what those who left at the same time left behind.
    fn watched(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<Seen>>> {
        let mut events = self.lock();
        events.retain(|_, event| event.receiver_count() > 0);
        events
    }

    pub(super) fn watch(this: &Arc<Self>, event_id: Uuid, horizon: watch::Receiver<Horizon>) -> Watched {
        let seen =
            this.lock().entry(event_id).or_insert_with(|| watch::Sender::new(Seen::Nothing)).subscribe();
        this.count.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("booking_watchers").increment(1.0);
        let server_start = horizon.borrow().server_start;
        Watched { seen, horizon, server_start, event_id, watchers: Arc::clone(this) }
    }

    /// Nothing that was told counts any more: the same may be told again, and is news.
    pub(super) fn forget(&self) {
        for event in self.lock().values() {
            event.send_replace(Seen::Nothing);
        }
    }

    /// Tells how these events are now; those that `now` does not have are gone.
    pub(super) fn tell(&self, asked: &[Uuid], now: &[Seats]) {
        let now: HashMap<Uuid, Seats> = now.iter().map(|seats| (seats.event_id, *seats)).collect();
        let events = self.lock();
        for event_id in asked {
            let Some(event) = events.get(event_id) else { continue };
            let news = now.get(event_id).map_or(Seen::Gone, |seats| Seen::Present(*seats));
            event.send_if_modified(|seen| std::mem::replace(seen, news) != news);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_that_are_over_leave_nothing_behind() {
        let watchers = Arc::new(Watchers::default());
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let watch = |event| Watchers::watch(&watchers, event, watch::Sender::default().subscribe());
        let (first, second, third) = (watch(one), watch(one), watch(other));
        assert_eq!(watchers.events().len(), 2);
        drop(first);
        drop(third);
        assert_eq!(watchers.events(), [one], "somebody watches it still");
        drop(second);
        assert!(watchers.is_empty());
    }

    #[test]
    fn what_two_who_leave_at_once_leave_behind_is_not_looked_at() {
        let watchers = Arc::new(Watchers::default());
        // Each has seen the other one's receiver, and both are gone.
        watchers.lock().insert(Uuid::from_u128(1), watch::Sender::new(Seen::Nothing));
        assert!(watchers.events().is_empty() && watchers.is_empty());
        assert!(watchers.lock().is_empty());
    }

    #[test]
    fn what_is_as_it_was_wakes_nobody() {
        let watchers = Arc::new(Watchers::default());
        let id = Uuid::from_u128(1);
        let watch = || Watchers::watch(&watchers, id, watch::Sender::default().subscribe());
        let watched = watch();
        watchers.tell(&[id], &[]);
        assert_eq!(*watched.seen.borrow(), Seen::Gone);
        let mut later = watch();
        watchers.tell(&[id], &[]);
        assert_eq!(later.seen.has_changed().ok(), Some(false));
        assert_eq!(*later.seen.borrow_and_update(), Seen::Gone);
    }
}
