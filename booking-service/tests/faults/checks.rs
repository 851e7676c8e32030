//! What has to hold after every fault, as SQL that returns a row for each thing that does not.

use service_core::test_support::TestDatabase;
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::journal::{Answer, Journal};
use crate::{order, proof};

/// How many complaints of one kind are shown.
const SHOWN: usize = 5;

/// The clients' books as tables, beside the service's.
const BOOKS: [&str; 2] = [
    "CREATE TEMPORARY TABLE said (event_id uuid, user_id uuid, request_id uuid, outcome text, reason text, entity_id uuid)",
    "CREATE TEMPORARY TABLE expected (id uuid, user_id uuid, seats integer, states text, kind text)",
];

/// All of which return no row.
pub(crate) const CHECKS: [(&str, &str); 10] = [
    (
        "one request with two effects",
        "SELECT concat_ws(' ', event_id, request_actor_id, request_id) FROM (
            SELECT event_id, request_actor_id, request_id FROM registrations UNION ALL
            SELECT event_id, request_actor_id, request_id FROM waitlist_entries) effects
          WHERE request_id IS NOT NULL GROUP BY event_id, request_actor_id, request_id HAVING count(*) > 1",
    ),
    (
        "acknowledged, and missing or different",
        "SELECT concat_ws(' ', kind, expected.id, states, 'is', there.state, 'of', there.user_id, 'seats', there.seats)
           FROM expected LEFT JOIN (
            SELECT 'registration' AS kind, id, user_id, seats, state FROM registrations UNION ALL
            SELECT 'entry', id, user_id, seats, state FROM waitlist_entries) there USING (kind, id)
          WHERE there.id IS NULL OR there.user_id <> expected.user_id OR there.seats <> expected.seats
             OR there.state <> ALL (string_to_array(expected.states, ' '))",
    ),
    (
        "acknowledged under another request",
        "SELECT concat_ws(' ', said.request_id, said.entity_id) FROM said
          WHERE outcome = 'made' AND NOT EXISTS (
            SELECT FROM registrations r WHERE r.id = said.entity_id AND r.event_id = said.event_id
               AND r.request_actor_id = said.user_id AND r.request_id = said.request_id)
            AND NOT EXISTS (
            SELECT FROM waitlist_entries w WHERE w.id = said.entity_id AND w.event_id = said.event_id
               AND w.request_actor_id = said.user_id AND w.request_id = said.request_id)",
    ),
    (
        "refused, and there",
        "SELECT concat_ws(' ', said.request_id, reason) FROM said
          WHERE outcome = 'refused' AND EXISTS (
            SELECT FROM registrations WHERE request_id = said.request_id UNION ALL
            SELECT FROM waitlist_entries WHERE request_id = said.request_id)",
    ),
    ("still unknown", "SELECT concat_ws(' ', request_id, reason) FROM said WHERE outcome = 'unknown'"),
    (
        "there, and nobody was told",
        "SELECT concat_ws(' ', id, request_id) FROM (
            SELECT id, request_id FROM registrations UNION ALL SELECT id, request_id FROM waitlist_entries) effects
          WHERE request_id IS NOT NULL
            AND NOT EXISTS (SELECT FROM said WHERE said.entity_id = effects.id AND said.request_id = effects.request_id)",
    ),
    (
        "refused for what cannot be",
        "SELECT concat_ws(' ', request_id, reason) FROM said WHERE outcome = 'refused'
            AND reason NOT IN ('EVENT_FULL', 'OVERLOADED', 'IDENTITY_UNAVAILABLE')",
    ),
    (
        "a session idles in a transaction",
        "SELECT concat_ws(' ', pid, application_name, state, query) FROM pg_stat_activity
          WHERE datname = current_database() AND state LIKE 'idle in transaction%'
            AND state_change < clock_timestamp() - interval '1 second'",
    ),
    (
        "a lock is stuck",
        // Who waits for a row waits for a transaction, and that is in no database.
        "SELECT concat_ws(' ', pid, locktype, relation::regclass, mode) FROM pg_locks
          WHERE NOT granted AND waitstart < clock_timestamp() - interval '1 second'
            AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())
      UNION ALL SELECT 'prepared ' || gid FROM pg_prepared_xacts WHERE database = current_database()",
    ),
    (
        "an index is invalid",
        "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT (indisvalid AND indisready)",
    ),
];

/// Everything that is wrong: between the clients' books and the tables, within the tables, and with the queue's order.
pub(crate) async fn violations(database: &TestDatabase, pool: &PgPool, journal: &Journal) -> Vec<String> {
    let mut violations = journal.all_wrong();
    let mut books = PgConnection::connect(&database.url).await.unwrap();
    copy_books(&mut books, journal).await;
    for (name, sql) in CHECKS {
        let rows: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut books).await.unwrap();
        let more = rows.len().saturating_sub(SHOWN);
        violations.extend(rows.iter().take(SHOWN).map(|row| format!("{name}: {row}")));
        if more > 0 {
            violations.push(format!("{name}: {more} more"));
        }
    }
    let events: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM events").fetch_all(pool).await.unwrap();
    for event in events {
        violations.extend(proof::complaints(pool, event).await);
        violations.extend(order::out_of_turn(pool, event).await);
    }
    violations
}

async fn copy_books(books: &mut PgConnection, journal: &Journal) {
    for sql in BOOKS {
        sqlx::query(sql).execute(&mut *books).await.unwrap();
    }
    let asks = journal.asks();
    let (mut outcomes, mut reasons, mut entities) = (Vec::new(), Vec::new(), Vec::new());
    for (_, answer) in &asks {
        let (outcome, reason, entity) = match answer {
            Answer::Made(made) => ("made", "", Some(made.id)),
            Answer::Refused(reason) => ("refused", reason.as_str(), None),
            Answer::Unknown(reason) => ("unknown", reason.as_str(), None),
        };
        outcomes.push(outcome);
        reasons.push(reason);
        entities.push(entity);
    }
    sqlx::query(
        "INSERT INTO said SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::uuid[])",
    )
    .bind(asks.iter().map(|(ask, _)| ask.event).collect::<Vec<_>>())
    .bind(asks.iter().map(|(ask, _)| ask.user).collect::<Vec<_>>())
    .bind(asks.iter().map(|(ask, _)| ask.request_id).collect::<Vec<_>>())
    .bind(&outcomes)
    .bind(&reasons)
    .bind(&entities)
    .execute(&mut *books)
    .await
    .unwrap();
    let rows: Vec<_> = journal.expected().into_values().collect();
    sqlx::query("INSERT INTO expected SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[])")
        .bind(rows.iter().map(|row| row.made.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.user).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.made.seats).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.states.join(" ")).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| if row.made.entry { "entry" } else { "registration" }).collect::<Vec<_>>())
        .execute(&mut *books)
        .await
        .unwrap();
    for (_, action, made, answer) in journal.moves() {
        if let Answer::Unknown(reason) = answer {
            sqlx::query("INSERT INTO said (outcome, reason, entity_id) VALUES ('unknown', $1, $2)")
                .bind(format!("{action:?}: {reason}"))
                .bind(made.id)
                .execute(&mut *books)
                .await
                .unwrap();
        }
    }
}
