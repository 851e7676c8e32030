//! What each rule says, case by case.

mod authority;
mod event;
mod hold;
mod log;
mod offer;
mod queue;
mod registration;
mod request_id;
mod stats;
mod verify;

use std::time::Duration;

use booking_service::domain::command::{Action, Actor, Command, Join, Register, WhenFull};
use booking_service::domain::decide::{Outcome, Verdict};
use booking_service::domain::event::Event;
use booking_service::domain::registration::{Labels, Registration, RegistrationState};
use booking_service::domain::waitlist::{Entry, EntryState};
use uuid::Uuid;

use crate::snapshot::Refused;
use crate::store::Store;
use crate::world::{attendee, event, event_id, text, user};

/// Where people come to one event, event 0. After every batch the invariant is checked.
struct Desk {
    store: Store,
}

impl Desk {
    /// A published event with so many seats: strict queue, promotion.
    fn with_seats(capacity: i32) -> Self {
        Self::at(event(0, capacity))
    }

    fn at(event: Event) -> Self {
        Self { store: Store::new([(event, text())]) }
    }

    fn event(&self) -> &Event {
        &self.store.events[&event_id(0)]
    }

    fn free(&self) -> i32 {
        self.event().seats_remaining
    }

    fn registration(&self, id: Uuid) -> &Registration {
        &self.store.registrations[&id]
    }

    fn entry(&self, id: Uuid) -> &Entry {
        &self.store.entries[&id]
    }

    fn passes(&mut self, time: Duration) {
        self.store.now += time;
    }

    /// One batch.
    fn together(&mut self, commands: impl IntoIterator<Item = (Actor, Action)>) -> Vec<Verdict> {
        let commands: Vec<Command> = commands
            .into_iter()
            .map(|(actor, action)| Command { event_id: event_id(0), actor, action })
            .collect();
        let verdicts = self.store.run(&commands).verdicts;
        self.store.audit();
        verdicts
    }

    /// A batch of one.
    fn does(&mut self, actor: Actor, action: Action) -> Verdict {
        self.together([(actor, action)]).remove(0)
    }

    /// The n-th person gets seats.
    fn registers(&mut self, n: u32, seats: i32) -> Registration {
        registration(self.does(attendee(n), register(n, seats)))
    }

    /// The n-th person gets seats that have to be confirmed in time.
    fn holds(&mut self, n: u32, seats: i32, hold: Duration) -> Registration {
        let ask = Register { hold: Some(hold), ..ask(n, seats) };
        registration(self.does(attendee(n), Action::Register(ask)))
    }

    /// The n-th person gets a place in the queue.
    fn queues(&mut self, n: u32, seats: i32) -> Entry {
        entry(self.does(attendee(n), join(n, seats)))
    }

    fn cancels(&mut self, registration: &Registration) -> Verdict {
        self.does(self.user_of(registration), cancel(registration))
    }

    fn user_of(&self, registration: &Registration) -> Actor {
        Actor { id: registration.user_id, ..attendee(0) }
    }

    fn is(&self, registration: &Registration, state: RegistrationState) {
        assert_eq!(self.registration(registration.id).state, state);
    }

    fn stands(&self, entry: &Entry, state: EntryState) {
        assert_eq!(self.entry(entry.id).state, state);
    }

    /// What the n-th person has at the event.
    fn active(&self, n: u32) -> Option<&Registration> {
        self.store.registrations.values().find(|row| row.user_id == user(n) && row.state.is_active())
    }
}

fn ask(n: u32, seats: i32) -> Register {
    Register {
        user_id: user(n),
        seats,
        when_full: WhenFull::Reject,
        hold: None,
        labels: Labels::new(),
        request: None,
    }
}

fn register(n: u32, seats: i32) -> Action {
    Action::Register(ask(n, seats))
}

fn register_or_queue(n: u32, seats: i32) -> Action {
    Action::Register(Register { when_full: WhenFull::JoinWaitlist, ..ask(n, seats) })
}

fn join(n: u32, seats: i32) -> Action {
    Action::Join(Join { user_id: user(n), seats, labels: Labels::new(), request: None })
}

fn cancel(row: &Registration) -> Action {
    Action::CancelRegistration { registration_id: row.id }
}

fn confirm(row: &Registration) -> Action {
    Action::Confirm { registration_id: row.id }
}

fn check_in(row: &Registration) -> Action {
    Action::CheckIn { registration_id: row.id }
}

fn expire_hold(row: &Registration) -> Action {
    Action::ExpireHold { registration_id: row.id }
}

fn leave(row: &Entry) -> Action {
    Action::Leave { entry_id: row.id }
}

fn accept(row: &Entry) -> Action {
    Action::AcceptOffer { entry_id: row.id }
}

fn decline(row: &Entry) -> Action {
    Action::DeclineOffer { entry_id: row.id }
}

fn expire_offer(row: &Entry) -> Action {
    Action::ExpireOffer { entry_id: row.id }
}

fn registration(verdict: Verdict) -> Registration {
    match verdict {
        Ok(Outcome::Registration(row) | Outcome::Accepted { registration: row, .. }) => row,
        other => panic!("a registration was expected: {other:?}"),
    }
}

fn entry(verdict: Verdict) -> Entry {
    match verdict {
        Ok(Outcome::Entry(row) | Outcome::Accepted { entry: row, .. }) => row,
        other => panic!("a queue entry was expected: {other:?}"),
    }
}

/// The event of an answer.
fn told(verdict: Verdict) -> Event {
    match verdict {
        Ok(Outcome::Event(record)) => record.event,
        other => panic!("an event was expected: {other:?}"),
    }
}

/// The contract's reason for a refusal.
fn reason(verdict: Verdict) -> &'static str {
    match verdict {
        Err(refusal) => Refused::from(refusal).reason,
        Ok(outcome) => panic!("a refusal was expected: {outcome:?}"),
    }
}
