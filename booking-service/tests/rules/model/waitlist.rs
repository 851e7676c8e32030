//! Leave, accept, decline, lapse.

use booking_service::domain::change::ChangeAction;
use booking_service::domain::command::Actor;
use booking_service::domain::decide::Outcome;
use booking_service::domain::event::Event;
use booking_service::domain::waitlist::{Entry, EntryState};
use uuid::Uuid;

use super::{Model, handles, refused};
use crate::snapshot::{Answer, Refused};

impl Model {
    /// The entry, for those who may know of it: its user, the event's owner, service, admin.
    fn find_entry(&self, actor: Actor, event: &Event, id: Uuid) -> Result<usize, Refused> {
        let mine = |row: &Entry| row.user_id == actor.id || handles(actor, event);
        let found = self.entries.iter().position(|row| row.id == id && row.event_id == event.id);
        match found.filter(|&n| mine(&self.entries[n])) {
            Some(n) => Ok(n),
            None => refused("WAITLIST_ENTRY_NOT_FOUND", id),
        }
    }

    pub(super) fn set_entry(&mut self, n: usize, state: EntryState) {
        self.entries[n].state = state;
        self.entries[n].update_time = self.now;
    }

    pub(super) fn leave(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
        let n = self.find_entry(actor, event, id)?;
        match self.entries[n].state {
            EntryState::Left => {}
            EntryState::Offered if self.lapsed_offer(event.id, |row| row.id == id).is_some() => {
                return refused("STATE_CONFLICT", id);
            }
            // Who leaves with an offer in hand turns it down.
            EntryState::Offered | EntryState::Declined => return self.decline(actor, event, id),
            EntryState::Waiting => {
                self.set_entry(n, EntryState::Left);
                self.log_entry(actor, ChangeAction::WaitlistLeft, n);
                self.serve(event.id);
            }
            _ => return refused("STATE_CONFLICT", id),
        }
        Ok(Outcome::Entry(self.entries[n].clone()))
    }

    pub(super) fn accept(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
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

    pub(super) fn decline(&mut self, actor: Actor, event: &Event, id: Uuid) -> Answer {
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

    pub(super) fn lapsed_offer(&self, event_id: Uuid, which: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.entries.iter().position(|row| {
            row.event_id == event_id
                && row.state == EntryState::Offered
                && row.offer_expire_time.is_some_and(|expires| self.now >= expires)
                && which(row)
        })
    }

    pub(super) fn expire_offer(&mut self, n: usize) -> Entry {
        self.set_entry(n, EntryState::Expired);
        self.log_entry(Actor::SYSTEM, ChangeAction::OfferExpired, n);
        self.serve(self.entries[n].event_id);
        self.entries[n].clone()
    }
}
