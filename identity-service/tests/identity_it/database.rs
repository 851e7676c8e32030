//! The service and a database that is late, wrong or gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use identity_service::MIGRATOR;
use rowlock_proto::identity::v1::{DeleteUserRequest, RefreshTokensRequest};
use service_core::auth::Role;
use service_core::config::DatabaseConfig;
use service_core::test_support::{TestCluster, TestDatabase};
use sqlx::migrate::Migrator;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::server::{PASSWORD, PATIENCE, TestServer, refusal, sign_up, with_token};

#[tokio::test]
async fn without_a_database_it_starts_is_not_ready_and_answers_unavailable() {
    let mut database = TestCluster::database("identity", &MIGRATOR).await;
    // Nobody listens on port 1.
    database.url = "postgres://nobody:secret-of-nobody@127.0.0.1:1/nothing".into();
    let server = TestServer::on(database, |_| {}).await;
    let (head, body) = server.get("/readyz", "").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!(!body.contains("secret") && !body.contains("127.0.0.1"), "{body}");
    let (head, _) = server.get("/livez", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");

    let status = server.auth().sign_up(sign_up("ada@example.org")).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::Unavailable, "DATABASE_UNAVAILABLE".into()));
    assert!(status.get_error_details().retry_info().is_some());
    assert!(!format!("{status:?}").contains("127.0.0.1"), "{status:?}");
    assert!(!server.task.is_finished());
}

#[tokio::test]
async fn it_becomes_ready_when_the_database_is_there() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let pool = TestCluster::database("identity", &MIGRATOR).await;
    let admin = pool.pool(1);
    let (name, hidden) = (database.name.clone(), format!("{}_hidden", database.name));
    let rename = async |from: &str, to: &str| {
        let sql = format!("ALTER DATABASE {from} RENAME TO {to}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&admin).await.unwrap();
    };
    rename(&name, &hidden).await;
    let server = TestServer::on(database, |_| {}).await;
    let (head, _) = server.get("/readyz", "").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    rename(&hidden, &name).await;
    server.ready().await;
    server.sign_up("ada@example.org").await;
}

#[tokio::test]
async fn a_schema_that_lacks_migrations_ends_the_start_with_a_line_that_says_what_to_do() {
    static NOTHING: Migrator = Migrator::DEFAULT;
    let database = TestCluster::database("empty", &NOTHING).await;
    let mut server = TestServer::on(database, |_| {}).await;
    let ended = tokio::time::timeout(PATIENCE, &mut server.task).await.expect("it ends").unwrap();
    let line = format!("{:#}", ended.unwrap_err());
    assert!(line.contains("lacks") && line.contains("migrate"), "{line}");
    assert!(!line.contains('\n'), "{line}");
}

#[tokio::test]
async fn a_schema_from_the_future_ends_the_start() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', true, '\\x00', 0)",
    )
    .execute(&database.pool(1))
    .await
    .unwrap();
    let mut server = TestServer::on(database, |_| {}).await;
    let ended = tokio::time::timeout(PATIENCE, &mut server.task).await.expect("it ends").unwrap();
    let line = format!("{:#}", ended.unwrap_err());
    assert!(line.contains("9999"), "{line}");
}

#[tokio::test]
async fn the_connections_may_be_cut_without_a_call_that_fails() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let pool = server.database.pool(1);
    for _ in 0..3 {
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'rowlock-identity'",
        )
        .execute(&pool)
        .await
        .unwrap();
        let status = server.auth().sign_up(sign_up("ada@example.org")).await.unwrap_err();
        assert_eq!(refusal(&status), (Code::AlreadyExists, "EMAIL_TAKEN".into()));
    }
}

#[tokio::test]
async fn rows_that_nobody_asks_for_are_swept() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let pool = database.pool(2);
    let server = TestServer::on(database, |_| {}).await;
    server.ready().await;
    server.sign_up("ada@example.org").await;
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    server.sign_in("nobody@example.org", PASSWORD).await.unwrap_err();
    sqlx::query("INSERT INTO password_resets SELECT id, sha256('x'), $1 FROM users")
        .bind(service_core::clock::Clock::now(server.clock.as_ref()))
        .execute(&pool)
        .await
        .unwrap();
    let now = service_core::clock::Clock::now(server.clock.as_ref());
    let swept = identity_service::store::sweep(&pool, now, now, now).await.unwrap();
    assert_eq!((swept.sessions, swept.failures, swept.password_resets), (0, 0, 0), "what is in use stays");
    let later = now + std::time::Duration::from_secs(31 * 86_400);
    let swept = identity_service::store::sweep(&pool, later, later, later).await.unwrap();
    assert_eq!((swept.sessions, swept.failures, swept.password_resets), (1, 2, 1));
    let tokens: i64 =
        sqlx::query_scalar("SELECT count(*) FROM refresh_tokens").fetch_one(&pool).await.unwrap();
    assert_eq!(tokens, 0, "a session takes its tokens along");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_sweeps_what_ended_a_week_ago_and_keeps_what_ended_since() {
    let server = TestServer::start().await;
    let pool = server.database.pool(2);
    server.sign_up("ada@example.org").await;
    let (old, recent) = ("8 days", "6 days");
    let now = service_core::clock::Clock::now(server.clock.as_ref());
    for age in [old, recent] {
        server.sign_in("ada@example.org", PASSWORD).await.unwrap();
        server.sign_in(&format!("{}@example.org", age.replace(' ', "-")), PASSWORD).await.unwrap_err();
        for statement in [
            "UPDATE sessions SET expire_time = $1::timestamptz - $2::interval WHERE expire_time > $1",
            "UPDATE refresh_tokens SET expire_time = $1::timestamptz - $2::interval WHERE expire_time > $1",
            "UPDATE sign_in_failures SET last_failure_time = $1::timestamptz - $2::interval WHERE last_failure_time >= $1",
        ] {
            sqlx::query(statement).bind(now).bind(interval(age)).execute(&pool).await.unwrap();
        }
    }
    for (session, minutes) in [(1, -1), (2, 1)] {
        let expires = now + time::Duration::minutes(minutes);
        sqlx::query(
            "INSERT INTO revocations (user_id, session_id, revoke_time, expire_time) VALUES ($1, $2, $3, $4)",
        )
        .bind(Uuid::from_u128(1))
        .bind(Uuid::from_u128(session))
        .bind(now)
        .bind(expires)
        .execute(&pool)
        .await
        .unwrap();
    }
    let left = async || {
        let left = "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM sign_in_failures WHERE scope = 'account'),
                           (SELECT count(*) FROM revocations)";
        sqlx::query_as::<_, (i64, i64, i64)>(left).fetch_one(&pool).await.unwrap()
    };
    assert_eq!(left().await, (2, 2, 2));
    let _replica = server.replica().await;
    let swept = async {
        while left().await != (1, 1, 1) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::server::PATIENCE, swept).await.expect("a replica that starts sweeps");
}

fn interval(text: &str) -> sqlx::postgres::types::PgInterval {
    let days = text.split(' ').next().unwrap().parse().unwrap();
    sqlx::postgres::types::PgInterval { months: 0, days, microseconds: 0 }
}

#[tokio::test]
async fn sessions_with_any_number_of_tokens_are_swept_and_what_cannot_be_swept_keeps_nothing_else() {
    let server = TestServer::start().await;
    let pool = server.database.pool(2);
    server.sign_up("ada@example.org").await;
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    server.sign_in("nobody@example.org", PASSWORD).await.unwrap_err();
    for statement in [
        "INSERT INTO refresh_tokens SELECT sha256(n::text::bytea), id, create_time, expire_time
           FROM sessions, generate_series(1, 2500) AS n",
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$",
        "CREATE TRIGGER fail BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION fail()",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let later = service_core::clock::Clock::now(server.clock.as_ref()) + Duration::from_secs(31 * 86_400);
    identity_service::store::sweep(&pool, later, later, later).await.unwrap_err();
    let left = "SELECT (SELECT count(*) FROM sign_in_failures), (SELECT count(*) FROM sessions)";
    let left: (i64, i64) = sqlx::query_as(left).fetch_one(&pool).await.unwrap();
    assert_eq!(left, (0, 1));
    sqlx::query("DROP TRIGGER fail ON sessions").execute(&pool).await.unwrap();
    let swept = identity_service::store::sweep(&pool, later, later, later).await.unwrap();
    assert_eq!(swept.sessions, 1);
    let tokens = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM refresh_tokens").fetch_one(&pool);
    assert_eq!(tokens.await.unwrap(), 0);
}

#[tokio::test]
async fn tokens_whose_exchange_was_committed_are_given_though_the_database_did_not_say_so() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let (url, breaks) = broken_after_commit(&database).await;
    let server =
        TestServer::on(database, |config| config.database = DatabaseConfig::from_url(url).unwrap()).await;
    server.ready().await;
    server.sign_up("ada@example.org").await;
    let mut tokens = server.sign_in("ada@example.org", PASSWORD).await.unwrap().refresh_token;
    for _ in 0..3 {
        breaks.store(true, Ordering::SeqCst);
        let request = RefreshTokensRequest { refresh_token: tokens };
        tokens = server.auth().refresh_tokens(request).await.unwrap().into_inner().refresh_token;
        assert!(!breaks.load(Ordering::SeqCst), "it did not break");
    }
}

#[tokio::test]
async fn a_deletion_that_was_committed_is_answered_so_though_the_database_did_not_say_so() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let (url, breaks) = broken_after_commit(&database).await;
    let server =
        TestServer::on(database, |config| config.database = DatabaseConfig::from_url(url).unwrap()).await;
    server.ready().await;
    let admin = Uuid::from_u128(1);
    server.enroll(admin).await;
    let ada = server.sign_up("ada@example.org").await;
    breaks.store(true, Ordering::SeqCst);
    let request = DeleteUserRequest { user_id: ada.user_id };
    server.users().delete_user(with_token(request, &server.token(admin, Role::Admin))).await.unwrap();
    assert!(!breaks.load(Ordering::SeqCst), "it did not break");
}

/// A way to the database that breaks once after a COMMIT, before its answer is told, when it is told to.
async fn broken_after_commit(database: &TestDatabase) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = database.url_through(listener.local_addr().unwrap());
    let (server, breaks) = (database.address(), Arc::new(AtomicBool::new(false)));
    let told = breaks.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                let (mut request, mut answer) = ([0; 8_192], [0; 8_192]);
                loop {
                    let (to, bytes) = tokio::select! {
                        read = client.read(&mut request) => (&mut server, &request[..read.unwrap_or(0)]),
                        read = server.read(&mut answer) => (&mut client, &answer[..read.unwrap_or(0)]),
                    };
                    if bytes.is_empty() || to.write_all(bytes).await.is_err() {
                        return;
                    }
                    let commits = bytes.windows(7).any(|word| word == b"COMMIT\0");
                    if commits && told.swap(false, Ordering::SeqCst) {
                        // It is committed when there is an answer.
                        let _ = server.read(&mut answer).await;
                        return;
                    }
                }
            });
        }
    });
    (through, breaks)
}

#[tokio::test]
async fn a_connection_that_is_lost_at_commit_is_told_as_an_unknown_outcome() {
    let server = TestServer::start().await;
    let pool = server.database.pool(2);
    // The session ends itself at COMMIT, as a server that crashes then would.
    for statement in [
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION die()",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let status = server.auth().sign_up(sign_up("ada@example.org")).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::Unavailable, "DATABASE_UNAVAILABLE".into()));
    assert!(status.message().contains("unknown"), "{status:?}");
    sqlx::query("DROP TRIGGER die ON users").execute(&pool).await.unwrap();
    server.sign_up("ada@example.org").await;
}
