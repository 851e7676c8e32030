//! UserService.GetMe.

use std::time::Duration;

use rowlock_proto::identity::v1::{
    GetMeRequest, ListMySessionsRequest, RevokeMySessionRequest, UpdateMeRequest, User,
};
use service_core::auth::Role;
use tonic::Code;
use uuid::Uuid;

use crate::server::{PASSWORD, TestServer, refusal, with_token};
use crate::sign_in::waiting;

#[tokio::test]
async fn a_caller_is_told_who_they_are() {
    let server = TestServer::start().await;
    let user = server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    let me = server.users().get_me(with_token(GetMeRequest {}, &token)).await.unwrap().into_inner().user;
    assert_eq!(me, Some(user));
}

#[tokio::test]
async fn a_token_is_good_until_it_expires() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    // The verifier grants clocks 5 seconds of difference.
    server.clock.advance(Duration::from_secs(300));
    server.users().get_me(with_token(GetMeRequest {}, &token)).await.unwrap();
    server.clock.advance(Duration::from_secs(5));
    let status = server.users().get_me(with_token(GetMeRequest {}, &token)).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::Unauthenticated, "TOKEN_EXPIRED".into()));
}

#[tokio::test]
async fn a_deactivated_user_cannot_use_a_token_from_before() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    sqlx::query("UPDATE users SET active = false").execute(&server.database.pool(1)).await.unwrap();
    let status = server.users().get_me(with_token(GetMeRequest {}, &token)).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::Unauthenticated, "TOKEN_REVOKED".into()));
    let mut users = server.users();
    let answers = [
        users.update_me(with_token(rename("Eve"), &token)).await.map(|_| ()),
        users.list_my_sessions(with_token(ListMySessionsRequest::default(), &token)).await.map(|_| ()),
        users.revoke_my_session(with_token(of_nobody(), &token)).await.map(|_| ()),
    ];
    for answer in answers {
        assert_eq!(refusal(&answer.unwrap_err()).1, "TOKEN_REVOKED");
    }
    let nobody = server.token(Uuid::from_u128(1), Role::Attendee);
    let status = server.users().get_me(with_token(GetMeRequest {}, &nobody)).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::Unauthenticated, "TOKEN_REVOKED".into()));
}

fn rename(name: &str) -> UpdateMeRequest {
    UpdateMeRequest {
        user: Some(User { display_name: name.into(), ..User::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into()] }),
    }
}

fn of_nobody() -> RevokeMySessionRequest {
    RevokeMySessionRequest { session_id: Uuid::from_u128(7).to_string() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_who_are_deactivated_as_they_rename_themselves_are_not_renamed() {
    let server = TestServer::start().await;
    let ada = server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    let pool = server.database.pool(2);
    let mut admin = pool.begin().await.unwrap();
    sqlx::query("UPDATE users SET active = false").execute(&mut *admin).await.unwrap();
    let mut users = server.users();
    let renamed = tokio::spawn(async move { users.update_me(with_token(rename("Eve"), &token)).await });
    waiting(&pool, "SELECT id, email, display_name").await;
    admin.commit().await.unwrap();
    assert_eq!(refusal(&renamed.await.unwrap().unwrap_err()).1, "TOKEN_REVOKED");
    let name: String = sqlx::query_scalar("SELECT display_name FROM users").fetch_one(&pool).await.unwrap();
    assert_eq!(name, ada.display_name);
}

#[tokio::test]
async fn a_statement_that_takes_longer_than_it_may_is_no_bug() {
    let server = TestServer::with(|config| config.database.statement_timeout = Duration::from_secs(2)).await;
    server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    let mut somebody = server.database.pool(1).begin().await.unwrap();
    sqlx::query("SELECT FROM users FOR UPDATE").execute(&mut *somebody).await.unwrap();
    let status = server.users().update_me(with_token(rename("Eve"), &token)).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()));
}
