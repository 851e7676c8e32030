//! WatchRevocations, and what this service itself does with revoked tokens, at every replica.

use std::time::{Duration, Instant};

use rowlock_proto::identity::v1::revocation_service_client::RevocationServiceClient;
use rowlock_proto::identity::v1::user_service_client::UserServiceClient;
use rowlock_proto::identity::v1::watch_revocations_response::Update;
use rowlock_proto::identity::v1::{
    GetMeRequest, Revocation, UserRevocation, WatchRevocationsRequest, WatchRevocationsResponse, revocation,
};
use service_core::auth::Role;
use sqlx::{PgConnection, PgPool};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use crate::server::{PASSWORD, PATIENCE, TestServer, refusal, with_token};
use crate::sign_in::waiting;

/// Longer than the promised second between heartbeats, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// A stream, read update by update.
struct Watch(Streaming<WatchRevocationsResponse>);

impl Watch {
    async fn open(channel: &Channel, token: &str) -> Self {
        let request = with_token(WatchRevocationsRequest {}, token);
        Self(
            RevocationServiceClient::new(channel.clone())
                .watch_revocations(request)
                .await
                .unwrap()
                .into_inner(),
        )
    }

    /// With everything that the snapshot has.
    async fn begin(server: &TestServer, channel: &Channel) -> (Self, Vec<revocation::Target>) {
        let mut watch = Self::open(channel, &server.token(Uuid::from_u128(77), Role::Service)).await;
        let Update::Snapshot(snapshot) = watch.next().await else { panic!("the snapshot comes first") };
        assert!(snapshot.complete && snapshot.as_of_time.is_some());
        let targets = snapshot.revocations.into_iter().map(target).collect();
        (watch, targets)
    }

    async fn message(&mut self) -> Result<Update, Status> {
        let message = timeout(PATIENCE, self.0.message()).await.expect("something is said")?;
        Ok(message.expect("it ends with a status").update.unwrap())
    }

    async fn next(&mut self) -> Update {
        self.message().await.unwrap()
    }

    /// The next revocation; heartbeats are passed over.
    async fn revoked(&mut self) -> revocation::Target {
        loop {
            if let Update::Revocation(revocation) = self.next().await {
                return target(revocation);
            }
        }
    }

    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.message().await {
                return status;
            }
        }
    }
}

fn target(revocation: Revocation) -> revocation::Target {
    let (revoked, expires) = (revocation.revoke_time.unwrap(), revocation.expire_time.unwrap());
    assert_eq!(expires.seconds - revoked.seconds, 3_660);
    revocation.target.unwrap()
}

fn user(user_id: Uuid, minimum_session_version: i64) -> revocation::Target {
    revocation::Target::User(UserRevocation { user_id: user_id.to_string(), minimum_session_version })
}

/// As whoever ends sessions writes it.
async fn revoke(connection: &mut PgConnection, server: &TestServer, user_id: Uuid, version: i64) {
    let now = service_core::clock::Clock::now(server.clock.as_ref());
    sqlx::query(
        "INSERT INTO revocations (user_id, minimum_session_version, revoke_time, expire_time)
         VALUES ($1, $2, $3, $3 + interval '1 hour 1 minute')",
    )
    .bind(user_id)
    .bind(version)
    .bind(now)
    .execute(connection)
    .await
    .unwrap();
}

async fn me(channel: &Channel, token: &str) -> Result<(), Status> {
    UserServiceClient::new(channel.clone()).get_me(with_token(GetMeRequest {}, token)).await.map(|_| ())
}

/// Asks until the answer is that the token is revoked; somebody who asks as often may be limited before it is.
pub(crate) async fn at_last_revoked(channel: &Channel, token: &str) {
    let revoked = (Code::Unauthenticated, "TOKEN_REVOKED".to_owned());
    let is_refused = async {
        loop {
            match me(channel, token).await {
                Err(status) if refusal(&status) == revoked => return,
                Err(status) => assert_eq!(refusal(&status).1, "RATE_LIMITED"),
                Ok(()) => {}
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, is_refused).await.expect("revoked everywhere");
}

/// A stream whose snapshot has exactly these, as soon as that replica has looked.
async fn with_snapshot(server: &TestServer, channel: &Channel, expected: &[revocation::Target]) -> Watch {
    let began = Instant::now();
    loop {
        let (watch, snapshot) = Watch::begin(server, channel).await;
        if snapshot == expected {
            return watch;
        }
        assert!(began.elapsed() < PATIENCE, "{snapshot:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocations_are_heard_of_while_calls_have_all_sessions_of_the_pool() {
    let server = TestServer::with(|config| {
        config.database.max_connections = 1;
        (config.database.lock_timeout, config.database.statement_timeout) = (PATIENCE, PATIENCE);
    })
    .await;
    let (mut watch, _) = Watch::begin(&server, &server.channel).await;
    let pool = server.database.pool(3);
    let mut held = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE users").execute(&mut *held).await.unwrap();
    let (ada, token) = (Uuid::from_u128(1), server.token(Uuid::from_u128(1), Role::Attendee));
    let channel = server.channel.clone();
    let call = tokio::spawn(async move { me(&channel, &token).await });
    waiting(&pool, "").await;
    revoke(&mut pool.acquire().await.unwrap(), &server, ada, 7).await;
    assert_eq!(watch.revoked().await, user(ada, 7));
    assert!(!call.is_finished(), "the pool was in use all the while");
    held.rollback().await.unwrap();
    // Nobody has that id.
    call.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_revocation_reaches_the_streams_of_every_replica_and_later_ones_find_it_in_the_snapshot() {
    let server = TestServer::start().await;
    let replica = server.replica().await;
    let pool: PgPool = server.database.pool(1);
    let mut connection = pool.acquire().await.unwrap();
    let (ada, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));
    revoke(&mut connection, &server, ada, 2).await;
    let mut here = with_snapshot(&server, &server.channel, &[user(ada, 2)]).await;
    let mut there = with_snapshot(&server, &replica.channel, &[user(ada, 2)]).await;
    revoke(&mut connection, &server, bob, 5).await;
    assert_eq!(here.revoked().await, user(bob, 5));
    assert_eq!(there.revoked().await, user(bob, 5));
    with_snapshot(&server, &replica.channel, &[user(ada, 2), user(bob, 5)]).await;
}

#[tokio::test]
async fn a_transaction_that_commits_after_later_ones_were_told_is_told_too() {
    let server = TestServer::start().await;
    let (mut watch, nothing) = Watch::begin(&server, &server.channel).await;
    assert_eq!(nothing, []);
    let pool = server.database.pool(2);
    let mut late = pool.begin().await.unwrap();
    revoke(&mut late, &server, Uuid::from_u128(1), 2).await;
    for n in 2..6 {
        revoke(&mut pool.acquire().await.unwrap(), &server, Uuid::from_u128(n), 2).await;
        assert_eq!(watch.revoked().await, user(Uuid::from_u128(n), 2));
    }
    late.commit().await.unwrap();
    assert_eq!(watch.revoked().await, user(Uuid::from_u128(1), 2));
    // Each was told once.
    let mut heartbeats = 0;
    while heartbeats < 2 {
        assert!(matches!(watch.next().await, Update::Heartbeat(_)));
        heartbeats += 1;
    }
}

#[tokio::test]
async fn a_heartbeat_comes_every_second_with_the_databases_time() {
    let server = TestServer::start().await;
    let (mut watch, _) = Watch::begin(&server, &server.channel).await;
    let mut last = 0;
    for _ in 0..3 {
        let Update::Heartbeat(heartbeat) = timeout(SOON, watch.next()).await.unwrap() else { panic!() };
        let time = heartbeat.as_of_time.unwrap();
        let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        assert!(nanos > last);
        last = nanos;
    }
}

#[tokio::test]
async fn what_has_expired_is_told_no_more() {
    let server = TestServer::start().await;
    let pool = server.database.pool(1);
    revoke(&mut pool.acquire().await.unwrap(), &server, Uuid::from_u128(1), 2).await;
    server.clock.advance(Duration::from_secs(3_661));
    let replica = server.replica().await;
    let (_, snapshot) = Watch::begin(&server, &replica.channel).await;
    assert_eq!(snapshot, []);
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_with_its_replica() {
    let server = TestServer::start().await;
    let pool = server.database.pool(1);
    let account = Uuid::from_u128(8);
    let mut revoked = Watch::open(&server.channel, &server.token(account, Role::Service)).await;
    let mut drained = Watch::open(&server.channel, &server.token(Uuid::from_u128(9), Role::Service)).await;
    assert!(matches!(revoked.next().await, Update::Snapshot(_)));
    revoke(&mut pool.acquire().await.unwrap(), &server, account, 2).await;
    assert_eq!(refusal(&revoked.end().await), (Code::Unauthenticated, "TOKEN_REVOKED".into()));
    server.stop.cancel();
    assert_eq!(refusal(&drained.end().await), (Code::Unavailable, "SHUTTING_DOWN".into()));
}

#[tokio::test]
async fn a_replica_that_cannot_read_revocations_tells_nothing_to_anybody_and_goes_on_when_it_can() {
    let server = TestServer::start().await;
    let (mut watch, _) = Watch::begin(&server, &server.channel).await;
    let pool = server.database.pool(1);
    let rename = async |sql: &'static str| {
        sqlx::query(sql).execute(&pool).await.unwrap();
    };
    let silence = Duration::from_secs(3);
    rename("ALTER TABLE revocations RENAME TO hidden").await;
    // What was looked at before may still be on its way.
    let falls_silent = async { while timeout(silence, watch.next()).await.is_ok() {} };
    timeout(PATIENCE, falls_silent).await.expect("it says nothing more");
    // Nor does it tell somebody new what it knew before.
    let token = server.token(Uuid::from_u128(77), Role::Service);
    let mut later = Watch::open(&server.channel, &token).await;
    timeout(silence, later.next()).await.unwrap_err();
    let readiness = async || server.get("/readyz", "").await.1;
    let told = async { while !readiness().await.contains("revocations cannot be read") {} };
    timeout(PATIENCE, told).await.expect("the readiness tells");
    rename("ALTER TABLE hidden RENAME TO revocations").await;
    assert!(matches!(timeout(SOON, watch.next()).await.unwrap(), Update::Heartbeat(_)));
    assert!(matches!(timeout(SOON, later.next()).await.unwrap(), Update::Snapshot(_)));
    assert!(!readiness().await.contains("revocations cannot be read"));
}

#[tokio::test]
async fn every_replica_of_identity_refuses_a_revoked_token_itself() {
    let server = TestServer::start().await;
    let replica = server.replica().await;
    let ada: Uuid = server.sign_up("ada@example.org").await.user_id.parse().unwrap();
    let signed_in = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    for channel in [&server.channel, &replica.channel] {
        me(channel, &signed_in.access_token).await.unwrap();
    }
    let pool = server.database.pool(1);
    sqlx::query(
        "INSERT INTO revocations (user_id, session_id, revoke_time, expire_time)
         SELECT user_id, id, create_time, create_time + interval '1 hour 1 minute' FROM sessions",
    )
    .execute(&pool)
    .await
    .unwrap();
    at_last_revoked(&server.channel, &signed_in.access_token).await;
    at_last_revoked(&replica.channel, &signed_in.access_token).await;
    // Another session of hers is not touched, until all of them are.
    let again = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    me(&replica.channel, &again.access_token).await.unwrap();
    revoke(&mut pool.acquire().await.unwrap(), &server, ada, 2).await;
    at_last_revoked(&replica.channel, &again.access_token).await;
    at_last_revoked(&server.channel, &again.access_token).await;
}
