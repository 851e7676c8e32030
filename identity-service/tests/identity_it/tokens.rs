//! What is sent in place of a good access token.

use std::fs;
use std::time::Duration;

use rowlock_proto::identity::v1::GetMeRequest;
use service_core::auth::Role;
use service_core::test_support::{TEST_AUDIENCE, TEST_ISSUER, TokenMint, token_cases};
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Request, Status};

use crate::server::{PASSWORD, TestServer, refusal, with_token};

async fn get_me(server: &TestServer, metadata: MetadataMap) -> Result<(), Status> {
    let request = Request::from_parts(metadata, Extensions::new(), GetMeRequest {});
    server.users().get_me(request).await.map(|_| ())
}

/// Signs with the server's own key, by its clock.
fn mint(server: &TestServer) -> TokenMint {
    let files = fs::read_dir(server.keys.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.extension().is_some_and(|end| end == "pem"));
    let pem = files.next().unwrap();
    TokenMint::with_key(&fs::read(pem).unwrap(), server.clock.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_forge_bend_or_misplace_a_token_is_refused() {
    let server = TestServer::with(|config| {
        config.tokens.issuer = TEST_ISSUER.to_owned();
        config.tokens.audience = TEST_AUDIENCE.to_owned();
    })
    .await;
    let user = server.sign_up("ada@example.org").await.user_id.parse().unwrap();
    let mut wrong = Vec::new();
    for case in token_cases(&mint(&server), user, Role::Organizer) {
        match (get_me(&server, case.metadata).await, case.refusal) {
            (Ok(()), None) => {}
            (Err(status), Some(reason)) if status.message().contains("token") => {
                assert_eq!(refusal(&status), (Code::Unauthenticated, reason.to_owned()), "{}", case.name);
            }
            (answer, expected) => wrong.push(format!("{}: {answer:?}, not {expected:?}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_token_that_is_used_all_the_time_ends_when_it_expires() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    let ask = async || server.users().get_me(with_token(GetMeRequest {}, &token)).await;
    for _ in 0..10 {
        ask().await.unwrap();
        server.clock.advance(Duration::from_secs(29));
    }
    ask().await.unwrap();
    // Five minutes, and what the clocks of two machines may differ.
    server.clock.advance(Duration::from_secs(15));
    assert_eq!(refusal(&ask().await.unwrap_err()), (Code::Unauthenticated, "TOKEN_EXPIRED".to_owned()));
}
