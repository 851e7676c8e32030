//! Why a command or a read is refused. Each value is one reason of the contract; `grpc::error` gives it its status.

use service_core::validation::Violation;
use time::OffsetDateTime;
use uuid::Uuid;

use super::registration::RegistrationState;
use super::waitlist::EntryState;

/// A refusal: nothing of what was asked for was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Fields of the request do not fit, by themselves or against the event.
    #[error("the request is not valid")]
    Invalid(Vec<Violation>),
    /// The caller may see the thing but not do this to it.
    #[error("{needed} may do this")]
    RoleRequired {
        /// Who may.
        needed: &'static str,
    },
    /// There is no such event, or it is not the caller's to see.
    #[error("event {event_id} does not exist")]
    EventNotFound {
        /// The event asked for.
        event_id: Uuid,
    },
    /// There is no such registration, or it is not the caller's to see.
    #[error("registration {registration_id} does not exist")]
    RegistrationNotFound {
        /// The registration asked for.
        registration_id: Uuid,
    },
    /// There is no such queue entry, or it is not the caller's to see.
    #[error("waitlist entry {entry_id} does not exist")]
    EntryNotFound {
        /// The entry asked for.
        entry_id: Uuid,
    },
    /// The user has an active registration.
    #[error("user {user_id} is already registered for event {event_id}")]
    AlreadyRegistered {
        /// The event.
        event_id: Uuid,
        /// The user.
        user_id: Uuid,
        /// What the user has.
        registration_id: Uuid,
    },
    /// The user has a place in the queue.
    #[error("user {user_id} is already on the waitlist of event {event_id}")]
    AlreadyWaitlisted {
        /// The event.
        event_id: Uuid,
        /// The user.
        user_id: Uuid,
        /// What the user has.
        entry_id: Uuid,
    },
    /// The idempotency key came before, with another request.
    #[error("request_id {request_id} was used for another request")]
    RequestIdReused {
        /// The key.
        request_id: Uuid,
    },
    /// Not enough seats, or people are waiting for them.
    #[error(
        "event {event_id} has no seats for a party of {seats}: {seats_remaining} free, {waitlist_size} waiting"
    )]
    EventFull {
        /// The event.
        event_id: Uuid,
        /// Seats asked for.
        seats: i32,
        /// Seats free.
        seats_remaining: i32,
        /// Entries waiting.
        waitlist_size: i32,
    },
    /// The event is a draft.
    #[error("event {event_id} is not published")]
    EventNotPublished {
        /// The event.
        event_id: Uuid,
    },
    /// The event was called off.
    #[error("event {event_id} is cancelled")]
    EventCancelled {
        /// The event.
        event_id: Uuid,
    },
    /// Outside the registration window.
    #[error("registration for event {event_id} is not open")]
    RegistrationClosed {
        /// The event.
        event_id: Uuid,
        /// When it opens, if that is still to come.
        opens: Option<OffsetDateTime>,
        /// When it closes or closed.
        closes: OffsetDateTime,
    },
    /// One cannot queue for what one can have.
    #[error("event {event_id} has seats: register instead")]
    SeatsAvailable {
        /// The event.
        event_id: Uuid,
        /// Seats free.
        seats_remaining: i32,
    },
    /// The hold's time has passed.
    #[error("the hold of registration {registration_id} has expired")]
    HoldExpired {
        /// The hold.
        registration_id: Uuid,
    },
    /// The offer's time has passed.
    #[error("the offer to waitlist entry {entry_id} has expired")]
    OfferExpired {
        /// The entry.
        entry_id: Uuid,
    },
    /// The registration is in a state that does not allow this.
    #[error("registration {registration_id} is {}", .state.word())]
    RegistrationState {
        /// The registration.
        registration_id: Uuid,
        /// Its state.
        state: RegistrationState,
    },
    /// The entry is in a state that does not allow this.
    #[error("waitlist entry {entry_id} is {}", .state.word())]
    EntryState {
        /// The entry.
        entry_id: Uuid,
        /// Its state.
        state: EntryState,
    },
    /// The event has ended.
    #[error("event {event_id} is over")]
    EventOver {
        /// The event.
        event_id: Uuid,
        /// When it ended.
        ended: OffsetDateTime,
    },
    /// Only drafts can be deleted.
    #[error("event {event_id} is not a draft")]
    NotADraft {
        /// The event.
        event_id: Uuid,
    },
    /// The new capacity is less than what is taken.
    #[error("{taken} seats of event {event_id} are taken: capacity {capacity} is too low")]
    CapacityBelowTaken {
        /// The event.
        event_id: Uuid,
        /// The capacity asked for.
        capacity: i32,
        /// Seats that registrations and offers hold.
        taken: i32,
    },
    /// Somebody else changed the event in between.
    #[error("event {event_id} has changed since it was read")]
    EtagMismatch {
        /// The event.
        event_id: Uuid,
        /// The etag that it has now.
        current: String,
    },
}

impl Refusal {
    /// A refusal for one field.
    pub fn field(field: &str, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation { field: field.to_owned(), description: description.into() }])
    }
}
