//! What waits to be seated, event by event.
//!
//! Each event has a queue of its own, first come, first served. Runners take whole events in turn, the one that has been
//! ready longest first, and an event is with one runner at a time. So an event's crowd neither delays its neighbours by
//! more than a batch nor takes their places in the inbox.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::busy::Busy;
use super::{CommandError, Pending};
use crate::gather::gather;

/// The most commands that one batch takes. Twice as many would seat a crowd 8 % faster, and cost its neighbours, who wait for
/// the processors behind a batch's answers, half as much again and more (see `benches/README.md`).
pub(super) const BATCH: usize = 128;
/// From so many commands on an event is given a batch of its own: there is little left to share, and its neighbours need
/// not wait for its rows to be written.
const CROWD: usize = 64;
/// How many commands for one busy event are tried at a time.
const BUSY_BATCH: usize = 64;
/// How long it is remembered that an event was busy when nobody asks for it any more: the next who does would otherwise
/// have its neighbours wait for its lock again.
const BUSY_MEMORY: Duration = Duration::from_secs(5);
/// How often a full inbox is searched for commands that nobody waits for any more.
const SWEEP_PAUSE: Duration = Duration::from_millis(10);

/// How the locks of a batch are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locking {
    /// Somebody else's batch is soon over.
    Wait,
    /// Somebody has held them for long: only if they are free.
    IfFree,
}

/// Commands for one transaction, whose events are with one runner until it is dropped.
#[derive(Debug)]
pub(super) struct Batch {
    /// In order of arrival for each event.
    pub(super) commands: Vec<Pending>,
    pub(super) locking: Locking,
    events: Vec<Uuid>,
    /// Commands that were not decided, in order of arrival for each event.
    put_back: Vec<Pending>,
    /// Whether waiting for one of the locks was in vain.
    timed_out: bool,
    inbox: Arc<Inbox>,
}

impl Batch {
    /// Adds what has come for the batch's events since it was taken, as far as there is room, to the last of its commands.
    pub(super) fn let_in(&mut self, last: &mut Vec<Pending>) {
        // Whose lock is somebody else's is not known before.
        if self.locking == Locking::IfFree || last.iter().any(|last| last.command.may_take_long()) {
            return;
        }
        let mut state = self.inbox.state();
        for &event_id in &self.events {
            let has_company = self.events.len() > 1;
            let may_come = !has_company || !state.is_revised(event_id);
            if last.len() < BATCH && !self.puts_back(event_id) && may_come {
                state.take_from(event_id, BATCH - last.len(), last);
            }
        }
    }

    /// These were not decided: their event's lock is somebody else's. They are next for their event.
    pub(super) fn put_back(&mut self, commands: impl IntoIterator<Item = Pending>) {
        self.put_back.extend(commands);
    }

    /// One of the locks was not to be had in time, and which of them is not said.
    pub(super) fn timed_out(&mut self) {
        self.timed_out = true;
    }

    /// Whether commands for this event were put back. Those behind them keep their order only if they are, too.
    pub(super) fn puts_back(&self, event_id: Uuid) -> bool {
        self.put_back.iter().any(|pending| pending.command.event_id == event_id)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let put_back = std::mem::take(&mut self.put_back);
        let mut state = self.inbox.state();
        state.release(&self.events, put_back, self.timed_out, Instant::now());
        if state.wants_a_runner() {
            self.inbox.changed.notify_one();
        }
    }
}

/// The way from the calls to the runners.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    /// Wakes a runner. One that leaves something behind wakes the next.
    changed: Notify,
}

impl Inbox {
    /// Room for `limit` commands, half of which one event may take, with those that runners have in their hands: what is
    /// put back finds its place again.
    pub(super) fn new(limit: usize) -> Self {
        let state = State {
            events: HashMap::new(),
            ready: VecDeque::new(),
            busy: HashSet::new(),
            waited_for: None,
            long: None,
            others_first: false,
            waiting: 0,
            taken: 0,
            limit,
            closed: false,
            swept: None,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Takes a command in.
    ///
    /// # Errors
    /// There is no room, or the inbox is closed. Nothing was changed.
    pub(super) fn push(&self, pending: Pending) -> Result<(), CommandError> {
        if self.state().push(pending, Instant::now())? {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// How many commands wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// For how many events commands wait whose lock somebody else has kept for longer than it is waited for.
    pub(super) fn busy(&self) -> usize {
        let state = self.state();
        let wanted =
            |id| state.events.get(id).is_some_and(|event| event.is_taken || !event.commands.is_empty());
        state.busy.iter().filter(|id| wanted(*id)).count()
    }

    /// Takes nothing in any more.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// Waits for something to do. `None`: closed, and everything that was accepted is decided or with another runner.
    pub(super) async fn next(self: &Arc<Self>) -> Option<Batch> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            gather(|| self.waiting()).await;
            let next = self.state().take(Instant::now());
            match next {
                Next::Batch { commands, events, locking, more } => {
                    if more {
                        self.changed.notify_one();
                    }
                    return Some(self.batch(commands, events, locking));
                }
                Next::Over => {
                    // The other runners are to see it as well.
                    self.changed.notify_one();
                    return None;
                }
                Next::Nothing { until: None } => changed.await,
                Next::Nothing { until: Some(until) } => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(until) => {}
                    }
                }
            }
        }
    }

    fn batch(self: &Arc<Self>, commands: Vec<Pending>, events: Vec<Uuid>, locking: Locking) -> Batch {
        Batch { commands, locking, events, put_back: Vec::new(), timed_out: false, inbox: Arc::clone(self) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is to do.
enum Next {
    Batch {
        commands: Vec<Pending>,
        events: Vec<Uuid>,
        locking: Locking,
        /// Whether there is something for another runner, too.
        more: bool,
    },
    Nothing {
        /// When a busy event is to be looked at again.
        until: Option<Instant>,
    },
    Over,
}

#[derive(Debug)]
struct State {
    /// Those for which something waits, those that are with a runner, and those that were busy a moment ago.
    events: HashMap<Uuid, Waiting>,
    /// Events for which something waits, not busy and with no runner, in the order in which they became so. Each once.
    ready: VecDeque<Uuid>,
    /// Events whose lock was not to be had in time.
    busy: HashSet<Uuid>,
    /// The busy event whose lock a runner waits for: one at a time, or many would keep all runners from the others.
    waited_for: Option<Uuid>,
    /// The event with a runner that has a command for it that may take long: one at a time, or two would keep all runners from
    /// the others. Those of other events wait, and let pass whoever comes after them.
    long: Option<Uuid>,
    /// Whether busy events were waited for, or looked at, since others had their turn.
    others_first: bool,
    /// Commands of all events that no runner has.
    waiting: usize,
    /// Commands of all events that runners have.
    taken: usize,
    limit: usize,
    closed: bool,
    /// When the dead were last looked for.
    swept: Option<Instant>,
}

/// What waits for one event.
#[derive(Debug, Default)]
struct Waiting {
    /// In order of arrival.
    commands: VecDeque<Pending>,
    /// Whether it is among those that are ready.
    is_ready: bool,
    /// Whether it is with a runner.
    is_taken: bool,
    /// How many of its commands that runner has.
    taken: usize,
    busy: Option<Busy>,
}

impl State {
    /// Takes a command in, and says whether the caller has to wake a runner. Not where a runner has the event, which is queued
    /// again when it is released, nor where it is in `ready` already, for which somebody was woken: unless runners may have
    /// passed it over, because of `long`.
    fn push(&mut self, pending: Pending, now: Instant) -> Result<bool, CommandError> {
        if self.closed {
            return Err(CommandError::ShuttingDown);
        }
        let event_id = pending.command.event_id;
        if self.is_full(event_id) {
            self.sweep(now);
            if self.is_full(event_id) {
                return Err(CommandError::Overloaded);
            }
        }
        let event = self.events.entry(event_id).or_default();
        let is_wanted = !event.is_ready && !event.is_taken;
        if is_wanted && event.busy.is_none() {
            event.is_ready = true;
            self.ready.push_back(event_id);
        }
        event.commands.push_back(pending);
        self.waiting += 1;
        // What is ready may have been passed over, see `may_take`.
        Ok(is_wanted || (self.long.is_some() && !event.is_taken))
    }

    fn is_full(&self, event_id: Uuid) -> bool {
        let of_one = |event: &Waiting| event.commands.len() + event.taken;
        self.waiting + self.taken >= self.limit
            || self.events.get(&event_id).map_or(0, of_one) >= self.limit.div_ceil(2)
    }

    /// Makes room where commands wait whose callers do not any more.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now < swept + SWEEP_PAUSE) {
            return;
        }
        self.swept = Some(now);
        for event in self.events.values_mut() {
            self.waiting -= event.drop_dead();
        }
    }

    fn take(&mut self, now: Instant) -> Next {
        let until = match self.take_busy(now) {
            Next::Nothing { until } => until,
            batch => return batch,
        };
        if let Some(batch) = self.take_ready() {
            return batch;
        }
        if self.closed && self.waiting == 0 {
            return Next::Over;
        }
        Next::Nothing { until }
    }

    /// Takes commands of busy events that are to be tried now.
    fn take_busy(&mut self, now: Instant) -> Next {
        let events = &mut self.events;
        self.busy.retain(|event_id| {
            let forgotten = events.get(event_id).is_none_or(|event| {
                event.commands.is_empty() && !event.is_taken && event.was_busy_before(now)
            });
            if forgotten {
                events.remove(event_id);
            }
            !forgotten
        });
        let is_turn = !self.others_first || !self.ready.iter().any(|&event_id| self.may_take(event_id));
        let wanted: Vec<(Uuid, Busy)> =
            self.busy.iter().filter_map(|&id| Some((id, self.wanted_busy(id)?))).collect();
        // The one that has been due for longest: were it any other, some would wait for ever.
        let may_wait = |(_, busy): &&(Uuid, Busy)| is_turn && self.waited_for.is_none() && busy.may_wait(now);
        let again = wanted.iter().filter(may_wait).min_by_key(|(_, busy)| busy.wait_due()).map(|&(id, _)| id);
        let (mut look, mut until): (Vec<Uuid>, Option<Instant>) = (Vec::new(), None);
        for (event_id, busy) in wanted {
            if is_turn && busy.may_look(now) {
                look.push(event_id);
            } else {
                until = Some(until.map_or(busy.next(now), |until| until.min(busy.next(now))));
            }
        }
        let mut commands = Vec::new();
        if let Some(event_id) = again {
            // Alone: it may be in vain again.
            self.take_from(event_id, BATCH, &mut commands);
            self.waited_for = Some(event_id);
            self.others_first = true;
            return self.batch(commands, vec![event_id], Locking::Wait);
        }
        let mut events = Vec::new();
        for event_id in look {
            if commands.len() >= BATCH {
                break;
            }
            let is_revised = self.is_revised(event_id);
            if is_revised && !events.is_empty() {
                continue;
            }
            self.take_from(event_id, BUSY_BATCH.min(BATCH - commands.len()), &mut commands);
            events.push(event_id);
            if is_revised {
                break;
            }
        }
        if events.is_empty() {
            Next::Nothing { until }
        } else {
            self.others_first = true;
            self.batch(commands, events, Locking::IfFree)
        }
    }

    /// How busy an event is, if a runner is to come for it.
    fn wanted_busy(&self, event_id: Uuid) -> Option<Busy> {
        let event = self.events.get(&event_id).filter(|event| event.wants_a_runner())?;
        event.busy.filter(|_| self.may_take(event_id))
    }

    /// Takes commands of the events whose turn it is.
    fn take_ready(&mut self) -> Option<Next> {
        let (mut events, mut later) = (Vec::new(), Vec::new());
        let mut commands = Vec::new();
        while commands.len() < BATCH
            && let Some(event_id) = self.ready.pop_front()
        {
            let is_crowd = self.events.get(&event_id).is_some_and(|event| event.commands.len() >= CROWD);
            let stands_alone = is_crowd || self.is_revised(event_id);
            if stands_alone && !events.is_empty() || !self.may_take(event_id) {
                later.push(event_id);
                continue;
            }
            self.take_from(event_id, BATCH - commands.len(), &mut commands);
            events.push(event_id);
            if stands_alone {
                break;
            }
        }
        for event_id in later.into_iter().rev() {
            self.ready.push_front(event_id);
        }
        if events.is_empty() {
            return None;
        }
        self.others_first = false;
        Some(self.batch(commands, events, Locking::Wait))
    }

    fn batch(&self, commands: Vec<Pending>, events: Vec<Uuid>, locking: Locking) -> Next {
        Next::Batch { commands, events, locking, more: self.wants_a_runner() }
    }

    /// Whether there is something that no runner has come for yet, be it only to look at a busy event in time.
    fn wants_a_runner(&self) -> bool {
        let busy = |id| self.events.get(id).is_some_and(Waiting::wants_a_runner);
        !self.ready.is_empty() || self.busy.iter().any(busy)
    }

    /// Whether an organizer's command is among the next for this event. Its batch has no other events: to end an event, or to seat
    /// its queue, can take minutes, and whatever else is in the transaction is locked as long.
    fn is_revised(&self, event_id: Uuid) -> bool {
        let Some(event) = self.events.get(&event_id) else { return false };
        // Those that nobody waits for are not taken.
        let mut next = event.commands.iter().filter(|next| !next.is_dead()).take(BATCH);
        next.any(|next| next.command.revises_event())
    }

    /// Whether commands that may take long have to wait for those of another event.
    fn must_be_short(&self, event_id: Uuid) -> bool {
        self.long.is_some_and(|long| long != event_id)
    }

    /// Whether [`Self::take_from`] takes anything of this event, or finds that nobody waits for it.
    fn may_take(&self, event_id: Uuid) -> bool {
        let is_short = |pending: &Pending| !pending.command.may_take_long() || pending.is_dead();
        !self.must_be_short(event_id)
            || self.events.get(&event_id).is_some_and(|event| event.commands.iter().any(is_short))
    }

    /// Takes up to `limit` commands of an event, without those that nobody waits for, and those that have to wait.
    fn take_from(&mut self, event_id: Uuid, limit: usize, commands: &mut Vec<Pending>) {
        let must_be_short = self.must_be_short(event_id);
        let Some(event) = self.events.get_mut(&event_id) else { return };
        event.is_ready = false;
        event.is_taken = true;
        let mut passed_over = Vec::new();
        let enough = commands.len() + limit;
        while commands.len() < enough
            && let Some(pending) = event.commands.pop_front()
        {
            self.waiting -= 1;
            if pending.is_dead() {
                pending.answer(Err(CommandError::DeadlineExceeded));
                continue;
            }
            let is_last = pending.command.may_take_long();
            if is_last {
                if must_be_short {
                    passed_over.push(pending);
                    continue;
                }
                self.long = Some(event_id);
            }
            commands.push(pending);
            event.taken += 1;
            self.taken += 1;
            if is_last {
                break;
            }
        }
        self.waiting += passed_over.len();
        for pending in passed_over.into_iter().rev() {
            event.commands.push_front(pending);
        }
    }

    /// A runner is done with these events.
    fn release(&mut self, events: &[Uuid], put_back: Vec<Pending>, timed_out: bool, now: Instant) {
        let undecided: HashSet<Uuid> = put_back.iter().map(|pending| pending.command.event_id).collect();
        for pending in put_back.into_iter().rev() {
            if let Some(event) = self.events.get_mut(&pending.command.event_id) {
                event.commands.push_front(pending);
                self.waiting += 1;
            }
        }
        for event_id in events {
            let Some(event) = self.events.get_mut(event_id) else { continue };
            event.is_taken = false;
            let tried = std::mem::take(&mut event.taken);
            self.taken -= tried;
            if tried > 0 && !undecided.contains(event_id) {
                event.busy = None;
            } else if timed_out {
                event.busy = Some(Busy::timed_out(event.busy, now));
            } else if let Some(busy) = &mut event.busy {
                busy.looked(now);
            }
            if event.busy.is_some() {
                self.busy.insert(*event_id);
                continue;
            }
            self.busy.remove(event_id);
            if event.commands.is_empty() {
                self.events.remove(event_id);
            } else {
                event.is_ready = true;
                self.ready.push_back(*event_id);
            }
        }
        self.waited_for = self.waited_for.filter(|event_id| !events.contains(event_id));
        self.long = self.long.filter(|event_id| !events.contains(event_id));
    }
}

impl Waiting {
    /// Whether something waits that no runner has come for yet.
    fn wants_a_runner(&self) -> bool {
        !self.is_taken && !self.commands.is_empty()
    }

    /// Whether it was busy, and so long ago that it need not be remembered.
    fn was_busy_before(&self, now: Instant) -> bool {
        self.busy.is_none_or(|busy| busy.was_before(now, BUSY_MEMORY))
    }

    /// Answers those that nobody waits for and says how many they were.
    fn drop_dead(&mut self) -> usize {
        let before = self.commands.len();
        for pending in std::mem::take(&mut self.commands) {
            if pending.is_dead() {
                pending.answer(Err(CommandError::DeadlineExceeded));
            } else {
                self.commands.push_back(pending);
            }
        }
        before - self.commands.len()
    }
}

#[cfg(test)]
mod tests;
