//! Bounds how many calls wait for their message.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a message may take to come, however many are awaited: calls that begin together send all of their heads first,
/// which takes a rush of thousands seconds on a slow way, or while the machine is busy with them.
const TIME_TO_COME: Duration = Duration::from_secs(5);
/// Of the calls in flight, the part that may wait for longer: one in so many.
const SHARE: usize = 8;

/// The calls whose message has not come yet. A message comes with the head of its call, or shortly after: who waits for long
/// is slow, or never means to send one, and costs a place and the metadata meanwhile. So where too many wait, those that have waited
/// longest give way, if they have for a while: whoever opens calls and says nothing drives out their own.
pub(super) struct Awaited {
    /// Beyond this many, those who have had their time give way.
    most: usize,
    /// Beyond this many, anybody does: not all calls have a place that bounds them.
    at_all: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By when they came. Whose sender is dropped gives way.
    calls: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
}

impl Awaited {
    /// Of so many calls in flight.
    pub(super) fn of(calls: usize) -> Arc<Self> {
        Arc::new(Self { most: (calls / SHARE).max(1), at_all: calls, waiting: Mutex::default() })
    }

    /// One more call waits.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Wait {
        let (stays, gives_way) = oneshot::channel();
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.calls.insert(number, (now, stays));
        let mut too_long = Vec::new();
        while let count = waiting.calls.len()
            && count > self.most
            && let Some(oldest) = waiting.calls.first_entry()
            && (now.saturating_duration_since(oldest.get().0) >= TIME_TO_COME || count > self.at_all)
        {
            too_long.push(oldest.remove());
        }
        // Whom it wakes is not to wait for this.
        drop(waiting);
        drop(too_long);
        Wait { number, gives_way, of: Arc::clone(self) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits, until it is dropped.
pub(super) struct Wait {
    number: u64,
    gives_way: oneshot::Receiver<()>,
    of: Arc<Awaited>,
}

impl Wait {
    /// Ready when it has to give way.
    pub(super) fn poll_gives_way(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.gives_way.poll_unpin(cx).map(|_| ())
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // Or whoever leaves would be woken by its own sender.
        self.gives_way.close();
        self.of.waiting().calls.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gives_way(wait: &mut Wait) -> bool {
        wait.poll_gives_way(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn beyond_an_eighth_those_who_have_had_their_time_give_way_and_who_is_served_leaves_a_place() {
        let awaited = Awaited::of(16);
        let begin = Instant::now();
        let (mut first, mut second) = (awaited.enter(begin), awaited.enter(begin));
        let mut third = awaited.enter(begin + TIME_TO_COME - Duration::from_nanos(1));
        for wait in [&mut first, &mut second, &mut third] {
            assert!(!gives_way(wait), "there is time");
        }
        let mut fourth = awaited.enter(begin + TIME_TO_COME);
        assert!(gives_way(&mut first) && gives_way(&mut second));
        assert!(!gives_way(&mut third) && !gives_way(&mut fourth));
        drop(third);
        let mut fifth = awaited.enter(begin + 10 * TIME_TO_COME);
        assert!(!gives_way(&mut fourth) && !gives_way(&mut fifth), "there is room");
        drop((fourth, fifth));
        assert!(awaited.waiting().calls.is_empty());
    }

    #[test]
    fn no_more_wait_than_may_be_in_flight_however_short_a_time() {
        let (awaited, now) = (Awaited::of(16), Instant::now());
        let mut waits: Vec<_> = (0..20).map(|_| awaited.enter(now)).collect();
        let given_way = waits.iter_mut().map(gives_way).collect::<Vec<_>>();
        assert_eq!(given_way.iter().filter(|given_way| **given_way).count(), 4);
        assert!(given_way[..4].iter().all(|given_way| *given_way), "the oldest");
    }
}
