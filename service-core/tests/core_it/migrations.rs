//! The schema: who may change it, who waits, and who must not start.

use service_core::migrate::{Migrated, SchemaError, check_schema, migrate};
use service_core::test_support::TestCluster;
use sqlx::migrate::Migrator;
use sqlx::{Connection, Executor, PgConnection, PgPool};

use crate::bench::eventually;
use crate::cluster::FIRST;

static NONE: Migrator = Migrator { migrations: std::borrow::Cow::Borrowed(&[]), ..Migrator::DEFAULT };
static SECOND: Migrator = sqlx::migrate!("tests/core_it/migrations/second");
static THIRD: Migrator = sqlx::migrate!("tests/core_it/migrations/third");
static UNIQUE: Migrator = sqlx::migrate!("tests/core_it/migrations/unique");
static UNREPEATABLE: Migrator = sqlx::migrate!("tests/core_it/migrations/unrepeatable");
static CHANGED: Migrator = sqlx::migrate!("tests/core_it/migrations/changed");

#[tokio::test]
async fn an_empty_database_is_brought_up_to_date_once() {
    let database = TestCluster::database("empty", &NONE).await;
    let pool = database.pool(2);
    let error = check_schema(&pool, &SECOND).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the database lacks 2 migration(s), the first is 1: run the `migrate` command first"
    );
    assert!(!error.is_temporary());
    let config = database.config();
    assert_eq!(migrate(&config, &SECOND).await.unwrap(), Migrated { applied: 2, version: Some(2) });
    check_schema(&pool, &SECOND).await.unwrap();
    assert_eq!(migrate(&config, &SECOND).await.unwrap(), Migrated { applied: 0, version: Some(2) });
}

#[tokio::test]
async fn programs_that_migrate_at_once_wait_for_each_other() {
    let database = TestCluster::database("empty", &NONE).await;
    let config = database.config();
    let (one, two, three) =
        tokio::join!(migrate(&config, &SECOND), migrate(&config, &SECOND), migrate(&config, &SECOND));
    assert_eq!(one.unwrap().applied + two.unwrap().applied + three.unwrap().applied, 2);
}

#[tokio::test]
async fn a_migration_that_is_not_known_is_refused() {
    let database = TestCluster::database("second", &SECOND).await;
    for result in
        [check_schema(&database.pool(1), &FIRST).await, migrate(&database.config(), &FIRST).await.map(drop)]
    {
        let error = result.unwrap_err();
        assert!(matches!(&error, SchemaError::Unknown { unknown } if unknown == &[2]), "{error:?}");
        assert_eq!(
            error.to_string(),
            "the database has migration 2 that this program does not know: use a newer version of the program"
        );
    }
}

#[tokio::test]
async fn a_migration_that_was_changed_after_it_was_applied_is_refused() {
    let database = TestCluster::database("core", &FIRST).await;
    for result in [
        check_schema(&database.pool(1), &CHANGED).await,
        migrate(&database.config(), &CHANGED).await.map(drop),
    ] {
        assert!(matches!(result, Err(SchemaError::Changed { version: 1 })), "{result:?}");
    }
}

#[tokio::test]
async fn a_missing_migration_is_named() {
    let database = TestCluster::database("core", &FIRST).await;
    let error = check_schema(&database.pool(1), &SECOND).await.unwrap_err();
    assert!(matches!(&error, SchemaError::Pending { pending } if pending == &[2]), "{error:?}");
}

#[tokio::test]
async fn a_database_that_is_down_is_asked_again_later() {
    let database = TestCluster::database("core", &FIRST).await;
    let pool = database.pool(1);
    pool.close().await;
    let error = check_schema(&pool, &FIRST).await.unwrap_err();
    assert!(error.is_temporary(), "{error:?}");
}

/// How many sessions of a migration wait for a lock.
async fn waiting(pool: &PgPool) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE application_name = 'rowlock-migrate' AND wait_event_type = 'Lock' AND datname = current_database()";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_migration_that_gets_no_lock_steps_back_and_tries_again() {
    let database = TestCluster::database("core", &FIRST).await;
    let pool = database.pool(2);
    let mut reader = PgConnection::connect(&database.url).await.unwrap();
    let mut tx = reader.begin().await.unwrap();
    tx.execute("SELECT * FROM things").await.unwrap();
    let config = database.config();
    let migration = tokio::spawn(async move { migrate(&config, &SECOND).await });
    eventually(async || waiting(&pool).await == 1).await;
    // While it waits nobody else can read; so it must not wait for long.
    eventually(async || waiting(&pool).await == 0).await;
    let things: i64 = sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(&pool).await.unwrap();
    assert_eq!(things, 2);
    assert!(!migration.is_finished());
    tx.rollback().await.unwrap();
    assert_eq!(migration.await.unwrap().unwrap(), Migrated { applied: 1, version: Some(2) });
}

/// A transaction that has read, and keeps what it saw: an index that is built concurrently waits for its end.
async fn long_reader(url: &str) -> PgConnection {
    let mut reader = PgConnection::connect(url).await.unwrap();
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    reader.execute("SELECT * FROM things").await.unwrap();
    reader
}

/// Whether a migration has waited for longer than a lock is waited for otherwise.
async fn waits_for_long(pool: &PgPool) -> bool {
    let sql = "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
               WHERE application_name = 'rowlock-migrate' AND datname = current_database()
                 AND waitstart < clock_timestamp() - interval '3 s')";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// The indexes of the test's migrations, and whether they are good.
async fn indexes(pool: &PgPool) -> Vec<(String, bool)> {
    let sql = "SELECT indexrelid::regclass::text, indisvalid AND indisready FROM pg_index
               WHERE indrelid = 'things'::regclass AND NOT indisprimary";
    sqlx::query_as(sql).fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn an_index_is_built_beside_a_long_reader_while_another_program_migrates_too() {
    let database = TestCluster::database("second", &SECOND).await;
    let pool = database.pool(2);
    let reader = long_reader(&database.url).await;
    let config = database.config();
    let both = tokio::spawn(async move { tokio::join!(migrate(&config, &THIRD), migrate(&config, &THIRD)) });
    eventually(async || waits_for_long(&pool).await).await;
    assert_eq!(waiting(&pool).await, 1, "who waits for the other program asks now and then");
    assert!(!both.is_finished());
    drop(reader);
    let (one, other) = both.await.unwrap();
    assert_eq!(one.unwrap().applied + other.unwrap().applied, 1);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks: i64 = sqlx::query_scalar(deadlocks).fetch_one(&pool).await.unwrap();
    assert_eq!(deadlocks, 0, "who waits for the other program has no snapshot that the index waits for");
    assert_eq!(indexes(&pool).await, [("things_by_name".to_owned(), true)]);
}

#[tokio::test]
async fn an_index_that_was_built_halfway_is_built_anew() {
    let database = TestCluster::database("second", &SECOND).await;
    let pool = database.pool(2);
    let reader = long_reader(&database.url).await;
    let config = database.config();
    let migration = tokio::spawn(async move { migrate(&config, &THIRD).await });
    eventually(async || waiting(&pool).await == 1).await;
    pool.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rowlock-migrate' AND datname = current_database()")
        .await
        .unwrap();
    eventually(async || waiting(&pool).await == 0).await;
    assert_eq!(indexes(&pool).await, [("things_by_name".to_owned(), false)]);
    // It tries again by itself, and drops what is there first.
    eventually(async || waiting(&pool).await == 1).await;
    drop(reader);
    assert_eq!(migration.await.unwrap().unwrap().applied, 1);
    assert_eq!(indexes(&pool).await, [("things_by_name".to_owned(), true)]);
}

#[tokio::test]
async fn an_index_that_cannot_be_built_leaves_nothing_behind() {
    let database = TestCluster::database("second", &SECOND).await;
    let error = migrate(&database.config(), &UNIQUE).await.unwrap_err();
    assert!(matches!(error, SchemaError::Database(_)) && !error.is_temporary(), "{error:?}");
    assert_eq!(indexes(&database.pool(1)).await, []);
    assert_eq!(migrate(&database.config(), &THIRD).await.unwrap().applied, 1);
}

#[tokio::test]
async fn a_migration_without_a_transaction_that_cannot_be_repeated_is_refused() {
    let database = TestCluster::database("second", &SECOND).await;
    let error = migrate(&database.config(), &UNREPEATABLE).await.unwrap_err();
    assert!(matches!(error, SchemaError::Unrepeatable { version: 3 }), "{error:?}");
    assert_eq!(indexes(&database.pool(1)).await, []);
}
