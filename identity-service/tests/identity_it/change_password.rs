//! ChangePassword.

use std::time::Duration;

use rowlock_proto::identity::v1::{ChangePasswordRequest, RefreshTokensRequest};
use tonic::{Code, Status};

use crate::server::{PASSWORD, PATIENCE, TestServer, invalid, refusal, violated, with_token};

const NEW: &str = "amber ferry 64";
const WRONG: &str = "violet tram 82";

async fn change(server: &TestServer, token: &str, current: &str, new: &str) -> Result<i32, Status> {
    let request = ChangePasswordRequest { current_password: current.into(), new_password: new.into() };
    server.users().change_password(with_token(request, token)).await.map(|a| a.into_inner().revoked_sessions)
}

#[tokio::test]
async fn a_new_password_ends_all_sessions_but_the_one_that_it_came_from() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(server.sign_in("ada@example.org", PASSWORD).await.unwrap());
    }
    assert_eq!(change(&server, &sessions[1].access_token, PASSWORD, NEW).await.unwrap(), 2);
    for (index, session) in sessions.iter().enumerate() {
        let request = RefreshTokensRequest { refresh_token: session.refresh_token.clone() };
        assert_eq!(server.auth().refresh_tokens(request).await.is_ok(), index == 1);
    }
    let revoked: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM revocations WHERE session_id IN
                             (SELECT id FROM sessions WHERE revoke_time IS NOT NULL)",
    )
    .fetch_one(&server.database.pool(1))
    .await
    .unwrap();
    assert_eq!(revoked, 2);
    server.sign_in("ada@example.org", PASSWORD).await.unwrap_err();
    server.sign_in("ada@example.org", NEW).await.unwrap();
}

#[tokio::test]
async fn sessions_whose_tokens_have_all_expired_end_without_a_revocation() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let still_used = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    // The longest that a token may live, and how far clocks may differ.
    server.clock.advance(Duration::from_secs(3_600 + 60) + Duration::from_secs(1));
    let refresh = RefreshTokensRequest { refresh_token: still_used.refresh_token };
    server.auth().refresh_tokens(refresh).await.unwrap();
    let present = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    assert_eq!(change(&server, &present.access_token, PASSWORD, NEW).await.unwrap(), 2, "both end");
    let revoked: i64 = sqlx::query_scalar("SELECT count(*) FROM revocations")
        .fetch_one(&server.database.pool(1))
        .await
        .unwrap();
    assert_eq!(revoked, 1);
}

#[tokio::test]
async fn wrong_present_passwords_count_like_failed_sign_ins() {
    let server = TestServer::with(|config| config.sign_in.account.free = 3).await;
    server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    for _ in 0..2 {
        let status = change(&server, &token, WRONG, NEW).await.unwrap_err();
        assert_eq!(refusal(&status), (Code::Unauthenticated, "CREDENTIALS_INVALID".into()));
    }
    server.sign_in("ada@example.org", WRONG).await.unwrap_err();
    let status = change(&server, &token, PASSWORD, NEW).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::ResourceExhausted, "TOO_MANY_ATTEMPTS".into()));
    server.clock.advance(std::time::Duration::from_secs(1));
    change(&server, &token, PASSWORD, NEW).await.unwrap();
    for _ in 0..3 {
        let status = server.sign_in("ada@example.org", WRONG).await.unwrap_err();
        assert_eq!(refusal(&status).1, "CREDENTIALS_INVALID", "counted from the beginning");
    }
}

#[tokio::test]
async fn who_is_given_tokens_too_often_cannot_change_the_password_either() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let (mut refresh_token, mut current, mut new) = (session.refresh_token, PASSWORD, NEW);
    let mut given = 0;
    // One more a second, by a clock that goes on: now and then it is the change that has it.
    let limited = loop {
        given += 1;
        assert!(given < 1_000);
        let request = RefreshTokensRequest { refresh_token: refresh_token.clone() };
        match server.auth().refresh_tokens(request).await {
            Ok(next) => refresh_token = next.into_inner().refresh_token,
            Err(status) => {
                assert_eq!(refusal(&status).1, "RATE_LIMITED");
                match change(&server, &session.access_token, current, new).await {
                    Ok(_) => std::mem::swap(&mut current, &mut new),
                    Err(status) => break status,
                }
            }
        }
    };
    assert_eq!(refusal(&limited), (Code::ResourceExhausted, "RATE_LIMITED".into()));
    assert!(limited.metadata().contains_key("grpc-retry-pushback-ms"));
    let unchanged = async {
        while let Err(status) = server.sign_in("ada@example.org", current).await {
            assert_eq!(refusal(&status).1, "RATE_LIMITED");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, unchanged).await.expect("it is still the password");
}

#[tokio::test]
async fn a_new_password_keeps_the_rules_and_all_that_is_wrong_is_named_at_once() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    for (current, new, fields) in [
        ("", "", vec!["current_password", "new_password"]),
        (PASSWORD, "short 7", vec!["new_password"]),
        (PASSWORD, "password123", vec!["new_password"]),
        (PASSWORD, "ada@example.org", vec!["new_password"]),
    ] {
        let status = change(&server, &token, current, new).await.unwrap_err();
        assert_eq!(refusal(&status), invalid("VALIDATION_FAILED"));
        assert_eq!(violated(&status), fields);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_changes_at_once_the_second_has_a_wrong_present_password() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    let (a, b) = tokio::join!(
        change(&server, &token, PASSWORD, NEW),
        change(&server, &token, PASSWORD, "amber ferry 65")
    );
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let status = a.err().or(b.err()).unwrap();
    assert_eq!(refusal(&status).1, "CREDENTIALS_INVALID");
}
