//! Looking up by id what many ask for at once, on real connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use booking_service::MIGRATOR;
use booking_service::store::lookup::Lookup;
use booking_service::store::{reading_options, registrations, waitlist};
use futures_util::FutureExt;
use futures_util::future::join_all;
use service_core::database::connect_options;
use service_core::test_support::{TestCluster, TestDatabase};
use sqlx::postgres::PgPoolOptions;
use sqlx::{ConnectOptions, PgPool};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::system::{PATIENCE, eventually};

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

async fn database() -> (TestDatabase, PgPool) {
    let database = TestCluster::database("booking", &MIGRATOR).await;
    let pool = database.pool(4);
    (database, pool)
}

#[tokio::test]
async fn those_who_ask_at_once_share_statements_and_get_their_own_answers() {
    static ASKED: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    let (_database, pool) = database().await;
    let lookup = Lookup::start(pool, |connection, ids| {
        ASKED.lock().unwrap().push(ids.len());
        async move {
            // Odd ones do not exist.
            let found: Vec<Uuid> = sqlx::query_scalar(
                "SELECT id FROM unnest($1::uuid[]) AS id WHERE get_byte(uuid_send(id), 15) % 2 = 0",
            )
            .bind(ids)
            .fetch_all(connection)
            .await?;
            Ok(found.into_iter().map(|id| (id, id.as_u128() * 10)).collect())
        }
        .boxed()
    });
    let answers = join_all((0..1000).map(|n| lookup.get(id(n % 100)))).await;
    for (n, answer) in (0..1000).zip(answers) {
        let n = n % 100;
        assert_eq!(answer.unwrap(), (n % 2 == 0).then_some(n * 10));
    }
    let asked = ASKED.lock().unwrap();
    assert!(asked.len() <= 4 && asked.iter().all(|count| *count <= 100), "{asked:?}");
}

#[tokio::test]
async fn where_a_statement_fails_everybody_asks_alone() {
    let (_database, pool) = database().await;
    let lookup = Lookup::start(pool, |_, ids| {
        let poisoned = ids.contains(&id(3));
        async move {
            if poisoned {
                return Err(sqlx::Error::WorkerCrashed.into());
            }
            Ok(ids.into_iter().map(|id| (id, ())).collect())
        }
        .boxed()
    });
    let answers = join_all((0..5).map(|n| lookup.get(id(n)))).await;
    let failed: Vec<bool> = answers.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, false, false, true, false]);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_not_repeated_for_everybody_who_asked() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let (_database, pool) = database().await;
    let lookup = Lookup::<()>::start(pool, |connection, _| {
        async move {
            ASKED.fetch_add(1, Ordering::SeqCst);
            sqlx::raw_sql("SET statement_timeout = '10ms'; SELECT pg_sleep(60)").execute(connection).await?;
            Ok(HashMap::new())
        }
        .boxed()
    });
    let answers = join_all((0..50).map(|n| lookup.get(id(n)))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().is_err_and(|error| error.to_string().contains("timeout")))
    );
    let asked = ASKED.load(Ordering::SeqCst);
    assert!(asked <= 4, "{asked}");
}

#[tokio::test]
async fn a_slow_statement_does_not_hold_up_those_who_come_after_it() {
    static BEGAN: Notify = Notify::const_new();
    static GO_ON: Notify = Notify::const_new();
    let (_database, pool) = database().await;
    let lookup = Arc::new(Lookup::start(pool, |_, ids| {
        async move {
            if ids.contains(&id(0)) {
                BEGAN.notify_one();
                GO_ON.notified().await;
            }
            Ok(ids.into_iter().map(|id| (id, ())).collect())
        }
        .boxed()
    }));
    let asked = Arc::clone(&lookup);
    let slow = tokio::spawn(async move { asked.get(id(0)).await });
    BEGAN.notified().await;
    let after =
        tokio::time::timeout(PATIENCE, lookup.get(id(1))).await.expect("it does not wait for the first");
    GO_ON.notify_one();
    assert_eq!((slow.await.unwrap().unwrap(), after.unwrap()), (Some(()), Some(())));
}

/// A pool of so many, none of them open yet, that counts how often one is given back, and a look-up that uses it.
fn of_sessions(pool: &PgPool, most: u32) -> (PgPool, Arc<AtomicU32>, Lookup<()>) {
    let given_back = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&given_back);
    let small = PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(PATIENCE)
        .after_release(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(true) }.boxed()
        })
        .connect_lazy_with(pool.connect_options().as_ref().clone());
    let lookup = Lookup::start(small.clone(), |connection, ids| {
        async move {
            sqlx::query("SELECT").execute(connection).await?;
            Ok(ids.into_iter().map(|id| (id, ())).collect())
        }
        .boxed()
    });
    (small, given_back, lookup)
}

#[tokio::test]
async fn a_connection_is_kept_while_there_is_something_to_look_up_and_then_given_back() {
    let (_database, pool) = database().await;
    let (two, given_back, lookup) = of_sessions(&pool, 2);
    for n in 0..200 {
        lookup.get(id(n)).await.unwrap();
    }
    // Not never: where a statement takes long, another connection is taken for the next.
    let times = given_back.load(Ordering::SeqCst);
    assert!(times < 100, "{times} times");
    eventually(async || two.num_idle() == two.size() as usize).await;
}

#[tokio::test]
async fn the_last_connection_of_a_pool_is_not_kept() {
    let (_database, pool) = database().await;
    let (_one, given_back, lookup) = of_sessions(&pool, 1);
    for n in 0..200 {
        lookup.get(id(n)).await.unwrap();
    }
    let times = given_back.load(Ordering::SeqCst);
    assert!(times >= 199, "{times} times");
}

#[tokio::test]
async fn a_rank_is_told_without_reading_the_queue_before_the_database_has_any_statistics() {
    let database = TestCluster::database("booking", &MIGRATOR).await;
    let session = connect_options(&database.config(), "rowlock-test").options(reading_options());
    // One session, in one transaction: what it writes is in no statistics, and what it reads is counted for it.
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(session);
    let event_id = id(7);
    for statement in [
        "BEGIN",
        "INSERT INTO events (id, organizer_id, title, description, location, start_time, end_time, capacity,
                             seats_remaining, waitlist_size, next_position, max_seats_per_registration, waitlist_policy,
                             offer_ttl_ms, queue_discipline, state, version, create_time, update_time)
         VALUES ('00000000-0000-0000-0000-000000000007', gen_random_uuid(), '', '', '', now() + interval '1 day',
                 now() + interval '2 days', 1, 0, 20000, 20001, 1, 'PROMOTE', 60000, 'STRICT', 'PUBLISHED', 1, now(), now())",
        "INSERT INTO waitlist_entries (event_id, position, id, user_id, seats, state, create_time, update_time)
         SELECT '00000000-0000-0000-0000-000000000007', n, gen_random_uuid(), gen_random_uuid(), 1, 'WAITING', now(), now()
           FROM generate_series(1, 20000) n",
    ] {
        sqlx::raw_sql(statement).execute(&pool).await.unwrap();
    }
    let counted = "SELECT sum(pg_stat_get_xact_blocks_fetched(indexrelid))::bigint FROM pg_index
                    WHERE indrelid = 'waitlist_entries'::regclass";
    let before: i64 = sqlx::query_scalar(counted).fetch_one(&pool).await.unwrap();
    assert_eq!(waitlist::rank(&pool, event_id, 15_000).await.unwrap(), Some(15_000));
    let after: i64 = sqlx::query_scalar(counted).fetch_one(&pool).await.unwrap();
    assert!(after - before < 50, "{} pages of indexes were read", after - before);
}

/// The planner knows nothing of a new or restored database, and much depends on what it supposes then.
#[tokio::test]
async fn many_are_looked_up_by_index_before_the_database_has_any_statistics() {
    let database = TestCluster::database("booking", &MIGRATOR).await;
    let session = connect_options(&database.config(), "rowlock-test").options(reading_options());
    let mut tx = session.connect().await.unwrap();
    // What is written within a transaction is in no statistics.
    sqlx::raw_sql("BEGIN").execute(&mut tx).await.unwrap();
    for insert in [
        "INSERT INTO registrations (event_id, id, user_id, seats, state, create_time, update_time)
         SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 'CONFIRMED', now(), now()
           FROM generate_series(1, 20000) RETURNING id, event_id",
        "INSERT INTO waitlist_entries (event_id, position, id, user_id, seats, state, create_time, update_time)
         SELECT gen_random_uuid(), 1, gen_random_uuid(), gen_random_uuid(), 1, 'WAITING', now(), now()
           FROM generate_series(1, 20000) RETURNING id, event_id",
    ] {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(insert).fetch_all(&mut tx).await.unwrap();
        let wanted: HashMap<Uuid, Uuid> = rows.into_iter().step_by(200).collect();
        let ids = wanted.keys().copied().collect();
        let found = if insert.contains("registrations") {
            registrations::events_of(&mut tx, ids).await.unwrap()
        } else {
            waitlist::events_of(&mut tx, ids).await.unwrap()
        };
        assert_eq!(found, wanted);
    }
    let scans: i64 = sqlx::query_scalar(
        "SELECT sum(seq_scan)::bigint FROM pg_stat_xact_user_tables WHERE relname IN ('registrations', 'waitlist_entries')",
    )
    .fetch_one(&mut tx)
    .await
    .unwrap();
    assert_eq!(scans, 0, "a table was read from end to end");
}
