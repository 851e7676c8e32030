//! Rows as the database gives them, and what they mean.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::StoreError;
use crate::domain::command::RequestKey;
use crate::domain::event::{Event, EventRecord, EventState, EventText, QueueDiscipline, WaitlistPolicy};
use crate::domain::registration::{Labels, Registration, RegistrationState};
use crate::domain::waitlist::{Entry, EntryState};

/// Selects whole events: `query_events!("WHERE id = $1", id)`.
macro_rules! query_events {
    ($($rest:literal)+ $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::store::rows::EventRow,
            "SELECT id, organizer_id, title, description, location, start_time, end_time, registration_open_time, \
             registration_close_time, capacity, seats_remaining, waitlist_size, largest_party, next_position, \
             max_seats_per_registration, waitlist_policy, offer_ttl_ms, queue_discipline, state, cancel_reason, \
             revision, version, create_time, update_time FROM events " $(+ $rest)+
            $(, $argument)*
        )
    };
}
pub(super) use query_events;

/// Selects whole registrations from something named `r`: `query_registrations!("FROM registrations r WHERE …", …)`.
macro_rules! query_registrations {
    ($rest:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::store::rows::RegistrationRow,
            r#"SELECT r.event_id AS "event_id!", r.id AS "id!", r.user_id AS "user_id!", r.seats AS "seats!",
               r.state AS "state!", r.hold_expire_time, r.waitlist_entry_id, r.labels::text AS "labels!",
               r.request_actor_id, r.request_id, r.request_fingerprint, r.create_time AS "create_time!",
               r.update_time AS "update_time!", r.confirm_time, r.cancel_time, r.check_in_time "# + $rest
            $(, $argument)*
        )
    };
}
pub(super) use query_registrations;

/// Selects whole queue entries from something named `w`.
macro_rules! query_entries {
    ($rest:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::store::rows::EntryRow,
            r#"SELECT w.event_id AS "event_id!", w.position AS "position!", w.id AS "id!", w.user_id AS "user_id!",
               w.seats AS "seats!", w.state AS "state!", w.offer_expire_time, w.registration_id,
               w.labels::text AS "labels!", w.request_actor_id, w.request_id, w.request_fingerprint,
               w.create_time AS "create_time!", w.update_time AS "update_time!" "# + $rest
            $(, $argument)*
        )
    };
}
pub(super) use query_entries;

/// Selects the events that rows of this table belong to, by their ids: `query_events_of!("registrations", &ids)`.
///
/// One by one: without statistics (a new database, one that was just restored) the planner takes it that each id is that of
/// every 200th row, and reads the whole table for a few dozen in `= ANY`.
macro_rules! query_events_of {
    ($table:literal, $ids:expr) => {
        sqlx::query!(
            r#"SELECT x.id AS "id!", x.event_id AS "event_id!" FROM unnest($1::uuid[]) AS k (id)
            CROSS JOIN LATERAL (SELECT id, event_id FROM "#
                + $table
                + " y WHERE y.id = k.id LIMIT 1) x",
            $ids,
        )
    };
}
pub(super) use query_events_of;

/// A row of `events`.
pub(super) struct EventRow {
    pub(super) id: Uuid,
    pub(super) organizer_id: Uuid,
    pub(super) title: String,
    pub(super) description: String,
    pub(super) location: String,
    pub(super) start_time: OffsetDateTime,
    pub(super) end_time: OffsetDateTime,
    pub(super) registration_open_time: Option<OffsetDateTime>,
    pub(super) registration_close_time: Option<OffsetDateTime>,
    pub(super) capacity: i32,
    pub(super) seats_remaining: i32,
    pub(super) waitlist_size: i32,
    pub(super) largest_party: i32,
    pub(super) next_position: i64,
    pub(super) max_seats_per_registration: i32,
    pub(super) waitlist_policy: String,
    pub(super) offer_ttl_ms: i64,
    pub(super) queue_discipline: String,
    pub(super) state: String,
    pub(super) cancel_reason: String,
    pub(super) revision: i64,
    pub(super) version: i64,
    pub(super) create_time: OffsetDateTime,
    pub(super) update_time: OffsetDateTime,
}

impl TryFrom<EventRow> for EventRecord {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        let unknown = |column, word| unknown_word("events", row.id, column, word);
        let event = Event {
            id: row.id,
            organizer_id: row.organizer_id,
            start_time: row.start_time,
            end_time: row.end_time,
            registration_open_time: row.registration_open_time,
            registration_close_time: row.registration_close_time,
            capacity: row.capacity,
            seats_remaining: row.seats_remaining,
            waitlist_size: row.waitlist_size,
            largest_party: row.largest_party,
            next_position: row.next_position,
            max_seats_per_registration: row.max_seats_per_registration,
            waitlist_policy: WaitlistPolicy::from_word(&row.waitlist_policy)
                .ok_or_else(|| unknown("waitlist_policy", &row.waitlist_policy))?,
            offer_ttl: Duration::from_millis(row.offer_ttl_ms.unsigned_abs()),
            queue_discipline: QueueDiscipline::from_word(&row.queue_discipline)
                .ok_or_else(|| unknown("queue_discipline", &row.queue_discipline))?,
            state: EventState::from_word(&row.state).ok_or_else(|| unknown("state", &row.state))?,
            cancel_reason: row.cancel_reason,
            revision: row.revision,
            version: row.version,
            create_time: row.create_time,
            update_time: row.update_time,
        };
        let text = EventText { title: row.title, description: row.description, location: row.location };
        Ok(Self { event, text })
    }
}

/// A row of `registrations`.
pub(super) struct RegistrationRow {
    pub(super) event_id: Uuid,
    pub(super) id: Uuid,
    pub(super) user_id: Uuid,
    pub(super) seats: i32,
    pub(super) state: String,
    pub(super) hold_expire_time: Option<OffsetDateTime>,
    pub(super) waitlist_entry_id: Option<Uuid>,
    pub(super) labels: String,
    pub(super) request_actor_id: Option<Uuid>,
    pub(super) request_id: Option<Uuid>,
    pub(super) request_fingerprint: Option<Vec<u8>>,
    pub(super) create_time: OffsetDateTime,
    pub(super) update_time: OffsetDateTime,
    pub(super) confirm_time: Option<OffsetDateTime>,
    pub(super) cancel_time: Option<OffsetDateTime>,
    pub(super) check_in_time: Option<OffsetDateTime>,
}

impl TryFrom<RegistrationRow> for Registration {
    type Error = StoreError;

    fn try_from(row: RegistrationRow) -> Result<Self, StoreError> {
        const TABLE: &str = "registrations";
        Ok(Self {
            event_id: row.event_id,
            id: row.id,
            user_id: row.user_id,
            seats: row.seats,
            state: RegistrationState::from_word(&row.state)
                .ok_or_else(|| unknown_word(TABLE, row.id, "state", &row.state))?,
            hold_expire_time: row.hold_expire_time,
            waitlist_entry_id: row.waitlist_entry_id,
            labels: labels(TABLE, row.id, &row.labels)?,
            request: request(TABLE, row.id, row.request_actor_id, row.request_id, row.request_fingerprint)?,
            create_time: row.create_time,
            update_time: row.update_time,
            confirm_time: row.confirm_time,
            cancel_time: row.cancel_time,
            check_in_time: row.check_in_time,
        })
    }
}

/// A row of `waitlist_entries`.
pub(super) struct EntryRow {
    pub(super) event_id: Uuid,
    pub(super) position: i64,
    pub(super) id: Uuid,
    pub(super) user_id: Uuid,
    pub(super) seats: i32,
    pub(super) state: String,
    pub(super) offer_expire_time: Option<OffsetDateTime>,
    pub(super) registration_id: Option<Uuid>,
    pub(super) labels: String,
    pub(super) request_actor_id: Option<Uuid>,
    pub(super) request_id: Option<Uuid>,
    pub(super) request_fingerprint: Option<Vec<u8>>,
    pub(super) create_time: OffsetDateTime,
    pub(super) update_time: OffsetDateTime,
}

impl TryFrom<EntryRow> for Entry {
    type Error = StoreError;

    fn try_from(row: EntryRow) -> Result<Self, StoreError> {
        const TABLE: &str = "waitlist_entries";
        Ok(Self {
            event_id: row.event_id,
            id: row.id,
            user_id: row.user_id,
            seats: row.seats,
            state: EntryState::from_word(&row.state)
                .ok_or_else(|| unknown_word(TABLE, row.id, "state", &row.state))?,
            position: row.position,
            offer_expire_time: row.offer_expire_time,
            registration_id: row.registration_id,
            labels: labels(TABLE, row.id, &row.labels)?,
            request: request(TABLE, row.id, row.request_actor_id, row.request_id, row.request_fingerprint)?,
            create_time: row.create_time,
            update_time: row.update_time,
        })
    }
}

/// Turns rows into what they mean, or fails on the first that means nothing.
pub(super) fn read<Row, T: TryFrom<Row, Error = StoreError>>(rows: Vec<Row>) -> Result<Vec<T>, StoreError> {
    rows.into_iter().map(T::try_from).collect()
}

fn unknown_word(table: &'static str, id: Uuid, column: &str, word: &str) -> StoreError {
    StoreError::Inconsistent { table, what: format!("{id}: {column} is {word:?}") }
}

fn labels(table: &'static str, id: Uuid, json: &str) -> Result<Labels, StoreError> {
    if json == "{}" {
        return Ok(Labels::new());
    }
    serde_json::from_str(json).map_err(|_| StoreError::Inconsistent {
        table,
        what: format!("{id}: labels are not a map from strings to strings"),
    })
}

fn request(
    table: &'static str,
    id: Uuid,
    actor_id: Option<Uuid>,
    request_id: Option<Uuid>,
    fingerprint: Option<Vec<u8>>,
) -> Result<Option<RequestKey>, StoreError> {
    let (Some(actor_id), Some(request_id), Some(fingerprint)) = (actor_id, request_id, fingerprint) else {
        return Ok(None);
    };
    let fingerprint = fingerprint.try_into().map_err(|_| StoreError::Inconsistent {
        table,
        what: format!("{id}: request_fingerprint is not a SHA-256 digest"),
    })?;
    Ok(Some(RequestKey { actor_id, id: request_id, fingerprint }))
}
