//! The event: its states, its policies, and the arithmetic of its seats.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::refusal::Refusal;
use super::word::word_enum;

word_enum! {
    /// Where an event stands in its life. It is *over* when `end_time` has passed, whatever its state.
    pub enum EventState {
        /// Being prepared: seen by its organizer and by admins alone.
        Draft = "DRAFT",
        /// Open to everybody; registrations are possible within their window.
        Published = "PUBLISHED",
        /// Called off: every registration and queue entry ended with it.
        Cancelled = "CANCELLED",
    }
}

word_enum! {
    /// What the head of the queue gets when seats become free.
    pub enum WaitlistPolicy {
        /// A confirmed registration, at once.
        Promote = "PROMOTE",
        /// An offer that keeps the seats until it is accepted, declined or lapses.
        Offer = "OFFER",
    }
}

word_enum! {
    /// Who may be served when the head's party does not fit the free seats.
    pub enum QueueDiscipline {
        /// Nobody: seats may stand idle until the head fits.
        Strict = "STRICT",
        /// The first party in order that fits.
        SkipAhead = "SKIP_AHEAD",
    }
}

/// What people read about an event; no rule looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventText {
    /// 1–200 characters.
    pub title: String,
    /// At most 10,000 characters.
    pub description: String,
    /// At most 500 characters.
    pub location: String,
}

/// An event as the rules see it: the row without its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's id.
    pub id: Uuid,
    /// The user who owns it.
    pub organizer_id: Uuid,
    /// When it begins.
    pub start_time: OffsetDateTime,
    /// When it is over.
    pub end_time: OffsetDateTime,
    /// When registration opens; `None`: as soon as it is published.
    pub registration_open_time: Option<OffsetDateTime>,
    /// When registration closes; `None`: at `start_time`.
    pub registration_close_time: Option<OffsetDateTime>,
    /// Seats in all, 1…1,000,000.
    pub capacity: i32,
    /// Seats that no registration and no offer holds, 0…`capacity`.
    pub seats_remaining: i32,
    /// Queue entries that are waiting.
    pub waitlist_size: i32,
    /// The most seats that any queue entry ever asked for, at least 1.
    pub largest_party: i32,
    /// The queue position that the next entry gets.
    pub next_position: i64,
    /// The largest party, 1…100.
    pub max_seats_per_registration: i32,
    /// What a freed seat becomes.
    pub waitlist_policy: WaitlistPolicy,
    /// How long an offer stands.
    pub offer_ttl: Duration,
    /// Who may be served when the head does not fit.
    pub queue_discipline: QueueDiscipline,
    /// Where it stands in its life.
    pub state: EventState,
    /// Why it was cancelled; empty before.
    pub cancel_reason: String,
    /// Counts the organizer's changes: the etag.
    pub revision: i64,
    /// The last version given in the change log.
    pub version: i64,
    /// When it was made.
    pub create_time: OffsetDateTime,
    /// When its organizer last changed it.
    pub update_time: OffsetDateTime,
}

impl Event {
    /// Whether the event has ended.
    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        now >= self.end_time
    }

    /// When registration closes.
    pub fn closes(&self) -> OffsetDateTime {
        self.registration_close_time.unwrap_or(self.start_time)
    }

    /// Seats that registrations and offers hold.
    pub fn taken(&self) -> i32 {
        self.capacity - self.seats_remaining
    }

    /// What the client sends back to say which revision it has read.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.revision)
    }

    /// Whether this is the revision that a caller has read, or the caller does not care.
    pub fn matches_etag(&self, etag: Option<&str>) -> bool {
        etag.is_none_or(|etag| etag == self.etag())
    }

    /// Whether new registrations and queue entries are accepted at `now`.
    ///
    /// # Errors
    /// The reason why they are not.
    pub fn check_open(&self, now: OffsetDateTime) -> Result<(), Refusal> {
        match self.state {
            EventState::Draft => Err(Refusal::EventNotPublished { event_id: self.id }),
            EventState::Cancelled => Err(Refusal::EventCancelled { event_id: self.id }),
            EventState::Published => {
                let opens = self.registration_open_time.filter(|&opens| now < opens);
                if opens.is_some() || now >= self.closes() {
                    Err(Refusal::RegistrationClosed { event_id: self.id, opens, closes: self.closes() })
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Whether a newcomer's party gets seats at once.
    ///
    /// Under STRICT nobody passes a queue. Under SKIP_AHEAD whoever waits does not fit the free seats (the queue was
    /// served until nobody did), so a newcomer who fits takes nothing from them.
    pub fn seats_newcomer(&self, seats: i32) -> bool {
        let passes = self.waitlist_size == 0 || self.queue_discipline == QueueDiscipline::SkipAhead;
        passes && seats <= self.seats_remaining
    }

    /// Whether freed seats still go to the queue: a published event that is not over.
    pub fn serves_queue(&self, now: OffsetDateTime) -> bool {
        self.state == EventState::Published && !self.is_over(now)
    }
}

/// An event as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// What the rules see.
    pub event: Event,
    /// What people read.
    pub text: EventText,
}
