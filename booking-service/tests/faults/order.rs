//! The log of an event, replayed: whoever got a seat, got it in turn.

use std::collections::BTreeMap;

use sqlx::PgPool;
use uuid::Uuid;

pub(crate) const NOT_WAITING: &str = "somebody is served who does not wait";
pub(crate) const PASSED: &str = "somebody is served before somebody ahead who fits";
pub(crate) const PASSED_BY_SOMEBODY_NEW: &str = "somebody new is served before somebody who waits";
pub(crate) const OVERSOLD: &str = "more seats are taken than there are, or fewer than none";
pub(crate) const NOT_SERVED: &str = "somebody waits although their party fits";

/// Everything that this complains of.
pub(crate) const COMPLAINTS: [&str; 5] = [NOT_WAITING, PASSED, PASSED_BY_SOMEBODY_NEW, OVERSOLD, NOT_SERVED];

/// A change as this needs it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Logged {
    version: i64,
    batch: i64,
    action: String,
    entity_id: Uuid,
    seats: Option<i32>,
    capacity: Option<i32>,
    /// Whether the registration came from an entry of the queue.
    from_queue: bool,
}

/// Everything that happened out of turn.
pub(crate) async fn out_of_turn(pool: &PgPool, event: Uuid) -> Vec<String> {
    let log: Vec<Logged> = sqlx::query_as(
        "SELECT version, batch, action, entity_id, (details->>'seats')::int AS seats,
                CASE WHEN action LIKE 'EVENT_%' THEN (details->>'capacity')::int END AS capacity,
                details ? 'waitlist_entry_id' AS from_queue
           FROM changes WHERE event_id = $1 ORDER BY version",
    )
    .bind(event)
    .fetch_all(pool)
    .await
    .unwrap();
    let strict: bool = sqlx::query_scalar("SELECT queue_discipline = 'STRICT' FROM events WHERE id = $1")
        .bind(event)
        .fetch_one(pool)
        .await
        .unwrap();
    let mut queue = Queue { event, strict, ..Queue::default() };
    for (index, change) in log.iter().enumerate() {
        queue.apply(change);
        if log.get(index + 1).is_none_or(|next| next.batch != change.batch) {
            queue.assert_served(change.version);
        }
    }
    queue.complaints
}

#[derive(Default)]
struct Queue {
    event: Uuid,
    strict: bool,
    capacity: i32,
    free: i32,
    /// Seats of those who wait, in order of arrival.
    waiting: BTreeMap<i64, (Uuid, i32)>,
    complaints: Vec<String>,
}

impl Queue {
    fn apply(&mut self, change: &Logged) {
        if let Some(capacity) = change.capacity {
            self.free += capacity - self.capacity;
            self.capacity = capacity;
        }
        let seats = change.seats.unwrap_or_default();
        match change.action.as_str() {
            "WAITLIST_JOINED" => {
                self.waiting.insert(change.version, (change.entity_id, seats));
            }
            "WAITLIST_LEFT" | "WAITLIST_CANCELLED" => drop(self.remove(change.entity_id)),
            "WAITLIST_PROMOTED" | "WAITLIST_OFFERED" => {
                match self.remove(change.entity_id) {
                    None => self.complain(change.version, NOT_WAITING),
                    Some(place) => {
                        let passed = |(_, ahead): (_, &(Uuid, i32))| self.strict || ahead.1 <= self.free;
                        if self.waiting.range(..place).any(passed) {
                            self.complain(change.version, PASSED);
                        }
                    }
                }
                self.free -= seats;
            }
            "REGISTRATION_CREATED" | "REGISTRATION_HELD" if !change.from_queue => {
                if self.waiting.values().any(|(_, ahead)| self.strict || *ahead <= self.free) {
                    self.complain(change.version, PASSED_BY_SOMEBODY_NEW);
                }
                self.free -= seats;
            }
            "REGISTRATION_CANCELLED" | "REGISTRATION_EXPIRED" | "OFFER_DECLINED" | "OFFER_EXPIRED" => {
                self.free += seats;
            }
            _ => {}
        }
        if !(0..=self.capacity).contains(&self.free) {
            self.complain(change.version, OVERSOLD);
        }
    }

    fn remove(&mut self, entity: Uuid) -> Option<i64> {
        let place = self.waiting.iter().find(|(_, (id, _))| *id == entity).map(|(place, _)| *place)?;
        self.waiting.remove(&place);
        Some(place)
    }

    /// At the end of a transaction nobody waits for seats that are free.
    fn assert_served(&mut self, version: i64) {
        let heads = if self.strict { 1 } else { self.waiting.len() };
        if self.waiting.values().take(heads).any(|(_, seats)| *seats <= self.free) {
            self.complain(version, NOT_SERVED);
        }
    }

    fn complain(&mut self, version: i64, what: &str) {
        self.complaints.push(format!("event {} at version {version}: {what}", self.event));
    }
}
