//! UserService.GetMe.

use std::time::Duration;

use rowlock_proto::identity::v1::GetMeRequest;
use service_core::auth::Role;
use tonic::Code;
use uuid::Uuid;

use crate::server::{PASSWORD, TestServer, refusal, with_token};

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
    let nobody = server.token(Uuid::from_u128(1), Role::Attendee);
    let status = server.users().get_me(with_token(GetMeRequest {}, &nobody)).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::Unauthenticated, "TOKEN_REVOKED".into()));
}
