//! The effects of a batch, in bulk.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::super::{StoreError, commit_nothing};
use super::ending::end_event;
use super::load::EventVersion;
use super::lock::commit;
use crate::domain::change::Change;
use crate::domain::command::RequestKey;
use crate::domain::effects::Effects;
use crate::domain::event::EventRecord;
use crate::domain::facts::Wanted;
use crate::domain::registration::Labels;

/// For how long what was read without a lock, or remembered, is true enough to be written, by the database's clock. A
/// replica that stands still in between must not let somebody in long after registration has closed. If that clock has gone
/// back since, as it may where another server has taken over, nobody knows how long it was.
const FACTS_LIVE: Duration = Duration::from_secs(5);

/// When something was written, with the locks of its events held and before it was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The server's clock.
    pub time: OffsetDateTime,
    /// When the server was started. One run of a server knows what it has committed; a server that takes over may never
    /// have heard of it, and count on from where it stands. (So may one that recovers from a crash with
    /// `synchronous_commit = off`, which no promise is made for.)
    pub server_start: OffsetDateTime,
}

/// How to find out later whether a batch was committed: rows that this attempt, and no other, has written, one for each
/// event that it changed. (One alone might be gone by then: a rehearsal removes its private event.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    attempt: Uuid,
    events: Vec<Uuid>,
    versions: Vec<i64>,
}

impl Mark {
    /// What an attempt leaves behind when it writes `effects`. No two attempts have the same id.
    pub fn new(attempt: Uuid, effects: &Effects) -> Self {
        let mut seen = HashSet::new();
        let first = effects.changes.iter().filter(|change| seen.insert(change.event_id));
        let (events, versions) = first.map(|change| (change.event_id, change.version)).unzip();
        Self { attempt, events, versions }
    }

    /// The attempt beside those of its changes that tell of it.
    fn on(&self, changes: &[Change]) -> Vec<Option<Uuid>> {
        // Both are in the order of the log.
        let mut marked = self.events.iter().copied().zip(self.versions.iter().copied()).peekable();
        let of =
            |change: &Change| marked.next_if_eq(&(change.event_id, change.version)).map(|_| self.attempt);
        changes.iter().map(of).collect()
    }

    /// The events that the batch changed, and so had locked.
    pub fn events(&self) -> &[Uuid] {
        &self.events
    }
}

/// Writes effects of one statement (see [`Effects::are_one_statement`]) in a transaction of its own, in one round trip, if
/// these events, all that the facts are about, are what they were when the facts were read, not long ago. `None`: they are
/// not, and nothing was written.
///
/// # Errors
/// Whatever the database says. If it says nothing, it may have written and committed, or may yet: see [`rule_out`].
pub async fn write_if_unchanged(
    connection: &mut PgConnection,
    versions: &[EventVersion],
    effects: &Effects,
    mark: &Mark,
) -> Result<Option<Moment>, StoreError> {
    let written = write(connection, versions, until(effects), effects, mark).await?;
    Ok(written.map(Written::moment))
}

/// Until when effects can be written on the ground of facts that no lock protects.
fn until(effects: &Effects) -> Option<OffsetDateTime> {
    effects.time().map(|time| time + FACTS_LIVE)
}

/// Whether these events are still what they were when the facts were read: then all that was read of them since is true
/// of one moment.
///
/// # Errors
/// Whatever the database says.
pub async fn are_unchanged(
    connection: &mut PgConnection,
    versions: &[EventVersion],
) -> Result<bool, StoreError> {
    let unchanged = sqlx::query_scalar!(
        r#"SELECT count(*) AS "unchanged!" FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS v(id, version, fence)
             JOIN events e ON e.id = v.id AND e.version = v.version AND e.fence = v.fence"#,
        &column(versions, |v| v.id),
        &column(versions, |v| v.version),
        &column(versions, |v| v.fence),
    )
    .fetch_one(connection)
    .await?;
    Ok(usize::try_from(unchanged).is_ok_and(|unchanged| unchanged == versions.len()))
}

/// Sees to it that nothing is written any more on the ground of what was read of these events until now, and commits. To
/// be called with the events locked.
///
/// Race: the session broke while [`write_if_unchanged`] was on its way. Nothing of it is there, its commands are told so or
/// are decided anew, and then the old statement arrives, on a session that the server does not know to be lost. It finds
/// another fence.
///
/// # Errors
/// Whatever the database says. If it says nothing, it may have committed.
pub async fn rule_out(connection: &mut PgConnection, events: &[Uuid]) -> Result<(), StoreError> {
    let raised = sqlx::query!("UPDATE events SET fence = fence + 1 WHERE id = ANY($1)", events)
        .execute(&mut *connection)
        .await?;
    if raised.rows_affected() == 0 {
        // They are gone. A commit of nothing would not wait for a standby.
        commit_nothing(&mut *connection).await?;
    }
    commit(connection).await
}

/// Writes everything in the transaction that has locked these events. Returns the last versions of those that end
/// ([`Effects::endings`]), in their order; the others' in `effects` are final.
///
/// # Errors
/// Whatever the database says. A violated constraint here means that the rules are wrong: no seat is ever at stake.
pub async fn write_effects(
    connection: &mut PgConnection,
    versions: &[EventVersion],
    effects: &Effects,
    mark: &Mark,
) -> Result<Vec<i64>, StoreError> {
    if effects.take_long() {
        // As long as it takes: a million registrations end in about a minute.
        sqlx::query!("SET LOCAL statement_timeout = '10min'").execute(&mut *connection).await?;
    }
    // A new capacity and the seats that it leaves go in together: the counters alone could exceed the old one.
    for record in &effects.revised {
        revise_event(&mut *connection, record).await?;
    }
    let changed = || StoreError::Inconsistent { table: "events", what: "changed under its lock".to_owned() };
    let written = write(&mut *connection, versions, None, effects, mark).await?.ok_or_else(changed)?;
    if !effects.deleted_events.is_empty() {
        sqlx::query!("DELETE FROM events WHERE id = ANY($1)", &effects.deleted_events)
            .execute(&mut *connection)
            .await?;
    }
    let mut last_versions = Vec::with_capacity(effects.endings.len());
    for ending in &effects.endings {
        last_versions.push(end_event(&mut *connection, ending, written.batch).await?);
    }
    Ok(last_versions)
}

/// Whether the batch with this mark was committed. To be asked with the mark's events locked: the lock is granted when
/// the transaction in question has ended one way or the other, not while its COMMIT is still under way.
///
/// # Errors
/// Whatever the database says.
pub async fn was_committed(connection: &mut PgConnection, mark: &Mark) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM unnest($1::uuid[], $2::bigint[]) AS m(event_id, version)
            WHERE EXISTS (SELECT FROM changes c
                           WHERE c.event_id = m.event_id AND c.version = m.version AND c.attempt = $3)) AS "found!""#,
        &mark.events,
        &mark.versions,
        mark.attempt,
    )
    .fetch_one(connection)
    .await?;
    Ok(found)
}

/// The statement of a batch: counters, new registrations, new entries, the log, all of it if all of these events are what
/// they were, and nothing otherwise. It gives the number that it drew for the transaction, all of whose locks are held by
/// then, and the moment.
///
/// Race: another replica changes an event between the reading of its facts and this. `locked` waits for it (in order of id,
/// as everybody does), is then given the row as it has become, and passes it over. No row of another table needs to be
/// read again: none of them changes without the event's version.
///
/// Arrays are opened one by one, in a list of columns: `FROM unnest(a, b)` keeps each in a store of its own before it is
/// read. All inserts join `ready`, which has the number of the batch. Where nothing comes before them, the CTE that draws it is
/// `ready` itself; where `$before` has updates, it is named `drawn`, and `$before` makes `ready` of it when they are done.
/// `$only_if` is what else has to be so.
macro_rules! query_write {
    (number: $number:literal, only_if: $only_if:literal, before: $before:literal,
     $versions:ident, $until:ident, $effects:ident, $attempts:ident $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Written,
            r#"
            WITH locked AS MATERIALIZED (
                SELECT
                  FROM (SELECT unnest($1::uuid[]) AS id, unnest($2::bigint[]) AS version,
                               unnest($3::bigint[]) AS fence) AS v
                  JOIN events e ON e.id = v.id AND e.version = v.version AND e.fence = v.fence
                 ORDER BY e.id FOR UPDATE OF e
            ), "# + $number + r#" AS MATERIALIZED (
                SELECT nextval('change_batches') AS batch
                 WHERE (SELECT count(*) FROM locked
                         WHERE $11::timestamptz IS NULL
                            OR clock_timestamp() BETWEEN $10::timestamptz AND $11::timestamptz)
                       = cardinality($1::uuid[])
                   "# + $only_if + r#"
            ), "# + $before + r#"counters AS (
                UPDATE events e
                   SET seats_remaining = c.seats_remaining, waitlist_size = c.waitlist_size,
                       largest_party = c.largest_party, next_position = c.next_position, version = c.version
                  FROM (SELECT unnest($4::uuid[]) AS id, unnest($5::int[]) AS seats_remaining,
                               unnest($6::int[]) AS waitlist_size, unnest($7::int[]) AS largest_party,
                               unnest($8::bigint[]) AS next_position, unnest($9::bigint[]) AS version) AS c
                 CROSS JOIN ready
                 WHERE e.id = c.id
            ), seated AS (
                INSERT INTO registrations (event_id, id, user_id, seats, state, hold_expire_time, waitlist_entry_id,
                                           labels, request_actor_id, request_id, request_fingerprint, create_time,
                                           update_time, confirm_time)
                SELECT r.event_id, r.id, r.user_id, r.seats, r.state, r.hold_expire_time, r.waitlist_entry_id,
                       r.labels::jsonb, r.request_actor_id, r.request_id, r.request_fingerprint, $10::timestamptz,
                       $10::timestamptz, CASE WHEN r.state = 'CONFIRMED' THEN $10::timestamptz END
                  FROM (SELECT unnest($12::uuid[]) AS event_id, unnest($13::uuid[]) AS id,
                               unnest($14::uuid[]) AS user_id, unnest($15::int[]) AS seats,
                               unnest($16::text[]) AS state, unnest($17::timestamptz[]) AS hold_expire_time,
                               unnest($18::uuid[]) AS waitlist_entry_id, unnest($19::text[]) AS labels,
                               unnest($20::uuid[]) AS request_actor_id, unnest($21::uuid[]) AS request_id,
                               unnest($22::bytea[]) AS request_fingerprint) AS r
                 CROSS JOIN ready
            ), queued AS (
                INSERT INTO waitlist_entries (event_id, position, id, user_id, seats, state, offer_expire_time,
                                              registration_id, labels, request_actor_id, request_id,
                                              request_fingerprint, create_time, update_time)
                SELECT w.event_id, w.position, w.id, w.user_id, w.seats, w.state, w.offer_expire_time,
                       w.registration_id, w.labels::jsonb, w.request_actor_id, w.request_id, w.request_fingerprint,
                       $10::timestamptz, $10::timestamptz
                  FROM (SELECT unnest($23::uuid[]) AS event_id, unnest($24::bigint[]) AS position,
                               unnest($25::uuid[]) AS id, unnest($26::uuid[]) AS user_id, unnest($27::int[]) AS seats,
                               unnest($28::text[]) AS state, unnest($29::timestamptz[]) AS offer_expire_time,
                               unnest($30::uuid[]) AS registration_id, unnest($31::text[]) AS labels,
                               unnest($32::uuid[]) AS request_actor_id, unnest($33::uuid[]) AS request_id,
                               unnest($34::bytea[]) AS request_fingerprint) AS w
                 CROSS JOIN ready
            ), logged AS (
                INSERT INTO changes (event_id, version, actor_id, actor_role, action, entity_id, subject_id, details,
                                     change_time, batch, attempt)
                SELECT l.event_id, l.version, l.actor_id, l.actor_role, l.action, l.entity_id, l.subject_id,
                       l.details::jsonb, $10::timestamptz, ready.batch, l.attempt
                  FROM (SELECT unnest($35::uuid[]) AS event_id, unnest($36::bigint[]) AS version,
                               unnest($37::uuid[]) AS actor_id, unnest($38::text[]) AS actor_role,
                               unnest($39::text[]) AS action, unnest($40::uuid[]) AS entity_id,
                               unnest($41::uuid[]) AS subject_id, unnest($42::text[]) AS details,
                               unnest($43::uuid[]) AS attempt) AS l
                 CROSS JOIN ready
            )
            SELECT batch AS "batch!", clock_timestamp() AS "time!", pg_postmaster_start_time() AS "server_start!"
              FROM ready
            "#,
            &column($versions, |v| v.id),
            &column($versions, |v| v.version),
            &column($versions, |v| v.fence),
            &column(&$effects.events, |e| e.id),
            &column(&$effects.events, |e| e.seats_remaining),
            &column(&$effects.events, |e| e.waitlist_size),
            &column(&$effects.events, |e| e.largest_party),
            &column(&$effects.events, |e| e.next_position),
            &column(&$effects.events, |e| e.version),
            $effects.time(),
            $until,
            &column(&$effects.new_registrations, |r| r.event_id),
            &column(&$effects.new_registrations, |r| r.id),
            &column(&$effects.new_registrations, |r| r.user_id),
            &column(&$effects.new_registrations, |r| r.seats),
            &column(&$effects.new_registrations, |r| r.state.word()) as &[&str],
            &column(&$effects.new_registrations, |r| r.hold_expire_time) as &[Option<OffsetDateTime>],
            &column(&$effects.new_registrations, |r| r.waitlist_entry_id) as &[Option<Uuid>],
            &column(&$effects.new_registrations, |r| labels(&r.labels)),
            &column(&$effects.new_registrations, |r| caller(&r.request)) as &[Option<Uuid>],
            &column(&$effects.new_registrations, |r| request(&r.request)) as &[Option<Uuid>],
            &column(&$effects.new_registrations, |r| fingerprint(&r.request)) as &[Option<&[u8]>],
            &column(&$effects.new_entries, |w| w.event_id),
            &column(&$effects.new_entries, |w| w.position),
            &column(&$effects.new_entries, |w| w.id),
            &column(&$effects.new_entries, |w| w.user_id),
            &column(&$effects.new_entries, |w| w.seats),
            &column(&$effects.new_entries, |w| w.state.word()) as &[&str],
            &column(&$effects.new_entries, |w| w.offer_expire_time) as &[Option<OffsetDateTime>],
            &column(&$effects.new_entries, |w| w.registration_id) as &[Option<Uuid>],
            &column(&$effects.new_entries, |w| labels(&w.labels)),
            &column(&$effects.new_entries, |w| caller(&w.request)) as &[Option<Uuid>],
            &column(&$effects.new_entries, |w| request(&w.request)) as &[Option<Uuid>],
            &column(&$effects.new_entries, |w| fingerprint(&w.request)) as &[Option<&[u8]>],
            &column(&$effects.changes, |l| l.event_id),
            &column(&$effects.changes, |l| l.version),
            &column(&$effects.changes, |l| l.actor.id),
            &column(&$effects.changes, |l| l.actor.role.word()) as &[&str],
            &column(&$effects.changes, |l| l.action.word()) as &[&str],
            &column(&$effects.changes, |l| l.entity_id),
            &column(&$effects.changes, |l| l.subject_id) as &[Option<Uuid>],
            &column(&$effects.changes, |l| l.details.to_string()),
            &$attempts as &[Option<Uuid>],
            $($argument,)*
        )
    };
}

/// [`write_if_unchanged`] for effects whose facts were not read but remembered, from a server that was started then: nothing
/// but these events, and nobody in them. It is written if, besides, it is still that server, none of these users has an
/// active registration or entry, and none of these requests has made one. The effects are new rows alone
/// ([`Effects::only_add`]).
///
/// # Errors
/// As [`write_if_unchanged`].
pub async fn write_newcomers_if_unchanged(
    connection: &mut PgConnection,
    versions: &[EventVersion],
    server_start: OffsetDateTime,
    newcomers: &Wanted,
    effects: &Effects,
    mark: &Mark,
) -> Result<Option<Moment>, StoreError> {
    let (attempts, until) = (mark.on(&effects.changes), until(effects));
    let (users, requests) = (&newcomers.users, &newcomers.requests);
    // Race: one of them comes in by another way after this statement has begun, whose look-ups do not see it. The event's
    // version tells: it is read once more as the lock is granted.
    let write = query_write!(
        number: "ready",
        only_if: r#"AND pg_postmaster_start_time() = $49 AND NOT EXISTS (
                SELECT FROM (SELECT unnest($44::uuid[]) AS event_id, unnest($45::uuid[]) AS user_id) AS u
                 WHERE (SELECT r.id FROM registrations r
                         WHERE r.event_id = u.event_id AND r.user_id = u.user_id
                           AND r.state IN ('HELD', 'CONFIRMED', 'CHECKED_IN')) IS NOT NULL
                    OR (SELECT w.id FROM waitlist_entries w
                         WHERE w.event_id = u.event_id AND w.user_id = u.user_id
                           AND w.state IN ('WAITING', 'OFFERED')) IS NOT NULL
            ) AND NOT EXISTS (
                SELECT FROM (SELECT unnest($46::uuid[]) AS event_id, unnest($47::uuid[]) AS caller,
                                    unnest($48::uuid[]) AS request) AS q
                 WHERE (SELECT r.id FROM registrations r
                         WHERE r.event_id = q.event_id AND r.request_actor_id = q.caller
                           AND r.request_id = q.request) IS NOT NULL
                    OR (SELECT w.id FROM waitlist_entries w
                         WHERE w.event_id = q.event_id AND w.request_actor_id = q.caller
                           AND w.request_id = q.request) IS NOT NULL
            )"#,
        before: "",
        versions,
        until,
        effects,
        attempts,
        &column(users, |user| user.0),
        &column(users, |user| user.1),
        &column(requests, |request| request.0),
        &column(requests, |request| request.1),
        &column(requests, |request| request.2),
        server_start,
    );
    Ok(write.fetch_optional(connection).await?.map(Written::moment))
}

/// A batch that is written.
struct Written {
    /// Its number.
    batch: i64,
    time: OffsetDateTime,
    server_start: OffsetDateTime,
}

impl Written {
    fn moment(self) -> Moment {
        Moment { time: self.time, server_start: self.server_start }
    }
}

/// Writes a batch if its events are what they were, and it is between the time of their facts and `until`.
async fn write(
    connection: &mut PgConnection,
    versions: &[EventVersion],
    until: Option<OffsetDateTime>,
    effects: &Effects,
    mark: &Mark,
) -> Result<Option<Written>, StoreError> {
    let attempts = mark.on(&effects.changes);
    let (registrations, entries) = (&effects.changed_registrations, &effects.changed_entries);
    if registrations.is_empty() && entries.is_empty() {
        // The rush. What is not there need not be set up.
        let write =
            query_write!(number: "ready", only_if: "", before: "", versions, until, effects, attempts);
        return Ok(write.fetch_optional(connection).await?);
    }
    // What ends comes before what begins: a cancelled registration must be out of the unique index of active ones
    // before the same user's new one goes in. Whoever counts what was changed waits for it.
    let write = query_write!(
        number: "drawn",
        only_if: "",
        before: r#"registrations_changed AS (
                UPDATE registrations r
                   SET state = c.state, update_time = c.update_time, confirm_time = c.confirm_time,
                       cancel_time = c.cancel_time, check_in_time = c.check_in_time
                  FROM (SELECT unnest($44::uuid[]) AS event_id, unnest($45::uuid[]) AS id, unnest($46::text[]) AS state,
                               unnest($47::timestamptz[]) AS update_time, unnest($48::timestamptz[]) AS confirm_time,
                               unnest($49::timestamptz[]) AS cancel_time,
                               unnest($50::timestamptz[]) AS check_in_time) AS c
                 CROSS JOIN drawn
                 WHERE r.event_id = c.event_id AND r.id = c.id
                RETURNING 1
            ), entries_changed AS (
                UPDATE waitlist_entries w
                   SET state = c.state, update_time = c.update_time, offer_expire_time = c.offer_expire_time,
                       registration_id = c.registration_id
                  FROM (SELECT unnest($51::uuid[]) AS event_id, unnest($52::bigint[]) AS position,
                               unnest($53::text[]) AS state, unnest($54::timestamptz[]) AS update_time,
                               unnest($55::timestamptz[]) AS offer_expire_time,
                               unnest($56::uuid[]) AS registration_id) AS c
                 CROSS JOIN drawn
                 WHERE w.event_id = c.event_id AND w.position = c.position
                RETURNING 1
            ), ready AS MATERIALIZED (
                SELECT batch FROM drawn
                 WHERE (SELECT count(*) FROM registrations_changed) + (SELECT count(*) FROM entries_changed) >= 0
            ), "#,
        versions,
        until,
        effects,
        attempts,
        &column(registrations, |r| r.event_id),
        &column(registrations, |r| r.id),
        &column(registrations, |r| r.state.word()) as &[&str],
        &column(registrations, |r| r.update_time),
        &column(registrations, |r| r.confirm_time) as &[Option<OffsetDateTime>],
        &column(registrations, |r| r.cancel_time) as &[Option<OffsetDateTime>],
        &column(registrations, |r| r.check_in_time) as &[Option<OffsetDateTime>],
        &column(entries, |w| w.event_id),
        &column(entries, |w| w.position),
        &column(entries, |w| w.state.word()) as &[&str],
        &column(entries, |w| w.update_time),
        &column(entries, |w| w.offer_expire_time) as &[Option<OffsetDateTime>],
        &column(entries, |w| w.registration_id) as &[Option<Uuid>],
    );
    Ok(write.fetch_optional(connection).await?)
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

fn caller(request: &Option<RequestKey>) -> Option<Uuid> {
    request.as_ref().map(|key| key.actor_id)
}

fn request(request: &Option<RequestKey>) -> Option<Uuid> {
    request.as_ref().map(|key| key.id)
}

fn fingerprint(request: &Option<RequestKey>) -> Option<&[u8]> {
    request.as_ref().map(|key| key.fingerprint.as_slice())
}

fn labels(labels: &Labels) -> String {
    if labels.is_empty() { "{}".to_owned() } else { serde_json::json!(labels).to_string() }
}
