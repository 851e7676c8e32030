//! Commands: every change to an event's seats or queue.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::event::{QueueDiscipline, WaitlistPolicy};
use super::registration::Labels;
use super::word::word_enum;

word_enum! {
    /// In which role somebody acts.
    pub enum ActorRole {
        /// A person who registers.
        Attendee = "ATTENDEE",
        /// A person who owns events.
        Organizer = "ORGANIZER",
        /// May act on everything.
        Admin = "ADMIN",
        /// Another backend, acting for its users.
        Service = "SERVICE",
        /// Rowlock itself: the sweeper and the queue.
        System = "SYSTEM",
    }
}

/// Who gives a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The caller's id; nil for the system.
    pub id: Uuid,
    /// The caller's role.
    pub role: ActorRole,
}

impl Actor {
    /// Rowlock itself.
    pub const SYSTEM: Self = Self { id: Uuid::nil(), role: ActorRole::System };
}

/// An idempotency key as it is stored with what it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The caller to whom the id is scoped.
    pub actor_id: Uuid,
    /// The client's id for the request.
    pub id: Uuid,
    /// Digest of everything else in the request: the same id with another request is refused.
    pub fingerprint: [u8; 32],
}

/// What to do when there are no seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse.
    Reject,
    /// Take a place in the queue.
    JoinWaitlist,
}

/// One command for one event.
#[derive(Clone, Debug)]
pub struct Command {
    /// The event whose lock it needs.
    pub event_id: Uuid,
    /// Who gives it.
    pub actor: Actor,
    /// What is to be done.
    pub action: Action,
}

impl Command {
    /// Whether its caller may have sent it before, and goes by what the repetition is told: by its request id, or since it is
    /// about something that is there.
    pub fn may_be_a_repetition(&self) -> bool {
        match &self.action {
            Action::Register(Register { request, .. }) | Action::Join(Join { request, .. }) => {
                request.is_some()
            }
            Action::ExpireHold { .. } | Action::ExpireOffer { .. } | Action::ServeQueue { .. } => false,
            Action::Confirm { .. }
            | Action::CancelRegistration { .. }
            | Action::CheckIn { .. }
            | Action::Leave { .. }
            | Action::AcceptOffer { .. }
            | Action::DeclineOffer { .. }
            | Action::Update(_)
            | Action::Publish { .. }
            | Action::CancelEvent { .. }
            | Action::DeleteEvent { .. } => true,
        }
    }

    /// Whether somebody wants to come in: to the seats or to the queue.
    pub fn comes_in(&self) -> bool {
        matches!(self.action, Action::Register(_) | Action::Join(_))
    }

    /// Whether it changes the event itself, not only its seats and queue.
    pub fn revises_event(&self) -> bool {
        matches!(
            self.action,
            Action::Update(_)
                | Action::Publish { .. }
                | Action::CancelEvent { .. }
                | Action::DeleteEvent { .. }
        )
    }

    /// Whether it can take minutes: it ends, or seats, however many there are. Then nothing for its event may come after it in a
    /// batch, for its effects are not all there when the next command is looked at: the end of an event is carried out by a
    /// statement of its own (see `Ending`), and of a queue that is served the rest may follow (see `Decision::unserved`).
    pub fn may_take_long(&self) -> bool {
        match &self.action {
            Action::CancelEvent { .. } | Action::ServeQueue { .. } => true,
            Action::Update(patch) => patch.may_seat_queue(),
            _ => false,
        }
    }
}

/// How far a queue was served: the last position by size of party. Those of one size are served in order, whatever the
/// discipline, so nobody waits before it.
pub type Served = BTreeMap<i32, i64>;

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Take seats, or a place in the queue.
    Register(Register),
    /// Turn a hold into a registration.
    Confirm {
        /// The hold.
        registration_id: Uuid,
    },
    /// Give seats back.
    CancelRegistration {
        /// The registration.
        registration_id: Uuid,
    },
    /// The party has arrived.
    CheckIn {
        /// The registration.
        registration_id: Uuid,
    },
    /// Take a place in the queue.
    Join(Join),
    /// Give up a place in the queue, or an open offer.
    Leave {
        /// The entry.
        entry_id: Uuid,
    },
    /// Turn an offer into a registration.
    AcceptOffer {
        /// The entry.
        entry_id: Uuid,
    },
    /// Turn an offer down.
    DeclineOffer {
        /// The entry.
        entry_id: Uuid,
    },
    /// Release a hold whose time has passed.
    ExpireHold {
        /// The hold.
        registration_id: Uuid,
    },
    /// Withdraw an offer whose time has passed.
    ExpireOffer {
        /// The entry.
        entry_id: Uuid,
    },
    /// Give free seats to the queue, from where a batch before it in the same transaction has stopped
    /// (see `Decision::unserved`). The service's own.
    ServeQueue {
        /// How far that was.
        after: Served,
    },
    /// Change the event.
    Update(Box<EventPatch>),
    /// Open the event to everybody.
    Publish {
        /// The revision that the caller has read, if that matters.
        etag: Option<String>,
    },
    /// Call the event off.
    CancelEvent {
        /// Shown to everybody.
        reason: String,
        /// The revision that the caller has read, if that matters.
        etag: Option<String>,
    },
    /// Remove a draft.
    DeleteEvent {
        /// The revision that the caller has read, if that matters.
        etag: Option<String>,
    },
}

/// A request for seats.
#[derive(Clone, Debug)]
pub struct Register {
    /// For whom.
    pub user_id: Uuid,
    /// How many, at least 1.
    pub seats: i32,
    /// What to do when there are none.
    pub when_full: WhenFull,
    /// Hold the seats this long instead of confirming at once. A place in the queue is never held: what comes of it is
    /// confirmed (or offered) as the event's policy says.
    pub hold: Option<Duration>,
    /// What the client attaches.
    pub labels: Labels,
    /// The idempotency key.
    pub request: Option<RequestKey>,
}

/// A request for a place in the queue.
#[derive(Clone, Debug)]
pub struct Join {
    /// For whom.
    pub user_id: Uuid,
    /// How many seats, at least 1.
    pub seats: i32,
    /// What the client attaches.
    pub labels: Labels,
    /// The idempotency key.
    pub request: Option<RequestKey>,
}

/// New values for some of an event's fields; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPatch {
    /// The revision that the caller has read, if that matters.
    pub etag: Option<String>,
    /// New title.
    pub title: Option<String>,
    /// New description.
    pub description: Option<String>,
    /// New location.
    pub location: Option<String>,
    /// New start.
    pub start_time: Option<OffsetDateTime>,
    /// New end.
    pub end_time: Option<OffsetDateTime>,
    /// New opening; `Some(None)` clears it.
    pub registration_open_time: Option<Option<OffsetDateTime>>,
    /// New closing; `Some(None)` clears it.
    pub registration_close_time: Option<Option<OffsetDateTime>>,
    /// New capacity.
    pub capacity: Option<i32>,
    /// New largest party.
    pub max_seats_per_registration: Option<i32>,
    /// New policy.
    pub waitlist_policy: Option<WaitlistPolicy>,
    /// New time that offers stand; open offers keep theirs.
    pub offer_ttl: Option<Duration>,
    /// New discipline.
    pub queue_discipline: Option<QueueDiscipline>,
}

impl EventPatch {
    /// Whether somebody in the queue may fit who did not before.
    pub fn may_seat_queue(&self) -> bool {
        self.capacity.is_some() || self.queue_discipline.is_some()
    }
}
