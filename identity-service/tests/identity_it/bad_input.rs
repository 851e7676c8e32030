//! Requests that break rules, from a missing field to bytes that are no message.

use bytes::Bytes;
use prost::Message;
use rowlock_proto::identity::v1::{Role, SignInRequest, SignUpRequest};
use tonic::{Code, Request};

use crate::raw;
use crate::server::{PASSWORD, TestServer, invalid, refusal, sign_up, violated};

#[tokio::test]
async fn every_violation_of_a_sign_up_is_named_at_once() {
    let server = TestServer::start().await;
    let nothing = SignUpRequest { role: 77, ..SignUpRequest::default() };
    let status = server.auth().sign_up(nothing).await.unwrap_err();
    assert_eq!(refusal(&status), invalid("VALIDATION_FAILED"));
    assert_eq!(violated(&status), ["email", "password", "display_name", "role"]);
    let status = server.auth().sign_in(SignInRequest::default()).await.unwrap_err();
    assert_eq!(refusal(&status), invalid("VALIDATION_FAILED"));
    assert_eq!(violated(&status), ["email", "password"]);
}

#[tokio::test]
async fn a_sign_up_that_breaks_a_rule_is_refused_by_the_name_of_the_field() {
    let server = TestServer::start().await;
    let base = || sign_up("ada@example.org");
    let email = |email: &str| SignUpRequest { email: email.to_owned(), ..base() };
    let password = |password: &str| SignUpRequest { password: password.to_owned(), ..base() };
    let name = |name: &str| SignUpRequest { display_name: name.to_owned(), ..base() };
    let role = |role: i32| SignUpRequest { role, ..base() };
    let huge = "x".repeat(100_000);
    for (request, field) in [
        (email(""), "email"),
        (email("ada"), "email"),
        (email("a@b@c"), "email"),
        (email("ada@exam ple.org"), "email"),
        (email("ada\0@example.org"), "email"),
        (email(&format!("{huge}@example.org")), "email"),
        (email("аda@example.org"), "email"),
        (password(""), "password"),
        (password("short 7"), "password"),
        (password("password123"), "password"),
        (password("PASSWORD123"), "password"),
        (password("ada@example.org"), "password"),
        (password(&"x".repeat(257)), "password"),
        (password(&huge), "password"),
        (name(""), "display_name"),
        (name("   "), "display_name"),
        (name("a\0b"), "display_name"),
        (name("a\nb"), "display_name"),
        (name("a\u{1b}[31m"), "display_name"),
        (name(&"x".repeat(101)), "display_name"),
        (role(Role::Admin.into()), "role"),
        (role(Role::Service.into()), "role"),
        (role(-1), "role"),
        (role(99), "role"),
    ] {
        let status = server.auth().sign_up(request.clone()).await.expect_err(field);
        assert_eq!(refusal(&status), invalid("VALIDATION_FAILED"), "{field}");
        assert_eq!(violated(&status), [field]);
        assert!(!format!("{status:?}").contains(PASSWORD), "the password is not repeated");
    }
    let stored: i64 =
        sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&server.database.pool(1)).await.unwrap();
    assert_eq!(stored, 0);
}

#[tokio::test]
async fn the_longest_values_are_taken() {
    let server = TestServer::start().await;
    let request = SignUpRequest {
        email: format!("{}@example.org", "a".repeat(242)),
        password: "ü~".repeat(128),
        display_name: "ü".repeat(100),
        role: Role::Attendee.into(),
    };
    server.auth().sign_up(request.clone()).await.unwrap();
    server.sign_in(&request.email, &request.password).await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_fault() {
    let server = TestServer::start().await;
    let path = "/rowlock.identity.v1.AuthService/SignUp";
    let invalid_utf8 = [0x0a, 0x02, 0xc3, 0x28];
    let cut_off = [0x0a, 0x7f, 0x61];
    let wrong_type = [0x08, 0x01];
    for bytes in [&invalid_utf8[..], &cut_off, &wrong_type, &[0xff; 40]] {
        let request = Request::new(Bytes::copy_from_slice(bytes));
        let status = raw::call(&server.channel, path, request).await.unwrap_err();
        assert_eq!(refusal(&status), invalid("VALIDATION_FAILED"), "{bytes:?}");
        assert!(
            !status.message().contains("utf-8") && !status.message().contains("wire"),
            "{}",
            status.message()
        );
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_before_it_is_read() {
    let server = TestServer::with(|config| config.server.max_message_bytes = 2_000).await;
    let request = SignUpRequest { display_name: "x".repeat(2_000), ..sign_up("ada@example.org") };
    assert!(request.encoded_len() > 2_000);
    let status = server.auth().sign_up(request).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::OutOfRange, "MESSAGE_TOO_LARGE".into()));
    server.sign_up("ada@example.org").await;
}
