//! The decision: commands in order of arrival, applied to their events, give outcomes and effects.
//!
//! Every command is checked first and carried out after, so a refusal leaves nothing behind, but that a lapsed hold or offer
//! of whoever asks to come in has ended. What frees seats serves the queue before the next command is looked at: nobody can
//! come in between.

mod event;
mod offer;
mod registration;
mod waitlist;

use std::collections::HashSet;

use serde_json::Value;
use service_core::ids::IdSource;
use uuid::Uuid;

use super::authority;
use super::change::{Change, ChangeAction, entry_details, registration_details};
use super::command::{Action, Actor, Command, RequestKey, Served};
use super::effects::{Effects, Ending};
use super::event::{Event, EventRecord, WaitlistPolicy};
use super::facts::{Facts, Made};
use super::refusal::Refusal;
use super::registration::{Registration, RegistrationState};
use super::waitlist::{Entry, EntryState};

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large variant is the common one; boxing it costs every command"
)]
pub enum Outcome {
    /// A registration, as it stands now.
    Registration(Registration),
    /// A queue entry, as it stands now.
    Entry(Entry),
    /// An accepted offer and the registration that it became.
    Accepted {
        /// The registration.
        registration: Registration,
        /// The entry.
        entry: Entry,
    },
    /// The party is in.
    CheckedIn {
        /// The registration.
        registration: Registration,
        /// Whether it was before.
        already: bool,
    },
    /// The event, as it stands now; a deleted draft, as it stood.
    Event(Box<EventRecord>),
    /// There was nothing to do (an expiry that somebody else carried out, or whose time has not come).
    Unchanged,
}

/// A command's answer.
pub type Verdict = Result<Outcome, Refusal>;

/// The answers, in the order of the commands, and what has to be written before they are true.
#[derive(Clone, Debug)]
pub struct Decision {
    /// One per command.
    pub verdicts: Vec<Verdict>,
    /// For the database.
    pub effects: Effects,
    /// Events whose queue was given a portion of what is free, and would be given more, and how far it has come: to go on with
    /// [`Action::ServeQueue`], in the same transaction, when this is written, for otherwise it would show free seats beside
    /// people who wait for them.
    pub unserved: Vec<(Uuid, Served)>,
}

/// Applies the commands in order.
///
/// `facts` holds what [`super::facts::Wanted::by`] and [`Facts::heads_wanted`] asked for, as far as there is any. A command
/// that [may take long](Command::may_take_long) is the last for its event in the batch.
pub fn decide<'a>(
    facts: Facts,
    commands: impl IntoIterator<Item = &'a Command>,
    ids: &dyn IdSource,
) -> Decision {
    let mut table = Table::new(facts, ids);
    let verdicts = commands.into_iter().map(|command| table.apply(command)).collect();
    let unserved = std::mem::take(&mut table.unserved);
    Decision { verdicts, effects: table.into_effects(), unserved }
}

/// The state under the commands: the facts, and which of them changed.
struct Table<'a> {
    facts: Facts,
    ids: &'a dyn IdSource,
    changed_events: Touched,
    revised_events: Touched,
    deleted_events: Vec<Uuid>,
    unserved: Vec<(Uuid, Served)>,
    endings: Vec<Ending>,
    new_registrations: Touched,
    changed_registrations: Touched,
    new_entries: Touched,
    changed_entries: Touched,
    changes: Vec<Change>,
}

/// Ids in order of their first change.
#[derive(Default)]
struct Touched {
    order: Vec<Uuid>,
    seen: HashSet<Uuid>,
}

impl Touched {
    fn insert(&mut self, id: Uuid) {
        if self.seen.insert(id) {
            self.order.push(id);
        }
    }

    fn contains(&self, id: Uuid) -> bool {
        self.seen.contains(&id)
    }

    fn rows<T: Clone>(self, rows: &std::collections::HashMap<Uuid, T>) -> Vec<T> {
        self.order.iter().filter_map(|id| rows.get(id).cloned()).collect()
    }
}

impl<'a> Table<'a> {
    fn new(facts: Facts, ids: &'a dyn IdSource) -> Self {
        Self {
            facts,
            ids,
            changed_events: Touched::default(),
            revised_events: Touched::default(),
            deleted_events: Vec::new(),
            unserved: Vec::new(),
            endings: Vec::new(),
            new_registrations: Touched::default(),
            changed_registrations: Touched::default(),
            new_entries: Touched::default(),
            changed_entries: Touched::default(),
            changes: Vec::new(),
        }
    }

    fn apply(&mut self, command: &Command) -> Verdict {
        let actor = command.actor;
        let event = self.visible_event(actor, command.event_id)?;
        match &command.action {
            Action::Register(register) => self.register(actor, &event, register),
            Action::Confirm { registration_id } => self.confirm(actor, &event, *registration_id),
            Action::CancelRegistration { registration_id } => {
                self.cancel_registration(actor, &event, *registration_id)
            }
            Action::CheckIn { registration_id } => self.check_in(actor, &event, *registration_id),
            Action::Join(join) => self.join(actor, &event, join),
            Action::Leave { entry_id } => self.leave(actor, &event, *entry_id),
            Action::AcceptOffer { entry_id } => self.accept_offer(actor, &event, *entry_id),
            Action::DeclineOffer { entry_id } => self.decline_offer(actor, &event, *entry_id),
            Action::ExpireHold { registration_id } => Ok(self.expire_hold(&event, *registration_id)),
            Action::ExpireOffer { entry_id } => Ok(self.expire_offer(&event, *entry_id)),
            Action::ServeQueue { after } => {
                self.serve_queue_by_portion(event.id, after.clone());
                Ok(Outcome::Unchanged)
            }
            Action::Update(patch) => self.update_event(actor, &event, patch),
            Action::Publish { etag } => self.publish_event(actor, event, etag.as_deref()),
            Action::CancelEvent { reason, etag } => self.cancel_event(actor, event, reason, etag.as_deref()),
            Action::DeleteEvent { etag } => self.delete_event(actor, &event, etag.as_deref()),
        }
    }

    /// The event as it stands, if the actor may know of it.
    fn visible_event(&self, actor: Actor, event_id: Uuid) -> Result<Event, Refusal> {
        self.facts
            .events
            .get(&event_id)
            .filter(|event| actor == Actor::SYSTEM || authority::sees_event(actor, event))
            .cloned()
            .ok_or(Refusal::EventNotFound { event_id })
    }

    /// A registration of this event that the actor may act on.
    fn own_registration(&self, actor: Actor, event: &Event, id: Uuid) -> Result<Registration, Refusal> {
        self.facts
            .registrations
            .get(&id)
            .filter(|row| row.event_id == event.id)
            .filter(|row| authority::acts_for(actor, row.user_id, event.organizer_id))
            .cloned()
            .ok_or(Refusal::RegistrationNotFound { registration_id: id })
    }

    /// A queue entry of this event that the actor may act on.
    fn own_entry(&self, actor: Actor, event: &Event, id: Uuid) -> Result<Entry, Refusal> {
        self.facts
            .entries
            .get(&id)
            .filter(|row| row.event_id == event.id)
            .filter(|row| authority::acts_for(actor, row.user_id, event.organizer_id))
            .cloned()
            .ok_or(Refusal::EntryNotFound { entry_id: id })
    }

    fn check_not_over(&self, event: &Event) -> Result<(), Refusal> {
        if event.is_over(self.facts.now) {
            return Err(Refusal::EventOver { event_id: event.id, ended: event.end_time });
        }
        Ok(())
    }

    /// What this request id made before, if it came with the same request.
    fn replay(&self, event_id: Uuid, request: Option<&RequestKey>) -> Result<Option<Outcome>, Refusal> {
        let Some(key) = request else { return Ok(None) };
        let (made, outcome) = match self.facts.made.get(&(event_id, key.actor_id, key.id)) {
            None => return Ok(None),
            Some(Made::Registration(id)) => {
                let row = self.facts.registrations.get(id);
                (row.and_then(|row| row.request.as_ref()), row.cloned().map(Outcome::Registration))
            }
            Some(Made::Entry(id)) => {
                let row = self.facts.entries.get(id);
                (row.and_then(|row| row.request.as_ref()), row.cloned().map(Outcome::Entry))
            }
        };
        if made.is_some_and(|made| made.fingerprint == key.fingerprint) {
            Ok(outcome)
        } else {
            Err(Refusal::RequestIdReused { request_id: key.id })
        }
    }

    /// Writes one row of the log.
    fn log(
        &mut self,
        actor: Actor,
        event_id: Uuid,
        action: ChangeAction,
        entity_id: Uuid,
        subject_id: Option<Uuid>,
        details: Value,
    ) {
        let Some(event) = self.facts.events.get_mut(&event_id) else { return };
        event.version += 1;
        let change = Change {
            event_id,
            version: event.version,
            actor,
            action,
            entity_id,
            subject_id,
            details,
            time: self.facts.now,
        };
        self.changed_events.insert(event_id);
        self.changes.push(change);
    }

    fn log_registration(&mut self, actor: Actor, action: ChangeAction, row: &Registration) {
        self.log(actor, row.event_id, action, row.id, Some(row.user_id), registration_details(row));
    }

    fn log_entry(&mut self, actor: Actor, action: ChangeAction, row: &Entry) {
        self.log(actor, row.event_id, action, row.id, Some(row.user_id), entry_details(row));
    }

    /// Stores an event that its organizer changed.
    fn revise_event(&mut self, mut event: Event) {
        event.revision += 1;
        event.update_time = self.facts.now;
        self.revised_events.insert(event.id);
        self.change_event(event.id, |row| *row = event);
    }

    fn change_event(&mut self, event_id: Uuid, change: impl FnOnce(&mut Event)) {
        if let Some(event) = self.facts.events.get_mut(&event_id) {
            change(event);
            self.changed_events.insert(event_id);
        }
    }

    fn add_registration(&mut self, row: Registration) {
        self.new_registrations.insert(row.id);
        self.facts.add_registration(row);
    }

    /// Stores a registration in its new state.
    fn put_registration(&mut self, row: Registration) {
        if !row.state.is_active() {
            self.facts.registered.remove(&(row.event_id, row.user_id));
        }
        if !self.new_registrations.contains(row.id) {
            self.changed_registrations.insert(row.id);
        }
        self.facts.registrations.insert(row.id, row);
    }

    fn add_entry(&mut self, row: Entry) {
        self.new_entries.insert(row.id);
        self.facts.add_entry(row);
    }

    /// Stores an entry in its new state, out of the line if it no longer waits.
    fn put_entry(&mut self, row: Entry) {
        if !row.state.is_active() {
            self.facts.queued.remove(&(row.event_id, row.user_id));
        }
        if row.state != EntryState::Waiting
            && let Some(queue) = self.facts.queues.get_mut(&row.event_id)
        {
            queue.remove(row.seats, row.position);
        }
        if !self.new_entries.contains(row.id) {
            self.changed_entries.insert(row.id);
        }
        self.facts.entries.insert(row.id, row);
    }

    /// Gives free seats to the queue until nobody who is next fits.
    fn serve_queue(&mut self, event_id: Uuid) {
        self.serve_queue_up_to(event_id, i32::MAX, Served::new());
    }

    /// Gives free seats to the queue until nobody who is next fits, or enough for now. It was served so far before.
    fn serve_queue_by_portion(&mut self, event_id: Uuid, served: Served) {
        self.serve_queue_up_to(event_id, self.facts.portion, served);
    }

    /// Gives free seats to the queue until nobody who is next fits, or it was given so many.
    fn serve_queue_up_to(&mut self, event_id: Uuid, most: i32, mut served: Served) {
        let mut given = 0;
        loop {
            let Some(event) = self.facts.events.get(&event_id) else { return };
            if event.seats_remaining == 0 || event.waitlist_size == 0 || !event.serves_queue(self.facts.now) {
                return;
            }
            let next = self
                .facts
                .queues
                .get(&event_id)
                .and_then(|queue| queue.next(event.queue_discipline, event.seats_remaining));
            let Some(entry) = next.and_then(|id| self.facts.entries.get(&id)).cloned() else { return };
            if given >= most {
                self.unserved.push((event_id, served));
                return;
            }
            given += entry.seats;
            served.insert(entry.seats, entry.position);
            match event.waitlist_policy {
                WaitlistPolicy::Promote => self.promote(entry),
                WaitlistPolicy::Offer => {
                    let expires = self.facts.now + event.offer_ttl;
                    self.offer(entry, expires);
                }
            }
        }
    }

    /// Turns the entry into a confirmed registration.
    fn promote(&mut self, mut entry: Entry) {
        self.change_event(entry.event_id, |event| {
            event.seats_remaining -= entry.seats;
            event.waitlist_size -= 1;
        });
        let registration = self.seat(&entry);
        entry.state = EntryState::Promoted;
        entry.registration_id = Some(registration.id);
        entry.update_time = self.facts.now;
        self.log_entry(Actor::SYSTEM, ChangeAction::WaitlistPromoted, &entry);
        self.put_entry(entry);
        self.log_registration(Actor::SYSTEM, ChangeAction::RegistrationCreated, &registration);
        self.add_registration(registration);
    }

    /// The confirmed registration that an entry becomes.
    fn seat(&self, entry: &Entry) -> Registration {
        Registration {
            event_id: entry.event_id,
            id: self.ids.new_id(),
            user_id: entry.user_id,
            seats: entry.seats,
            state: RegistrationState::Confirmed,
            hold_expire_time: None,
            waitlist_entry_id: Some(entry.id),
            labels: entry.labels.clone(),
            request: None,
            create_time: self.facts.now,
            update_time: self.facts.now,
            confirm_time: Some(self.facts.now),
            cancel_time: None,
            check_in_time: None,
        }
    }

    fn into_effects(self) -> Effects {
        let Facts { events, texts, registrations, entries, .. } = self.facts;
        let record =
            |id: &Uuid| Some(EventRecord { event: events.get(id)?.clone(), text: texts.get(id)?.clone() });
        Effects {
            revised: self.revised_events.order.iter().filter_map(record).collect(),
            // A deleted event is no longer among the events, so it is not written as changed.
            events: self.changed_events.rows(&events),
            deleted_events: self.deleted_events,
            endings: self.endings,
            new_registrations: self.new_registrations.rows(&registrations),
            changed_registrations: self.changed_registrations.rows(&registrations),
            new_entries: self.new_entries.rows(&entries),
            changed_entries: self.changed_entries.rows(&entries),
            changes: self.changes,
        }
    }
}
