//! The schema: who may change it, who waits, and who must not start.

use service_core::migrate::{Migrated, SchemaError, check_schema, migrate};
use service_core::test_support::TestCluster;
use sqlx::migrate::Migrator;
use sqlx::{Connection, Executor, PgPool};

use crate::bench::eventually;
use crate::cluster::FIRST;

static NONE: Migrator = Migrator { migrations: std::borrow::Cow::Borrowed(&[]), ..Migrator::DEFAULT };
static SECOND: Migrator = sqlx::migrate!("tests/core_it/migrations/second");
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
    let mut reader = sqlx::PgConnection::connect(&database.url).await.unwrap();
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
