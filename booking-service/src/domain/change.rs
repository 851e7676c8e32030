//! The change log: what happened, in order, gapless per event.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::command::Actor;
use super::registration::Registration;
use super::waitlist::Entry;
use super::word::word_enum;

word_enum! {
    /// What happened.
    pub enum ChangeAction {
        /// A draft was made.
        EventCreated = "EVENT_CREATED",
        /// The organizer changed fields.
        EventUpdated = "EVENT_UPDATED",
        /// The event became public.
        EventPublished = "EVENT_PUBLISHED",
        /// The event was called off.
        EventCancelled = "EVENT_CANCELLED",
        /// A draft was removed.
        EventDeleted = "EVENT_DELETED",
        /// Seats were taken at once.
        RegistrationCreated = "REGISTRATION_CREATED",
        /// Seats were held.
        RegistrationHeld = "REGISTRATION_HELD",
        /// A hold was confirmed.
        RegistrationConfirmed = "REGISTRATION_CONFIRMED",
        /// Seats were given back.
        RegistrationCancelled = "REGISTRATION_CANCELLED",
        /// A hold lapsed.
        RegistrationExpired = "REGISTRATION_EXPIRED",
        /// The party arrived.
        RegistrationCheckedIn = "REGISTRATION_CHECKED_IN",
        /// A place in the queue was taken.
        WaitlistJoined = "WAITLIST_JOINED",
        /// A place in the queue was given up.
        WaitlistLeft = "WAITLIST_LEFT",
        /// An entry became a registration.
        WaitlistPromoted = "WAITLIST_PROMOTED",
        /// Seats were offered to an entry.
        WaitlistOffered = "WAITLIST_OFFERED",
        /// The offer became a registration.
        OfferAccepted = "OFFER_ACCEPTED",
        /// The offer was turned down.
        OfferDeclined = "OFFER_DECLINED",
        /// The offer lapsed.
        OfferExpired = "OFFER_EXPIRED",
        /// The entry ended with the event.
        WaitlistCancelled = "WAITLIST_CANCELLED",
    }
}

/// One row of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The event.
    pub event_id: Uuid,
    /// 1, 2, 3 … per event.
    pub version: i64,
    /// Who did it.
    pub actor: Actor,
    /// What was done.
    pub action: ChangeAction,
    /// The event, registration or entry that changed.
    pub entity_id: Uuid,
    /// The user whom it concerns.
    pub subject_id: Option<Uuid>,
    /// What a reader needs to follow: a JSON object.
    pub details: Value,
    /// The database's clock, as it was read with the facts, or has gone on since the batch before.
    pub time: OffsetDateTime,
}

/// A time as it stands in `details`.
pub fn rfc3339(time: OffsetDateTime) -> Value {
    time.format(&Rfc3339).map_or(Value::Null, Value::String)
}

/// What the log says of a registration: with the change itself all of its row but the request that it came with.
pub fn registration_details(registration: &Registration) -> Value {
    let mut details = Map::new();
    details.insert("seats".to_owned(), registration.seats.into());
    if let Some(expires) = registration.hold_expire_time {
        details.insert("hold_expire_time".to_owned(), rfc3339(expires));
    }
    if let Some(entry_id) = registration.waitlist_entry_id {
        details.insert("waitlist_entry_id".to_owned(), entry_id.to_string().into());
    }
    if !registration.labels.is_empty() {
        details.insert("labels".to_owned(), json!(registration.labels));
    }
    Value::Object(details)
}

/// What the log says of a queue entry: with the change itself all of its row but the request that it came with.
pub fn entry_details(entry: &Entry) -> Value {
    let mut details = Map::new();
    details.insert("seats".to_owned(), entry.seats.into());
    details.insert("position".to_owned(), entry.position.into());
    if let Some(expires) = entry.offer_expire_time {
        details.insert("offer_expire_time".to_owned(), rfc3339(expires));
    }
    if let Some(registration_id) = entry.registration_id {
        details.insert("registration_id".to_owned(), registration_id.to_string().into());
    }
    if !entry.labels.is_empty() {
        details.insert("labels".to_owned(), json!(entry.labels));
    }
    Value::Object(details)
}
