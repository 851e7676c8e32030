//! Register, confirm, cancel, check in.

use uuid::Uuid;

use super::super::authority;
use super::super::change::ChangeAction;
use super::super::command::{Actor, Register, WhenFull};
use super::super::event::Event;
use super::super::refusal::Refusal;
use super::super::registration::{Registration, RegistrationState};
use super::{Outcome, Table, Verdict};

impl Table<'_> {
    pub(super) fn register(&mut self, actor: Actor, event: &Event, register: &Register) -> Verdict {
        let user_id = register.user_id;
        if !authority::acts_for(actor, user_id, event.organizer_id) {
            return Err(Refusal::RoleRequired {
                needed: "the user, a service, the event's organizer or an admin",
            });
        }
        // Before every rule that time can change: a replay is answered even when the event has ended since.
        if let Some(outcome) = self.replay(event.id, register.request.as_ref())? {
            return Ok(outcome);
        }
        self.check_newcomer(event, user_id, register.seats)?;

        let event = self.visible_event(actor, event.id)?;
        if event.seats_newcomer(register.seats) {
            return Ok(Outcome::Registration(self.take_seats(actor, &event, register)));
        }
        match register.when_full {
            WhenFull::JoinWaitlist => Ok(Outcome::Entry(self.queue_up(
                actor,
                &event,
                user_id,
                register.seats,
                &register.labels,
                register.request.as_ref(),
            ))),
            WhenFull::Reject => Err(Refusal::EventFull {
                event_id: event.id,
                seats: register.seats,
                seats_remaining: event.seats_remaining,
                waitlist_size: event.waitlist_size,
            }),
        }
    }

    /// Whether somebody may come in at all: the event is open, the party not too large, the user not there yet.
    ///
    /// The user's own hold or offer whose time has passed is ended here instead of standing in the way until the sweeper
    /// comes by; that holds even if the newcomer is refused afterwards.
    pub(super) fn check_newcomer(&mut self, event: &Event, user_id: Uuid, seats: i32) -> Result<(), Refusal> {
        event.check_open(self.facts.now)?;
        if seats > event.max_seats_per_registration {
            return Err(Refusal::field(
                "seats",
                format!("must be at most {} for this event", event.max_seats_per_registration),
            ));
        }
        if let Some(&registration_id) = self.facts.registered.get(&(event.id, user_id))
            && self.expire_hold(event, registration_id) == Outcome::Unchanged
        {
            return Err(Refusal::AlreadyRegistered { event_id: event.id, user_id, registration_id });
        }
        if let Some(&entry_id) = self.facts.queued.get(&(event.id, user_id))
            && self.expire_offer(event, entry_id) == Outcome::Unchanged
        {
            return Err(Refusal::AlreadyWaitlisted { event_id: event.id, user_id, entry_id });
        }
        Ok(())
    }

    fn take_seats(&mut self, actor: Actor, event: &Event, register: &Register) -> Registration {
        let now = self.facts.now;
        let held = register.hold.is_some();
        let row = Registration {
            event_id: event.id,
            id: self.ids.new_id(),
            user_id: register.user_id,
            seats: register.seats,
            state: if held { RegistrationState::Held } else { RegistrationState::Confirmed },
            // The row keeps microseconds: what is answered now must be what is read later.
            hold_expire_time: register.hold.map(|hold| (now + hold).truncate_to_microsecond()),
            waitlist_entry_id: None,
            labels: register.labels.clone(),
            request: register.request.clone(),
            create_time: now,
            update_time: now,
            confirm_time: (!held).then_some(now),
            cancel_time: None,
            check_in_time: None,
        };
        self.change_event(event.id, |event| event.seats_remaining -= row.seats);
        let action = if held { ChangeAction::RegistrationHeld } else { ChangeAction::RegistrationCreated };
        self.log_registration(actor, action, &row);
        self.add_registration(row.clone());
        row
    }

    pub(super) fn confirm(&mut self, actor: Actor, event: &Event, registration_id: Uuid) -> Verdict {
        let mut row = self.own_registration(actor, event, registration_id)?;
        match row.state {
            // A confirm that is sent twice gives one answer.
            RegistrationState::Confirmed | RegistrationState::CheckedIn => Ok(Outcome::Registration(row)),
            RegistrationState::Expired => Err(Refusal::HoldExpired { registration_id }),
            RegistrationState::Cancelled => {
                Err(Refusal::RegistrationState { registration_id, state: row.state })
            }
            // The clock decides, not whether the sweeper came by: the seat may be promised to the queue already.
            RegistrationState::Held if row.hold_lapsed(self.facts.now) => {
                Err(Refusal::HoldExpired { registration_id })
            }
            RegistrationState::Held => {
                self.check_not_over(event)?;
                row.state = RegistrationState::Confirmed;
                row.confirm_time = Some(self.facts.now);
                row.update_time = self.facts.now;
                self.log_registration(actor, ChangeAction::RegistrationConfirmed, &row);
                self.put_registration(row.clone());
                Ok(Outcome::Registration(row))
            }
        }
    }

    pub(super) fn cancel_registration(
        &mut self,
        actor: Actor,
        event: &Event,
        registration_id: Uuid,
    ) -> Verdict {
        let mut row = self.own_registration(actor, event, registration_id)?;
        match row.state {
            // Sent twice, it frees once.
            RegistrationState::Cancelled => return Ok(Outcome::Registration(row)),
            RegistrationState::CheckedIn | RegistrationState::Expired => {
                return Err(Refusal::RegistrationState { registration_id, state: row.state });
            }
            // Swept or not, it has expired.
            RegistrationState::Held if row.hold_lapsed(self.facts.now) => {
                let state = RegistrationState::Expired;
                return Err(Refusal::RegistrationState { registration_id, state });
            }
            RegistrationState::Held | RegistrationState::Confirmed => {}
        }
        self.check_not_over(event)?;
        row.state = RegistrationState::Cancelled;
        row.cancel_time = Some(self.facts.now);
        self.release(actor, ChangeAction::RegistrationCancelled, &mut row);
        Ok(Outcome::Registration(row))
    }

    pub(super) fn check_in(&mut self, actor: Actor, event: &Event, registration_id: Uuid) -> Verdict {
        let mut row = self.own_registration(actor, event, registration_id)?;
        if !authority::serves_event(actor, event.organizer_id) {
            return Err(Refusal::RoleRequired { needed: "the event's organizer, a service or an admin" });
        }
        match row.state {
            RegistrationState::CheckedIn => {
                return Ok(Outcome::CheckedIn { registration: row, already: true });
            }
            RegistrationState::Held | RegistrationState::Cancelled | RegistrationState::Expired => {
                return Err(Refusal::RegistrationState { registration_id, state: row.state });
            }
            RegistrationState::Confirmed => {}
        }
        self.check_not_over(event)?;
        row.state = RegistrationState::CheckedIn;
        row.check_in_time = Some(self.facts.now);
        row.update_time = self.facts.now;
        self.log_registration(actor, ChangeAction::RegistrationCheckedIn, &row);
        self.put_registration(row.clone());
        Ok(Outcome::CheckedIn { registration: row, already: false })
    }

    /// Ends a hold whose time has passed; anything else stays as it is.
    pub(super) fn expire_hold(&mut self, event: &Event, registration_id: Uuid) -> Outcome {
        let row = self.facts.registrations.get(&registration_id).filter(|row| row.event_id == event.id);
        let Some(mut row) = row.filter(|row| row.hold_lapsed(self.facts.now)).cloned() else {
            return Outcome::Unchanged;
        };
        row.state = RegistrationState::Expired;
        self.release(Actor::SYSTEM, ChangeAction::RegistrationExpired, &mut row);
        Outcome::Registration(row)
    }

    /// Frees the seats of a registration that has just ended, and serves the queue with them.
    fn release(&mut self, actor: Actor, action: ChangeAction, row: &mut Registration) {
        row.update_time = self.facts.now;
        self.change_event(row.event_id, |event| event.seats_remaining += row.seats);
        self.log_registration(actor, action, row);
        self.put_registration(row.clone());
        self.serve_queue(row.event_id);
    }
}
