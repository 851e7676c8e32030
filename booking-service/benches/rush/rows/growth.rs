//! A database that has grown.

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};

use super::seats_are_right;
use crate::bench::Bench;
use crate::load::{Call, Plan};
use crate::proof::{Books, prove};
use crate::row::{PLENTY, Row};

/// Registrations of each event of the past.
const SEATS: usize = 10_000;

pub(super) async fn growth(bench: &Bench) -> anyhow::Result<Row> {
    let registrations = bench.size(10_000_000, 100_000);
    let mut row = Row::new(
        "growth",
        &format!("one hot event, 100 clients, {registrations} registrations in the table"),
    );
    let (empty, host_of_empty) = bench.system(1).await?;
    let (grown, host_of_grown) = bench.system(1).await?;
    let pattern = host_of_grown.event(SEATS).await?;
    let past = fill(&grown.pool, &pattern, registrations / SEATS).await?;
    let seated = u64::try_from(SEATS)?;
    prove(&host_of_grown, &grown.pool, &[past], Books { seated, waiting: 0 }).await?;
    // Longer than the others: after a checkpoint, pages are logged whole when they are first touched, and a large table's are
    // many. Seconds after one, of which there is one in five minutes, are not what somebody with such a table has.
    let measured = bench.time * u32::try_from(bench.size(10, 1))?;
    for _ in 0..bench.rounds {
        // What the round before has left would be no empty table.
        sqlx::raw_sql("TRUNCATE registrations, changes").execute(&empty.pool).await?;
        for (name, system, host) in [("empty", &empty, &host_of_empty), ("grown", &grown, &host_of_grown)] {
            let event = host.event(PLENTY).await?;
            let plan = bench.plan(system, Call::Register { events: vec![event.clone()] }, 100);
            let (tally, used) = bench.load(system, &Plan { measured, ..plan }).await?;
            seats_are_right(system, host, &[event], &tally, &["seat"]).await?;
            row.loaded(name, &tally, used);
        }
    }
    row.at_least(0.8, "× empty", row.ratio("grown: rate", "empty: rate"));
    Ok(row)
}

/// So many events of the past, all sold, with everything that was written for it. Gives one of them.
async fn fill(pool: &PgPool, pattern: &str, events: usize) -> anyhow::Result<String> {
    // Indexes are built when the rows are there: the same result in a third of the time.
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ('registrations', 'changes') AND indexname NOT LIKE '%_pkey'",
    )
    .fetch_all(pool)
    .await?;
    for (name, _) in &indexes {
        sqlx::raw_sql(AssertSqlSafe(format!("DROP INDEX {name}"))).execute(pool).await?;
    }
    // Each of its statements takes long, and is not to be warned of.
    let options = pool.connect_options().as_ref().clone().disable_statement_logging();
    let mut session = PgConnection::connect_with(&options).await?;
    sqlx::raw_sql("SET maintenance_work_mem = '512MB'; SET synchronous_commit = off")
        .execute(&mut session)
        .await?;
    let past: Vec<String> = sqlx::query_scalar(
        "INSERT INTO events (id, organizer_id, title, description, location, start_time, end_time, capacity,
                             seats_remaining, max_seats_per_registration, waitlist_policy, offer_ttl_ms,
                             queue_discipline, state, version, create_time, update_time)
         SELECT gen_random_uuid(), organizer_id, title || ' ' || n, description, location, start_time, end_time,
                capacity, 0, max_seats_per_registration, waitlist_policy, offer_ttl_ms, queue_discipline, state,
                capacity + 1, create_time, update_time
           FROM events, generate_series(1, $2) AS n WHERE id = $1::uuid
         RETURNING id::text",
    )
    .bind(pattern)
    .bind(i32::try_from(events)?)
    .fetch_all(&mut session)
    .await?;
    sqlx::query(
        "INSERT INTO changes (event_id, version, actor_id, actor_role, action, entity_id, details, change_time, batch)
         SELECT id::uuid, 1, gen_random_uuid(), 'ADMIN', 'EVENT_CREATED', id::uuid, '{}', now(), nextval('change_batches')
           FROM unnest($1::text[]) AS id",
    )
    .bind(&past)
    .execute(&mut session)
    .await?;
    for (n, events) in past.chunks(50).enumerate() {
        sqlx::query(
            "WITH seated AS (
                 INSERT INTO registrations (event_id, id, user_id, seats, state, request_actor_id, request_id,
                                            request_fingerprint, create_time, update_time, confirm_time)
                 SELECT e.id::uuid, gen_random_uuid(), gen_random_uuid(), 1, 'CONFIRMED', gen_random_uuid(),
                        gen_random_uuid(), '\\x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff', now(), now(), now()
                   FROM unnest($1::text[]) AS e(id), generate_series(1, $2)
                 RETURNING event_id, id, user_id
             )
             INSERT INTO changes (event_id, version, actor_id, actor_role, action, entity_id, subject_id, details,
                                  change_time, batch)
             SELECT event_id, 1 + row_number() OVER (PARTITION BY event_id), user_id, 'ATTENDEE',
                    'REGISTRATION_CREATED', id, user_id, '{\"seats\": 1}', now(), nextval('change_batches')
               FROM seated",
        )
        .bind(events)
        .bind(i32::try_from(SEATS)?)
        .execute(&mut session)
        .await?;
        crate::report::progress(&format!("growth: {} registrations", (n * 50 + events.len()) * SEATS))?;
    }
    for (name, definition) in indexes {
        crate::report::progress(&format!("growth: index {name}"))?;
        sqlx::raw_sql(AssertSqlSafe(definition)).execute(&mut session).await?;
    }
    for tidy in ["VACUUM ANALYZE registrations", "VACUUM ANALYZE changes", "VACUUM ANALYZE events"] {
        sqlx::query(tidy).execute(&mut session).await?;
    }
    Ok(past.into_iter().next().unwrap_or_default())
}
