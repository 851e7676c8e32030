//! Who and what the tests are about.

use std::time::Duration;

use booking_service::domain::command::{Actor, ActorRole};
use booking_service::domain::event::{Event, EventState, EventText, QueueDiscipline, WaitlistPolicy};
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

/// When every test begins.
pub(crate) const NOON: OffsetDateTime = datetime!(2030-06-01 12:00 UTC);
/// The organizer of every event, unless a test says otherwise.
pub(crate) const OWNER: Actor = Actor { id: Uuid::from_u128(0xB0), role: ActorRole::Organizer };
/// Another organizer.
pub(crate) const RIVAL: Actor = Actor { id: Uuid::from_u128(0xB1), role: ActorRole::Organizer };
/// An admin.
pub(crate) const ADMIN: Actor = Actor { id: Uuid::from_u128(0xC0), role: ActorRole::Admin };
/// Another backend.
pub(crate) const SERVICE: Actor = Actor { id: Uuid::from_u128(0xD0), role: ActorRole::Service };
/// An id that nothing has.
pub(crate) const NOTHING: Uuid = Uuid::from_u128(0xDEAD);

/// The n-th person's user id.
pub(crate) fn user(n: u32) -> Uuid {
    Uuid::from_u128(0xA000 + u128::from(n))
}

/// The n-th person, signed in.
pub(crate) fn attendee(n: u32) -> Actor {
    Actor { id: user(n), role: ActorRole::Attendee }
}

/// The n-th event's id.
pub(crate) fn event_id(n: u32) -> Uuid {
    Uuid::from_u128(0xE000 + u128::from(n))
}

pub(crate) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A published event of [`OWNER`] that begins in a day: strict queue, promotion, parties of up to 10 (or all seats).
pub(crate) fn event(n: u32, capacity: i32) -> Event {
    Event {
        id: event_id(n),
        organizer_id: OWNER.id,
        start_time: NOON + seconds(86_400),
        end_time: NOON + seconds(90_000),
        registration_open_time: None,
        registration_close_time: None,
        capacity,
        seats_remaining: capacity,
        waitlist_size: 0,
        largest_party: 1,
        next_position: 1,
        max_seats_per_registration: capacity.min(10),
        waitlist_policy: WaitlistPolicy::Promote,
        offer_ttl: seconds(900),
        queue_discipline: QueueDiscipline::Strict,
        state: EventState::Published,
        cancel_reason: String::new(),
        revision: 1,
        version: 1,
        create_time: NOON,
        update_time: NOON,
    }
}

pub(crate) fn text() -> EventText {
    EventText { title: "Concert".to_owned(), description: "Loud".to_owned(), location: "Cellar".to_owned() }
}
