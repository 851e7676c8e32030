//! An event in numbers, for its organizer.

use time::OffsetDateTime;

/// Counts over one event's rows, all at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventStats {
    /// Seats in all.
    pub capacity: i32,
    /// Seats that nobody holds.
    pub seats_remaining: i32,
    /// CONFIRMED registrations and their seats.
    pub confirmed: Tally,
    /// HELD registrations and their seats.
    pub held: Tally,
    /// CHECKED_IN registrations and their seats.
    pub checked_in: Tally,
    /// CANCELLED registrations.
    pub cancelled: i64,
    /// EXPIRED registrations.
    pub expired: i64,
    /// WAITING entries and the seats that they want.
    pub waiting: Tally,
    /// OFFERED entries and the seats that are kept for them.
    pub offered: Tally,
    /// When the first registration was made.
    pub first_registration_time: Option<OffsetDateTime>,
    /// When the last registration was made.
    pub last_registration_time: Option<OffsetDateTime>,
}

/// How many, and how many seats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Registrations or entries.
    pub count: i64,
    /// Their seats.
    pub seats: i64,
}

impl EventStats {
    /// Free seats that nobody can have because the next party does not fit: the price of STRICT, and of parties at all.
    pub fn idle_seats(&self) -> i32 {
        if self.waiting.count > 0 { self.seats_remaining } else { 0 }
    }

    /// Seats of those who are coming or there, in percent of the capacity.
    pub fn filled_percent(&self) -> f64 {
        let filled = i32::try_from(self.confirmed.seats + self.checked_in.seats).unwrap_or(i32::MAX);
        f64::from(filled) * 100.0 / f64::from(self.capacity.max(1))
    }
}
