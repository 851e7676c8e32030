//! CreatePasswordReset and ResetPassword.

use std::time::Duration;

use identity_service::hashing::HashLimits;
use prost_types::FieldMask;
use rowlock_proto::identity::v1::{
    ChangePasswordRequest, CreatePasswordResetRequest, RefreshTokensRequest, ResetPasswordRequest,
    UpdateUserRequest, User,
};
use service_core::auth::Role;
use service_core::clock::Clock;
use service_core::validation::timestamp;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::admin::{voided, with_admin};
use crate::revocations::at_last_revoked;
use crate::server::{PASSWORD, TestServer, invalid, refusal, violated, with_token};

const NEW: &str = "amber ferry 64";
const NEWER: &str = "amber ferry 65";

/// A server, an admin's token, and a user.
async fn with_user() -> (TestServer, String, User) {
    let (server, _, admin) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    (server, admin, ada)
}

async fn create(server: &TestServer, admin: &str, user_id: &str) -> Result<String, Status> {
    let request = CreatePasswordResetRequest { user_id: user_id.to_owned() };
    let made = server.users().create_password_reset(with_token(request, admin)).await?.into_inner();
    let lifetime = server.config.tokens.reset_lifetime;
    assert_eq!(made.expire_time, Some(timestamp(server.clock.now() + lifetime)));
    Ok(made.reset_token)
}

async fn reset(server: &TestServer, token: &str, new: &str) -> Result<(), Status> {
    let request = ResetPasswordRequest { reset_token: token.to_owned(), new_password: new.to_owned() };
    server.auth().reset_password(request).await.map(|_| ())
}

fn invalid_token() -> (Code, String) {
    (Code::Unauthenticated, "PASSWORD_RESET_INVALID".into())
}

async fn activate(server: &TestServer, admin: &str, user: &User, active: bool) {
    let user = User { user_id: user.user_id.clone(), active, ..User::default() };
    let mask = FieldMask { paths: vec!["active".to_owned()] };
    let request = UpdateUserRequest { user: Some(user), update_mask: Some(mask) };
    server.users().update_user(with_token(request, admin)).await.unwrap();
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_once_and_every_session_ends() {
    let (server, admin, ada) = with_user().await;
    let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let token = create(&server, &admin, &ada.user_id).await.unwrap();
    server.sign_in("ada@example.org", PASSWORD).await.expect("the old one is good until then");
    reset(&server, &token, NEW).await.unwrap();

    let refresh = RefreshTokensRequest { refresh_token: session.refresh_token };
    server.auth().refresh_tokens(refresh).await.unwrap_err();
    assert_eq!(voided(&server, &ada).await, [2]);
    at_last_revoked(&server.channel, &session.access_token).await;
    server.sign_in("ada@example.org", PASSWORD).await.unwrap_err();
    server.sign_in("ada@example.org", NEW).await.unwrap();
    assert_eq!(refusal(&reset(&server, &token, NEWER).await.unwrap_err()), invalid_token());
    let written: Vec<(String, Option<Uuid>, String)> = sqlx::query_as(
        "SELECT action, actor_id, details::text FROM audit_entries WHERE action LIKE 'password%' ORDER BY id",
    )
    .fetch_all(&server.database.pool(1))
    .await
    .unwrap();
    let [made, used] = written.as_slice() else { panic!("{written:?}") };
    assert_eq!((made.0.as_str(), made.1.is_some()), ("password_reset_created", true));
    assert_eq!(
        used,
        &("password_reset".to_owned(), None, r#"{"sessions": 2}"#.to_owned()),
        "nobody is known to be signed in"
    );
}

#[tokio::test]
async fn a_reset_token_ends_by_another_one_a_new_password_deactivation_and_time() {
    let (server, admin, ada) = with_user().await;
    let make = async || create(&server, &admin, &ada.user_id).await.unwrap();
    let refused = async |token: &str, why: &str| {
        assert_eq!(refusal(&reset(&server, token, NEW).await.unwrap_err()), invalid_token(), "{why}");
    };
    let first = make().await;
    let second = make().await;
    refused(&first, "another one was made").await;

    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    let change = ChangePasswordRequest { current_password: PASSWORD.into(), new_password: NEW.into() };
    server.users().change_password(with_token(change, &token)).await.unwrap();
    refused(&second, "the password was changed").await;

    let third = make().await;
    activate(&server, &admin, &ada, false).await;
    refused(&third, "deactivated").await;
    activate(&server, &admin, &ada, true).await;
    refused(&third, "deactivated once").await;
    activate(&server, &admin, &ada, false).await;
    let fourth = make().await;
    refused(&fourth, "still deactivated").await;
    activate(&server, &admin, &ada, true).await;
    reset(&server, &fourth, NEWER).await.expect("made since");

    let last = make().await;
    server.clock.advance(server.config.tokens.reset_lifetime);
    refused(&last, "lapsed").await;
    let short = Duration::from_secs(1);
    let admin = server.token(admin_id(&server).await, Role::Admin);
    let last = create(&server, &admin, &ada.user_id).await.unwrap();
    server.clock.advance(server.config.tokens.reset_lifetime - short);
    reset(&server, &last, NEW).await.expect("a second before it lapses");
}

async fn admin_id(server: &TestServer) -> Uuid {
    let id = sqlx::query_scalar("SELECT id FROM users WHERE role = 'admin'");
    id.fetch_one(&server.database.pool(1)).await.unwrap()
}

#[tokio::test]
async fn a_user_who_was_kept_out_by_guesses_gets_in_by_a_reset() {
    let (server, admin, ada) = with_user().await;
    for _ in 0..=server.config.sign_in.account.free {
        server.sign_in("ada@example.org", "violet tram 82").await.unwrap_err();
    }
    let status = server.sign_in("ada@example.org", PASSWORD).await.unwrap_err();
    assert_eq!(refusal(&status).1, "TOO_MANY_ATTEMPTS");
    let token = create(&server, &admin, &ada.user_id).await.unwrap();
    reset(&server, &token, NEW).await.unwrap();
    server.sign_in("ada@example.org", NEW).await.unwrap();
}

#[tokio::test]
async fn a_new_password_that_breaks_a_rule_leaves_the_token_good() {
    let (server, admin, ada) = with_user().await;
    let token = create(&server, &admin, &ada.user_id).await.unwrap();
    for (token, new, fields) in [
        ("", "", vec!["reset_token", "new_password"]),
        (token.as_str(), "", vec!["new_password"]),
        (token.as_str(), "short 7", vec!["new_password"]),
        (token.as_str(), "password123", vec!["new_password"]),
        (token.as_str(), "ADA@example.org", vec!["new_password"]),
    ] {
        let status = reset(&server, token, new).await.unwrap_err();
        assert_eq!((refusal(&status), violated(&status)), (invalid("VALIDATION_FAILED"), own(&fields)));
    }
    let strangers = [
        "made-up".to_owned(),
        format!("{token}x"),
        token.replace("rowlock_reset_", "rowlock_refresh_"),
        format!("rowlock_reset_{}", "A".repeat(43)),
    ];
    for stranger in strangers {
        assert_eq!(
            refusal(&reset(&server, &stranger, NEW).await.unwrap_err()),
            invalid_token(),
            "{stranger}"
        );
    }
    reset(&server, &token, NEW).await.unwrap();
    let status = create(&server, &admin, &Uuid::from_u128(1).to_string()).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::NotFound, "USER_NOT_FOUND".into()));
    assert_eq!(violated(&create(&server, &admin, "x").await.unwrap_err()), ["user_id"]);
}

fn own(fields: &[&str]) -> Vec<String> {
    fields.iter().map(|field| (*field).to_owned()).collect()
}

#[tokio::test]
async fn the_database_holds_no_reset_token() {
    let (server, admin, ada) = with_user().await;
    let token = create(&server, &admin, &ada.user_id).await.unwrap();
    let stored: String = sqlx::query_scalar(
        "SELECT row_to_json(r)::text || (SELECT json_agg(a)::text FROM audit_entries a) FROM password_resets r",
    )
    .fetch_one(&server.database.pool(1))
    .await
    .unwrap();
    assert!(!stored.contains(token.trim_start_matches("rowlock_reset_")), "{stored}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_bring_one_reset_token_at_once_one_replaces_the_password() {
    let (server, admin, ada) = with_user().await;
    let token = create(&server, &admin, &ada.user_id).await.unwrap();
    let (a, b) = tokio::join!(reset(&server, &token, NEW), reset(&server, &token, NEWER));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let password = if a.is_ok() { NEW } else { NEWER };
    assert_eq!(refusal(&a.err().or(b.err()).unwrap()), invalid_token());
    server.sign_in("ada@example.org", password).await.unwrap();
}

#[tokio::test]
async fn one_reset_token_does_not_take_the_places_of_others_for_hashing() {
    let server = TestServer::with(|config| {
        config.hashing.limits = HashLimits { threads: 1, waiting: 15 };
        config.hashing.cost.passes = 20;
    })
    .await;
    let admin = crate::admin::admin(&server, "root@example.org").await;
    let admin = server.token(admin.user_id.parse().unwrap(), Role::Admin);
    let ada = server.sign_up("ada@example.org").await;
    let token = create(&server, &admin, &ada.user_id).await.unwrap();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (mut auth, reset_token) = (server.auth(), token.clone());
            let request = ResetPasswordRequest { reset_token, new_password: NEW.to_owned() };
            tokio::spawn(async move { auth.reset_password(request).await })
        })
        .collect();
    let (mut reset, mut refused) = (0, 0);
    for call in calls {
        match call.await.unwrap().map_err(|status| refusal(&status).1) {
            Ok(_) => reset += 1,
            Err(reason) if reason == "OVERLOADED" => refused += 1,
            Err(reason) => assert_eq!(reason, "PASSWORD_RESET_INVALID"),
        }
    }
    // Of 16 places four at a time.
    assert_eq!(reset, 1);
    assert!(refused >= 8, "{refused}");
}
