//! What happens to a transaction when the database refuses, goes away or falls silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use service_core::config::DatabaseConfig;
use service_core::database::{TxError, overwhelmed, pool, run_tx, unavailable};
use service_core::test_support::{TestCluster, TestDatabase};
use sqlx::{Executor, PgConnection, PgPool};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, watch};

use crate::cluster::FIRST;

#[derive(Debug)]
enum Error {
    Database(sqlx::Error),
    CommitUnknown,
    Own,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl TxError for Error {
    fn database(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::CommitUnknown | Self::Own => None,
        }
    }

    fn commit_unknown() -> Self {
        Self::CommitUnknown
    }
}

impl Error {
    fn code(&self) -> String {
        let code =
            self.database().and_then(|e| e.as_database_error()).and_then(sqlx::error::DatabaseError::code);
        code.unwrap_or_default().into_owned()
    }
}

async fn count(pool: &PgPool, id: i64) -> i32 {
    sqlx::query_scalar("SELECT count FROM things WHERE id = $1").bind(id).fetch_one(pool).await.unwrap()
}

async fn take_one(tx: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE things SET count = count - 1 WHERE id = $1").bind(id).execute(tx).await.map(drop)
}

/// Takes one from thing 1, and on the first `failing` tries does what `sql` says after that.
async fn take_with_trouble(pool: &PgPool, failing: u32, sql: &'static str) -> (Result<(), Error>, u32) {
    let tries = AtomicU32::new(0);
    let result = run_tx(pool, "test.take", |tx| {
        let in_trouble = tries.fetch_add(1, Ordering::SeqCst) < failing;
        Box::pin(async move {
            take_one(tx, 1).await?;
            if in_trouble {
                tx.execute(sql).await?;
            }
            Ok(())
        })
    })
    .await;
    (result, tries.into_inner())
}

const SERIALIZATION: &str = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$";

async fn database() -> (TestDatabase, PgPool) {
    let database = TestCluster::database("core", &FIRST).await;
    let pool = database.pool(4);
    (database, pool)
}

#[tokio::test]
async fn what_succeeds_is_committed() {
    let (_database, pool) = database().await;
    let (result, tries) = take_with_trouble(&pool, 0, "").await;
    assert!(result.is_ok());
    assert_eq!((tries, count(&pool, 1).await), (1, 9));
}

#[tokio::test]
async fn what_fails_for_a_reason_of_its_own_is_rolled_back_and_not_tried_again() {
    let (_database, pool) = database().await;
    let mut tries = 0;
    let result: Result<(), Error> = run_tx(&pool, "test.own", |tx| {
        tries += 1;
        Box::pin(async move {
            take_one(tx, 1).await?;
            Err(Error::Own)
        })
    })
    .await;
    assert!(matches!(result, Err(Error::Own)));
    assert_eq!((tries, count(&pool, 1).await), (1, 10));
}

#[tokio::test]
async fn a_serialization_failure_is_tried_again() {
    let (_database, pool) = database().await;
    let (result, tries) = take_with_trouble(&pool, 2, SERIALIZATION).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!((tries, count(&pool, 1).await), (3, 9));
}

#[tokio::test]
async fn after_five_tries_the_failure_is_returned() {
    let (_database, pool) = database().await;
    let (result, tries) = take_with_trouble(&pool, 100, SERIALIZATION).await;
    assert_eq!(result.unwrap_err().code(), "40001");
    assert_eq!((tries, count(&pool, 1).await), (5, 10));
}

#[tokio::test]
async fn a_violated_constraint_is_not_tried_again() {
    let (_database, pool) = database().await;
    let (result, tries) = take_with_trouble(&pool, 100, "INSERT INTO things VALUES (1, 1)").await;
    assert_eq!(result.unwrap_err().code(), "23505");
    assert_eq!((tries, count(&pool, 1).await), (1, 10));
}

#[tokio::test]
async fn a_server_without_room_is_told_from_one_that_is_gone_and_from_a_wrong_statement() {
    let (_database, pool) = database().await;
    for (code, is_so) in [
        ("53100", true),
        ("58030", true),
        ("57014", false),
        ("55P03", true),
        ("40001", false),
        ("23505", false),
    ] {
        let statement = format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$");
        let error = pool.execute(sqlx::AssertSqlSafe(statement)).await.unwrap_err();
        assert_eq!((overwhelmed(&error), unavailable(&error)), (is_so, false), "{code}");
    }
}

#[tokio::test]
async fn a_session_that_the_server_ends_is_replaced() {
    let (_database, pool) = database().await;
    let (result, tries) = take_with_trouble(&pool, 2, "SELECT pg_terminate_backend(pg_backend_pid())").await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!((tries, count(&pool, 1).await), (3, 9));
}

#[tokio::test]
async fn a_server_that_became_read_only_is_tried_again_over_a_new_connection() {
    let database = TestCluster::database("core", &FIRST).await;
    let pool = database.pool(1);
    // This session alone believes to be on a standby.
    pool.execute("SET default_transaction_read_only = on").await.unwrap();
    let (result, tries) = take_with_trouble(&pool, 0, "").await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!((tries, count(&pool, 1).await), (2, 9));
}

#[tokio::test]
async fn two_transactions_that_wait_for_each_other_both_succeed() {
    let (_database, pool) = database().await;
    let both_hold_one = Arc::new(Barrier::new(2));
    let swap = |first: i64, second: i64| {
        let (pool, barrier) = (pool.clone(), both_hold_one.clone());
        async move {
            let mut tries = 0;
            run_tx(&pool, "test.deadlock", |tx| {
                tries += 1;
                let barrier = (tries == 1).then(|| barrier.clone());
                Box::pin(async move {
                    take_one(tx, first).await?;
                    if let Some(barrier) = barrier {
                        barrier.wait().await;
                    }
                    take_one(tx, second).await
                })
            })
            .await
            .map(|()| tries)
        }
    };
    let (one, two) = tokio::join!(swap(1, 2), swap(2, 1));
    assert_eq!(one.unwrap() + two.unwrap(), 3);
    assert_eq!((count(&pool, 1).await, count(&pool, 2).await), (8, 8));
}

/// Makes COMMIT do what `sql` says.
async fn at_commit(pool: &PgPool, body: &str) {
    let sql = format!(
        "CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON things DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION at_commit()"
    );
    pool.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_lost_at_commit_leaves_the_outcome_unknown() {
    let (_database, pool) = database().await;
    at_commit(&pool, "PERFORM pg_terminate_backend(pg_backend_pid());").await;
    let (result, tries) = take_with_trouble(&pool, 0, "").await;
    assert!(matches!(result, Err(Error::CommitUnknown)), "{result:?}");
    assert_eq!(tries, 1);
    // The pool is not poisoned by it.
    assert_eq!(count(&pool, 1).await, 10);
}

#[tokio::test]
async fn a_commit_that_the_server_refuses_is_a_plain_error() {
    let (_database, pool) = database().await;
    at_commit(&pool, "RAISE EXCEPTION USING ERRCODE = '23514';").await;
    let (result, tries) = take_with_trouble(&pool, 0, "").await;
    assert_eq!(result.unwrap_err().code(), "23514");
    assert_eq!((tries, count(&pool, 1).await), (1, 10));
}

#[tokio::test]
async fn a_serialization_failure_at_commit_is_tried_again() {
    let (_database, pool) = database().await;
    sqlx::query("CREATE SEQUENCE commits").execute(&pool).await.unwrap();
    at_commit(&pool, "IF nextval('commits') < 3 THEN RAISE EXCEPTION USING ERRCODE = '40001'; END IF;").await;
    let (result, tries) = take_with_trouble(&pool, 0, "").await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!((tries, count(&pool, 1).await), (3, 9));
}

#[tokio::test]
async fn sessions_have_the_configured_timeouts() {
    let database = TestCluster::database("core", &FIRST).await;
    let mut config = database.config();
    config.statement_timeout = Duration::from_millis(1_234);
    config.lock_timeout = Duration::from_millis(567);
    config.idle_in_transaction_timeout = Duration::from_secs(89);
    let pool = pool(&config, "core tests").await;
    for (setting, expected) in [
        ("statement_timeout", "1234ms"),
        ("lock_timeout", "567ms"),
        ("idle_in_transaction_session_timeout", "89s"),
        ("application_name", "core tests"),
        ("tcp_user_timeout", "30000"),
        ("client_connection_check_interval", "5s"),
        ("jit", "off"),
    ] {
        let sql = sqlx::AssertSqlSafe(format!("SHOW {setting}"));
        let value: String = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
        assert_eq!(value, expected, "{setting}");
    }
}

#[tokio::test]
async fn more_calls_than_the_pool_has_connections_wait_for_their_turn() {
    let database = TestCluster::database("core", &FIRST).await;
    let mut config = database.config();
    config.max_connections = 2;
    let pool = pool(&config, "core tests").await;
    let calls = (0..12).map(|_| {
        let sql = "SELECT pg_backend_pid() FROM pg_sleep(0.02)";
        sqlx::query_scalar::<_, i32>(sql).fetch_one(&pool)
    });
    let sessions = futures_util::future::try_join_all(calls).await.unwrap();
    let sessions: std::collections::BTreeSet<i32> = sessions.into_iter().collect();
    assert_eq!(sessions.len(), 2);
}

#[tokio::test]
async fn a_pool_starts_while_the_database_is_down() {
    let mut config = DatabaseConfig::from_url("postgres://nobody@127.0.0.1:1/nothing").unwrap();
    config.connect_timeout = Duration::from_millis(300);
    let pool = pool(&config, "core tests").await;
    let error = pool.acquire().await.unwrap_err();
    assert!(unavailable(&error), "{error:?}");
}

/// Forwards to the database. Each message to the sender silences the connections that are open then, as a network does
/// that drops packets without a word.
async fn proxy(database: &TestDatabase) -> (String, watch::Sender<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = database.url_through(listener.local_addr().unwrap());
    let (silence, address) = (watch::Sender::new(()), database.address());
    let told = silence.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut told = told.subscribe();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(address).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    _ = told.changed() => std::future::pending().await,
                }
            });
        }
    });
    (url, silence)
}

#[tokio::test]
async fn a_connection_that_fell_silent_does_not_keep_its_place_in_the_pool() {
    let database = TestCluster::database("core", &FIRST).await;
    let (url, silence) = proxy(&database).await;
    let mut config = DatabaseConfig::from_url(url).unwrap();
    config.max_connections = 1;
    let pool = pool(&config, "core tests").await;
    let mut connection = pool.acquire().await.unwrap();
    take_one(&mut connection, 1).await.unwrap();
    silence.send_replace(());
    drop(connection);
    let began = Instant::now();
    assert_eq!(count(&pool, 1).await, 9);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
