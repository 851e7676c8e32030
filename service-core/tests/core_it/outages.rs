//! A database that is gone, sessions that it has ended, and a pooler that keeps settings from it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use service_core::config::DatabaseConfig;
use service_core::database::pool;
use service_core::database_check::watch_database;
use service_core::lifecycle::Readiness;
use service_core::migrate::{SchemaError, migrate};
use service_core::test_support::TestCluster;
use sqlx::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::bench::eventually;
use crate::cluster::FIRST;

#[tokio::test]
async fn sessions_that_the_server_has_ended_are_not_given_to_anybody() {
    let database = TestCluster::database("core", &FIRST).await;
    let mut config = database.config();
    config.max_connections = 4;
    let pool = pool(&config, "rowlock-outage").await;
    let all = futures_util::future::join_all((0..4).map(|_| pool.acquire())).await;
    drop(all);
    eventually(async || pool.num_idle() == 4).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let mut other = sqlx::PgConnection::connect(&database.url).await.unwrap();
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = 'rowlock-outage' AND datname = current_database()",
    )
    .fetch_one(&mut other)
    .await
    .unwrap();
    assert_eq!(ended, 4);
    for _ in 0..4 {
        sqlx::query("SELECT 1").execute(&pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_that_does_not_know_the_user_is_not_said_to_have_another_schema() {
    let mut database = TestCluster::database("core", &FIRST).await;
    let (scheme, rest) = database.url.split_once("://").unwrap();
    let address = rest.split_once('@').map_or(rest, |(_, address)| address);
    database.url = format!("{scheme}://nobody_of_that_name@{address}");
    let pool = pool(&database.config(), "rowlock-outage").await;
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let check = readiness.register("database");
    let error = watch_database(&pool, &FIRST, &check, &stop).await.unwrap_err();
    assert!(error.is_not_let_in(), "{error:?}");
    let told = readiness.snapshot().to_json();
    assert!(told.contains("does not take the user or password"), "{told}");
}

#[tokio::test]
async fn no_session_is_used_whose_server_is_a_standby() {
    let database = TestCluster::database("core", &FIRST).await;
    let mut admin = sqlx::PgConnection::connect(&database.url).await.unwrap();
    // As far as sessions can see it is a standby, or is not.
    sqlx::raw_sql(
        "CREATE SCHEMA seen; CREATE TABLE seen.standby AS SELECT true AS is_one;
         CREATE FUNCTION seen.pg_is_in_recovery() RETURNS boolean STABLE LANGUAGE sql AS 'SELECT is_one FROM seen.standby';
         DO $$ BEGIN
             EXECUTE format('ALTER DATABASE %I SET search_path = seen, pg_catalog, public', current_database());
         END $$",
    )
    .execute(&mut admin)
    .await
    .unwrap();
    let mut config = database.config();
    config.connect_timeout = Duration::from_millis(300);
    let pool = pool(&config, "rowlock-outage").await;
    let error = sqlx::query("SELECT 1").execute(&pool).await.unwrap_err();
    assert!(service_core::database::unavailable(&error), "{error:?}");
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let check = readiness.register("database");
    let (watched, stopper) = (pool.clone(), stop.clone());
    let watch = tokio::spawn(async move { watch_database(&watched, &FIRST, &check, &stopper).await });
    eventually(async || readiness.snapshot().to_json().contains("cannot be reached")).await;
    sqlx::query("UPDATE seen.standby SET is_one = false").execute(&mut admin).await.unwrap();
    eventually(async || readiness.snapshot().to_json().contains("\"database\":\"ready\"")).await;
    sqlx::query("SELECT 1").execute(&pool).await.unwrap();
    stop.cancel();
    watch.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_asks_a_database_that_takes_no_connections_is_told_at_once() {
    // Nobody listens on port 1.
    let mut config = DatabaseConfig::from_url("postgres://nobody@127.0.0.1:1/nothing").unwrap();
    config.connect_timeout = Duration::from_secs(60);
    let pool = pool(&config, "rowlock-outage").await;
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let check = readiness.register("database");
    let (watched, stopper) = (pool.clone(), stop.clone());
    let watch = tokio::spawn(async move { watch_database(&watched, &FIRST, &check, &stopper).await });
    eventually(async || readiness.snapshot().to_json().contains("cannot be reached")).await;
    let began = Instant::now();
    let error = sqlx::query("SELECT 1").execute(&pool).await.unwrap_err();
    assert!(service_core::database::unavailable(&error), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    stop.cancel();
    watch.await.unwrap().unwrap();
}

/// A pooler as far as settings go: it refuses them, or drops them without a word. PgBouncer does either, as it is configured.
async fn pooler(server: SocketAddr, refuses: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let startup = startup(&mut client).await?;
                if refuses {
                    let error = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
                    client.write_all(b"E").await?;
                    client.write_all(&u32::try_from(error.len() + 4).unwrap().to_be_bytes()).await?;
                    return client.write_all(error).await;
                }
                let mut server = TcpStream::connect(server).await?;
                server.write_all(&without_options(&startup)).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ())
            });
        }
    });
    address
}

/// The startup message without its length; an offer of TLS is declined.
async fn startup(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    const TLS: [u8; 4] = 80_877_103_u32.to_be_bytes();
    loop {
        let length = client.read_u32().await? - 4;
        let mut message = vec![0; usize::try_from(length).unwrap()];
        client.read_exact(&mut message).await?;
        if message != TLS {
            return Ok(message);
        }
        client.write_all(b"N").await?;
    }
}

fn without_options(startup: &[u8]) -> Vec<u8> {
    let (version, parameters) = startup.split_at(4);
    let words: Vec<_> = parameters.split(|byte| *byte == 0).collect();
    let kept = words.chunks(2).filter(|pair| pair[0] != b"options" && !pair[0].is_empty());
    let parameters: Vec<u8> = kept.flat_map(|pair| [pair[0], b"\0", pair[1], b"\0"].concat()).collect();
    let message = [version, &parameters, b"\0"].concat();
    [&u32::try_from(message.len() + 4).unwrap().to_be_bytes()[..], &message].concat()
}

#[tokio::test]
async fn behind_a_pooler_that_keeps_settings_away_nothing_starts() {
    let database = TestCluster::database("core", &FIRST).await;
    let options = database.pool(1).connect_options();
    let server = (options.get_host(), options.get_port());
    let server = tokio::net::lookup_host(server).await.unwrap().next().unwrap();
    for refuses in [true, false] {
        let between = pooler(server, refuses).await;
        let url = database.url.replacen(
            &format!("{}:{}", options.get_host(), options.get_port()),
            &between.to_string(),
            1,
        );
        let config = DatabaseConfig::from_url(url).unwrap();
        let pool = pool(&config, "rowlock-pooled").await;
        let (readiness, stop) = (Readiness::new(), CancellationToken::new());
        let error = watch_database(&pool, &FIRST, &readiness.register("database"), &stop).await.unwrap_err();
        assert!(matches!(error, SchemaError::SettingsLost), "{error:?}");
        let error = migrate(&config, &FIRST).await.unwrap_err();
        assert!(matches!(error, SchemaError::SettingsLost), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_before_it_says_anything_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            // Read first: otherwise it is a reset, which looks different.
            let _ = client.read_u64().await;
        }
    });
    let config = DatabaseConfig::from_url(format!("postgres://nobody@{address}/nothing")).unwrap();
    let pool = pool(&config, "rowlock-outage").await;
    let error = sqlx::query("SELECT 1").execute(&pool).await.unwrap_err();
    assert!(service_core::database::unavailable(&error), "{error:?}");
}
