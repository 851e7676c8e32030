//! The naive model: one command at a time over plain lists, every number counted from the rows whenever it is needed.
//!
//! It is written from the words of DESIGN and of the contract, and not from the rules' code. It is slow and has no
//! batches, no indexes and no counters that could drift. With the rules it shares the vocabulary (commands, rows,
//! states), not one line of reasoning.

use booking_service::domain::change::ChangeAction;
use booking_service::domain::command::{
    Action, Actor, ActorRole, Command, EventPatch, Join, Register, RequestKey, WhenFull,
};
use booking_service::domain::decide::Outcome;
use booking_service::domain::event::{
    Event, EventRecord, EventState, EventText, QueueDiscipline, WaitlistPolicy,
};
use booking_service::domain::registration::{Labels, Registration, RegistrationState};
use booking_service::domain::waitlist::{Entry, EntryState};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::snapshot::{Answer, Logged, Refused, Snapshot, nth_entry, nth_registration};
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

/// A request that made something, word for word.
struct Answered {
    event_id: Uuid,
    actor_id: Uuid,
    request_id: Uuid,
    request: Asked,
    made: Uuid,
}

#[derive(Clone, PartialEq)]
enum Asked {
    Register(Uuid, i32, WhenFull, Option<std::time::Duration>, Labels),
    Join(Uuid, i32, Labels),
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
        let registrations = self.registrations.iter().filter(|row| row.event_id == event.id && takes_seats(row));
        let offers =
            self.entries.iter().filter(|row| row.event_id == event.id && row.state == EntryState::Offered);
        event.capacity
            - registrations.map(|row| row.seats).sum::<i32>()
            - offers.map(|row| row.seats).sum::<i32>()
    }

    /// Who waits, in order of position.
    fn line(&self, event_id: Uuid) -> Vec<usize> {
        let waits = |&n: &usize| {
            self.entries[n].event_id == event_id && self.entries[n].state == EntryState::Waiting
        };
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

    // Registering and queueing.

    fn register(&mut self, actor: Actor, event: &Event, ask: &Register) -> Answer {
        let Register { user_id, seats, when_full, hold, labels, request } = ask;
        let asked = Asked::Register(*user_id, *seats, *when_full, *hold, labels.clone());
        if let Some(answer) = self.answer_again(actor, event, *user_id, request.as_ref(), &asked)? {
            return Ok(answer);
        }
        self.let_in(event, *user_id, *seats)?;
        let outcome = if self.has_seats_for_newcomer(event, *seats) {
            let n = self.seat(event.id, *user_id, *seats, labels.clone());
            let row = &mut self.registrations[n];
            row.request = request.clone();
            if let Some(hold) = hold {
                row.state = RegistrationState::Held;
                row.hold_expire_time = Some(self.now + *hold);
                row.confirm_time = None;
                self.log_registration(actor, ChangeAction::RegistrationHeld, n);
            } else {
                self.log_registration(actor, ChangeAction::RegistrationCreated, n);
            }
            Outcome::Registration(self.registrations[n].clone())
        } else if *when_full == WhenFull::JoinWaitlist {
            Outcome::Entry(self.enqueue(actor, event.id, *user_id, *seats, labels.clone(), request.clone()))
        } else {
            let waiting = i32::try_from(self.line(event.id).len()).expect("few");
            let numbers = vec![*seats, self.free(event), waiting];
            return Err(Refused { reason: "EVENT_FULL", named: Some(event.id), numbers });
        };
        self.remember(event.id, request.as_ref(), asked, &outcome);
        Ok(outcome)
    }

    fn join(&mut self, actor: Actor, event: &Event, ask: &Join) -> Answer {
        let Join { user_id, seats, labels, request } = ask;
        let asked = Asked::Join(*user_id, *seats, labels.clone());
        if let Some(answer) = self.answer_again(actor, event, *user_id, request.as_ref(), &asked)? {
            return Ok(answer);
        }
        self.let_in(event, *user_id, *seats)?;
        if self.has_seats_for_newcomer(event, *seats) {
            let numbers = vec![self.free(event)];
            return Err(Refused { reason: "SEATS_AVAILABLE", named: Some(event.id), numbers });
        }
        let entry = self.enqueue(actor, event.id, *user_id, *seats, labels.clone(), request.clone());
        let outcome = Outcome::Entry(entry);
        self.remember(event.id, request.as_ref(), asked, &outcome);
        Ok(outcome)
    }

    /// What an earlier call with this request id made, in its present state.
    fn answer_again(
        &self,
        actor: Actor,
        event: &Event,
        user_id: Uuid,
        request: Option<&RequestKey>,
        asked: &Asked,
    ) -> Result<Option<Outcome>, Refused> {
        if actor.id != user_id && !handles(actor, event) {
            return Err(Refused { reason: "ROLE_REQUIRED", named: None, numbers: vec![] });
        }
        let Some(key) = request else { return Ok(None) };
        let same = |past: &&Answered| {
            (past.event_id, past.actor_id, past.request_id) == (event.id, key.actor_id, key.id)
        };
        let Some(past) = self.answered.iter().find(same) else { return Ok(None) };
        if past.request != *asked {
            return refused("REQUEST_ID_REUSED", key.id);
        }
        let registration = self.registrations.iter().find(|row| row.id == past.made).cloned();
        let entry = self.entries.iter().find(|row| row.id == past.made).cloned();
        Ok(registration.map(Outcome::Registration).or(entry.map(Outcome::Entry)))
    }

    fn remember(&mut self, event_id: Uuid, request: Option<&RequestKey>, asked: Asked, outcome: &Outcome) {
        let Some(key) = request else { return };
        let made = match outcome {
            Outcome::Registration(row) => row.id,
            Outcome::Entry(row) => row.id,
            other => panic!("{other:?} is not made with a request id"),
        };
        let (actor_id, request_id) = (key.actor_id, key.id);
        self.answered.push(Answered { event_id, actor_id, request_id, request: asked, made });
    }

    /// PUBLISHED, within the window, the party not too large, the user neither registered nor queued. The user's own
    /// hold or offer whose time has passed does not count: it ends here, whatever becomes of the call.
    fn let_in(&mut self, event: &Event, user_id: Uuid, seats: i32) -> Result<(), Refused> {
        match event.state {
            EventState::Draft => return refused("EVENT_NOT_PUBLISHED", event.id),
            EventState::Cancelled => return refused("EVENT_CANCELLED", event.id),
            EventState::Published => {}
        }
        let opens = event.registration_open_time;
        let closes = event.registration_close_time.unwrap_or(event.start_time);
        if opens.is_some_and(|opens| self.now < opens) || self.now >= closes {
            return refused("REGISTRATION_CLOSED", event.id);
        }
        if seats > event.max_seats_per_registration {
            return Err(Refused { reason: "VALIDATION_FAILED", named: None, numbers: vec![] });
        }
        if let Some(n) = self.lapsed_hold(event.id, |row| row.user_id == user_id) {
            self.expire_hold(n);
        }
        let mut registrations = self.registrations.iter();
        if let Some(row) =
            registrations.find(|row| row.event_id == event.id && row.user_id == user_id && takes_seats(row))
        {
            return refused("ALREADY_REGISTERED", row.id);
        }
        if let Some(n) = self.lapsed_offer(event.id, |row| row.user_id == user_id) {
            self.expire_offer(n);
        }
        let queued = |row: &&Entry| {
            let active = matches!(row.state, EntryState::Waiting | EntryState::Offered);
            row.event_id == event.id && row.user_id == user_id && active
        };
        match self.entries.iter().find(queued) {
            Some(row) => refused("ALREADY_WAITLISTED", row.id),
            None => Ok(()),
        }
    }

    /// While anyone waits nobody passes; under SKIP_AHEAD one who fits does not pass those who do not.
    fn has_seats_for_newcomer(&self, event: &Event, seats: i32) -> bool {
        let free = self.free(event);
        let line = self.line(event.id);
        let passes = match event.queue_discipline {
            QueueDiscipline::Strict => line.is_empty(),
            QueueDiscipline::SkipAhead => line.iter().all(|&n| self.entries[n].seats > free),
        };
        passes && seats <= free
    }

    /// A new registration, CONFIRMED.
    fn seat(&mut self, event_id: Uuid, user_id: Uuid, seats: i32, labels: Labels) -> usize {
        self.registrations.push(Registration {
            event_id,
            id: nth_registration(self.registrations.len()),
            user_id,
            seats,
            state: RegistrationState::Confirmed,
            hold_expire_time: None,
            waitlist_entry_id: None,
            labels,
            request: None,
            create_time: self.now,
            update_time: self.now,
            confirm_time: Some(self.now),
            cancel_time: None,
            check_in_time: None,
        });
        self.registrations.len() - 1
    }

    /// The registration that an entry becomes.
    fn seat_entry(&mut self, actor: Actor, action: ChangeAction, n: usize, state: EntryState) -> usize {
        let row = self.entries[n].clone();
        let registration = self.seat(row.event_id, row.user_id, row.seats, row.labels);
        self.registrations[registration].waitlist_entry_id = Some(row.id);
        self.entries[n].registration_id = Some(self.registrations[registration].id);
        self.set_entry(n, state);
        self.log_entry(actor, action, n);
        self.log_registration(actor, ChangeAction::RegistrationCreated, registration);
        registration
    }

    fn enqueue(
        &mut self,
        actor: Actor,
        event_id: Uuid,
        user_id: Uuid,
        seats: i32,
        labels: Labels,
        request: Option<RequestKey>,
    ) -> Entry {
        let places = self.entries.iter().filter(|row| row.event_id == event_id).map(|row| row.position);
        self.entries.push(Entry {
            event_id,
            id: nth_entry(self.entries.len()),
            user_id,
            seats,
            state: EntryState::Waiting,
            position: places.max().unwrap_or(0) + 1,
            offer_expire_time: None,
            registration_id: None,
            labels,
            request,
            create_time: self.now,
            update_time: self.now,
        });
        self.log_entry(actor, ChangeAction::WaitlistJoined, self.entries.len() - 1);
        self.entries[self.entries.len() - 1].clone()
    }

    /// Whatever frees seats gives them to the queue, until the next party does not fit.
    fn serve(&mut self, event_id: Uuid) {
        while let Some(event) = self.event(event_id) {
            if event.state != EventState::Published || self.now >= event.end_time {
                return;
            }
            let line = self.line(event_id);
            let fits = |n: &usize| self.entries[*n].seats <= event.seats_remaining;
            let next = match event.queue_discipline {
                QueueDiscipline::Strict => line.first().copied().filter(fits),
                QueueDiscipline::SkipAhead => line.into_iter().find(fits),
            };
            let Some(n) = next else { return };
            match event.waitlist_policy {
                WaitlistPolicy::Promote => {
                    self.seat_entry(Actor::SYSTEM, ChangeAction::WaitlistPromoted, n, EntryState::Promoted);
                }
                WaitlistPolicy::Offer => {
                    self.entries[n].offer_expire_time = Some(self.now + event.offer_ttl);
                    self.set_entry(n, EntryState::Offered);
                    self.log_entry(Actor::SYSTEM, ChangeAction::WaitlistOffered, n);
                }
            }
        }
    }

    // Registrations.

    /// The registration, for those who may know of it: its user, the event's owner, service, admin.
    fn find_registration(&self, actor: Actor, event: &Event, id: Uuid) -> Result<usize, Refused> {
        let mine = |row: &Registration| row.user_id == actor.id || handles(actor, event);
        let found = self.registrations.iter().position(|row| row.id == id && row.event_id == event.id);
        match found.filter(|&n| mine(&self.registrations[n])) {
            Some(n) => Ok(n),
            None => refused("REGISTRATION_NOT_FOUND", id),
        }
    }

    fn set_registration(&mut self, n: usize, state: RegistrationState) {
        self.registrations[n].state = state;
        self.registrations[n].update_time = self.now;
    }

    fn confirm(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
        let n = self.find_registration(actor, event, id)?;
        match self.registrations[n].state {
            RegistrationState::Confirmed | RegistrationState::CheckedIn => {}
            RegistrationState::Cancelled => return refused("STATE_CONFLICT", id),
            RegistrationState::Expired => return refused("HOLD_EXPIRED", id),
            RegistrationState::Held => {
                if self.lapsed_hold(event.id, |row| row.id == id).is_some() {
                    return refused("HOLD_EXPIRED", id);
                }
                if self.now >= event.end_time {
                    return refused("STATE_CONFLICT", event.id);
                }
                self.registrations[n].confirm_time = Some(self.now);
                self.set_registration(n, RegistrationState::Confirmed);
                self.log_registration(actor, ChangeAction::RegistrationConfirmed, n);
            }
        }
        Ok(Outcome::Registration(self.registrations[n].clone()))
    }

    fn cancel(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
        let n = self.find_registration(actor, event, id)?;
        match self.registrations[n].state {
            RegistrationState::Cancelled => {}
            RegistrationState::CheckedIn | RegistrationState::Expired => {
                return refused("STATE_CONFLICT", id);
            }
            RegistrationState::Held | RegistrationState::Confirmed => {
                if self.now >= event.end_time {
                    return refused("STATE_CONFLICT", event.id);
                }
                self.registrations[n].cancel_time = Some(self.now);
                self.set_registration(n, RegistrationState::Cancelled);
                self.log_registration(actor, ChangeAction::RegistrationCancelled, n);
                self.serve(event.id);
            }
        }
        Ok(Outcome::Registration(self.registrations[n].clone()))
    }

    fn check_in(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
        let n = self.find_registration(actor, event, id)?;
        if !handles(actor, event) {
            return Err(Refused { reason: "ROLE_REQUIRED", named: None, numbers: vec![] });
        }
        let already = match self.registrations[n].state {
            RegistrationState::CheckedIn => true,
            RegistrationState::Held | RegistrationState::Cancelled | RegistrationState::Expired => {
                return refused("STATE_CONFLICT", id);
            }
            RegistrationState::Confirmed => {
                if self.now >= event.end_time {
                    return refused("STATE_CONFLICT", event.id);
                }
                self.registrations[n].check_in_time = Some(self.now);
                self.set_registration(n, RegistrationState::CheckedIn);
                self.log_registration(actor, ChangeAction::RegistrationCheckedIn, n);
                false
            }
        };
        Ok(Outcome::CheckedIn { registration: self.registrations[n].clone(), already })
    }

    /// A hold keeps its seats until `hold_expire_time`, swept or not.
    fn lapsed_hold(&self, event_id: Uuid, which: impl Fn(&Registration) -> bool) -> Option<usize> {
        self.registrations.iter().position(|row| {
            row.event_id == event_id
                && row.state == RegistrationState::Held
                && row.hold_expire_time.is_some_and(|expires| self.now >= expires)
                && which(row)
        })
    }

    fn expire_hold(&mut self, n: usize) -> Registration {
        self.set_registration(n, RegistrationState::Expired);
        self.log_registration(Actor::SYSTEM, ChangeAction::RegistrationExpired, n);
        self.serve(self.registrations[n].event_id);
        self.registrations[n].clone()
    }

    // Queue entries.

    /// The entry, for those who may know of it: its user, the event's owner, service, admin.
    fn find_entry(&self, actor: Actor, event: &Event, id: Uuid) -> Result<usize, Refused> {
        let mine = |row: &Entry| row.user_id == actor.id || handles(actor, event);
        let found = self.entries.iter().position(|row| row.id == id && row.event_id == event.id);
        match found.filter(|&n| mine(&self.entries[n])) {
            Some(n) => Ok(n),
            None => refused("WAITLIST_ENTRY_NOT_FOUND", id),
        }
    }

    fn set_entry(&mut self, n: usize, state: EntryState) {
        self.entries[n].state = state;
        self.entries[n].update_time = self.now;
    }

    fn leave(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
        let n = self.find_entry(actor, event, id)?;
        match self.entries[n].state {
            EntryState::Left => {}
            EntryState::Waiting => {
                self.set_entry(n, EntryState::Left);
                self.log_entry(actor, ChangeAction::WaitlistLeft, n);
                self.serve(event.id);
            }
            _ => return refused("STATE_CONFLICT", id),
        }
        Ok(Outcome::Entry(self.entries[n].clone()))
    }

    fn accept(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
        let n = self.find_entry(actor, event, id)?;
        let registration = match self.entries[n].state {
            EntryState::Accepted => {
                let made = self.entries[n].registration_id;
                let found = self.registrations.iter().position(|row| Some(row.id) == made);
                found.expect("an accepted entry has its registration")
            }
            EntryState::Offered => {
                if self.lapsed_offer(event.id, |row| row.id == id).is_some() {
                    return refused("OFFER_EXPIRED", id);
                }
                // From end_time on nothing can be registered.
                if self.now >= event.end_time {
                    return refused("STATE_CONFLICT", event.id);
                }
                self.seat_entry(actor, ChangeAction::OfferAccepted, n, EntryState::Accepted)
            }
            EntryState::Expired => return refused("OFFER_EXPIRED", id),
            _ => return refused("STATE_CONFLICT", id),
        };
        let registration = self.registrations[registration].clone();
        Ok(Outcome::Accepted { registration, entry: self.entries[n].clone() })
    }

    fn decline(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
        let n = self.find_entry(actor, event, id)?;
        match self.entries[n].state {
            EntryState::Declined => {}
            EntryState::Offered => {
                if self.lapsed_offer(event.id, |row| row.id == id).is_some() {
                    return refused("OFFER_EXPIRED", id);
                }
                self.set_entry(n, EntryState::Declined);
                self.log_entry(actor, ChangeAction::OfferDeclined, n);
                self.serve(event.id);
            }
            EntryState::Expired => return refused("OFFER_EXPIRED", id),
            _ => return refused("STATE_CONFLICT", id),
        }
        Ok(Outcome::Entry(self.entries[n].clone()))
    }

    fn lapsed_offer(&self, event_id: Uuid, which: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.entries.iter().position(|row| {
            row.event_id == event_id
                && row.state == EntryState::Offered
                && row.offer_expire_time.is_some_and(|expires| self.now >= expires)
                && which(row)
        })
    }

    fn expire_offer(&mut self, n: usize) -> Entry {
        self.set_entry(n, EntryState::Expired);
        self.log_entry(Actor::SYSTEM, ChangeAction::OfferExpired, n);
        self.serve(self.entries[n].event_id);
        self.entries[n].clone()
    }

    // Events.

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
    fn set_event(&mut self, mut event: Event, text: EventText, actor: Actor, action: ChangeAction) {
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

    fn text(&self, id: Uuid) -> EventText {
        let found = self.settings.iter().find(|(event, _)| event.id == id);
        found.expect("the event exists").1.clone()
    }

    fn event_answer(&self, id: Uuid) -> Answer {
        let event = self.event(id).expect("the event exists");
        Ok(Outcome::Event(Box::new(EventRecord { event, text: self.text(id) })))
    }

    fn update(&mut self, actor: Actor, old: &Event, patch: &EventPatch) -> Answer {
        Self::may_run(actor, old)?;
        Self::same_etag(old, patch.etag.as_ref())?;
        if old.state == EventState::Cancelled {
            return refused("EVENT_CANCELLED", old.id);
        }
        if old.state == EventState::Published && self.now >= old.end_time {
            return refused("STATE_CONFLICT", old.id);
        }
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
        if new != *old || text != old_text {
            self.set_event(new, text, actor, ChangeAction::EventUpdated);
            self.serve(old.id);
        }
        self.event_answer(old.id)
    }

    fn publish(&mut self, actor: Actor, old: &Event, etag: Option<&String>) -> Answer {
        Self::may_run(actor, old)?;
        if old.state != EventState::Published {
            Self::same_etag(old, etag)?;
            if old.state == EventState::Cancelled {
                return refused("EVENT_CANCELLED", old.id);
            }
            if old.start_time <= self.now {
                return refused("STATE_CONFLICT", old.id);
            }
            let new = Event { state: EventState::Published, ..old.clone() };
            self.set_event(new, self.text(old.id), actor, ChangeAction::EventPublished);
        }
        self.event_answer(old.id)
    }

    fn cancel_event(&mut self, actor: Actor, old: &Event, reason: &str, etag: Option<&String>) -> Answer {
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
        self.set_event(new, self.text(old.id), actor, ChangeAction::EventCancelled);
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

    fn delete(&mut self, actor: Actor, old: &Event, etag: Option<&String>) -> Answer {
        Self::may_run(actor, old)?;
        Self::same_etag(old, etag)?;
        if old.state != EventState::Draft {
            return refused("STATE_CONFLICT", old.id);
        }
        self.log(actor, old.id, ChangeAction::EventDeleted, old.id, None);
        self.settings.retain(|(event, _)| event.id != old.id);
        Ok(Outcome::Deleted)
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
