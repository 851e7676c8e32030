//! SignIn.

use std::time::Duration;

use identity_service::grpc::ClientAddress;
use identity_service::hashing::HashLimits;
use rowlock_proto::identity::v1::{Role, SignInRequest};
use service_core::clock::Clock;
use service_core::validation::timestamp;
use tonic::{Code, Request};

use crate::server::{PASSWORD, PATIENCE, TestServer, refusal};

#[tokio::test]
async fn a_sign_in_gives_both_tokens_and_the_user() {
    let server = TestServer::start().await;
    let user = server.sign_up("ada@example.org").await;
    let session = server.sign_in("ADA@example.org", PASSWORD).await.unwrap();
    assert_eq!(session.user, Some(user));
    let now = server.clock.now();
    let access_end = now.replace_nanosecond(0).unwrap() + Duration::from_secs(300);
    assert_eq!(session.access_token_expire_time, Some(timestamp(access_end)));
    assert_eq!(session.refresh_token_expire_time, Some(timestamp(now + Duration::from_secs(30 * 86_400))));
    assert!(session.refresh_token.len() > 43);
    assert_eq!(session.access_token.split('.').count(), 3);
}

#[tokio::test]
async fn every_sign_in_is_a_session_of_its_own() {
    let server = TestServer::start().await;
    let user = server.sign_up("ada@example.org").await;
    let mut refresh_tokens = Vec::new();
    for agent in ["phone/1.0", "laptop/2.0"] {
        let mut request =
            Request::new(SignInRequest { email: "ada@example.org".into(), password: PASSWORD.into() });
        request.metadata_mut().insert("user-agent", agent.parse().unwrap());
        refresh_tokens.push(server.auth().sign_in(request).await.unwrap().into_inner().refresh_token);
    }
    assert_ne!(refresh_tokens[0], refresh_tokens[1]);
    let sessions: Vec<(uuid::Uuid, String, i64)> = sqlx::query_as(
        "SELECT user_id, user_agent, (SELECT count(*) FROM refresh_tokens r WHERE r.session_id = s.id)
         FROM sessions s ORDER BY id",
    )
    .fetch_all(&server.database.pool(1))
    .await
    .unwrap();
    let agents: Vec<&str> = sessions.iter().map(|(_, agent, _)| agent.split(' ').next().unwrap()).collect();
    assert_eq!(agents, ["phone/1.0", "laptop/2.0"]);
    assert!(sessions.iter().all(|(id, _, tokens)| id.to_string() == user.user_id && *tokens == 1));
}

#[tokio::test]
async fn an_unknown_address_a_wrong_password_and_a_deactivated_user_look_alike() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    server.sign_up("gone@example.org").await;
    server.deactivate("gone@example.org").await;
    let mut answers = Vec::new();
    for (email, password) in [
        ("nobody@example.org", PASSWORD),
        ("ada@example.org", "violet tram 82"),
        ("gone@example.org", PASSWORD),
        ("gone@example.org", "violet tram 82"),
    ] {
        let status = server.sign_in(email, password).await.unwrap_err();
        assert_eq!(refusal(&status), (Code::Unauthenticated, "CREDENTIALS_INVALID".into()));
        answers.push((status.message().to_owned(), status.details().to_vec()));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    let sessions: i64 = sqlx::query_scalar("SELECT count(*) FROM sessions")
        .fetch_one(&server.database.pool(1))
        .await
        .unwrap();
    assert_eq!(sessions, 0);
}

#[tokio::test]
async fn the_same_password_from_another_keyboard_is_the_same() {
    let server = TestServer::start().await;
    let mut request = crate::server::sign_up("ada@example.org");
    request.password = "cafe\u{301} au lait".into();
    server.auth().sign_up(request).await.unwrap();
    server.sign_in("ada@example.org", "caf\u{e9} au lait").await.unwrap();
}

#[tokio::test]
async fn a_hash_is_renewed_at_sign_in_when_the_cost_has_grown() {
    let first = TestServer::start().await;
    first.sign_up("ada@example.org").await;
    let pool = first.database.pool(1);
    let hash = async || -> String {
        sqlx::query_scalar("SELECT password_hash FROM users").fetch_one(&pool).await.unwrap()
    };
    let before = hash().await;
    first.sign_in("ada@example.org", PASSWORD).await.unwrap();
    assert_eq!(hash().await, before, "today's cost is not renewed");

    let database = identity_database(&first).await;
    let dearer = TestServer::on(database, |config| config.hashing.cost.passes = 3).await;
    dearer.ready().await;
    dearer.sign_in("ada@example.org", "violet tram 82").await.unwrap_err();
    assert_eq!(hash().await, before, "only a right password renews");
    dearer.sign_in("ada@example.org", PASSWORD).await.unwrap();
    // Nobody waits for it.
    let renewed = async {
        loop {
            let renewed = hash().await;
            if renewed != before {
                return renewed;
            }
        }
    };
    let renewed = tokio::time::timeout(PATIENCE, renewed).await.expect("it is renewed");
    assert!(renewed.contains("t=3"), "{renewed}");
    dearer.sign_in("ada@example.org", PASSWORD).await.unwrap();
    first.sign_in("ada@example.org", PASSWORD).await.unwrap();
    assert_eq!(hash().await, renewed, "a replica with the old cost does not take it back");
}

/// Another handle of the same database.
async fn identity_database(server: &TestServer) -> service_core::test_support::TestDatabase {
    let mut other =
        service_core::test_support::TestCluster::database("identity", &identity_service::MIGRATOR).await;
    other.url = server.database.url.clone();
    other
}

#[tokio::test]
async fn the_role_of_a_sign_in_is_the_stored_one_as_of_now() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    sqlx::query("UPDATE users SET role = 'admin'").execute(&server.database.pool(1)).await.unwrap();
    let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    assert_eq!(session.user.unwrap().role(), Role::Admin);
}

/// A server where one password is hashed at a time, in so many passes, and so many wait.
async fn slowly_hashing(waiting: usize, passes: u32) -> TestServer {
    TestServer::with(|config| {
        config.hashing.limits = HashLimits { threads: 1, waiting };
        config.hashing.cost.passes = passes;
        config.sign_in.address = None;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_sign_ins_than_can_be_hashed_in_time_are_refused_with_a_time_to_retry() {
    let server = slowly_hashing(1, 10).await;
    let attempts: Vec<_> = (0..20)
        .map(|n| {
            let mut auth = server.auth();
            let request = SignInRequest { email: format!("user{n}@example.org"), password: PASSWORD.into() };
            tokio::spawn(async move { auth.sign_in(request).await })
        })
        .collect();
    let (mut judged, mut refused) = (0, 0);
    for attempt in attempts {
        match attempt.await.unwrap().map_err(|status| (refusal(&status), status)) {
            Err(((Code::Unauthenticated, reason), _)) if reason == "CREDENTIALS_INVALID" => judged += 1,
            Err((refusal, status)) => {
                assert_eq!(refusal, (Code::ResourceExhausted, "OVERLOADED".into()));
                let details = tonic_types::StatusExt::get_error_details(&status);
                assert!(details.retry_info().unwrap().retry_delay.is_some());
                refused += 1;
            }
            Ok(_) => panic!("nobody has signed up"),
        }
    }
    assert!(judged >= 2 && refused > 0, "{judged} judged, {refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_sign_up_who_is_known_gets_in() {
    let server = slowly_hashing(3, 20).await;
    let mut sign_ups: tokio::task::JoinSet<_> = (0..20)
        .map(|n| {
            let mut auth = server.auth();
            async move { auth.sign_up(crate::server::sign_up(&format!("user{n}@example.org"))).await }
        })
        .collect();
    // As many have a place as may, and somebody was refused.
    let first = sign_ups.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(refusal(&first).1, "OVERLOADED");
    let status = server.sign_in("nobody@example.org", PASSWORD).await.unwrap_err();
    assert_eq!(refusal(&status).1, "CREDENTIALS_INVALID");
}

#[tokio::test]
async fn one_address_does_not_take_all_places_for_who_signs_up() {
    let server = TestServer::with(|config| {
        config.hashing.limits = HashLimits { threads: 1, waiting: 15 };
        config.hashing.cost.passes = 20;
        config.client_address = ClientAddress::header("x-forwarded-for").unwrap();
    })
    .await;
    let sign_up = |n: usize, address: &'static str| {
        let mut request = tonic::Request::new(crate::server::sign_up(&format!("user{n}@example.org")));
        request.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
        let mut auth = server.auth();
        tokio::spawn(async move { auth.sign_up(request).await })
    };
    let flood: Vec<_> = (0..20).map(|n| sign_up(n, "192.0.2.1")).collect();
    // As many have a place as may.
    let refused = async {
        while flood.iter().filter(|call| call.is_finished()).count() < 12 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("a quarter of the places");
    sign_up(20, "192.0.2.2").await.unwrap().unwrap();
    let mut served = 0;
    for call in flood {
        match call.await.unwrap() {
            Ok(_) => served += 1,
            Err(status) => assert_eq!(refusal(&status).1, "OVERLOADED"),
        }
    }
    // Four at a time.
    assert!((4..=8).contains(&served), "{served}");
}

/// Waits until a statement that begins with `query` waits for a lock.
pub(crate) async fn waiting(pool: &sqlx::PgPool, query: &str) {
    let look = async {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1 || '%'",
            )
            .bind(query)
            .fetch_one(pool)
            .await
            .unwrap();
            if waiting > 0 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("somebody waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_while_the_password_is_judged_counts() {
    for (change, reason) in [
        ("UPDATE users SET active = false", Some("CREDENTIALS_INVALID")),
        // The hash of another password.
        (
            "UPDATE users SET password_hash = (SELECT password_hash FROM users WHERE email = 'bob@example.org')",
            Some("CREDENTIALS_INVALID"),
        ),
        // Nothing that matters to a sign-in.
        ("UPDATE users SET display_name = 'Countess of Lovelace'", None),
    ] {
        let server = TestServer::start().await;
        server.sign_up("ada@example.org").await;
        let bob = rowlock_proto::identity::v1::SignUpRequest {
            password: "another tram 82".into(),
            ..crate::server::sign_up("bob@example.org")
        };
        server.auth().sign_up(bob).await.unwrap();
        let pool = server.database.pool(2);
        let mut other = pool.begin().await.unwrap();
        sqlx::query(change).execute(&mut *other).await.unwrap();
        // It finds the user as before, judges the password, and then waits for the change.
        let mut auth = server.auth();
        let request = SignInRequest { email: "ada@example.org".into(), password: PASSWORD.into() };
        let sign_in = tokio::spawn(async move { auth.sign_in(request).await });
        waiting(&pool, "SELECT id, email, display_name, role, active").await;
        other.commit().await.unwrap();
        let answer = sign_in.await.unwrap();
        assert_eq!(answer.err().map(|status| refusal(&status).1).as_deref(), reason, "{change}");
        let sessions: i64 =
            sqlx::query_scalar("SELECT count(*) FROM sessions").fetch_one(&pool).await.unwrap();
        assert_eq!(sessions, i64::from(reason.is_none()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_password_is_not_confirmed_when_the_account_was_blocked_while_it_was_judged() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    server.sign_in("ada@example.org", "violet tram 82").await.unwrap_err();
    let pool = server.database.pool(2);
    let mut other = pool.begin().await.unwrap();
    sqlx::query("UPDATE sign_in_failures SET blocked_until = '2026-05-04 12:01:00Z' WHERE scope = 'account'")
        .execute(&mut *other)
        .await
        .unwrap();
    let mut auth = server.auth();
    let request = SignInRequest { email: "ada@example.org".into(), password: PASSWORD.into() };
    let sign_in = tokio::spawn(async move { auth.sign_in(request).await });
    waiting(&pool, "SELECT failures").await;
    other.commit().await.unwrap();
    let status = sign_in.await.unwrap().unwrap_err();
    assert_eq!(refusal(&status), (Code::ResourceExhausted, "TOO_MANY_ATTEMPTS".into()));
    let sessions: i64 = sqlx::query_scalar("SELECT count(*) FROM sessions").fetch_one(&pool).await.unwrap();
    assert_eq!(sessions, 0);
}
