//! Proving an event from its rows, apart from the service's own proof.

use rowlock_proto::booking::v1::Event;
use sqlx::PgPool;
use uuid::Uuid;

use crate::system::System;

/// Every complaint about one event, found by SQL that shares nothing with the service.
pub(crate) const COMPLAINTS: &str = r"
WITH e AS (SELECT * FROM events WHERE id = $1),
     r AS (SELECT * FROM registrations WHERE event_id = $1),
     w AS (SELECT * FROM waitlist_entries WHERE event_id = $1),
     l AS (SELECT * FROM changes WHERE event_id = $1),
     taken AS (SELECT COALESCE((SELECT sum(seats) FROM r WHERE state IN ('HELD', 'CONFIRMED', 'CHECKED_IN')), 0)
                    + COALESCE((SELECT sum(seats) FROM w WHERE state = 'OFFERED'), 0) AS seats),
     -- What the log's last word on each registration and entry has to be.
     last AS (SELECT DISTINCT ON (entity_id) entity_id, action, subject_id FROM l ORDER BY entity_id, version DESC),
     words(kind, state, actions) AS (VALUES
        ('r', 'HELD', ARRAY['REGISTRATION_HELD']),
        ('r', 'CONFIRMED', ARRAY['REGISTRATION_CREATED', 'REGISTRATION_CONFIRMED']),
        ('r', 'CHECKED_IN', ARRAY['REGISTRATION_CHECKED_IN']),
        ('r', 'CANCELLED', ARRAY['REGISTRATION_CANCELLED']),
        ('r', 'EXPIRED', ARRAY['REGISTRATION_EXPIRED']),
        ('w', 'WAITING', ARRAY['WAITLIST_JOINED']),
        ('w', 'PROMOTED', ARRAY['WAITLIST_PROMOTED']),
        ('w', 'OFFERED', ARRAY['WAITLIST_OFFERED']),
        ('w', 'ACCEPTED', ARRAY['OFFER_ACCEPTED']),
        ('w', 'DECLINED', ARRAY['OFFER_DECLINED']),
        ('w', 'EXPIRED', ARRAY['OFFER_EXPIRED']),
        ('w', 'LEFT', ARRAY['WAITLIST_LEFT']),
        ('w', 'CANCELLED', ARRAY['WAITLIST_CANCELLED'])),
     rows(kind, id, user_id, state) AS (SELECT 'r', id, user_id, state FROM r UNION ALL
                                        SELECT 'w', id, user_id, state FROM w),
     -- The log, replayed: seats taken after each change, and the capacity then.
     offered AS (SELECT DISTINCT entity_id FROM l WHERE action = 'WAITLIST_OFFERED'),
     replayed AS (
        SELECT version,
               sum(CASE WHEN action IN ('REGISTRATION_HELD', 'REGISTRATION_CREATED', 'WAITLIST_OFFERED')
                            THEN (details->>'seats')::int
                        WHEN action IN ('REGISTRATION_CANCELLED', 'REGISTRATION_EXPIRED', 'OFFER_ACCEPTED',
                                        'OFFER_DECLINED', 'OFFER_EXPIRED')
                            THEN -(details->>'seats')::int
                        WHEN action = 'WAITLIST_CANCELLED' AND entity_id IN (SELECT entity_id FROM offered)
                            THEN -(details->>'seats')::int
                        ELSE 0 END) OVER (ORDER BY version) AS seats,
               max((details->>'capacity')::int) FILTER (WHERE sizes) OVER (PARTITION BY size) AS capacity
          FROM (SELECT *, action LIKE 'EVENT_%' AND details ? 'capacity' AS sizes,
                       count(*) FILTER (WHERE action LIKE 'EVENT_%' AND details ? 'capacity') OVER (ORDER BY version) AS size
                  FROM l) sized)
SELECT 'seats do not add up' FROM e, taken WHERE e.capacity <> e.seats_remaining + taken.seats
UNION ALL SELECT 'overbooked' FROM e, taken WHERE taken.seats > e.capacity OR e.seats_remaining < 0
UNION ALL SELECT 'waitlist_size is wrong' FROM e
           WHERE e.waitlist_size <> (SELECT count(*) FROM w WHERE state = 'WAITING')
UNION ALL SELECT 'registered twice: ' || user_id FROM r WHERE state IN ('HELD', 'CONFIRMED', 'CHECKED_IN')
           GROUP BY user_id HAVING count(*) > 1
UNION ALL SELECT 'queued twice: ' || user_id FROM w WHERE state IN ('WAITING', 'OFFERED')
           GROUP BY user_id HAVING count(*) > 1
UNION ALL SELECT 'registered and queued: ' || r.user_id FROM r JOIN w USING (user_id)
           WHERE r.state IN ('HELD', 'CONFIRMED', 'CHECKED_IN') AND w.state IN ('WAITING', 'OFFERED')
UNION ALL SELECT 'positions have gaps' FROM e
           WHERE e.next_position <> 1 + (SELECT count(*) FROM w)
              OR (SELECT COALESCE(max(position), 0) FROM w) <> (SELECT count(*) FROM w)
UNION ALL SELECT 'somebody waits for free seats' FROM e
           WHERE e.state = 'PUBLISHED' AND e.end_time > now() AND EXISTS (
                 SELECT FROM w WHERE w.state = 'WAITING' AND w.seats <= e.seats_remaining
                    AND (e.queue_discipline = 'SKIP_AHEAD'
                         OR w.position = (SELECT min(position) FROM w WHERE state = 'WAITING')))
UNION ALL SELECT 'active at a cancelled event: ' || rows.id FROM e, rows WHERE e.state = 'CANCELLED'
            AND rows.state IN ('HELD', 'CONFIRMED', 'CHECKED_IN', 'WAITING', 'OFFERED')
UNION ALL SELECT 'an entry that became nothing: ' || w.id FROM w LEFT JOIN r ON r.id = w.registration_id
           WHERE (w.state IN ('PROMOTED', 'ACCEPTED'))
              <> (r.waitlist_entry_id IS NOT DISTINCT FROM w.id AND r.user_id = w.user_id AND r.seats = w.seats)
UNION ALL SELECT 'a registration from nowhere: ' || r.id FROM r LEFT JOIN w ON w.id = r.waitlist_entry_id
           WHERE r.waitlist_entry_id IS NOT NULL AND w.registration_id IS DISTINCT FROM r.id
UNION ALL SELECT 'the log has gaps' FROM e
           WHERE e.version <> (SELECT count(*) FROM l) OR e.version <> (SELECT max(version) FROM l)
UNION ALL SELECT 'the log says otherwise of ' || rows.id || ' than ' || rows.state FROM rows
            LEFT JOIN last ON last.entity_id = rows.id AND last.subject_id = rows.user_id
            LEFT JOIN words USING (kind, state)
           WHERE last.action IS NULL OR last.action <> ALL (words.actions)
UNION ALL SELECT 'the log knows what is not there: ' || entity_id FROM last
           WHERE entity_id <> $1 AND entity_id NOT IN (SELECT id FROM rows)
UNION ALL SELECT 'too many seats taken at version ' || version FROM replayed
           WHERE seats NOT BETWEEN 0 AND capacity
UNION ALL SELECT 'time goes back at version ' || version FROM
           (SELECT version, change_time < lag(change_time) OVER (ORDER BY version) AS back FROM l) t WHERE back
";

impl System {
    /// Asserts that the event is right: by its own account, and by the rows.
    pub(crate) async fn assert_consistent(&self, event: &Event) {
        let complaints = complaints(&self.pool, id(&event.event_id)).await;
        assert_eq!(complaints, Vec::<String>::new(), "{}", dump(&self.pool, event).await);
        let proof = self.admin().verify(event).await.unwrap();
        assert!(proof.consistent && proof.findings.is_empty(), "{proof:?}");
        let taken = proof.seats_held + proof.seats_confirmed + proof.seats_checked_in + proof.seats_offered;
        assert_eq!(i64::from(proof.capacity), i64::from(proof.seats_remaining) + taken, "{proof:?}");
    }

    /// The number that this SQL counts for the event.
    pub(crate) async fn count(&self, sql: &'static str, event: &Event) -> i64 {
        sqlx::query_scalar(sql).bind(id(&event.event_id)).fetch_one(&self.pool).await.unwrap()
    }

    /// A digest of every row there is: equal as long as nothing was changed.
    pub(crate) async fn everything(&self) -> String {
        sqlx::query_scalar(
            "SELECT COALESCE(md5(string_agg(row, '|' ORDER BY row)), '') FROM (
                SELECT e::text AS row FROM events e UNION ALL SELECT r::text FROM registrations r
                UNION ALL SELECT w::text FROM waitlist_entries w UNION ALL SELECT c::text FROM changes c) rows",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// The event's log as `(version, actor role, action)`.
    pub(crate) async fn log(&self, event: &Event) -> Vec<(i64, String, String)> {
        sqlx::query_as("SELECT version, actor_role, action FROM changes WHERE event_id = $1 ORDER BY version")
            .bind(id(&event.event_id))
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }
}

/// What is wrong with the event's rows.
pub(crate) async fn complaints(pool: &PgPool, event_id: Uuid) -> Vec<String> {
    sqlx::query_scalar(COMPLAINTS).bind(event_id).fetch_all(pool).await.unwrap()
}

pub(crate) fn id(text: &str) -> Uuid {
    text.parse().unwrap()
}

async fn dump(pool: &PgPool, event: &Event) -> String {
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT e::text FROM events e WHERE id = $1 UNION ALL
         SELECT concat_ws(' ', version, actor_role, action, entity_id, details) FROM changes WHERE event_id = $1",
    )
    .bind(id(&event.event_id))
    .fetch_all(pool)
    .await
    .unwrap();
    rows.join("\n")
}
