//! What the rules have to know about a batch of commands: which rows to read, and the rows once read.

use std::collections::{BTreeMap, HashMap, HashSet};

use time::OffsetDateTime;
use uuid::Uuid;

use super::authority;
use super::command::{Action, Command, Join, Register, Served};
use super::event::{Event, EventText};
use super::queue::Queue;
use super::registration::Registration;
use super::schedule::LARGEST_PARTY;
use super::waitlist::{Entry, EntryState};

/// Rows to read with the events. Each pair leads with the event that the row belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Active registrations and entries of these users, by (event, user).
    pub users: Vec<(Uuid, Uuid)>,
    /// Whatever was made with these request ids, by (event, caller, request id).
    pub requests: Vec<(Uuid, Uuid, Uuid)>,
    /// These registrations.
    pub registrations: Vec<(Uuid, Uuid)>,
    /// These entries, and the registrations that they became.
    pub entries: Vec<(Uuid, Uuid)>,
    /// The texts of these events.
    pub texts: Vec<Uuid>,
}

impl Wanted {
    /// What these commands need.
    pub fn by<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Self {
        let mut wanted = Self::default();
        for command in commands {
            let event_id = command.event_id;
            match &command.action {
                Action::Register(Register { user_id, request, .. })
                | Action::Join(Join { user_id, request, .. }) => {
                    wanted.users.push((event_id, *user_id));
                    wanted.requests.extend(request.iter().map(|key| (event_id, key.actor_id, key.id)));
                }
                Action::Confirm { registration_id }
                | Action::CancelRegistration { registration_id }
                | Action::CheckIn { registration_id }
                | Action::ExpireHold { registration_id } => {
                    wanted.registrations.push((event_id, *registration_id));
                }
                Action::Leave { entry_id }
                | Action::AcceptOffer { entry_id }
                | Action::DeclineOffer { entry_id }
                | Action::ExpireOffer { entry_id } => wanted.entries.push((event_id, *entry_id)),
                Action::Update(_)
                | Action::Publish { .. }
                | Action::CancelEvent { .. }
                | Action::DeleteEvent { .. } => wanted.texts.push(event_id),
                Action::ServeQueue { .. } => {}
            }
        }
        wanted
    }
}

/// Waiting entries to read: the first `limit` of one size in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadsWanted {
    /// Whose queue.
    pub event_id: Uuid,
    /// The size of party.
    pub seats: i32,
    /// How many.
    pub limit: i64,
    /// From above this position on: those before it no longer wait. As this very transaction wrote it, the index still has them
    /// all, and whoever looks from the beginning walks past them.
    pub after: i64,
}

/// [`Facts::portion`], unless a test has it smaller. A party costs some 5 KiB until it is written, with all the labels that it may
/// have ten times as much. Larger portions are no quicker: 100,000 parties came in within 6 s so, with 30 MiB at most in the
/// process, and all at once within 6 s, with 570 (2 cores, with PostgreSQL on them).
const PORTION: i32 = 250;

/// The rows, indexed by what the rules ask for.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The database's clock: as it was read with the events or, where they are remembered, has gone on since.
    pub now: OffsetDateTime,
    /// How many seats the queue is given at a time by a command that may take long: so much of it, and a few parties of each size
    /// more, has to be in memory, however many seats an organizer has added. At least 1.
    pub portion: i32,
    pub(super) events: HashMap<Uuid, Event>,
    pub(super) texts: HashMap<Uuid, EventText>,
    pub(super) registrations: HashMap<Uuid, Registration>,
    pub(super) entries: HashMap<Uuid, Entry>,
    /// Active registrations by (event, user).
    pub(super) registered: HashMap<(Uuid, Uuid), Uuid>,
    /// Active entries by (event, user).
    pub(super) queued: HashMap<(Uuid, Uuid), Uuid>,
    /// What request ids made, by (event, caller, request id).
    pub(super) made: HashMap<(Uuid, Uuid, Uuid), Made>,
    pub(super) queues: HashMap<Uuid, Queue>,
}

/// What a request id made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Registration(Uuid),
    Entry(Uuid),
}

impl Facts {
    /// The events. One that is not among them does not exist.
    pub fn new(now: OffsetDateTime, events: Vec<Event>) -> Self {
        Self {
            now,
            portion: PORTION,
            events: events.into_iter().map(|event| (event.id, event)).collect(),
            texts: HashMap::new(),
            registrations: HashMap::new(),
            entries: HashMap::new(),
            registered: HashMap::new(),
            queued: HashMap::new(),
            made: HashMap::new(),
            queues: HashMap::new(),
        }
    }

    /// Adds an event's text.
    pub fn add_text(&mut self, event_id: Uuid, text: EventText) {
        self.texts.insert(event_id, text);
    }

    /// Adds a registration.
    pub fn add_registration(&mut self, registration: Registration) {
        if registration.state.is_active() {
            self.registered.insert((registration.event_id, registration.user_id), registration.id);
        }
        if let Some(key) = &registration.request {
            let made = Made::Registration(registration.id);
            self.made.insert((registration.event_id, key.actor_id, key.id), made);
        }
        self.registrations.insert(registration.id, registration);
    }

    /// Adds a queue entry.
    pub fn add_entry(&mut self, entry: Entry) {
        if entry.state.is_active() {
            self.queued.insert((entry.event_id, entry.user_id), entry.id);
        }
        if entry.state == EntryState::Waiting {
            self.queues.entry(entry.event_id).or_default().insert(entry.seats, entry.position, entry.id);
        }
        if let Some(key) = &entry.request {
            self.made.insert((entry.event_id, key.actor_id, key.id), Made::Entry(entry.id));
        }
        self.entries.insert(entry.id, entry);
    }

    /// The registrations that loaded entries have become and that are still to be read, by (event, id).
    pub fn missing_registrations(&self) -> Vec<(Uuid, Uuid)> {
        self.entries
            .values()
            .filter_map(|entry| Some((entry.event_id, entry.registration_id?)))
            .filter(|(_, registration_id)| !self.registrations.contains_key(registration_id))
            .collect()
    }

    /// How much of which queues these commands can reach.
    ///
    /// If they can free at most F seats of an event (those free now and those of entries that leave counted), then of
    /// parties of size s at most F / s are served or leave: the first F / s + 1 of each size are all that
    /// [`super::decide::decide`] can look at, however long the queue is. What an organizer frees is given away in portions:
    /// however many seats that are, of this batch's F they are one portion and its last party.
    pub fn heads_wanted<'a>(&self, commands: impl IntoIterator<Item = &'a Command>) -> Vec<HeadsWanted> {
        #[derive(Default)]
        struct Reach<'a> {
            freed: i64,
            serves: bool,
            portioned: Portioned<'a>,
        }
        /// What is given away in portions.
        #[derive(Default)]
        enum Portioned<'a> {
            #[default]
            Nothing,
            /// Seats more than the event had.
            Raised(i64),
            /// What a portion has left of those, all that are free: the last of the batch, and alone in it.
            Rest(&'a Served),
        }
        let mut reach: BTreeMap<Uuid, Reach<'_>> = BTreeMap::new();
        // The same seats may be named twice in a batch but are freed once.
        let mut counted: HashSet<Uuid> = HashSet::new();
        for command in commands {
            let Some(event) = self.events.get(&command.event_id) else { continue };
            let reach = reach.entry(event.id).or_default();
            let mut frees = |id: Uuid, seats: i32| {
                reach.serves = true;
                if counted.insert(id) {
                    reach.freed += i64::from(seats);
                }
            };
            match &command.action {
                Action::Register(Register { user_id, .. }) | Action::Join(Join { user_id, .. }) => {
                    // A lapsed hold or offer of the same user is released on the way.
                    let held =
                        self.registered.get(&(event.id, *user_id)).and_then(|id| self.registrations.get(id));
                    if let Some(registration) = held.filter(|row| row.hold_lapsed(self.now)) {
                        frees(registration.id, registration.seats);
                    }
                    let offered = self.queued.get(&(event.id, *user_id)).and_then(|id| self.entries.get(id));
                    if let Some(entry) = offered.filter(|row| row.offer_lapsed(self.now)) {
                        frees(entry.id, entry.seats);
                    }
                }
                Action::CancelRegistration { registration_id } | Action::ExpireHold { registration_id } => {
                    let named = self.registrations.get(registration_id);
                    let named = named.filter(|row| row.event_id == event.id && row.state.is_active());
                    if let Some(registration) = named {
                        frees(registration.id, registration.seats);
                    }
                }
                Action::Leave { entry_id }
                | Action::DeclineOffer { entry_id }
                | Action::ExpireOffer { entry_id } => {
                    let named = self.entries.get(entry_id);
                    let named = named.filter(|row| row.event_id == event.id && row.state.is_active());
                    if let Some(entry) = named {
                        frees(entry.id, entry.seats);
                    }
                }
                // A queue is long, and looking into it is for those who may change its event.
                // (Not for the right etag alone: that is not known before the commands ahead of this one are applied.)
                Action::Update(patch)
                    if patch.may_seat_queue() && authority::runs_event(command.actor, event.organizer_id) =>
                {
                    let capacity = patch.capacity.unwrap_or(event.capacity);
                    reach.serves = true;
                    reach.portioned =
                        Portioned::Raised(i64::from(capacity.saturating_sub(event.capacity).max(0)));
                }
                Action::ServeQueue { after } => {
                    reach.serves = true;
                    reach.portioned = Portioned::Rest(after);
                }
                Action::Update(_)
                | Action::Confirm { .. }
                | Action::CheckIn { .. }
                | Action::AcceptOffer { .. }
                | Action::Publish { .. }
                | Action::CancelEvent { .. }
                | Action::DeleteEvent { .. } => {}
            }
        }

        let mut wanted = Vec::new();
        for (event_id, reach) in reach {
            let Some(event) = self.events.get(&event_id) else { continue };
            // An event that is over stays so: its organizer can change it no more.
            if !reach.serves || event.waitlist_size == 0 || !event.serves_queue(self.now) {
                continue;
            }
            let largest = event.largest_party.min(LARGEST_PARTY);
            // Of these seats no more than a portion is given away, and the last party that begins within it. (A larger one that
            // joins in this batch is in memory anyway.)
            let portion = i64::from(self.portion) + i64::from(largest);
            let free = match reach.portioned {
                Portioned::Nothing => i64::from(event.seats_remaining) + reach.freed,
                Portioned::Raised(raised) => {
                    i64::from(event.seats_remaining) + reach.freed + raised.min(portion)
                }
                Portioned::Rest(_) => i64::from(event.seats_remaining).min(portion),
            };
            for seats in 1..=largest {
                let limit = (free / i64::from(seats) + 1).min(i64::from(event.waitlist_size));
                let after = match reach.portioned {
                    Portioned::Rest(after) => after.get(&seats).copied().unwrap_or_default(),
                    Portioned::Nothing | Portioned::Raised(_) => 0,
                };
                wanted.push(HeadsWanted { event_id, seats, limit, after });
            }
        }
        wanted
    }
}
