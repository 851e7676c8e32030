//! The audit entries: there for every act that counts, and there for good.

use prost_types::FieldMask;
use rowlock_proto::identity::v1::{
    ChangePasswordRequest, ListMySessionsRequest, RefreshTokensRequest, RevokeMySessionRequest,
    RevokeUserSessionsRequest, SignOutRequest, UpdateUserRequest, User,
};
use service_core::auth::Role;
use uuid::Uuid;

use crate::server::{PASSWORD, TestServer, with_token};

type Entry = (String, Option<Uuid>, Uuid, bool, String);

async fn entries(server: &TestServer) -> Vec<Entry> {
    sqlx::query_as(
        "SELECT action, actor_id, subject_id, session_id IS NOT NULL, details::text FROM audit_entries ORDER BY id",
    )
    .fetch_all(&server.database.pool(1))
    .await
    .unwrap()
}

#[tokio::test]
async fn what_begins_ends_or_changes_access_leaves_an_entry() {
    let server = TestServer::with(|config| config.sign_in.account.free = 2).await;
    let ada = server.sign_up("ada@example.org").await;
    let id: Uuid = ada.user_id.parse().unwrap();
    let admin = Uuid::from_u128(1);
    server.enroll(admin).await;
    let admins_token = server.token(admin, Role::Admin);
    let first = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let mut auth = server.auth();
    let refresh = RefreshTokensRequest { refresh_token: first.refresh_token.clone() };
    auth.refresh_tokens(refresh.clone()).await.unwrap();
    auth.refresh_tokens(refresh.clone()).await.unwrap_err();
    auth.refresh_tokens(refresh).await.unwrap_err();
    let second = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let change =
        ChangePasswordRequest { current_password: PASSWORD.into(), new_password: "amber ferry 64".into() };
    server.users().change_password(with_token(change, &second.access_token)).await.unwrap();
    let sign_out = SignOutRequest { refresh_token: second.refresh_token };
    auth.sign_out(sign_out.clone()).await.unwrap();
    auth.sign_out(sign_out).await.unwrap();
    for email in ["ada@example.org", "nobody@example.org"] {
        for _ in 0..3 {
            server.sign_in(email, "violet tram 82").await.unwrap_err();
        }
    }
    let update = UpdateUserRequest {
        user: Some(User { active: false, display_name: "Countess".into(), etag: "stale".into(), ..ada }),
        update_mask: Some(FieldMask { paths: vec!["active".into(), "display_name".into()] }),
    };
    server.users().update_user(with_token(update.clone(), &admins_token)).await.unwrap_err();
    let update =
        UpdateUserRequest { user: update.user.map(|user| User { etag: String::new(), ..user }), ..update };
    // Sent twice; the second time it changes nothing.
    for _ in 0..2 {
        server.users().update_user(with_token(update.clone(), &admins_token)).await.unwrap();
    }
    let revoke = RevokeUserSessionsRequest { user_id: id.to_string() };
    server.users().revoke_user_sessions(with_token(revoke, &admins_token)).await.unwrap();

    let entry = |action: &str, actor, session, details: &str| -> Entry {
        (action.into(), actor, id, session, details.into())
    };
    assert_eq!(
        entries(&server).await,
        [
            entry("signed_in", Some(id), true, "{}"),
            entry("refresh_token_reused", None, true, "{}"),
            entry("signed_in", Some(id), true, "{}"),
            entry("password_changed", Some(id), true, r#"{"sessions": 0}"#),
            entry("signed_out", None, true, "{}"),
            entry("sign_in_paused", None, false, r#"{"failures": 2}"#),
            entry("user_updated", Some(admin), false, r#"{"active": [true, false], "display_name": true}"#),
            entry("sessions_revoked", Some(admin), false, r#"{"sessions": 0}"#),
        ]
    );
}

#[tokio::test]
async fn a_session_that_its_user_ends_leaves_an_entry() {
    let server = TestServer::start().await;
    let id: Uuid = server.sign_up("ada@example.org").await.user_id.parse().unwrap();
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    let list = with_token(ListMySessionsRequest::default(), &token);
    let sessions = server.users().list_my_sessions(list).await.unwrap().into_inner().sessions;
    let revoke = RevokeMySessionRequest { session_id: sessions[0].session_id.clone() };
    server.users().revoke_my_session(with_token(revoke, &token)).await.unwrap();
    let entry = |action: &str| -> Entry { (action.into(), Some(id), id, true, "{}".into()) };
    assert_eq!(entries(&server).await, [entry("signed_in"), entry("session_revoked")]);
}

#[tokio::test]
async fn an_entry_can_be_neither_changed_nor_removed_by_the_owner_of_the_table_either() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let before = entries(&server).await;
    let pool = server.database.pool(1);
    for statement in [
        "UPDATE audit_entries SET action = 'signed_out'",
        "DELETE FROM audit_entries",
        "TRUNCATE audit_entries",
        "DELETE FROM audit_entries WHERE false",
    ] {
        let error = sqlx::query(statement).execute(&pool).await.unwrap_err();
        assert!(error.to_string().contains("never changed or removed"), "{statement}: {error}");
    }
    assert_eq!((entries(&server).await, before.len()), (before.clone(), 1));
}

#[tokio::test]
async fn an_act_whose_entry_cannot_be_written_does_not_happen() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let pool = server.database.pool(1);
    sqlx::query("ALTER TABLE audit_entries ADD CONSTRAINT full_up CHECK (false) NOT VALID")
        .execute(&pool)
        .await
        .unwrap();
    server.auth().sign_out(SignOutRequest { refresh_token: session.refresh_token }).await.unwrap_err();
    let (ended, revoked): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM sessions WHERE revoke_time IS NOT NULL), (SELECT count(*) FROM revocations)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((ended, revoked), (0, 0));
}
