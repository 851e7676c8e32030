//! What a batch leaves to be written.

use time::OffsetDateTime;
use uuid::Uuid;

use super::change::Change;
use super::command::Actor;
use super::event::{Event, EventRecord};
use super::registration::Registration;
use super::waitlist::Entry;

/// So many changes, and fewer, are written within seconds.
const MANY: usize = 10_000;

/// Rows in their final form: however often a batch touched a row, it is written once.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Changed events: their counters.
    pub events: Vec<Event>,
    /// Events that their organizer changed, with their texts; they are among `events` as well.
    pub revised: Vec<EventRecord>,
    /// Removed drafts.
    pub deleted_events: Vec<Uuid>,
    /// Cancelled events, whose registrations and entries all end.
    pub endings: Vec<Ending>,
    /// New registrations.
    pub new_registrations: Vec<Registration>,
    /// Changed registrations.
    pub changed_registrations: Vec<Registration>,
    /// New queue entries.
    pub new_entries: Vec<Entry>,
    /// Changed queue entries.
    pub changed_entries: Vec<Entry>,
    /// Rows of the change log, in order.
    pub changes: Vec<Change>,
}

impl Effects {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        // Every effect is logged, so the log tells.
        self.changes.is_empty()
    }

    /// When all of it happens: at the one moment of its facts. `None` if there is nothing to write.
    pub fn time(&self) -> Option<OffsetDateTime> {
        self.changes.first().map(|change| change.time)
    }

    /// Whether writing it can take minutes: an event ends, or much of its queue came in at once.
    pub fn take_long(&self) -> bool {
        !self.endings.is_empty() || self.changes.len() > MANY
    }

    /// Whether it is nothing but new rows, beside the events' counters.
    pub fn only_add(&self) -> bool {
        self.are_one_statement() && self.changed_registrations.is_empty() && self.changed_entries.is_empty()
    }

    /// Whether it can all be written by one statement: there is nothing that only an organizer does.
    pub fn are_one_statement(&self) -> bool {
        self.revised.is_empty() && self.deleted_events.is_empty() && self.endings.is_empty()
    }
}

/// The end of everything that a cancelled event has: too much to pass through memory, so it is carried out by a
/// statement of its own, after everything else of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The cancelled event.
    pub event_id: Uuid,
    /// Who cancelled it.
    pub actor: Actor,
    /// The log goes on after this version.
    pub after_version: i64,
    /// When.
    pub time: OffsetDateTime,
}
