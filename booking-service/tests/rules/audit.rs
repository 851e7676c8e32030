//! What has to be true after every commit.

use std::collections::BTreeMap;

use booking_service::domain::event::{EventState, QueueDiscipline};
use booking_service::domain::registration::RegistrationState;
use booking_service::domain::verify::{Counted, verify};
use booking_service::domain::waitlist::{Entry, EntryState};
use uuid::Uuid;

use crate::store::Store;

impl Store {
    /// The invariant of every commit, from the rows; and that VerifyEvent sees it too.
    pub(crate) fn audit(&self) {
        for event in self.events.values() {
            let registrations = || self.registrations.values().filter(|row| row.event_id == event.id);
            let entries = || self.entries.values().filter(|row| row.event_id == event.id);
            let in_state = |state| registrations().filter(move |row| row.state == state);
            let seats = |state| in_state(state).map(|row| i64::from(row.seats)).sum::<i64>();
            let offers = entries().filter(|row| row.state == EntryState::Offered);
            let line = self.waiting(event.id);
            let log = self.changes.iter().filter(|change| change.event_id == event.id);

            let counted = Counted {
                seats_held: seats(RegistrationState::Held),
                seats_confirmed: seats(RegistrationState::Confirmed),
                seats_checked_in: seats(RegistrationState::CheckedIn),
                seats_offered: offers.map(|row| i64::from(row.seats)).sum(),
                waiting_entries: i64::try_from(line.len()).expect("few"),
                users_registered_twice: twice(
                    registrations().filter(|row| row.state.is_active()).map(|row| row.user_id),
                ),
                users_queued_twice: twice(
                    entries().filter(|row| row.state.is_active()).map(|row| row.user_id),
                ),
                users_registered_and_queued: twice(
                    registrations()
                        .filter(|row| row.state.is_active())
                        .map(|row| row.user_id)
                        .chain(entries().filter(|row| row.state.is_active()).map(|row| row.user_id)),
                ),
                last_position: entries().map(|row| row.position).max().unwrap_or(0),
                head_seats: line.first().map(|row| i64::from(row.seats)),
                smallest_waiting: line.iter().map(|row| i64::from(row.seats)).min(),
                // The row of CreateEvent, which the rules do not write.
                changes: i64::try_from(log.count()).expect("few") + 1,
                last_version: self.versions[&event.id],
                first_version: 1,
            };
            let taken = counted.seats_held
                + counted.seats_confirmed
                + counted.seats_checked_in
                + counted.seats_offered;
            assert_eq!(i64::from(event.capacity), i64::from(event.seats_remaining) + taken, "{event:?}");

            let open = event.state == EventState::Published && self.now < event.end_time;
            let could_sit = |row: &&&Entry| row.seats <= event.seats_remaining;
            let kept_waiting = match event.queue_discipline {
                QueueDiscipline::Strict => line.first().filter(could_sit),
                QueueDiscipline::SkipAhead => line.iter().find(could_sit),
            };
            assert!(!open || kept_waiting.is_none(), "{kept_waiting:?} waits for free seats of {event:?}");
            assert_eq!(verify(event, &counted, open), [], "{event:?}");
            if event.state != EventState::Published {
                let active = registrations().any(|row| row.state.is_active());
                assert!(!active && !entries().any(|row| row.state.is_active()), "{event:?} still has people");
            }
        }
    }
}

/// How many users come more than once.
fn twice(users: impl Iterator<Item = Uuid>) -> i64 {
    let mut counts: BTreeMap<Uuid, i64> = BTreeMap::new();
    users.for_each(|user| *counts.entry(user).or_default() += 1);
    i64::try_from(counts.values().filter(|&&count| count > 1).count()).expect("few")
}
