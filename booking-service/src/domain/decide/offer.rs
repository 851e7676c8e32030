//! Offer, accept, decline, lapse. An open offer holds its seats: they are not among `seats_remaining`.

use time::OffsetDateTime;
use uuid::Uuid;

use super::super::change::ChangeAction;
use super::super::command::Actor;
use super::super::event::Event;
use super::super::refusal::Refusal;
use super::super::waitlist::{Entry, EntryState};
use super::{Outcome, Table, Verdict};

impl Table<'_> {
    /// Keeps seats for the entry until `expires`.
    pub(super) fn offer(&mut self, mut entry: Entry, expires: OffsetDateTime) {
        self.change_event(entry.event_id, |event| {
            event.seats_remaining -= entry.seats;
            event.waitlist_size -= 1;
        });
        entry.state = EntryState::Offered;
        entry.offer_expire_time = Some(expires);
        entry.update_time = self.facts.now;
        self.log_entry(Actor::SYSTEM, ChangeAction::WaitlistOffered, &entry);
        self.put_entry(entry);
    }

    pub(super) fn accept_offer(&mut self, actor: Actor, event: &Event, entry_id: Uuid) -> Verdict {
        let mut entry = self.own_entry(actor, event, entry_id)?;
        match entry.state {
            EntryState::Accepted => {
                let registration = entry.registration_id.and_then(|id| self.facts.registrations.get(&id));
                return match registration.cloned() {
                    Some(registration) => Ok(Outcome::Accepted { registration, entry }),
                    None => Err(Refusal::EntryState { entry_id, state: entry.state }),
                };
            }
            EntryState::Expired => return Err(Refusal::OfferExpired { entry_id }),
            // As with holds, the clock decides and not the sweeper.
            EntryState::Offered if entry.offer_lapsed(self.facts.now) => {
                return Err(Refusal::OfferExpired { entry_id });
            }
            EntryState::Offered => {}
            EntryState::Waiting
            | EntryState::Promoted
            | EntryState::Declined
            | EntryState::Left
            | EntryState::Cancelled => return Err(Refusal::EntryState { entry_id, state: entry.state }),
        }
        self.check_not_over(event)?;
        // The seats pass from the offer to the registration: seats_remaining does not change.
        let registration = self.seat(&entry);
        entry.state = EntryState::Accepted;
        entry.registration_id = Some(registration.id);
        entry.update_time = self.facts.now;
        self.log_entry(actor, ChangeAction::OfferAccepted, &entry);
        self.put_entry(entry.clone());
        self.log_registration(actor, ChangeAction::RegistrationCreated, &registration);
        self.add_registration(registration.clone());
        Ok(Outcome::Accepted { registration, entry })
    }

    pub(super) fn decline_offer(&mut self, actor: Actor, event: &Event, entry_id: Uuid) -> Verdict {
        let mut entry = self.own_entry(actor, event, entry_id)?;
        match entry.state {
            EntryState::Declined => Ok(Outcome::Entry(entry)),
            // The clock decides here too: what has lapsed moves on as lapsed.
            EntryState::Offered if entry.offer_lapsed(self.facts.now) => {
                Err(Refusal::OfferExpired { entry_id })
            }
            EntryState::Offered => {
                entry.state = EntryState::Declined;
                self.withdraw(actor, ChangeAction::OfferDeclined, &mut entry);
                Ok(Outcome::Entry(entry))
            }
            EntryState::Expired => Err(Refusal::OfferExpired { entry_id }),
            EntryState::Waiting
            | EntryState::Promoted
            | EntryState::Accepted
            | EntryState::Left
            | EntryState::Cancelled => Err(Refusal::EntryState { entry_id, state: entry.state }),
        }
    }

    /// Ends an offer whose time has passed; anything else stays as it is.
    pub(super) fn expire_offer(&mut self, event: &Event, entry_id: Uuid) -> Outcome {
        let row = self.facts.entries.get(&entry_id).filter(|row| row.event_id == event.id);
        let Some(mut entry) = row.filter(|row| row.offer_lapsed(self.facts.now)).cloned() else {
            return Outcome::Unchanged;
        };
        entry.state = EntryState::Expired;
        self.withdraw(Actor::SYSTEM, ChangeAction::OfferExpired, &mut entry);
        Outcome::Entry(entry)
    }

    /// Frees the seats of an offer that has just ended, and serves the queue with them.
    fn withdraw(&mut self, actor: Actor, action: ChangeAction, entry: &mut Entry) {
        entry.update_time = self.facts.now;
        self.change_event(entry.event_id, |event| event.seats_remaining += entry.seats);
        self.log_entry(actor, action, entry);
        self.put_entry(entry.clone());
        self.serve_queue(entry.event_id);
    }
}
