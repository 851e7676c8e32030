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
use crate::domain::command::Action;

/// The most commands that one batch takes. More do not make it faster: at 256 the costs that are shared are small beside
/// those that are not.
pub(super) const BATCH: usize = 256;
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
        // Whose lock is somebody else's is not known before, and nothing comes after the end of an event.
        let ends = |pending: &Pending| matches!(pending.command.action, Action::CancelEvent { .. });
        if self.locking == Locking::IfFree || last.iter().any(ends) {
            return;
        }
        let mut state = self.inbox.state();
        for &event_id in &self.events {
            if last.len() < BATCH && !self.puts_back(event_id) {
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
        self.inbox.state().release(&self.events, put_back, self.timed_out, Instant::now());
        self.inbox.changed.notify_one();
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
        self.state().push(pending, Instant::now())?;
        self.changed.notify_one();
        Ok(())
    }

    /// How many commands wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting
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
        /// Whether there is something for another runner, too, be it only to look at a busy event in time.
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
    /// Whether a busy event was waited for since others had their turn.
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
    fn push(&mut self, pending: Pending, now: Instant) -> Result<(), CommandError> {
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
        if !event.is_ready && !event.is_taken && event.busy.is_none() {
            event.is_ready = true;
            self.ready.push_back(event_id);
        }
        event.commands.push_back(pending);
        self.waiting += 1;
        Ok(())
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
        let may_wait = self.waited_for.is_none() && (!self.others_first || self.ready.is_empty());
        let mut until: Option<Instant> = None;
        let (mut again, mut look) = (None, Vec::new());
        for &event_id in &self.busy {
            let Some(event) = self.events.get(&event_id) else { continue };
            let Some(busy) = event.busy.as_ref().filter(|_| !event.is_taken && !event.commands.is_empty())
            else {
                continue;
            };
            if may_wait && busy.may_wait(now) {
                again = Some(event_id);
            } else if busy.may_look(now) {
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
            self.take_from(event_id, BUSY_BATCH.min(BATCH - commands.len()), &mut commands);
            events.push(event_id);
        }
        if events.is_empty() {
            Next::Nothing { until }
        } else {
            self.batch(commands, events, Locking::IfFree)
        }
    }

    /// Takes commands of the events whose turn it is.
    fn take_ready(&mut self) -> Option<Next> {
        let (mut events, mut crowds) = (Vec::new(), Vec::new());
        let mut commands = Vec::new();
        while commands.len() < BATCH
            && let Some(event_id) = self.ready.pop_front()
        {
            let is_crowd = self.events.get(&event_id).is_some_and(|event| event.commands.len() >= CROWD);
            if is_crowd && !events.is_empty() {
                crowds.push(event_id);
                continue;
            }
            self.take_from(event_id, BATCH - commands.len(), &mut commands);
            events.push(event_id);
            if is_crowd {
                break;
            }
        }
        for event_id in crowds.into_iter().rev() {
            self.ready.push_front(event_id);
        }
        if events.is_empty() {
            return None;
        }
        self.others_first = false;
        Some(self.batch(commands, events, Locking::Wait))
    }

    fn batch(&self, commands: Vec<Pending>, events: Vec<Uuid>, locking: Locking) -> Next {
        let busy =
            |id| self.events.get(id).is_some_and(|event| !event.is_taken && !event.commands.is_empty());
        let more = !self.ready.is_empty() || self.busy.iter().any(busy);
        Next::Batch { commands, events, locking, more }
    }

    /// Takes up to `limit` commands of an event, without those that nobody waits for.
    fn take_from(&mut self, event_id: Uuid, limit: usize, commands: &mut Vec<Pending>) {
        let Some(event) = self.events.get_mut(&event_id) else { return };
        event.is_ready = false;
        event.is_taken = true;
        let enough = commands.len() + limit;
        while commands.len() < enough
            && let Some(pending) = event.commands.pop_front()
        {
            self.waiting -= 1;
            if pending.is_dead() {
                pending.answer(Err(CommandError::DeadlineExceeded));
                continue;
            }
            // The end of an event is carried out by statements that come last in their batch (see `Ending`).
            let last = matches!(pending.command.action, Action::CancelEvent { .. });
            commands.push(pending);
            event.taken += 1;
            self.taken += 1;
            if last {
                break;
            }
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
    }
}

impl Waiting {
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
mod tests {
    use tokio::sync::oneshot::{self, Receiver};

    use super::super::Answer;
    use super::*;
    use crate::domain::command::{Actor, Command};
    use service_core::trace::Span;

    /// A command for this event, told apart by the registration that it cancels, and where its answer comes.
    fn command(event: u128, registration: u128) -> (Pending, Receiver<Answer>) {
        let action = Action::CancelRegistration { registration_id: Uuid::from_u128(registration) };
        pending(event, action)
    }

    fn pending(event: u128, action: Action) -> (Pending, Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        let command = Command { event_id: Uuid::from_u128(event), actor: Actor::SYSTEM, action };
        let deadline = Instant::now() + Duration::from_secs(3_600);
        (Pending { command, deadline, reply, span: Span::child("command") }, answer)
    }

    /// An inbox in which so many commands wait for each of these events, numbered for each from 0.
    fn inbox(limit: usize, crowds: &[(u128, usize)]) -> (Arc<Inbox>, Vec<Receiver<Answer>>) {
        let (inbox, mut answers) = (Arc::new(Inbox::new(limit)), Vec::new());
        for &(event, count) in crowds {
            for number in 0..count {
                let (pending, answer) = command(event, number as u128);
                inbox.push(pending).unwrap();
                answers.push(answer);
            }
        }
        (inbox, answers)
    }

    /// The events of a batch and how many commands it has for each, in order.
    fn shape(batch: &Batch) -> Vec<(u128, usize)> {
        let mut shape: Vec<(u128, usize)> = Vec::new();
        for pending in &batch.commands {
            let event = pending.command.event_id.as_u128();
            match shape.last_mut().filter(|(last, _)| *last == event) {
                Some((_, count)) => *count += 1,
                None => shape.push((event, 1)),
            }
        }
        shape
    }

    fn numbers(batch: &Batch) -> Vec<u128> {
        let number = |pending: &Pending| match pending.command.action {
            Action::CancelRegistration { registration_id } => registration_id.as_u128(),
            _ => u128::MAX,
        };
        batch.commands.iter().map(number).collect()
    }

    async fn next(inbox: &Arc<Inbox>) -> Batch {
        inbox.next().await.unwrap()
    }

    #[tokio::test]
    async fn events_with_few_commands_share_a_batch_and_a_crowd_has_its_own() {
        let (inbox, _answers) = inbox(10_000, &[(1, 2), (2, 1_000), (3, 1), (4, 63)]);
        let few = next(&inbox).await;
        assert_eq!(shape(&few), [(1, 2), (3, 1), (4, 63)]);
        assert_eq!(shape(&next(&inbox).await), [(2, BATCH)]);
    }

    #[tokio::test]
    async fn a_crowd_waits_its_turn_behind_its_neighbours_after_each_batch() {
        let (inbox, mut answers) = inbox(10_000, &[(1, 1_000)]);
        for round in 0..3 {
            let crowd = next(&inbox).await;
            assert_eq!(shape(&crowd), [(1, BATCH)]);
            let (neighbour, answer) = command(2, 0);
            inbox.push(neighbour).unwrap();
            answers.push(answer);
            drop(crowd);
            assert_eq!(shape(&next(&inbox).await), [(2, 1)], "round {round}");
        }
    }

    #[tokio::test]
    async fn an_event_is_with_one_runner_at_a_time() {
        let (inbox, mut answers) = inbox(10_000, &[(1, 3)]);
        let first = next(&inbox).await;
        let (late, answer) = command(1, 3);
        inbox.push(late).unwrap();
        answers.push(answer);
        assert!(matches!(inbox.state().take(Instant::now()), Next::Nothing { until: None }));
        drop(first);
        assert_eq!(numbers(&next(&inbox).await), [3]);
    }

    #[tokio::test]
    async fn who_comes_while_the_lock_is_waited_for_is_let_in_as_far_as_there_is_room() {
        let (inbox, mut answers) = inbox(10_000, &[(1, 2), (2, 1)]);
        let mut batch = next(&inbox).await;
        let mut part = std::mem::take(&mut batch.commands);
        for (event, number) in [(1, 2), (3, 0), (2, 1)] {
            let (late, answer) = command(event, number);
            inbox.push(late).unwrap();
            answers.push(answer);
        }
        batch.let_in(&mut part);
        let came = |event: u128| part.iter().filter(|p| p.command.event_id == Uuid::from_u128(event)).count();
        assert_eq!((came(1), came(2), came(3)), (3, 2, 0));
        assert_eq!(inbox.waiting(), 1);
        for number in 3..1_000 {
            let (late, answer) = command(1, number);
            inbox.push(late).unwrap();
            answers.push(answer);
        }
        batch.let_in(&mut part);
        assert_eq!(part.len(), BATCH);
    }

    #[tokio::test]
    async fn nobody_is_let_in_ahead_of_what_was_put_back_or_behind_the_end_of_an_event() {
        let (inbox, mut answers) = inbox(10_000, &[(1, 2), (2, 1)]);
        let mut batch = next(&inbox).await;
        let mut part = std::mem::take(&mut batch.commands);
        let first = part.remove(0);
        batch.put_back([first]);
        let mut push = |pending: (Pending, Receiver<Answer>)| {
            inbox.push(pending.0).unwrap();
            answers.push(pending.1);
        };
        push(command(1, 2));
        batch.let_in(&mut part);
        assert_eq!(part.len(), 2);
        push(pending(2, Action::CancelEvent { reason: String::new(), etag: None }));
        push(command(2, 2));
        batch.let_in(&mut part);
        assert_eq!(part.len(), 3);
        batch.let_in(&mut part);
        assert_eq!(part.len(), 3);
    }

    #[tokio::test]
    async fn what_is_put_back_keeps_its_order_and_is_not_waited_for() {
        let (inbox, mut answers) = inbox(10_000, &[(1, 3), (2, 1)]);
        let mut batch = next(&inbox).await;
        assert_eq!(batch.locking, Locking::Wait);
        let (late, answer) = command(1, 3);
        inbox.push(late).unwrap();
        answers.push(answer);
        let all = std::mem::take(&mut batch.commands);
        batch.timed_out();
        batch.put_back(all);
        drop(batch);
        let mut look = next(&inbox).await;
        assert_eq!(look.locking, Locking::IfFree);
        let mut commands = std::mem::take(&mut look.commands);
        commands.sort_by_key(|pending| pending.command.event_id);
        let (one, two): (Vec<_>, Vec<_>) =
            commands.into_iter().partition(|pending| pending.command.event_id == Uuid::from_u128(1));
        // The second event is free.
        drop(two);
        look.put_back(one);
        drop(look);
        // In the meantime others come and are waited for.
        let (other, answer) = command(2, 9);
        inbox.push(other).unwrap();
        answers.push(answer);
        let other = next(&inbox).await;
        assert_eq!((shape(&other), other.locking), (vec![(2, 1)], Locking::Wait));
        let again = next(&inbox).await;
        assert_eq!((numbers(&again), again.locking), (vec![0, 1, 2, 3], Locking::IfFree));
    }

    /// What a runner would take after that time.
    fn next_after(inbox: &Arc<Inbox>, time: Duration) -> Option<Batch> {
        let next = inbox.state().take(Instant::now() + time);
        match next {
            Next::Batch { commands, events, locking, .. } => Some(inbox.batch(commands, events, locking)),
            Next::Nothing { .. } | Next::Over => None,
        }
    }

    /// Takes a batch in which waiting was in vain.
    async fn wait_in_vain(inbox: &Arc<Inbox>) {
        let mut batch = next(inbox).await;
        assert_eq!(batch.locking, Locking::Wait);
        let all = std::mem::take(&mut batch.commands);
        batch.timed_out();
        batch.put_back(all);
    }

    /// Takes a batch of which nothing was free.
    async fn look_in_vain(inbox: &Arc<Inbox>) {
        let batch = next(inbox).await;
        assert_eq!(batch.locking, Locking::IfFree);
        batch.give_up();
    }

    impl Batch {
        /// Nothing of it could be decided.
        fn give_up(mut self) {
            let all = std::mem::take(&mut self.commands);
            self.put_back(all);
        }
    }

    #[tokio::test]
    async fn of_many_busy_events_one_is_waited_for_at_a_time_and_others_have_their_turn_between() {
        let busy: Vec<(u128, usize)> = (1..=20).map(|event| (event, 5)).collect();
        let (inbox, mut answers) = inbox(10_000, &busy);
        wait_in_vain(&inbox).await;
        look_in_vain(&inbox).await;
        let waits = next_after(&inbox, Duration::from_millis(300)).unwrap();
        assert_eq!((shape(&waits).len(), waits.locking), (1, Locking::Wait));
        let (other, answer) = command(99, 0);
        inbox.push(other).unwrap();
        answers.push(answer);
        let looks = next_after(&inbox, Duration::from_millis(300)).unwrap();
        assert_eq!(
            (shape(&looks).len(), looks.locking),
            (19, Locking::IfFree),
            "a second runner waits for no other"
        );
        let turn = next_after(&inbox, Duration::from_millis(300)).unwrap();
        assert_eq!(shape(&turn), [(99, 1)]);
        drop(turn);
        looks.give_up();
        let (other, answer) = command(99, 1);
        inbox.push(other).unwrap();
        answers.push(answer);
        waits.give_up();
        let waits = next_after(&inbox, Duration::from_millis(300)).unwrap();
        assert_eq!((shape(&waits).len(), waits.locking), (1, Locking::Wait));
        assert_ne!(shape(&waits), [(99, 1)]);
        waits.give_up();
        let looks = next_after(&inbox, Duration::from_millis(300)).unwrap();
        assert_eq!(looks.locking, Locking::IfFree);
        let turn = next_after(&inbox, Duration::from_millis(300)).unwrap();
        assert_eq!(shape(&turn), [(99, 1)], "nor does the only one wait again before others had their turn");
    }

    #[tokio::test]
    async fn looking_at_busy_events_takes_no_more_than_a_batch() {
        let busy: Vec<(u128, usize)> = (1..=4).map(|event| (event, 60)).collect();
        let (inbox, mut answers) = inbox(10_000, &busy);
        wait_in_vain(&inbox).await;
        for event in 1..=4 {
            for number in 60..120 {
                let (late, answer) = command(event, number);
                inbox.push(late).unwrap();
                answers.push(answer);
            }
        }
        let first = next(&inbox).await;
        assert_eq!((first.commands.len(), first.locking), (BATCH, Locking::IfFree));
    }

    #[tokio::test]
    async fn that_an_event_was_busy_is_remembered_for_a_while() {
        let (inbox, mut answers) = inbox(10_000, &[(1, 1)]);
        wait_in_vain(&inbox).await;
        answers.clear();
        // Nobody waits for it any more.
        let gone = next(&inbox).await;
        assert_eq!((gone.commands.len(), gone.locking), (0, Locking::IfFree));
        drop(gone);
        let (late, answer) = command(1, 1);
        inbox.push(late).unwrap();
        answers.push(answer);
        look_in_vain(&inbox).await;
        answers.clear();
        drop(next_after(&inbox, BUSY_MEMORY / 2));
        assert!(next_after(&inbox, BUSY_MEMORY / 2).is_none());
        assert!(!inbox.state().events.is_empty());
        assert!(next_after(&inbox, BUSY_MEMORY * 2).is_none());
        assert!(inbox.state().events.is_empty());
    }

    #[tokio::test]
    async fn a_batch_ends_with_the_end_of_an_event() {
        let (inbox, mut answers) = inbox(10_000, &[(1, 1)]);
        let (end, answer) = pending(1, Action::CancelEvent { reason: String::new(), etag: None });
        inbox.push(end).unwrap();
        answers.push(answer);
        let (behind, answer) = command(1, 7);
        inbox.push(behind).unwrap();
        answers.push(answer);
        let batch = next(&inbox).await;
        assert_eq!(numbers(&batch), [0, u128::MAX]);
        drop(batch);
        assert_eq!(numbers(&next(&inbox).await), [7]);
    }

    #[tokio::test]
    async fn one_event_takes_half_of_the_room_and_no_more() {
        let (inbox, _answers) = inbox(100, &[(1, 50)]);
        assert_eq!(inbox.push(command(1, 50).0), Err(CommandError::Overloaded));
        let (neighbours, _others): (Vec<_>, Vec<_>) = (0..50).map(|event| command(100 + event, 0)).unzip();
        for neighbour in neighbours {
            assert_eq!(inbox.push(neighbour), Ok(()));
        }
        assert_eq!(inbox.push(command(2, 0).0), Err(CommandError::Overloaded));
        assert_eq!(inbox.waiting(), 100);
    }

    #[tokio::test]
    async fn what_a_runner_has_takes_room_until_it_is_done_with() {
        let (inbox, _answers) = inbox(100, &[(1, 50), (2, 49)]);
        let mut batch = next(&inbox).await;
        assert_eq!(inbox.push(command(1, 50).0), Err(CommandError::Overloaded));
        let all = std::mem::take(&mut batch.commands);
        batch.put_back(all);
        drop(batch);
        assert_eq!(inbox.push(command(1, 50).0), Err(CommandError::Overloaded));
        drop(next(&inbox).await);
        let (neighbours, _others): (Vec<_>, Vec<_>) = (0..100).map(|event| command(100 + event, 0)).unzip();
        for neighbour in neighbours {
            assert_eq!(inbox.push(neighbour), Ok(()));
        }
        assert_eq!(inbox.push(command(300, 0).0), Err(CommandError::Overloaded));
    }

    #[tokio::test]
    async fn commands_that_nobody_waits_for_take_no_room_and_no_place_in_a_batch() {
        let (inbox, answers) = inbox(512, &[(1, 256)]);
        drop(answers);
        let (living, _answer) = command(1, 1_000);
        assert_eq!(inbox.push(living), Ok(()), "the dead make room");
        assert_eq!(inbox.waiting(), 1);
        assert_eq!(inbox.state().ready, [Uuid::from_u128(1)], "its turn is not given twice");
        let (batch_of_living, _answers) = {
            let (inbox, mut answers) = self::inbox(10_000, &[(1, 300)]);
            answers.drain(..299);
            (next(&inbox).await, answers)
        };
        assert_eq!(numbers(&batch_of_living), [299]);
    }

    #[tokio::test]
    async fn a_closed_inbox_is_over_when_nothing_is_left_in_it() {
        let (inbox, _answers) = inbox(10, &[(1, 1)]);
        inbox.close();
        assert_eq!(inbox.push(command(2, 0).0), Err(CommandError::ShuttingDown));
        assert_eq!(shape(&next(&inbox).await), [(1, 1)]);
        assert!(inbox.next().await.is_none());
        assert!(inbox.next().await.is_none());
    }
}
