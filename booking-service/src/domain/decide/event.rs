//! Update, publish, cancel and delete an event.

use serde_json::{Map, Value, json};
use service_core::validation::Violations;

use super::super::authority;
use super::super::change::{ChangeAction, rfc3339};
use super::super::command::{Actor, EventPatch, Served};
use super::super::effects::Ending;
use super::super::event::{Event, EventRecord, EventState, EventText};
use super::super::refusal::Refusal;
use super::super::schedule;
use super::{Outcome, Table, Verdict};

impl Table<'_> {
    pub(super) fn update_event(&mut self, actor: Actor, before: &Event, patch: &EventPatch) -> Verdict {
        authority::require_runs(actor, before)?;
        let mut event = before.clone();
        let mut text = self.text(before)?;
        let changed = apply(patch, &mut event, &mut text);
        if changed.is_empty() {
            // Whatever the etag, and though the event be over, by this very change perhaps: it may be sent again after an answer
            // that was lost.
            return Ok(Outcome::Event(Box::new(EventRecord { event, text })));
        }
        self.check_alive(before)?;
        check_etag(before, patch.etag.as_deref())?;
        let mut violations = Violations::default();
        schedule::check(&event, event.start_time != before.start_time, self.facts.now, &mut violations);
        violations.finish().map_err(|invalid| Refusal::Invalid(invalid.0))?;
        if event.capacity < before.taken() {
            return Err(Refusal::CapacityBelowTaken {
                event_id: event.id,
                capacity: event.capacity,
                taken: before.taken(),
            });
        }

        let event_id = event.id;
        event.seats_remaining = event.capacity - before.taken();
        self.facts.texts.insert(event_id, text);
        self.revise_event(event);
        self.log(actor, event_id, ChangeAction::EventUpdated, event_id, None, Value::Object(changed));
        // More seats, or a line that is no longer strict: whoever fits now comes in with this very change. No other change makes
        // anybody fit.
        if patch.may_seat_queue() {
            self.serve_queue_by_portion(event_id, Served::new());
        }
        self.event_outcome(actor, event_id)
    }

    pub(super) fn publish_event(&mut self, actor: Actor, mut event: Event, etag: Option<&str>) -> Verdict {
        authority::require_runs(actor, &event)?;
        if event.state == EventState::Published {
            return self.event_outcome(actor, event.id);
        }
        check_etag(&event, etag)?;
        self.check_alive(&event)?;
        let mut violations = Violations::default();
        schedule::check(&event, true, self.facts.now, &mut violations);
        violations.finish().map_err(|invalid| Refusal::Invalid(invalid.0))?;

        let event_id = event.id;
        event.state = EventState::Published;
        let details = json!({ "capacity": event.capacity });
        self.revise_event(event);
        self.log(actor, event_id, ChangeAction::EventPublished, event_id, None, details);
        self.event_outcome(actor, event_id)
    }

    pub(super) fn cancel_event(
        &mut self,
        actor: Actor,
        mut event: Event,
        reason: &str,
        etag: Option<&str>,
    ) -> Verdict {
        authority::require_runs(actor, &event)?;
        if event.state == EventState::Cancelled {
            return self.event_outcome(actor, event.id);
        }
        if event.state == EventState::Draft {
            return Err(Refusal::EventNotPublished { event_id: event.id });
        }
        check_etag(&event, etag)?;
        self.check_alive(&event)?;

        let event_id = event.id;
        event.state = EventState::Cancelled;
        event.cancel_reason = reason.to_owned();
        // Everything that held or awaited a seat ends below.
        event.seats_remaining = event.capacity;
        event.waitlist_size = 0;
        self.revise_event(event);
        let details = json!({ "reason": reason });
        self.log(actor, event_id, ChangeAction::EventCancelled, event_id, None, details);
        let after_version = self.facts.events.get(&event_id).map_or(0, |event| event.version);
        self.endings.push(Ending { event_id, actor, after_version, time: self.facts.now });
        self.event_outcome(actor, event_id)
    }

    pub(super) fn delete_event(&mut self, actor: Actor, event: &Event, etag: Option<&str>) -> Verdict {
        authority::require_runs(actor, event)?;
        check_etag(event, etag)?;
        if event.state != EventState::Draft {
            return Err(Refusal::NotADraft { event_id: event.id });
        }
        self.log(actor, event.id, ChangeAction::EventDeleted, event.id, None, json!({}));
        let deleted = self.event_outcome(actor, event.id)?;
        self.facts.events.remove(&event.id);
        self.deleted_events.push(event.id);
        Ok(deleted)
    }

    /// Whether the organizer can still change the event.
    fn check_alive(&self, event: &Event) -> Result<(), Refusal> {
        if event.state == EventState::Cancelled {
            Err(Refusal::EventCancelled { event_id: event.id })
        } else if event.is_over(self.facts.now) && event.state == EventState::Published {
            Err(Refusal::EventOver { event_id: event.id, ended: event.end_time })
        } else {
            Ok(())
        }
    }

    fn text(&self, event: &Event) -> Result<EventText, Refusal> {
        self.facts.texts.get(&event.id).cloned().ok_or(Refusal::EventNotFound { event_id: event.id })
    }

    fn event_outcome(&self, actor: Actor, event_id: uuid::Uuid) -> Verdict {
        let event = self.visible_event(actor, event_id)?;
        let text = self.text(&event)?;
        Ok(Outcome::Event(Box::new(EventRecord { event, text })))
    }
}

fn check_etag(event: &Event, etag: Option<&str>) -> Result<(), Refusal> {
    if event.matches_etag(etag) {
        Ok(())
    } else {
        Err(Refusal::EtagMismatch { event_id: event.id, current: event.etag() })
    }
}

/// Puts the patch's values into the event and its text, and tells which fields changed, with their new values.
fn apply(patch: &EventPatch, event: &mut Event, text: &mut EventText) -> Map<String, Value> {
    let mut changed = Map::new();
    let mut set = Setter { changed: &mut changed };
    set.field("title", &mut text.title, patch.title.clone(), |v| json!(v));
    set.field("description", &mut text.description, patch.description.clone(), |v| json!(v));
    set.field("location", &mut text.location, patch.location.clone(), |v| json!(v));
    set.field("start_time", &mut event.start_time, patch.start_time, |v| rfc3339(*v));
    set.field("end_time", &mut event.end_time, patch.end_time, |v| rfc3339(*v));
    let optional_time = |v: &Option<time::OffsetDateTime>| v.map_or(Value::Null, rfc3339);
    set.field(
        "registration_open_time",
        &mut event.registration_open_time,
        patch.registration_open_time,
        optional_time,
    );
    set.field(
        "registration_close_time",
        &mut event.registration_close_time,
        patch.registration_close_time,
        optional_time,
    );
    set.field("capacity", &mut event.capacity, patch.capacity, |v| json!(v));
    set.field(
        "max_seats_per_registration",
        &mut event.max_seats_per_registration,
        patch.max_seats_per_registration,
        |v| json!(v),
    );
    set.field("waitlist_policy", &mut event.waitlist_policy, patch.waitlist_policy, |v| json!(v.word()));
    set.field("offer_ttl", &mut event.offer_ttl, patch.offer_ttl, |v| json!(format!("{}s", v.as_secs_f64())));
    set.field("queue_discipline", &mut event.queue_discipline, patch.queue_discipline, |v| json!(v.word()));
    changed
}

struct Setter<'a> {
    changed: &'a mut Map<String, Value>,
}

impl Setter<'_> {
    fn field<T: PartialEq>(&mut self, name: &str, old: &mut T, new: Option<T>, log: impl Fn(&T) -> Value) {
        if let Some(new) = new.filter(|new| new != old) {
            self.changed.insert(name.to_owned(), log(&new));
            *old = new;
        }
    }
}
