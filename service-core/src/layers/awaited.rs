//! Bounds how many calls wait for their message.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::sync::oneshot;

/// The calls whose message has not come yet. A message comes with the head of its call, or shortly after: who waits for long
/// is slow, or never means to send one, and costs a place and the metadata meanwhile. So where too many wait, the one that
/// has waited longest gives way: whoever opens calls and says nothing drives out their own, and a message that is on its way
/// has the time in which all the others are replaced.
pub(super) struct Awaited {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By when they came. Whose sender is dropped gives way.
    calls: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Awaited {
    pub(super) fn at_most(most: usize) -> Arc<Self> {
        Arc::new(Self { most, waiting: Mutex::default() })
    }

    /// One more call waits.
    pub(super) fn enter(self: &Arc<Self>) -> Wait {
        let (stays, gives_way) = oneshot::channel();
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.calls.insert(number, stays);
        let oldest = if waiting.calls.len() > self.most { waiting.calls.pop_first() } else { None };
        // Whom it wakes is not to wait for this.
        drop(waiting);
        drop(oldest);
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
        self.of.waiting().calls.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_longest_gives_way_and_who_is_served_leaves_a_place() {
        let awaited = Awaited::at_most(2);
        let gives_way = |wait: &mut Wait| {
            wait.poll_gives_way(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
        };
        let (mut first, mut second) = (awaited.enter(), awaited.enter());
        assert!(!gives_way(&mut first) && !gives_way(&mut second));
        let mut third = awaited.enter();
        assert!(gives_way(&mut first) && !gives_way(&mut second) && !gives_way(&mut third));
        drop(second);
        let mut fourth = awaited.enter();
        assert!(!gives_way(&mut third) && !gives_way(&mut fourth));
        drop((third, fourth));
        assert!(awaited.waiting().calls.is_empty());
    }
}
