//! A database in memory: serves what the rules asked for and nothing else, writes what they decided, and has the checks
//! that PostgreSQL would have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use booking_service::domain::change::{Change, ChangeAction};
use booking_service::domain::command::{Action, Actor, Command, Served};
use booking_service::domain::decide::{Decision, Outcome, decide};
use booking_service::domain::effects::{Effects, Ending};
use booking_service::domain::event::{Event, EventRecord, EventState, EventText};
use booking_service::domain::facts::{Facts, Wanted};
use booking_service::domain::registration::{Registration, RegistrationState};
use booking_service::domain::waitlist::{Entry, EntryState};
use service_core::ids::IdSource;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::world::NOON;

/// Ids that rise, so that the order of ids is the order of creation.
#[derive(Default)]
struct Rising(AtomicU64);

impl IdSource for Rising {
    fn new_id(&self) -> Uuid {
        Uuid::from_u128(0x9_0000_0000 + u128::from(self.0.fetch_add(1, Ordering::Relaxed)))
    }
}

/// The tables, and the database's clock.
pub(crate) struct Store {
    pub(crate) now: OffsetDateTime,
    pub(crate) events: BTreeMap<Uuid, Event>,
    pub(crate) texts: BTreeMap<Uuid, EventText>,
    pub(crate) registrations: BTreeMap<Uuid, Registration>,
    pub(crate) entries: BTreeMap<Uuid, Entry>,
    pub(crate) changes: Vec<Change>,
    /// The last version in the log, by event.
    pub(crate) versions: BTreeMap<Uuid, i64>,
    /// How many seats a queue is given at a time, see [`Facts::portion`].
    pub(crate) portion: i32,
    /// The most of a queue that was in memory at once.
    pub(crate) most_heads: usize,
    ids: Rising,
}

impl Store {
    /// Events as CreateEvent leaves them (perhaps published), with their first row in the log.
    pub(crate) fn new(events: impl IntoIterator<Item = (Event, EventText)>) -> Self {
        let mut store = Self {
            now: NOON,
            events: BTreeMap::new(),
            texts: BTreeMap::new(),
            registrations: BTreeMap::new(),
            entries: BTreeMap::new(),
            changes: Vec::new(),
            versions: BTreeMap::new(),
            portion: 1_000,
            most_heads: 0,
            ids: Rising::default(),
        };
        for (event, text) in events {
            store.versions.insert(event.id, event.version);
            store.texts.insert(event.id, text);
            store.events.insert(event.id, event);
        }
        store
    }

    /// One batch: load, decide, write.
    pub(crate) fn run(&mut self, commands: &[Command]) -> Decision {
        let facts = self.load(commands);
        let mut decision = decide(facts, commands, &self.ids);
        assert_eq!(decision.verdicts.len(), commands.len(), "one verdict per command");
        // Seating relies on it where it has not read who they are.
        let all_are_new = commands.iter().all(Command::comes_in) && !self.knows_one_of(commands);
        assert!(
            !all_are_new || decision.effects.only_add(),
            "newcomers change nobody: {:?}",
            decision.effects
        );
        self.write(decision.effects.clone());
        for (event_id, served) in std::mem::take(&mut decision.unserved) {
            self.serve_rest(event_id, served);
            let last = decision.verdicts.iter_mut().rev().find_map(|verdict| match verdict {
                Ok(Outcome::Event(record)) if record.event.id == event_id => Some(record),
                _ => None,
            });
            last.expect("an organizer has freed them").event = self.events[&event_id].clone();
        }
        decision
    }

    /// The rest of a queue that is served portion by portion, in the same transaction.
    fn serve_rest(&mut self, event_id: Uuid, mut served: Served) {
        loop {
            let action = Action::ServeQueue { after: served };
            let serve = [Command { event_id, actor: Actor::SYSTEM, action }];
            let facts = self.load(&serve);
            let Decision { verdicts, effects, mut unserved } = decide(facts, &serve, &self.ids);
            assert_eq!(verdicts, [Ok(Outcome::Unchanged)]);
            assert!(!effects.is_empty(), "there was somebody to be served");
            self.write(effects);
            let Some((of, so_far)) = unserved.pop() else { return };
            assert_eq!((of, unserved), (event_id, Vec::new()));
            served = so_far;
        }
    }

    /// The facts that the rules ask for, as narrow as they ask for them.
    fn load(&mut self, commands: &[Command]) -> Facts {
        let mut over = BTreeSet::new();
        let mut locked = BTreeSet::new();
        for command in commands {
            assert!(!over.contains(&command.event_id), "something came after what comes last");
            locked.insert(command.event_id);
            if command.may_take_long() {
                over.insert(command.event_id);
            }
        }
        let mut facts =
            Facts::new(self.now, locked.iter().filter_map(|id| self.events.get(id).cloned()).collect());
        facts.portion = self.portion;

        let wanted = Wanted::by(commands);
        for (event_id, user_id) in wanted.users {
            let of_user = |event: Uuid, user: Uuid| event == event_id && user == user_id;
            let registrations = self.registrations.values();
            registrations
                .filter(|row| of_user(row.event_id, row.user_id) && row.state.is_active())
                .for_each(|row| facts.add_registration(row.clone()));
            let entries = self.entries.values();
            entries
                .filter(|row| of_user(row.event_id, row.user_id) && row.state.is_active())
                .for_each(|row| facts.add_entry(row.clone()));
        }
        for key in wanted.requests {
            let made_by = |event_id: Uuid, request: Option<(Uuid, Uuid)>| {
                request.is_some_and(|(actor_id, id)| (event_id, actor_id, id) == key)
            };
            let registrations = self.registrations.values();
            registrations
                .filter(|row| made_by(row.event_id, row.request.as_ref().map(|key| (key.actor_id, key.id))))
                .for_each(|row| facts.add_registration(row.clone()));
            let entries = self.entries.values();
            entries
                .filter(|row| made_by(row.event_id, row.request.as_ref().map(|key| (key.actor_id, key.id))))
                .for_each(|row| facts.add_entry(row.clone()));
        }
        for key in wanted.registrations {
            self.registration(key).into_iter().for_each(|row| facts.add_registration(row));
        }
        for (event_id, id) in wanted.entries {
            let row = self.entries.get(&id).filter(|row| row.event_id == event_id);
            row.cloned().into_iter().for_each(|row| facts.add_entry(row));
        }
        for event_id in wanted.texts {
            let text = self.texts.get(&event_id);
            text.cloned().into_iter().for_each(|text| facts.add_text(event_id, text));
        }
        for key in facts.missing_registrations() {
            self.registration(key).into_iter().for_each(|row| facts.add_registration(row));
        }
        let mut heads_read = 0;
        for heads in facts.heads_wanted(commands) {
            let mut line: Vec<&Entry> = self.waiting(heads.event_id);
            line.retain(|row| row.seats == heads.seats && row.position > heads.after);
            let limit = usize::try_from(heads.limit).expect("a limit is not negative");
            line.truncate(limit);
            heads_read += line.len();
            line.into_iter().for_each(|row| facts.add_entry(row.clone()));
        }
        self.most_heads = self.most_heads.max(heads_read);
        facts
    }

    /// Whether one of those who come in is there already.
    fn knows_one_of(&self, commands: &[Command]) -> bool {
        Wanted::by(commands).users.into_iter().any(|(event_id, user_id)| {
            let of_user = |event: Uuid, user: Uuid| event == event_id && user == user_id;
            let registered = |row: &Registration| of_user(row.event_id, row.user_id) && row.state.is_active();
            let queued = |row: &Entry| of_user(row.event_id, row.user_id) && row.state.is_active();
            self.registrations.values().any(registered) || self.entries.values().any(queued)
        })
    }

    fn registration(&self, (event_id, id): (Uuid, Uuid)) -> Option<Registration> {
        self.registrations.get(&id).filter(|row| row.event_id == event_id).cloned()
    }

    /// The line, head first.
    pub(crate) fn waiting(&self, event_id: Uuid) -> Vec<&Entry> {
        let rows = self.entries.values();
        let mut line: Vec<&Entry> =
            rows.filter(|row| row.event_id == event_id && row.state == EntryState::Waiting).collect();
        line.sort_by_key(|row| row.position);
        line
    }

    /// Writes as the database does: only the columns that its statements set, and what changed before what is new, so
    /// that the unique indexes are met.
    fn write(&mut self, effects: Effects) {
        let silent = effects.is_empty();
        let Effects {
            events,
            revised,
            deleted_events,
            endings,
            new_registrations,
            changed_registrations,
            new_entries,
            changed_entries,
            changes,
        } = effects;
        if silent {
            let rows = [events.len(), revised.len(), deleted_events.len(), endings.len()];
            let more = [
                new_registrations.len(),
                changed_registrations.len(),
                new_entries.len(),
                changed_entries.len(),
            ];
            assert_eq!((rows, more), ([0; 4], [0; 4]), "effects that say they are empty");
        }

        for new in changed_registrations {
            let old = self.registrations.get(&new.id).expect("a changed registration exists");
            assert!(registration_may_become(old.state, new.state), "{old:?} became {new:?}");
            let written = Registration {
                state: new.state,
                update_time: new.update_time,
                confirm_time: new.confirm_time,
                cancel_time: new.cancel_time,
                check_in_time: new.check_in_time,
                ..old.clone()
            };
            assert_eq!(written, new, "the other columns never change");
            self.registrations.insert(written.id, written);
        }
        for new in changed_entries {
            let old = self.entries.get(&new.id).expect("a changed entry exists");
            assert!(entry_may_become(old.state, new.state), "{old:?} became {new:?}");
            let written = Entry {
                state: new.state,
                update_time: new.update_time,
                offer_expire_time: new.offer_expire_time,
                registration_id: new.registration_id,
                ..old.clone()
            };
            assert_eq!(written, new, "the other columns never change");
            self.entries.insert(written.id, written);
        }
        for EventRecord { event, text } in revised {
            let old = self.events.get(&event.id).expect("a revised event exists");
            let written = Event {
                waitlist_size: old.waitlist_size,
                largest_party: old.largest_party,
                next_position: old.next_position,
                version: old.version,
                ..event
            };
            check_event_constraints(&written);
            self.texts.insert(written.id, text);
            self.events.insert(written.id, written);
        }
        for new in events {
            let old = self.events.get(&new.id).expect("a changed event exists");
            assert!(old.next_position <= new.next_position && old.largest_party <= new.largest_party);
            let written = Event {
                seats_remaining: new.seats_remaining,
                waitlist_size: new.waitlist_size,
                largest_party: new.largest_party,
                next_position: new.next_position,
                version: new.version,
                ..old.clone()
            };
            check_event_constraints(&written);
            assert_eq!(written, new, "the other columns change with the organizer alone");
            self.events.insert(written.id, written);
        }
        for row in new_registrations {
            self.check_registration_indexes(&row);
            let confirmed = (row.state == RegistrationState::Confirmed).then_some(self.now);
            assert_eq!((row.create_time, row.update_time, row.confirm_time), (self.now, self.now, confirmed));
            assert!(row.seats > 0 && row.cancel_time.is_none() && row.check_in_time.is_none(), "{row:?}");
            assert_eq!(self.registrations.insert(row.id, row), None, "a new registration's id is new");
        }
        for row in new_entries {
            self.check_entry_indexes(&row);
            assert_eq!((row.create_time, row.update_time), (self.now, self.now));
            assert!(row.seats > 0, "{row:?}");
            assert_eq!(self.entries.insert(row.id, row), None, "a new entry's id is new");
        }
        for event_id in &deleted_events {
            let row = self.events.remove(event_id).expect("a deleted event exists");
            assert_eq!(row.state, EventState::Draft, "what was published is never deleted");
            self.texts.remove(event_id);
        }
        changes.into_iter().for_each(|change| self.append(change));
        endings.into_iter().for_each(|ending| self.end(&ending));
    }

    /// The unique indexes over active registrations and over request ids.
    fn check_registration_indexes(&self, new: &Registration) {
        for row in self.registrations.values().filter(|row| row.event_id == new.event_id) {
            let both_active = row.state.is_active() && new.state.is_active();
            assert!(!(both_active && row.user_id == new.user_id), "registrations_active: {row:?}, {new:?}");
            let (Some(old), Some(key)) = (&row.request, &new.request) else { continue };
            assert!(
                (old.actor_id, old.id) != (key.actor_id, key.id),
                "registrations_request: {row:?}, {new:?}"
            );
        }
    }

    /// The unique indexes over active entries, positions and request ids.
    fn check_entry_indexes(&self, new: &Entry) {
        for row in self.entries.values().filter(|row| row.event_id == new.event_id) {
            let both_active = row.state.is_active() && new.state.is_active();
            assert!(
                !(both_active && row.user_id == new.user_id),
                "waitlist_entries_active: {row:?}, {new:?}"
            );
            assert!(row.position < new.position, "positions rise with arrival: {row:?}, {new:?}");
            let (Some(old), Some(key)) = (&row.request, &new.request) else { continue };
            assert!(
                (old.actor_id, old.id) != (key.actor_id, key.id),
                "waitlist_entries_request: {row:?}, {new:?}"
            );
        }
    }

    /// Appends to the log, which has no gaps.
    fn append(&mut self, change: Change) {
        let last = self.versions.get_mut(&change.event_id).expect("a change is of an event");
        *last += 1;
        assert_eq!(change.version, *last, "versions are gapless and in order: {change:?}");
        assert!(change.details.is_object() && change.time == self.now, "{change:?}");
        self.changes.push(change);
    }

    /// Carries out the end of everything that a cancelled event has.
    fn end(&mut self, ending: &Ending) {
        let Ending { event_id, actor, after_version, time } = *ending;
        assert_eq!(self.versions.get(&event_id), Some(&after_version), "the log goes on where it stands");
        let mut ended = Vec::new();
        for row in self.registrations.values_mut().filter(|row| row.event_id == event_id) {
            if row.state.is_active() {
                row.state = RegistrationState::Cancelled;
                row.cancel_time = Some(time);
                row.update_time = time;
                ended.push((ChangeAction::RegistrationCancelled, row.id, row.user_id));
            }
        }
        for row in self.entries.values_mut().filter(|row| row.event_id == event_id) {
            if row.state.is_active() {
                row.state = EntryState::Cancelled;
                row.update_time = time;
                ended.push((ChangeAction::WaitlistCancelled, row.id, row.user_id));
            }
        }
        let event = self.events.get_mut(&event_id).expect("a cancelled event exists");
        for (action, entity_id, user_id) in ended {
            event.version += 1;
            let version = event.version;
            self.changes.push(Change {
                event_id,
                version,
                actor,
                action,
                entity_id,
                subject_id: Some(user_id),
                details: serde_json::json!({}),
                time,
            });
        }
        self.versions.insert(event_id, event.version);
    }
}

fn check_event_constraints(event: &Event) {
    assert!((1..=1_000_000).contains(&event.capacity), "events_capacity_range: {event:?}");
    assert!((0..=event.capacity).contains(&event.seats_remaining), "events_seats_in_range: {event:?}");
    assert!(event.waitlist_size >= 0, "events_waitlist_range: {event:?}");
    assert!(event.start_time < event.end_time, "events_times: {event:?}");
}

/// The arrows of the contract, and those that one batch may take in a row.
fn registration_may_become(old: RegistrationState, new: RegistrationState) -> bool {
    use RegistrationState::{Cancelled, CheckedIn, Confirmed, Expired, Held};
    matches!(
        (old, new),
        (Held, Confirmed | CheckedIn | Cancelled | Expired) | (Confirmed, CheckedIn | Cancelled)
    )
}

/// The arrows of the contract, and those that one batch may take in a row.
fn entry_may_become(old: EntryState, new: EntryState) -> bool {
    use EntryState::{Accepted, Declined, Expired, Left, Offered, Promoted, Waiting};
    matches!(
        (old, new),
        (Waiting, Promoted | Offered | Accepted | Declined | Left) | (Offered, Accepted | Declined | Expired)
    )
}
