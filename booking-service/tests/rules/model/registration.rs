//! Confirm, cancel, check in, lapse.

use booking_service::domain::change::ChangeAction;
use booking_service::domain::command::Actor;
use booking_service::domain::decide::Outcome;
use booking_service::domain::event::Event;
use booking_service::domain::registration::{Registration, RegistrationState};
use uuid::Uuid;

use super::{Model, handles, refused};
use crate::snapshot::{Answer, Refused};

impl Model {
    /// The registration, for those who may know of it: its user, the event's owner, service, admin.
    fn find_registration(&self, actor: Actor, event: &Event, id: Uuid) -> Result<usize, Refused> {
        let mine = |row: &Registration| row.user_id == actor.id || handles(actor, event);
        let found = self.registrations.iter().position(|row| row.id == id && row.event_id == event.id);
        match found.filter(|&n| mine(&self.registrations[n])) {
            Some(n) => Ok(n),
            None => refused("REGISTRATION_NOT_FOUND", id),
        }
    }

    pub(super) fn set_registration(&mut self, n: usize, state: RegistrationState) {
        self.registrations[n].state = state;
        self.registrations[n].update_time = self.now;
    }

    pub(super) fn confirm(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
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

    pub(super) fn cancel(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
        let n = self.find_registration(actor, event, id)?;
        match self.registrations[n].state {
            RegistrationState::Cancelled => {}
            RegistrationState::CheckedIn | RegistrationState::Expired => {
                return refused("STATE_CONFLICT", id);
            }
            RegistrationState::Held | RegistrationState::Confirmed => {
                if self.lapsed_hold(event.id, |row| row.id == id).is_some() {
                    return refused("STATE_CONFLICT", id);
                }
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

    pub(super) fn check_in(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
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
    pub(super) fn lapsed_hold(&self, event_id: Uuid, which: impl Fn(&Registration) -> bool) -> Option<usize> {
        self.registrations.iter().position(|row| {
            row.event_id == event_id
                && row.state == RegistrationState::Held
                && row.hold_expire_time.is_some_and(|expires| self.now >= expires)
                && which(row)
        })
    }

    pub(super) fn expire_hold(&mut self, n: usize) -> Registration {
        self.set_registration(n, RegistrationState::Expired);
        self.log_registration(Actor::SYSTEM, ChangeAction::RegistrationExpired, n);
        self.serve(self.registrations[n].event_id);
        self.registrations[n].clone()
    }
}
