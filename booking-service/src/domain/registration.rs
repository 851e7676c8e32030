//! A registration: somebody's seats.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use uuid::Uuid;

use super::command::RequestKey;
use super::word::word_enum;

/// What a client attaches to a registration: at most 16 entries and 2 KiB in all.
pub type Labels = BTreeMap<String, String>;

word_enum! {
    /// `HELD → CONFIRMED → CHECKED_IN`; the first two may end as CANCELLED, all three with their event, and a hold as EXPIRED.
    pub enum RegistrationState {
        /// Seats are kept until `hold_expire_time`.
        Held = "HELD",
        /// Seats are taken.
        Confirmed = "CONFIRMED",
        /// The party has arrived.
        CheckedIn = "CHECKED_IN",
        /// Given back.
        Cancelled = "CANCELLED",
        /// The hold lapsed.
        Expired = "EXPIRED",
    }
}

impl RegistrationState {
    /// Whether seats are held by a registration in this state.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Held | Self::Confirmed | Self::CheckedIn)
    }
}

/// A registration, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The event whose seats it holds.
    pub event_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// Whose seats they are.
    pub user_id: Uuid,
    /// How many, at least 1.
    pub seats: i32,
    /// Where it stands.
    pub state: RegistrationState,
    /// When the hold lapses or lapsed; `None` if it never was one.
    pub hold_expire_time: Option<OffsetDateTime>,
    /// The queue entry that it came from.
    pub waitlist_entry_id: Option<Uuid>,
    /// What the client attached.
    pub labels: Labels,
    /// The idempotency key that it was made with.
    pub request: Option<RequestKey>,
    /// When it was made.
    pub create_time: OffsetDateTime,
    /// When it last changed.
    pub update_time: OffsetDateTime,
    /// When it was confirmed.
    pub confirm_time: Option<OffsetDateTime>,
    /// When it was cancelled.
    pub cancel_time: Option<OffsetDateTime>,
    /// When the party arrived.
    pub check_in_time: Option<OffsetDateTime>,
}

impl Registration {
    /// Whether this is a hold whose time has passed, swept or not.
    pub fn hold_lapsed(&self, now: OffsetDateTime) -> bool {
        self.state == RegistrationState::Held && self.hold_expire_time.is_some_and(|expires| now >= expires)
    }
}
