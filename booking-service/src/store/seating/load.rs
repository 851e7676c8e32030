//! The facts of a batch.
//!
//! Under READ COMMITTED a statement that waits for a row lock re-reads that row, but sees every other table as it was
//! before the wait: facts read together with the lock would miss what the other replica has just committed. So there are
//! three safe ways, and no other:
//! - lock, then read in a later statement;
//! - read, then write only if the event's version and fence are still the same under the lock: every change raises one of them;
//! - where the version is known beforehand, make sure in the statement that writes that these people are not there, and that
//!   the version is still that: see [`super::write_newcomers_if_unchanged`].

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::super::StoreError;
use super::super::events::database_time;
use super::super::rows::{EventRow, query_entries, query_registrations, read};
use crate::domain::command::Command;
use crate::domain::event::{EventRecord, EventText};
use crate::domain::facts::{Facts, HeadsWanted, Wanted};
use crate::domain::registration::Registration;
use crate::domain::waitlist::Entry;

/// An event as it was when its facts were read: whoever changes anything that the rules read of it raises one of the two
/// (by hand, the fence).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventVersion {
    /// The event.
    pub id: Uuid,
    /// The last version in its log.
    pub version: i64,
    /// How many writes to it were ruled out, see [`super::rule_out`].
    pub fence: i64,
}

/// Facts, and how they were read.
#[derive(Debug)]
pub struct Loaded {
    /// What was asked for.
    pub facts: Facts,
    /// The events as the first statement saw them.
    pub versions: Vec<EventVersion>,
    /// Whether one statement read them all: then they are those of one moment even where nothing is locked.
    pub at_one_moment: bool,
    /// Whether somebody else had one of the events locked when the first statement looked, in a transaction that had not
    /// ended: what that has written is not among the facts, though it may be as good as committed. (The row's `xmax` tells of one
    /// transaction: so nobody takes an event's row with a shared lock, as a foreign key would, nor within a savepoint.)
    pub being_written: bool,
}

/// Reads these events and what `commands` need to know about them. The events are locked or do not exist; if not, see
/// [`Loaded::at_one_moment`] and [`super::write_if_unchanged`].
///
/// `as_of`: the moment that they are taken to be of; `None` for the database's present.
///
/// One statement when nobody is known and nothing is freed (the rush); one more for each kind of row that is.
///
/// # Errors
/// Whatever the database says, or a row that means nothing.
pub async fn load_facts<'a>(
    connection: &mut PgConnection,
    events: &[Uuid],
    commands: impl Iterator<Item = &'a Command> + Clone,
    as_of: Option<OffsetDateTime>,
) -> Result<Loaded, StoreError> {
    let wanted = Wanted::by(commands.clone());
    let (user_events, users): (Vec<_>, Vec<_>) = wanted.users.iter().copied().unzip();
    let (request_events, (callers, requests)): (Vec<_>, (Vec<_>, Vec<_>)) =
        wanted.requests.iter().map(|&(event_id, caller, request)| (event_id, (caller, request))).unzip();

    // Scalar subqueries, not joins: each is a look-up by a unique index, whatever the statistics say. They come with the
    // first event. The clock is read here: now() stands still from before a wait for locks.
    // The rules do not read texts, so they stay where they are.
    let mut rows = sqlx::query!(
        r#"
        SELECT clock_timestamp() AS "now!", e.*,
            CASE WHEN first THEN
              ARRAY(SELECT (SELECT r.id FROM registrations r
                           WHERE r.event_id = u.event_id AND r.user_id = u.user_id
                             AND r.state IN ('HELD', 'CONFIRMED', 'CHECKED_IN'))
                    FROM (SELECT unnest($1::uuid[]) AS event_id, unnest($2::uuid[]) AS user_id) AS u) END
                AS "registered: Vec<Option<Uuid>>",
            CASE WHEN first THEN
              ARRAY(SELECT (SELECT w.id FROM waitlist_entries w
                           WHERE w.event_id = u.event_id AND w.user_id = u.user_id
                             AND w.state IN ('WAITING', 'OFFERED'))
                    FROM (SELECT unnest($1::uuid[]) AS event_id, unnest($2::uuid[]) AS user_id) AS u) END
                AS "queued: Vec<Option<Uuid>>",
            CASE WHEN first THEN
              ARRAY(SELECT (SELECT r.id FROM registrations r
                           WHERE r.event_id = q.event_id AND r.request_actor_id = q.caller AND r.request_id = q.request)
                    FROM (SELECT unnest($3::uuid[]) AS event_id, unnest($4::uuid[]) AS caller,
                                 unnest($5::uuid[]) AS request) AS q) END
                AS "made_registrations: Vec<Option<Uuid>>",
            CASE WHEN first THEN
              ARRAY(SELECT (SELECT w.id FROM waitlist_entries w
                           WHERE w.event_id = q.event_id AND w.request_actor_id = q.caller AND w.request_id = q.request)
                    FROM (SELECT unnest($3::uuid[]) AS event_id, unnest($4::uuid[]) AS caller,
                                 unnest($5::uuid[]) AS request) AS q) END
                AS "made_entries: Vec<Option<Uuid>>",
            -- Its last locker, or 0, began after the snapshot was taken, or is one of those that had not ended then. (Of
            -- transaction ids a row has the lower half, and they go round.)
            (locker <> 0 AND ((locker - pg_snapshot_xmax(pg_current_snapshot())::text::bigint) & 4294967295 < 2147483648
                              OR locker IN (SELECT x::text::bigint & 4294967295
                                              FROM pg_snapshot_xip(pg_current_snapshot()) AS x))) AS "being_written!"
          FROM (SELECT id, organizer_id, start_time, end_time, registration_open_time, registration_close_time, capacity,
                       seats_remaining, waitlist_size, largest_party, next_position, max_seats_per_registration,
                       waitlist_policy, offer_ttl_ms, queue_discipline, state, cancel_reason, revision, version,
                       fence, create_time, update_time, xmax::text::bigint AS locker, row_number() OVER () = 1 AS first
                  FROM events WHERE id = ANY($6)) AS e
        "#,
        &user_events,
        &users,
        &request_events,
        &callers,
        &requests,
        events,
    )
    .fetch_all(&mut *connection)
    .await?;
    let now = match (as_of, rows.first()) {
        (Some(time), _) => time,
        (None, Some(row)) => row.now,
        // None of them exists, so there is nothing to know about them.
        (None, None) => database_time(&mut *connection).await?,
    };

    let known = rows
        .first_mut()
        .map(|row| Known {
            registered: row.registered.take().unwrap_or_default(),
            queued: row.queued.take().unwrap_or_default(),
            made_registrations: row.made_registrations.take().unwrap_or_default(),
            made_entries: row.made_entries.take().unwrap_or_default(),
        })
        .unwrap_or_default();
    let mut events_read = Vec::with_capacity(rows.len());
    let mut versions = Vec::with_capacity(rows.len());
    let being_written = rows.iter().any(|row| row.being_written);
    for row in rows {
        versions.push(EventVersion { id: row.id, version: row.version, fence: row.fence });
        let row = EventRow {
            id: row.id,
            organizer_id: row.organizer_id,
            title: String::new(),
            description: String::new(),
            location: String::new(),
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
            waitlist_policy: row.waitlist_policy,
            offer_ttl_ms: row.offer_ttl_ms,
            queue_discipline: row.queue_discipline,
            state: row.state,
            cancel_reason: row.cancel_reason,
            revision: row.revision,
            version: row.version,
            create_time: row.create_time,
            update_time: row.update_time,
        };
        events_read.push(EventRecord::try_from(row)?.event);
    }
    let mut facts = Facts::new(now, events_read);
    let found = |events: &[Uuid], ids: Vec<Option<Uuid>>| -> Vec<(Uuid, Uuid)> {
        events.iter().zip(ids).filter_map(|(&event_id, id)| Some((event_id, id?))).collect()
    };

    let mut entries = wanted.entries;
    entries.extend(found(&user_events, known.queued));
    entries.extend(found(&request_events, known.made_entries));
    let mut registrations = wanted.registrations;
    registrations.extend(found(&user_events, known.registered));
    registrations.extend(found(&request_events, known.made_registrations));
    let nobody_is_known = entries.is_empty() && registrations.is_empty();
    for entry in entries_by_id(&mut *connection, entries).await? {
        facts.add_entry(entry);
    }

    registrations.extend(facts.missing_registrations());
    for registration in registrations_by_id(&mut *connection, registrations).await? {
        facts.add_registration(registration);
    }

    load_texts(&mut *connection, &wanted.texts, &mut facts).await?;
    let heads = facts.heads_wanted(commands);
    let at_one_moment = nobody_is_known && wanted.texts.is_empty() && heads.is_empty();
    load_heads(connection, &heads, &mut facts).await?;
    Ok(Loaded { facts, versions, at_one_moment, being_written })
}

/// Who is known to which event, in the order asked for: ids, where there are any.
#[derive(Default)]
struct Known {
    registered: Vec<Option<Uuid>>,
    queued: Vec<Option<Uuid>>,
    made_registrations: Vec<Option<Uuid>>,
    made_entries: Vec<Option<Uuid>>,
}

async fn registrations_by_id(
    connection: &mut PgConnection,
    mut wanted: Vec<(Uuid, Uuid)>,
) -> Result<Vec<Registration>, StoreError> {
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let (events, ids): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
    let rows = query_registrations!(
        "FROM (SELECT unnest($1::uuid[]) AS event_id, unnest($2::uuid[]) AS id) AS k
         CROSS JOIN LATERAL (SELECT * FROM registrations x WHERE x.event_id = k.event_id AND x.id = k.id LIMIT 1) r",
        &events,
        &ids,
    )
    .fetch_all(connection)
    .await?;
    read(rows)
}

async fn entries_by_id(
    connection: &mut PgConnection,
    mut wanted: Vec<(Uuid, Uuid)>,
) -> Result<Vec<Entry>, StoreError> {
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let (events, ids): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
    let rows = query_entries!(
        "FROM (SELECT unnest($1::uuid[]) AS event_id, unnest($2::uuid[]) AS id) AS k
         CROSS JOIN LATERAL (SELECT * FROM waitlist_entries x WHERE x.id = k.id AND x.event_id = k.event_id LIMIT 1) w",
        &events,
        &ids,
    )
    .fetch_all(connection)
    .await?;
    read(rows)
}

async fn load_texts(
    connection: &mut PgConnection,
    events: &[Uuid],
    facts: &mut Facts,
) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query!("SELECT id, title, description, location FROM events WHERE id = ANY($1)", events)
        .fetch_all(connection)
        .await?;
    for row in rows {
        let text = EventText { title: row.title, description: row.description, location: row.location };
        facts.add_text(row.id, text);
    }
    Ok(())
}

/// The heads of the queues that freed seats can reach: none in a rush.
async fn load_heads(
    connection: &mut PgConnection,
    wanted: &[HeadsWanted],
    facts: &mut Facts,
) -> Result<(), StoreError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let events: Vec<Uuid> = wanted.iter().map(|heads| heads.event_id).collect();
    let sizes: Vec<i32> = wanted.iter().map(|heads| heads.seats).collect();
    let limits: Vec<i64> = wanted.iter().map(|heads| heads.limit).collect();
    let after: Vec<i64> = wanted.iter().map(|heads| heads.after).collect();
    // Written as a range and in its order, the size pins the index of heads: as an equality it let the planner walk the
    // whole queue by position and filter. As one row of two, it is where the index is entered.
    let rows = query_entries!(
        "FROM (SELECT unnest($1::uuid[]) AS event_id, unnest($2::int[]) AS seats, unnest($3::bigint[]) AS want,
                      unnest($4::bigint[]) AS after) AS h
         CROSS JOIN LATERAL (SELECT * FROM waitlist_entries x
                              WHERE x.event_id = h.event_id AND x.state = 'WAITING'
                                AND (x.seats, x.position) > (h.seats, h.after) AND x.seats <= h.seats
                              ORDER BY x.seats, x.position LIMIT h.want) w",
        &events,
        &sizes,
        &limits,
        &after,
    )
    .fetch_all(connection)
    .await?;
    for entry in read(rows)? {
        facts.add_entry(entry);
    }
    Ok(())
}
