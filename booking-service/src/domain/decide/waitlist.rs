//! Join and leave.

use uuid::Uuid;

use super::super::authority;
use super::super::change::ChangeAction;
use super::super::command::{Actor, Join, RequestKey};
use super::super::event::Event;
use super::super::refusal::Refusal;
use super::super::registration::Labels;
use super::super::waitlist::{Entry, EntryState};
use super::{Outcome, Table, Verdict};

impl Table<'_> {
    pub(super) fn join(&mut self, actor: Actor, event: &Event, join: &Join) -> Verdict {
        if !authority::acts_for(actor, join.user_id, event.organizer_id) {
            return Err(Refusal::RoleRequired {
                needed: "the user, a service, the event's organizer or an admin",
            });
        }
        if let Some(outcome) = self.replay(event.id, join.request.as_ref())? {
            return Ok(outcome);
        }
        self.check_newcomer(event, join.user_id, join.seats)?;

        let event = self.visible_event(actor, event.id)?;
        if event.seats_newcomer(join.seats) {
            return Err(Refusal::SeatsAvailable {
                event_id: event.id,
                seats_remaining: event.seats_remaining,
            });
        }
        let entry =
            self.queue_up(actor, &event, join.user_id, join.seats, &join.labels, join.request.as_ref());
        Ok(Outcome::Entry(entry))
    }

    /// Gives a place at the end of the line.
    pub(super) fn queue_up(
        &mut self,
        actor: Actor,
        event: &Event,
        user_id: Uuid,
        seats: i32,
        labels: &Labels,
        request: Option<&RequestKey>,
    ) -> Entry {
        let row = Entry {
            event_id: event.id,
            id: self.ids.new_id(),
            user_id,
            seats,
            state: EntryState::Waiting,
            // Counted by the event, and never given back: counting rows would give a place twice.
            position: event.next_position,
            offer_expire_time: None,
            registration_id: None,
            labels: labels.clone(),
            request: request.cloned(),
            create_time: self.facts.now,
            update_time: self.facts.now,
        };
        self.change_event(event.id, |event| {
            event.next_position += 1;
            event.waitlist_size += 1;
            event.largest_party = event.largest_party.max(seats);
        });
        self.log_entry(actor, ChangeAction::WaitlistJoined, &row);
        self.add_entry(row.clone());
        row
    }

    pub(super) fn leave(&mut self, actor: Actor, event: &Event, entry_id: Uuid) -> Verdict {
        let mut row = self.own_entry(actor, event, entry_id)?;
        match row.state {
            EntryState::Left => Ok(Outcome::Entry(row)),
            // Swept or not, it has expired.
            EntryState::Offered if row.offer_lapsed(self.facts.now) => {
                Err(Refusal::EntryState { entry_id, state: EntryState::Expired })
            }
            // Whoever leaves while an offer stands turns it down; sent twice, it gives one answer.
            EntryState::Offered | EntryState::Declined => self.decline_offer(actor, event, entry_id),
            EntryState::Promoted | EntryState::Accepted | EntryState::Expired | EntryState::Cancelled => {
                Err(Refusal::EntryState { entry_id, state: row.state })
            }
            EntryState::Waiting => {
                row.state = EntryState::Left;
                row.update_time = self.facts.now;
                self.change_event(event.id, |event| event.waitlist_size -= 1);
                self.log_entry(actor, ChangeAction::WaitlistLeft, &row);
                self.put_entry(row.clone());
                // The head may have been what kept the others from idle seats.
                self.serve_queue(event.id);
                Ok(Outcome::Entry(row))
            }
        }
    }
}
