//! The naive model: one command at a time over plain lists, every number counted from the rows whenever it is needed.
//!
//! It is written from the words of DESIGN and of the contract, and not from the rules' code. It is slow and has no
//! batches, no indexes and no counters that could drift. With the rules it shares the vocabulary (commands, rows,
//! states), not one line of reasoning.

mod event;
mod registration;
mod seating;
mod waitlist;

use booking_service::domain::change::ChangeAction;
use booking_service::domain::command::{Action, Actor, ActorRole, Command};
use booking_service::domain::decide::Outcome;
use booking_service::domain::event::{Event, EventState, EventText};
use booking_service::domain::registration::{Registration, RegistrationState};
use booking_service::domain::waitlist::{Entry, EntryState};
use time::OffsetDateTime;
use uuid::Uuid;

use self::seating::Answered;
use crate::snapshot::{Answer, Logged, Refused, Snapshot};
use crate::world::NOON;

pub(crate) struct Model {
    pub(crate) now: OffsetDateTime,
    /// What organizers set; everything that is counted is filled in by [`Model::event`].
    settings: Vec<(Event, EventText)>,
    pub(crate) registrations: Vec<Registration>,
    pub(crate) entries: Vec<Entry>,
    log: Vec<Logged>,
    answered: Vec<Answered>,
}

fn refused<T>(reason: &'static str, named: Uuid) -> Result<T, Refused> {
    Err(Refused::new(reason, named))
}

impl Model {
    pub(crate) fn new(events: Vec<(Event, EventText)>) -> Self {
        Self {
            now: NOON,
            settings: events,
            registrations: Vec::new(),
            entries: Vec::new(),
            log: Vec::new(),
            answered: Vec::new(),
        }
    }

    pub(crate) fn perform(&mut self, command: &Command) -> Answer {
        let actor = command.actor;
        let Some(event) = self.event(command.event_id) else {
            return refused("EVENT_NOT_FOUND", command.event_id);
        };
        // Drafts exist for their owner and admins only.
        if event.state == EventState::Draft && !runs(actor, &event) && actor.role != ActorRole::System {
            return refused("EVENT_NOT_FOUND", event.id);
        }
        match &command.action {
            Action::Register(register) => self.register(actor, &event, register),
            Action::Join(join) => self.join(actor, &event, join),
            Action::Confirm { registration_id } => self.confirm(actor, &event, *registration_id),
            Action::CancelRegistration { registration_id } => self.cancel(actor, &event, *registration_id),
            Action::CheckIn { registration_id } => self.check_in(actor, &event, *registration_id),
            Action::Leave { entry_id } => self.leave(actor, &event, *entry_id),
            Action::AcceptOffer { entry_id } => self.accept(actor, &event, *entry_id),
            Action::DeclineOffer { entry_id } => self.decline(actor, &event, *entry_id),
            Action::ExpireHold { registration_id } => {
                let lapsed = self.lapsed_hold(event.id, |row| row.id == *registration_id);
                Ok(lapsed.map_or(Outcome::Unchanged, |n| Outcome::Registration(self.expire_hold(n))))
            }
            Action::ExpireOffer { entry_id } => {
                let lapsed = self.lapsed_offer(event.id, |row| row.id == *entry_id);
                Ok(lapsed.map_or(Outcome::Unchanged, |n| Outcome::Entry(self.expire_offer(n))))
            }
            Action::ServeQueue { .. } => panic!("the service's own: nobody gives this command"),
            Action::Update(patch) => self.update(actor, &event, patch),
            Action::Publish { etag } => self.publish(actor, &event, etag.as_ref()),
            Action::CancelEvent { reason, etag } => self.cancel_event(actor, &event, reason, etag.as_ref()),
            Action::DeleteEvent { etag } => self.delete(actor, &event, etag.as_ref()),
        }
    }

    /// The event with everything counted.
    pub(crate) fn event(&self, id: Uuid) -> Option<Event> {
        let mut event = self.settings.iter().find(|(event, _)| event.id == id)?.0.clone();
        let entries = || self.entries.iter().filter(|row| row.event_id == id);
        event.seats_remaining = self.free(&event);
        event.waitlist_size = i32::try_from(self.line(id).len()).expect("few");
        event.largest_party = entries().map(|row| row.seats).max().unwrap_or(1).max(1);
        event.next_position = entries().map(|row| row.position).max().unwrap_or(0) + 1;
        event.version = self.last_version(id);
        Some(event)
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.settings.iter().filter_map(|(event, _)| self.event(event.id)).collect()
    }

    /// capacity − seats of HELD, CONFIRMED, CHECKED_IN registrations − seats of OFFERED entries.
    fn free(&self, event: &Event) -> i32 {
        let registrations =
            self.registrations.iter().filter(|row| row.event_id == event.id && takes_seats(row));
        let offers =
            self.entries.iter().filter(|row| row.event_id == event.id && row.state == EntryState::Offered);
        event.capacity
            - registrations.map(|row| row.seats).sum::<i32>()
            - offers.map(|row| row.seats).sum::<i32>()
    }

    /// Who waits, in order of position.
    fn line(&self, event_id: Uuid) -> Vec<usize> {
        let waits =
            |&n: &usize| self.entries[n].event_id == event_id && self.entries[n].state == EntryState::Waiting;
        let mut line: Vec<usize> = (0..self.entries.len()).filter(waits).collect();
        line.sort_by_key(|&n| self.entries[n].position);
        line
    }

    fn last_version(&self, event_id: Uuid) -> i64 {
        // CreateEvent wrote version 1.
        1 + i64::try_from(self.log.iter().filter(|row| row.event_id == event_id).count()).expect("few")
    }

    fn log(
        &mut self,
        actor: Actor,
        event_id: Uuid,
        action: ChangeAction,
        entity_id: Uuid,
        subject: Option<Uuid>,
    ) {
        let version = self.last_version(event_id) + 1;
        self.log.push(Logged { event_id, version, actor, action, entity_id, subject_id: subject });
    }

    fn log_registration(&mut self, actor: Actor, action: ChangeAction, n: usize) {
        let (event_id, id, user_id) =
            (self.registrations[n].event_id, self.registrations[n].id, self.registrations[n].user_id);
        self.log(actor, event_id, action, id, Some(user_id));
    }

    fn log_entry(&mut self, actor: Actor, action: ChangeAction, n: usize) {
        let (event_id, id, user_id) = (self.entries[n].event_id, self.entries[n].id, self.entries[n].user_id);
        self.log(actor, event_id, action, id, Some(user_id));
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut events: Vec<(Event, EventText)> =
            self.events().into_iter().map(|event| (event.clone(), self.text(event.id))).collect();
        events.sort_by_key(|(event, _)| event.id);
        let mut log = self.log.clone();
        log.sort_by_key(|row| (row.event_id, row.version));
        Snapshot { events, registrations: self.registrations.clone(), entries: self.entries.clone(), log }
    }
}

/// The owner (still an organizer or admin) or an admin.
fn runs(actor: Actor, event: &Event) -> bool {
    actor.role == ActorRole::Admin || (actor.role == ActorRole::Organizer && actor.id == event.organizer_id)
}

/// The event's owner, a service, an admin; and the system.
fn handles(actor: Actor, event: &Event) -> bool {
    runs(actor, event) || matches!(actor.role, ActorRole::Service | ActorRole::System)
}

fn takes_seats(row: &Registration) -> bool {
    use RegistrationState::{CheckedIn, Confirmed, Held};
    matches!(row.state, Held | Confirmed | CheckedIn)
}
