//! What one run of a sequence came to, in a form in which runs can be compared: ids replaced by the order of creation.

use booking_service::domain::change::ChangeAction;
use booking_service::domain::command::{Action, Actor, Command};
use booking_service::domain::decide::{Outcome, Verdict};
use booking_service::domain::event::{Event, EventText};
use booking_service::domain::refusal::Refusal;
use booking_service::domain::registration::Registration;
use booking_service::domain::waitlist::Entry;
use uuid::Uuid;

use crate::store::Store;

/// The name of the n-th registration of a run.
pub(crate) fn nth_registration(n: usize) -> Uuid {
    Uuid::from_u128(0x10_0000 + u128::try_from(n).expect("few"))
}

/// The name of the n-th queue entry of a run.
pub(crate) fn nth_entry(n: usize) -> Uuid {
    Uuid::from_u128(0x20_0000 + u128::try_from(n).expect("few"))
}

/// All rows.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) events: Vec<(Event, EventText)>,
    pub(crate) registrations: Vec<Registration>,
    pub(crate) entries: Vec<Entry>,
    /// By event and version.
    pub(crate) log: Vec<Logged>,
}

/// A row of the log, less the details.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Logged {
    pub(crate) event_id: Uuid,
    pub(crate) version: i64,
    pub(crate) actor: Actor,
    pub(crate) action: ChangeAction,
    pub(crate) entity_id: Uuid,
    pub(crate) subject_id: Option<Uuid>,
}

/// What a client hears.
pub(crate) type Answer = Result<Outcome, Refused>;

/// A refusal: the contract's reason, what it names, and the numbers that it tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) reason: &'static str,
    pub(crate) named: Option<Uuid>,
    pub(crate) numbers: Vec<i32>,
}

impl Refused {
    pub(crate) fn new(reason: &'static str, named: Uuid) -> Self {
        Self { reason, named: Some(named), numbers: Vec::new() }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let told = |reason, named, numbers| Self { reason, named, numbers };
        match refusal {
            Refusal::Invalid(_) => told("VALIDATION_FAILED", None, vec![]),
            Refusal::RoleRequired { .. } => told("ROLE_REQUIRED", None, vec![]),
            Refusal::EventNotFound { event_id } => Self::new("EVENT_NOT_FOUND", event_id),
            Refusal::RegistrationNotFound { registration_id } => {
                Self::new("REGISTRATION_NOT_FOUND", registration_id)
            }
            Refusal::EntryNotFound { entry_id } => Self::new("WAITLIST_ENTRY_NOT_FOUND", entry_id),
            Refusal::AlreadyRegistered { registration_id, .. } => {
                Self::new("ALREADY_REGISTERED", registration_id)
            }
            Refusal::AlreadyWaitlisted { entry_id, .. } => Self::new("ALREADY_WAITLISTED", entry_id),
            Refusal::RequestIdReused { request_id } => Self::new("REQUEST_ID_REUSED", request_id),
            Refusal::EventFull { event_id, seats, seats_remaining, waitlist_size } => {
                told("EVENT_FULL", Some(event_id), vec![seats, seats_remaining, waitlist_size])
            }
            Refusal::EventNotPublished { event_id } => Self::new("EVENT_NOT_PUBLISHED", event_id),
            Refusal::EventCancelled { event_id } => Self::new("EVENT_CANCELLED", event_id),
            Refusal::RegistrationClosed { event_id, .. } => Self::new("REGISTRATION_CLOSED", event_id),
            Refusal::SeatsAvailable { event_id, seats_remaining, .. } => {
                told("SEATS_AVAILABLE", Some(event_id), vec![seats_remaining])
            }
            Refusal::HoldExpired { registration_id, .. } => Self::new("HOLD_EXPIRED", registration_id),
            Refusal::OfferExpired { entry_id, .. } => Self::new("OFFER_EXPIRED", entry_id),
            Refusal::RegistrationState { registration_id, .. } => {
                Self::new("STATE_CONFLICT", registration_id)
            }
            Refusal::EntryState { entry_id, .. } => Self::new("STATE_CONFLICT", entry_id),
            Refusal::EventOver { event_id, .. } | Refusal::NotADraft { event_id, .. } => {
                Self::new("STATE_CONFLICT", event_id)
            }
            Refusal::CapacityBelowTaken { event_id, capacity, taken } => {
                told("CAPACITY_BELOW_TAKEN", Some(event_id), vec![capacity, taken])
            }
            Refusal::EtagMismatch { event_id, .. } => Self::new("ETAG_MISMATCH", event_id),
        }
    }
}

impl Store {
    /// The id of what has this name here; `None` if it is not there yet. What names nothing of a run stays as it is.
    fn id_of(&self, name: Uuid) -> Option<Uuid> {
        let nth = |first: Uuid| name.as_u128().checked_sub(first.as_u128()).filter(|&n| n < 0x10_0000);
        let place = |n: u128| usize::try_from(n).expect("few");
        if let Some(n) = nth(nth_registration(0)) {
            self.registrations.keys().nth(place(n)).copied()
        } else if let Some(n) = nth(nth_entry(0)) {
            self.entries.keys().nth(place(n)).copied()
        } else {
            Some(name)
        }
    }

    /// The command with this run's ids; `None` if it names what is still to be made.
    pub(crate) fn address(&self, command: &Command) -> Option<Command> {
        let mut command = command.clone();
        match &mut command.action {
            Action::Confirm { registration_id: id }
            | Action::CancelRegistration { registration_id: id }
            | Action::CheckIn { registration_id: id }
            | Action::ExpireHold { registration_id: id }
            | Action::Leave { entry_id: id }
            | Action::AcceptOffer { entry_id: id }
            | Action::DeclineOffer { entry_id: id }
            | Action::ExpireOffer { entry_id: id } => *id = self.id_of(*id)?,
            Action::Register(_)
            | Action::Join(_)
            | Action::ServeQueue { .. }
            | Action::Update(_)
            | Action::Publish { .. }
            | Action::CancelEvent { .. }
            | Action::DeleteEvent { .. } => {}
        }
        Some(command)
    }

    /// The name of what has this id here.
    fn name_of(&self, id: Uuid) -> Uuid {
        if self.registrations.contains_key(&id) {
            nth_registration(self.registrations.range(..id).count())
        } else if self.entries.contains_key(&id) {
            nth_entry(self.entries.range(..id).count())
        } else {
            id
        }
    }

    fn name_registration(&self, mut row: Registration) -> Registration {
        row.id = self.name_of(row.id);
        row.waitlist_entry_id = row.waitlist_entry_id.map(|id| self.name_of(id));
        row
    }

    fn name_entry(&self, mut row: Entry) -> Entry {
        row.id = self.name_of(row.id);
        row.registration_id = row.registration_id.map(|id| self.name_of(id));
        row
    }

    /// The answer with names instead of ids.
    pub(crate) fn answer(&self, verdict: Verdict) -> Answer {
        match verdict {
            Ok(Outcome::Registration(row)) => Ok(Outcome::Registration(self.name_registration(row))),
            Ok(Outcome::Entry(row)) => Ok(Outcome::Entry(self.name_entry(row))),
            Ok(Outcome::Accepted { registration, entry }) => Ok(Outcome::Accepted {
                registration: self.name_registration(registration),
                entry: self.name_entry(entry),
            }),
            Ok(Outcome::CheckedIn { registration, already }) => {
                Ok(Outcome::CheckedIn { registration: self.name_registration(registration), already })
            }
            Ok(outcome @ (Outcome::Event(_) | Outcome::Unchanged)) => Ok(outcome),
            Err(refusal) => {
                let mut refused = Refused::from(refusal);
                refused.named = refused.named.map(|id| self.name_of(id));
                Err(refused)
            }
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let text = |id| self.texts.get(id).cloned().expect("every event has its text");
        let mut log: Vec<Logged> = self
            .changes
            .iter()
            .map(|change| Logged {
                event_id: change.event_id,
                version: change.version,
                actor: change.actor,
                action: change.action,
                entity_id: self.name_of(change.entity_id),
                subject_id: change.subject_id,
            })
            .collect();
        log.sort_by_key(|row| (row.event_id, row.version));
        Snapshot {
            events: self.events.values().map(|event| (event.clone(), text(&event.id))).collect(),
            registrations: self
                .registrations
                .values()
                .map(|row| self.name_registration(row.clone()))
                .collect(),
            entries: self.entries.values().map(|row| self.name_entry(row.clone())).collect(),
            log,
        }
    }
}
