//! How failed sign-ins slow the next ones down.

use std::time::Duration;

use identity_service::grpc::ClientAddress;
use rowlock_proto::identity::v1::SignInRequest;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::server::{PASSWORD, TestServer, refusal};
use crate::sign_in::waiting;

const WRONG: &str = "violet tram 82";

async fn server(free: u32) -> TestServer {
    TestServer::with(|config| config.sign_in.account.free = free).await
}

fn pause(status: &Status) -> Duration {
    assert_eq!(refusal(status), (Code::ResourceExhausted, "TOO_MANY_ATTEMPTS".into()));
    status.get_error_details().retry_info().unwrap().retry_delay.unwrap()
}

#[tokio::test]
async fn after_the_free_failures_not_even_the_right_password_is_judged_until_the_pause_is_over() {
    let server = server(3).await;
    server.sign_up("ada@example.org").await;
    for _ in 0..3 {
        let status = server.sign_in("ada@example.org", WRONG).await.unwrap_err();
        assert_eq!(refusal(&status).1, "CREDENTIALS_INVALID");
    }
    // Nor does it cost a hash: what is stored could not even be judged.
    let pool = server.database.pool(1);
    for statement in [
        "ALTER TABLE users ADD COLUMN kept text",
        "UPDATE users SET kept = password_hash, password_hash = 'not a hash'",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    for password in [WRONG, PASSWORD] {
        let status = server.sign_in("ada@example.org", password).await.unwrap_err();
        assert_eq!(pause(&status), Duration::from_secs(1));
    }
    sqlx::query("UPDATE users SET password_hash = kept").execute(&pool).await.unwrap();
    server.clock.advance(Duration::from_secs(1));
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
}

#[tokio::test]
async fn pauses_double_and_a_success_ends_them() {
    let server = server(1).await;
    server.sign_up("ada@example.org").await;
    for seconds in [1, 2, 4, 8] {
        let status = server.sign_in("ada@example.org", WRONG).await.unwrap_err();
        assert_eq!(refusal(&status).1, "CREDENTIALS_INVALID");
        let status = server.sign_in("ada@example.org", WRONG).await.unwrap_err();
        assert_eq!(
            pause(&status),
            Duration::from_secs(seconds),
            "an attempt within the pause does not lengthen it"
        );
        server.clock.advance(Duration::from_secs(seconds));
    }
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let status = server.sign_in("ada@example.org", WRONG).await.unwrap_err();
    assert_eq!(refusal(&status).1, "CREDENTIALS_INVALID");
    let status = server.sign_in("ada@example.org", WRONG).await.unwrap_err();
    assert_eq!(pause(&status), Duration::from_secs(1), "counted from the beginning");
}

#[tokio::test]
async fn an_unknown_address_pauses_as_a_known_one_does() {
    let server = server(2).await;
    server.sign_up("ada@example.org").await;
    let mut answers = Vec::new();
    for email in ["ada@example.org", "nobody@example.org"] {
        let mut given = Vec::new();
        for _ in 0..4 {
            let status = server.sign_in(email, WRONG).await.unwrap_err();
            given.push((status.code(), status.message().to_owned(), status.details().to_vec()));
        }
        answers.push(given);
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn one_accounts_pause_is_nobody_elses() {
    let server = server(1).await;
    server.sign_up("ada@example.org").await;
    server.sign_up("bob@example.org").await;
    server.sign_in("ada@example.org", WRONG).await.unwrap_err();
    pause(&server.sign_in("ada@example.org", PASSWORD).await.unwrap_err());
    server.sign_in("bob@example.org", PASSWORD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_guesses_sent_at_once_no_more_are_answered_than_the_rule_lets_through() {
    let server = server(3).await;
    server.sign_up("ada@example.org").await;
    let guesses: Vec<_> = (0..40)
        .map(|n| {
            let mut auth = server.auth();
            let request =
                SignInRequest { email: "ada@example.org".into(), password: format!("guess number {n}") };
            tokio::spawn(async move { auth.sign_in(request).await.unwrap_err() })
        })
        .collect();
    let mut answered = 0;
    for guess in guesses {
        match refusal(&guess.await.unwrap()).1.as_str() {
            "CREDENTIALS_INVALID" => answered += 1,
            reason => assert_eq!(reason, "TOO_MANY_ATTEMPTS"),
        }
    }
    assert_eq!(answered, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_passwords_sent_at_once_all_pass() {
    let server = server(1).await;
    server.sign_up("ada@example.org").await;
    let attempts: Vec<_> = (0..20)
        .map(|_| {
            let mut auth = server.auth();
            let request = SignInRequest { email: "ada@example.org".into(), password: PASSWORD.into() };
            tokio::spawn(async move { auth.sign_in(request).await })
        })
        .collect();
    for attempt in attempts {
        attempt.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_client_address_pauses_whatever_the_account() {
    let server = TestServer::with(|config| {
        config.sign_in.address.as_mut().unwrap().free = 3;
        config.client_address = ClientAddress::header("x-forwarded-for").unwrap();
    })
    .await;
    server.sign_up("ada@example.org").await;
    let from = async |address: &str, email: &str, password: &str| {
        let mut request = Request::new(SignInRequest { email: email.into(), password: password.into() });
        request.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
        server.auth().sign_in(request).await
    };
    for n in 0..3 {
        let status = from("192.0.2.7", &format!("user{n}@example.org"), WRONG).await.unwrap_err();
        assert_eq!(refusal(&status).1, "CREDENTIALS_INVALID");
    }
    let status = from("192.0.2.7", "ada@example.org", PASSWORD).await.unwrap_err();
    assert_eq!(pause(&status), Duration::from_secs(1));
    from("192.0.2.8", "ada@example.org", PASSWORD).await.unwrap();
    server.clock.advance(Duration::from_secs(1));
    from("192.0.2.7", "ada@example.org", PASSWORD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_password_among_guesses_for_many_accounts_is_not_told_once_their_address_pauses() {
    let server = TestServer::with(|config| config.sign_in.address.as_mut().unwrap().free = 2).await;
    server.sign_up("ada@example.org").await;
    server.sign_in("ada@example.org", WRONG).await.unwrap_err();
    let pool = server.database.pool(2);
    // Whose password was judged before the pause, and is answered after it.
    let mut other = pool.begin().await.unwrap();
    sqlx::query("SELECT failures FROM sign_in_failures WHERE scope = 'account' FOR UPDATE")
        .execute(&mut *other)
        .await
        .unwrap();
    let mut auth = server.auth();
    let request = SignInRequest { email: "ada@example.org".into(), password: PASSWORD.into() };
    let right = tokio::spawn(async move { auth.sign_in(request).await });
    waiting(&pool, "SELECT failures, last_failure_time").await;
    server.sign_in("bob@example.org", WRONG).await.unwrap_err();
    other.commit().await.unwrap();
    pause(&right.await.unwrap().unwrap_err());
    server.clock.advance(Duration::from_secs(1));
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
}

#[tokio::test]
async fn the_table_of_failures_does_not_name_who_was_tried() {
    let server = server(2).await;
    server.sign_in("nobody@example.org", WRONG).await.unwrap_err();
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT row_to_json(f)::text FROM sign_in_failures f ORDER BY scope")
            .fetch_all(&server.database.pool(1))
            .await
            .unwrap();
    assert_eq!(rows.len(), 2, "an account and an address: {rows:?}");
    assert!(!rows.concat().contains("nobody") && !rows.concat().contains("127.0.0.1"), "{rows:?}");
}
