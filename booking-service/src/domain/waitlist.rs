//! A queue entry: somebody's place in line.

use time::OffsetDateTime;
use uuid::Uuid;

use super::command::RequestKey;
use super::registration::Labels;
use super::word::word_enum;

word_enum! {
    /// `WAITING → PROMOTED | OFFERED → ACCEPTED | DECLINED | EXPIRED`, `WAITING → LEFT`, and CANCELLED with the event.
    pub enum EntryState {
        /// In line.
        Waiting = "WAITING",
        /// Became a registration when seats were freed.
        Promoted = "PROMOTED",
        /// Seats are kept until `offer_expire_time`.
        Offered = "OFFERED",
        /// The offer became a registration.
        Accepted = "ACCEPTED",
        /// The offer was turned down.
        Declined = "DECLINED",
        /// The offer lapsed.
        Expired = "EXPIRED",
        /// Left the line.
        Left = "LEFT",
        /// The event was cancelled.
        Cancelled = "CANCELLED",
    }
}

impl EntryState {
    /// Whether the user still has a place: waiting, or with an open offer.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Waiting | Self::Offered)
    }
}

/// A queue entry, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The event whose queue it stands in.
    pub event_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// Who waits.
    pub user_id: Uuid,
    /// How many seats are wanted, at least 1.
    pub seats: i32,
    /// Where it stands.
    pub state: EntryState,
    /// Order of arrival, never reused.
    pub position: i64,
    /// When the offer lapses or lapsed; `None` if there never was one.
    pub offer_expire_time: Option<OffsetDateTime>,
    /// The registration that it became.
    pub registration_id: Option<Uuid>,
    /// What the client attached; the registration inherits it.
    pub labels: Labels,
    /// The idempotency key that it was made with.
    pub request: Option<RequestKey>,
    /// When it was made.
    pub create_time: OffsetDateTime,
    /// When it last changed.
    pub update_time: OffsetDateTime,
}

impl Entry {
    /// Whether this is an offer whose time has passed, swept or not.
    pub fn offer_lapsed(&self, now: OffsetDateTime) -> bool {
        self.state == EntryState::Offered && self.offer_expire_time.is_some_and(|expires| now >= expires)
    }
}
