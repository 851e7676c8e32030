//! Update, publish, cancel, delete.

use booking_service::domain::change::ChangeAction;
use booking_service::domain::command::{Actor, EventPatch};
use booking_service::domain::decide::Outcome;
use booking_service::domain::event::{Event, EventRecord, EventState, EventText};
use booking_service::domain::registration::RegistrationState;
use booking_service::domain::waitlist::EntryState;
use uuid::Uuid;

use super::{Model, refused, runs, takes_seats};
use crate::snapshot::{Answer, Refused};

impl Model {
    /// What every change of an event asks first.
    fn may_run(actor: Actor, event: &Event) -> Result<(), Refused> {
        if runs(actor, event) {
            Ok(())
        } else {
            Err(Refused { reason: "ROLE_REQUIRED", named: None, numbers: vec![] })
        }
    }

    fn same_etag(event: &Event, etag: Option<&String>) -> Result<(), Refused> {
        match etag {
            Some(etag) if *etag != format!("\"{}\"", event.revision) => refused("ETAG_MISMATCH", event.id),
            _ => Ok(()),
        }
    }

    /// Stores what the organizer changed.
    fn set_event(&mut self, mut event: Event, text: &EventText, actor: Actor, action: ChangeAction) {
        event.revision += 1;
        event.update_time = self.now;
        let id = event.id;
        for row in &mut self.settings {
            if row.0.id == id {
                *row = (event.clone(), text.clone());
            }
        }
        self.log(actor, id, action, id, None);
    }

    pub(super) fn text(&self, id: Uuid) -> EventText {
        let found = self.settings.iter().find(|(event, _)| event.id == id);
        found.expect("the event exists").1.clone()
    }

    fn event_answer(&self, id: Uuid) -> Answer {
        let event = self.event(id).expect("the event exists");
        Ok(Outcome::Event(Box::new(EventRecord { event, text: self.text(id) })))
    }

    pub(super) fn update(&mut self, actor: Actor, old: &Event, patch: &EventPatch) -> Answer {
        Self::may_run(actor, old)?;
        let old_text = self.text(old.id);
        let text = EventText {
            title: patch.title.clone().unwrap_or(old_text.title.clone()),
            description: patch.description.clone().unwrap_or(old_text.description.clone()),
            location: patch.location.clone().unwrap_or(old_text.location.clone()),
        };
        let new = Event {
            start_time: patch.start_time.unwrap_or(old.start_time),
            end_time: patch.end_time.unwrap_or(old.end_time),
            registration_open_time: patch.registration_open_time.unwrap_or(old.registration_open_time),
            registration_close_time: patch.registration_close_time.unwrap_or(old.registration_close_time),
            capacity: patch.capacity.unwrap_or(old.capacity),
            max_seats_per_registration: patch
                .max_seats_per_registration
                .unwrap_or(old.max_seats_per_registration),
            waitlist_policy: patch.waitlist_policy.unwrap_or(old.waitlist_policy),
            offer_ttl: patch.offer_ttl.unwrap_or(old.offer_ttl),
            queue_discipline: patch.queue_discipline.unwrap_or(old.queue_discipline),
            ..old.clone()
        };
        if new == *old && text == old_text {
            return self.event_answer(old.id);
        }
        if old.state == EventState::Cancelled {
            return refused("EVENT_CANCELLED", old.id);
        }
        if old.state == EventState::Published && self.now >= old.end_time {
            return refused("STATE_CONFLICT", old.id);
        }
        Self::same_etag(old, patch.etag.as_ref())?;
        let closes = new.registration_close_time.unwrap_or(new.start_time);
        if (new.start_time != old.start_time && new.start_time <= self.now)
            || new.end_time <= new.start_time
            || closes > new.end_time
            || new.registration_open_time.is_some_and(|opens| opens >= closes)
            || new.max_seats_per_registration > new.capacity
        {
            return Err(Refused { reason: "VALIDATION_FAILED", named: None, numbers: vec![] });
        }
        if self.free(&new) < 0 {
            let numbers = vec![new.capacity, old.capacity - self.free(old)];
            return Err(Refused { reason: "CAPACITY_BELOW_TAKEN", named: Some(old.id), numbers });
        }
        self.set_event(new, &text, actor, ChangeAction::EventUpdated);
        self.serve(old.id);
        self.event_answer(old.id)
    }

    pub(super) fn publish(&mut self, actor: Actor, old: &Event, etag: Option<&String>) -> Answer {
        Self::may_run(actor, old)?;
        if old.state != EventState::Published {
            Self::same_etag(old, etag)?;
            if old.state == EventState::Cancelled {
                return refused("EVENT_CANCELLED", old.id);
            }
            if old.start_time <= self.now {
                return Err(Refused { reason: "VALIDATION_FAILED", named: None, numbers: vec![] });
            }
            let new = Event { state: EventState::Published, ..old.clone() };
            self.set_event(new, &self.text(old.id), actor, ChangeAction::EventPublished);
        }
        self.event_answer(old.id)
    }

    pub(super) fn cancel_event(
        &mut self,
        actor: Actor,
        old: &Event,
        reason: &str,
        etag: Option<&String>,
    ) -> Answer {
        Self::may_run(actor, old)?;
        if old.state == EventState::Cancelled {
            return self.event_answer(old.id);
        }
        if old.state == EventState::Draft {
            return refused("EVENT_NOT_PUBLISHED", old.id);
        }
        Self::same_etag(old, etag)?;
        if self.now >= old.end_time {
            return refused("STATE_CONFLICT", old.id);
        }
        let new = Event { state: EventState::Cancelled, cancel_reason: reason.to_owned(), ..old.clone() };
        self.set_event(new, &self.text(old.id), actor, ChangeAction::EventCancelled);
        for n in 0..self.registrations.len() {
            if self.registrations[n].event_id == old.id && takes_seats(&self.registrations[n]) {
                self.registrations[n].cancel_time = Some(self.now);
                self.set_registration(n, RegistrationState::Cancelled);
                self.log_registration(actor, ChangeAction::RegistrationCancelled, n);
            }
        }
        for n in 0..self.entries.len() {
            let active = matches!(self.entries[n].state, EntryState::Waiting | EntryState::Offered);
            if self.entries[n].event_id == old.id && active {
                self.set_entry(n, EntryState::Cancelled);
                self.log_entry(actor, ChangeAction::WaitlistCancelled, n);
            }
        }
        self.event_answer(old.id)
    }

    pub(super) fn delete(&mut self, actor: Actor, old: &Event, etag: Option<&String>) -> Answer {
        Self::may_run(actor, old)?;
        Self::same_etag(old, etag)?;
        if old.state != EventState::Draft {
            return refused("STATE_CONFLICT", old.id);
        }
        self.log(actor, old.id, ChangeAction::EventDeleted, old.id, None);
        let deleted = self.event_answer(old.id);
        self.settings.retain(|(event, _)| event.id != old.id);
        deleted
    }
}
