//! Coming in and being seated: register, join, and what the queue gets.

use std::time::Duration;

use booking_service::domain::change::ChangeAction;
use booking_service::domain::command::{Actor, Join, Register, RequestKey, WhenFull};
use booking_service::domain::decide::Outcome;
use booking_service::domain::event::{Event, EventState, QueueDiscipline, WaitlistPolicy};
use booking_service::domain::registration::{Labels, Registration, RegistrationState};
use booking_service::domain::waitlist::{Entry, EntryState};
use uuid::Uuid;

use super::{Model, handles, refused, takes_seats};
use crate::snapshot::{Answer, Refused, nth_entry, nth_registration};

/// A request that made something, word for word.
pub(super) struct Answered {
    event_id: Uuid,
    actor_id: Uuid,
    request_id: Uuid,
    request: Asked,
    made: Uuid,
}

#[derive(Clone, PartialEq)]
enum Asked {
    Register(Uuid, i32, WhenFull, Option<Duration>, Labels),
    Join(Uuid, i32, Labels),
}

impl Model {
    pub(super) fn register(&mut self, actor: Actor, event: &Event, ask: &Register) -> Answer {
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

    pub(super) fn join(&mut self, actor: Actor, event: &Event, ask: &Join) -> Answer {
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
    pub(super) fn seat_entry(
        &mut self,
        actor: Actor,
        action: ChangeAction,
        n: usize,
        state: EntryState,
    ) -> usize {
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
    pub(super) fn serve(&mut self, event_id: Uuid) {
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
}
