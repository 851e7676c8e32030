//! Step four of a batch: its effects, in bulk.

use sqlx::PgConnection;
use uuid::Uuid;

use super::super::StoreError;
use super::ending::end_event;
use crate::domain::change::Change;
use crate::domain::effects::Effects;
use crate::domain::event::EventRecord;
use crate::domain::registration::{Labels, Registration};
use crate::domain::waitlist::Entry;

/// How to find out later whether a batch was committed: rows that it, and nobody else, has written, one for each event
/// that it changed. (One alone might be gone by then: a rehearsal removes its private event.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The number that the transaction drew for itself.
    batch: i64,
    events: Vec<Uuid>,
    versions: Vec<i64>,
    entities: Vec<Uuid>,
}

impl Mark {
    fn new(batch: i64, changes: &[Change]) -> Self {
        let mut mark = Self { batch, events: Vec::new(), versions: Vec::new(), entities: Vec::new() };
        for change in changes {
            if !mark.events.contains(&change.event_id) {
                mark.events.push(change.event_id);
                mark.versions.push(change.version);
                mark.entities.push(change.entity_id);
            }
        }
        mark
    }

    /// The events that the batch changed, and so had locked.
    pub fn events(&self) -> &[Uuid] {
        &self.events
    }
}

/// Writes everything and says how to recognise it. `None`: there was nothing to write.
///
/// The events' versions in `effects` are final except for [`Effects::endings`], whose last versions are returned in the
/// second half, in their order.
///
/// # Errors
/// Whatever the database says. A violated constraint here means that the rules are wrong: no seat is ever at stake.
pub async fn write_effects(
    connection: &mut PgConnection,
    effects: &Effects,
) -> Result<Option<(Mark, Vec<i64>)>, StoreError> {
    if effects.is_empty() {
        return Ok(None);
    }

    // What ends comes before what begins: a cancelled registration must be out of the unique index of active ones
    // before the same user's new one goes in.
    update_registrations(&mut *connection, &effects.changed_registrations).await?;
    update_entries(&mut *connection, &effects.changed_entries).await?;
    // A new capacity and the seats that it leaves go in together: the counters alone could exceed the old one.
    for record in &effects.revised {
        revise_event(&mut *connection, record).await?;
    }
    let batch = insert(&mut *connection, effects).await?;
    if !effects.deleted_events.is_empty() {
        sqlx::query!("DELETE FROM events WHERE id = ANY($1)", &effects.deleted_events)
            .execute(&mut *connection)
            .await?;
    }
    if !effects.endings.is_empty() {
        // As long as it takes: a million registrations end in about a minute.
        sqlx::query!("SET LOCAL statement_timeout = '10min'").execute(&mut *connection).await?;
    }
    let mut last_versions = Vec::with_capacity(effects.endings.len());
    for ending in &effects.endings {
        last_versions.push(end_event(&mut *connection, ending, batch).await?);
    }
    Ok(Some((Mark::new(batch, &effects.changes), last_versions)))
}

/// Whether the batch with this mark was committed. To be asked with the mark's events locked: the lock is granted when
/// the transaction in question has ended one way or the other, not while its COMMIT is still under way.
///
/// # Errors
/// Whatever the database says.
pub async fn was_committed(connection: &mut PgConnection, mark: &Mark) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS m(event_id, version, entity_id)
            WHERE EXISTS (SELECT FROM changes c WHERE c.event_id = m.event_id AND c.version = m.version
                             AND c.entity_id = m.entity_id AND c.batch = $4)) AS "found!""#,
        &mark.events,
        &mark.versions,
        &mark.entities,
        mark.batch,
    )
    .fetch_one(connection)
    .await?;
    Ok(found)
}

/// The one statement of a rush: counters, new registrations, new entries, the log. Returns the number that it drew
/// for the transaction, all of whose locks are held by now.
async fn insert(connection: &mut PgConnection, effects: &Effects) -> Result<i64, StoreError> {
    let Effects { events, new_registrations: registrations, new_entries: entries, changes, .. } = effects;
    // Everything in a batch happens at the one moment that its facts were read.
    let now = changes.first().map(|change| change.time);

    let batch = sqlx::query_scalar!(
        r#"
        WITH drawn AS MATERIALIZED (
            SELECT nextval('change_batches') AS batch
        ), counters AS (
            UPDATE events e
               SET seats_remaining = c.seats_remaining, waitlist_size = c.waitlist_size, largest_party = c.largest_party,
                   next_position = c.next_position, version = c.version
              FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::bigint[], $6::bigint[])
                AS c(id, seats_remaining, waitlist_size, largest_party, next_position, version)
             WHERE e.id = c.id
        ), seated AS (
            INSERT INTO registrations (event_id, id, user_id, seats, state, hold_expire_time, waitlist_entry_id, labels,
                                       request_actor_id, request_id, request_fingerprint, create_time, update_time,
                                       confirm_time)
            SELECT r.event_id, r.id, r.user_id, r.seats, r.state, r.hold_expire_time, r.waitlist_entry_id,
                   r.labels::jsonb, r.request_actor_id, r.request_id, r.request_fingerprint, $7::timestamptz,
                   $7::timestamptz, CASE WHEN r.state = 'CONFIRMED' THEN $7::timestamptz END
              FROM unnest($8::uuid[], $9::uuid[], $10::uuid[], $11::int[], $12::text[], $13::timestamptz[], $14::uuid[],
                          $15::text[], $16::uuid[], $17::uuid[], $18::bytea[])
                AS r(event_id, id, user_id, seats, state, hold_expire_time, waitlist_entry_id, labels,
                     request_actor_id, request_id, request_fingerprint)
        ), queued AS (
            INSERT INTO waitlist_entries (event_id, position, id, user_id, seats, state, offer_expire_time,
                                          registration_id, labels, request_actor_id, request_id, request_fingerprint,
                                          create_time, update_time)
            SELECT w.event_id, w.position, w.id, w.user_id, w.seats, w.state, w.offer_expire_time, w.registration_id,
                   w.labels::jsonb, w.request_actor_id, w.request_id, w.request_fingerprint,
                   $7::timestamptz, $7::timestamptz
              FROM unnest($19::uuid[], $20::bigint[], $21::uuid[], $22::uuid[], $23::int[], $24::text[],
                          $25::timestamptz[], $26::uuid[], $27::text[], $28::uuid[], $29::uuid[], $30::bytea[])
                AS w(event_id, position, id, user_id, seats, state, offer_expire_time, registration_id, labels,
                     request_actor_id, request_id, request_fingerprint)
        ), logged AS (
            INSERT INTO changes (event_id, version, actor_id, actor_role, action, entity_id, subject_id, details,
                                 change_time, batch)
            SELECT l.event_id, l.version, l.actor_id, l.actor_role, l.action, l.entity_id, l.subject_id,
                   l.details::jsonb, $7::timestamptz, drawn.batch
              FROM unnest($31::uuid[], $32::bigint[], $33::uuid[], $34::text[], $35::text[], $36::uuid[], $37::uuid[],
                          $38::text[])
                AS l(event_id, version, actor_id, actor_role, action, entity_id, subject_id, details)
             CROSS JOIN drawn
        )
        SELECT batch AS "batch!" FROM drawn
        "#,
        &column(events, |e| e.id),
        &column(events, |e| e.seats_remaining),
        &column(events, |e| e.waitlist_size),
        &column(events, |e| e.largest_party),
        &column(events, |e| e.next_position),
        &column(events, |e| e.version),
        now,
        &column(registrations, |r| r.event_id),
        &column(registrations, |r| r.id),
        &column(registrations, |r| r.user_id),
        &column(registrations, |r| r.seats),
        &column(registrations, |r| r.state.word()) as &[&str],
        &column(registrations, |r| r.hold_expire_time) as &[Option<time::OffsetDateTime>],
        &column(registrations, |r| r.waitlist_entry_id) as &[Option<Uuid>],
        &column(registrations, |r| labels(&r.labels)),
        &column(registrations, |r| r.request.as_ref().map(|key| key.actor_id)) as &[Option<Uuid>],
        &column(registrations, |r| r.request.as_ref().map(|key| key.id)) as &[Option<Uuid>],
        &column(registrations, |r| r.request.as_ref().map(|key| key.fingerprint.as_slice())) as &[Option<&[u8]>],
        &column(entries, |w| w.event_id),
        &column(entries, |w| w.position),
        &column(entries, |w| w.id),
        &column(entries, |w| w.user_id),
        &column(entries, |w| w.seats),
        &column(entries, |w| w.state.word()) as &[&str],
        &column(entries, |w| w.offer_expire_time) as &[Option<time::OffsetDateTime>],
        &column(entries, |w| w.registration_id) as &[Option<Uuid>],
        &column(entries, |w| labels(&w.labels)),
        &column(entries, |w| w.request.as_ref().map(|key| key.actor_id)) as &[Option<Uuid>],
        &column(entries, |w| w.request.as_ref().map(|key| key.id)) as &[Option<Uuid>],
        &column(entries, |w| w.request.as_ref().map(|key| key.fingerprint.as_slice())) as &[Option<&[u8]>],
        &column(changes, |l| l.event_id),
        &column(changes, |l| l.version),
        &column(changes, |l| l.actor.id),
        &column(changes, |l| l.actor.role.word()) as &[&str],
        &column(changes, |l| l.action.word()) as &[&str],
        &column(changes, |l| l.entity_id),
        &column(changes, |l| l.subject_id) as &[Option<Uuid>],
        &column(changes, |l| l.details.to_string()),
    )
    .fetch_one(connection)
    .await?;
    Ok(batch)
}

async fn update_registrations(
    connection: &mut PgConnection,
    rows: &[Registration],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE registrations r
            SET state = c.state, update_time = c.update_time, confirm_time = c.confirm_time,
                cancel_time = c.cancel_time, check_in_time = c.check_in_time
           FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
                       $7::timestamptz[])
             AS c(event_id, id, state, update_time, confirm_time, cancel_time, check_in_time)
          WHERE r.event_id = c.event_id AND r.id = c.id",
        &column(rows, |r| r.event_id),
        &column(rows, |r| r.id),
        &column(rows, |r| r.state.word()) as &[&str],
        &column(rows, |r| r.update_time),
        &column(rows, |r| r.confirm_time) as &[Option<time::OffsetDateTime>],
        &column(rows, |r| r.cancel_time) as &[Option<time::OffsetDateTime>],
        &column(rows, |r| r.check_in_time) as &[Option<time::OffsetDateTime>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn update_entries(connection: &mut PgConnection, rows: &[Entry]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE waitlist_entries w
            SET state = c.state, update_time = c.update_time, offer_expire_time = c.offer_expire_time,
                registration_id = c.registration_id
           FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::uuid[])
             AS c(event_id, position, state, update_time, offer_expire_time, registration_id)
          WHERE w.event_id = c.event_id AND w.position = c.position",
        &column(rows, |w| w.event_id),
        &column(rows, |w| w.position),
        &column(rows, |w| w.state.word()) as &[&str],
        &column(rows, |w| w.update_time),
        &column(rows, |w| w.offer_expire_time) as &[Option<time::OffsetDateTime>],
        &column(rows, |w| w.registration_id) as &[Option<Uuid>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What the organizer can change; the counters are written with everyone else's.
async fn revise_event(connection: &mut PgConnection, record: &EventRecord) -> Result<(), StoreError> {
    let EventRecord { event, text } = record;
    sqlx::query!(
        "UPDATE events
            SET title = $2, description = $3, location = $4, start_time = $5, end_time = $6, registration_open_time = $7,
                registration_close_time = $8, capacity = $9, seats_remaining = $10, max_seats_per_registration = $11,
                waitlist_policy = $12, offer_ttl_ms = $13, queue_discipline = $14, state = $15, cancel_reason = $16,
                revision = $17, update_time = $18
          WHERE id = $1",
        event.id,
        text.title,
        text.description,
        text.location,
        event.start_time,
        event.end_time,
        event.registration_open_time,
        event.registration_close_time,
        event.capacity,
        event.seats_remaining,
        event.max_seats_per_registration,
        event.waitlist_policy.word(),
        i64::try_from(event.offer_ttl.as_millis()).unwrap_or(i64::MAX),
        event.queue_discipline.word(),
        event.state.word(),
        event.cancel_reason,
        event.revision,
        event.update_time,
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn column<'a, Row, T>(rows: &'a [Row], value: impl Fn(&'a Row) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

fn labels(labels: &Labels) -> String {
    if labels.is_empty() { "{}".to_owned() } else { serde_json::json!(labels).to_string() }
}
