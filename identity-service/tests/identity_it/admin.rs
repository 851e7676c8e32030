//! What admins do with anyone's account, and UpdateMe.

use prost_types::FieldMask;
use rowlock_proto::identity::v1::{
    BatchGetUsersRequest, GetUserRequest, ListUsersRequest, ListUsersResponse, RefreshTokensRequest,
    RevokeUserSessionsRequest, Role, UpdateMeRequest, UpdateUserRequest, User,
};
use service_core::auth;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::server::{PASSWORD, TestServer, invalid, refusal, violated, with_token};
use crate::sign_in::waiting;

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

/// A server, an active admin, and the admin's token.
pub(crate) async fn with_admin() -> (TestServer, User, String) {
    let server = TestServer::start().await;
    let admin = admin(&server, "root@example.org").await;
    let token = server.token(admin.user_id.parse().unwrap(), auth::Role::Admin);
    (server, admin, token)
}

pub(crate) async fn admin(server: &TestServer, email: &str) -> User {
    let user = server.sign_up(email).await;
    sqlx::query("UPDATE users SET role = 'admin' WHERE email = $1")
        .bind(email)
        .execute(&server.database.pool(1))
        .await
        .unwrap();
    User { role: Role::Admin.into(), ..user }
}

async fn update(server: &TestServer, token: &str, user: User, paths: &[&str]) -> Result<User, Status> {
    let request = UpdateUserRequest { user: Some(user), update_mask: mask(paths) };
    server
        .users()
        .update_user(with_token(request, token))
        .await
        .map(|answer| answer.into_inner().user.unwrap())
}

async fn list(
    server: &TestServer,
    token: &str,
    request: ListUsersRequest,
) -> Result<ListUsersResponse, Status> {
    server.users().list_users(with_token(request, token)).await.map(tonic::Response::into_inner)
}

/// The versions below which tokens of this user are refused.
pub(crate) async fn voided(server: &TestServer, user: &User) -> Vec<i64> {
    sqlx::query_scalar(
        "SELECT minimum_session_version FROM revocations
         WHERE user_id = $1 AND minimum_session_version IS NOT NULL ORDER BY id",
    )
    .bind(user.user_id.parse::<Uuid>().unwrap())
    .fetch_all(&server.database.pool(1))
    .await
    .unwrap()
}

#[tokio::test]
async fn users_change_their_own_name_and_nothing_else() {
    let server = TestServer::start().await;
    let ada = server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    let update = async |user: Option<User>, paths: &[&str]| {
        let request = UpdateMeRequest { user, update_mask: mask(paths) };
        server.users().update_me(with_token(request, &token)).await.map(|a| a.into_inner().user.unwrap())
    };
    let named = |name: &str, etag: &str| {
        Some(User {
            display_name: name.into(),
            etag: etag.into(),
            user_id: "ignored".into(),
            ..User::default()
        })
    };
    let changed = update(named("Countess", &ada.etag), &["display_name"]).await.unwrap();
    assert_ne!(changed.etag, ada.etag);
    assert_eq!(
        User { display_name: ada.display_name.clone(), etag: ada.etag.clone(), ..changed.clone() },
        ada
    );
    let status = update(named("Ada", &ada.etag), &["display_name"]).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::Aborted, "ETAG_MISMATCH".into()));
    let same = update(named("Countess", ""), &["display_name"]).await.unwrap();
    assert_eq!(same, changed, "no change, no new etag");
    for (user, paths, fields) in [
        (None, &["display_name"][..], vec!["user", "user.display_name"]),
        (named("Ada", ""), &[], vec!["update_mask"]),
        (named("Ada", ""), &["role"], vec!["update_mask"]),
        (named("Ada", ""), &["*"], vec!["update_mask"]),
        (named("", ""), &["display_name"], vec!["user.display_name"]),
    ] {
        let status = update(user, paths).await.unwrap_err();
        assert_eq!(refusal(&status), invalid("VALIDATION_FAILED"));
        assert_eq!(violated(&status), fields);
    }
}

#[tokio::test]
async fn an_admin_reads_anyone() {
    let (server, admin, token) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    let get = async |user_id: &str| {
        let request = GetUserRequest { user_id: user_id.into() };
        server.users().get_user(with_token(request, &token)).await.map(|a| a.into_inner().user.unwrap())
    };
    assert_eq!(get(&ada.user_id).await.unwrap(), ada);
    let status = get(&Uuid::from_u128(1).to_string()).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::NotFound, "USER_NOT_FOUND".into()));
    assert_eq!(violated(&get("").await.unwrap_err()), ["user_id"]);

    let service = server.token(Uuid::from_u128(2), auth::Role::Service);
    let batch = async |ids: Vec<String>| {
        let request = BatchGetUsersRequest { user_ids: ids };
        server.users().batch_get_users(with_token(request, &service)).await.map(|a| a.into_inner().users)
    };
    let ids = vec![ada.user_id.clone(), Uuid::nil().to_string(), admin.user_id.clone(), ada.user_id.clone()];
    assert_eq!(batch(ids).await.unwrap(), [ada.clone(), admin.clone()]);
    assert_eq!(violated(&batch(vec![]).await.unwrap_err()), ["user_ids"]);
    assert_eq!(violated(&batch(vec![ada.user_id.clone(); 1_001]).await.unwrap_err()), ["user_ids"]);
    assert_eq!(violated(&batch(vec![ada.user_id, "7".into()]).await.unwrap_err()), ["user_ids[1]"]);
}

#[tokio::test]
async fn users_are_listed_page_by_page_in_the_order_of_their_sign_up() {
    let (server, _, token) = with_admin().await;
    for n in 0..5 {
        server.sign_up(&format!("user{n}@example.org")).await;
    }
    sqlx::query("UPDATE users SET active = false WHERE email = 'user3@example.org'")
        .execute(&server.database.pool(1))
        .await
        .unwrap();
    let all = async |request: ListUsersRequest| {
        let (mut emails, mut page_token) = (Vec::new(), String::new());
        loop {
            let answer =
                list(&server, &token, ListUsersRequest { page_token, page_size: 2, ..request.clone() })
                    .await
                    .unwrap();
            assert!(answer.users.len() <= 2);
            emails.extend(answer.users.into_iter().map(|user| user.email[..5].to_owned()));
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return emails.join(" ");
            }
        }
    };
    let none = ListUsersRequest::default;
    let roles = |roles: &[Role]| roles.iter().map(|role| i32::from(*role)).collect::<Vec<_>>();
    assert_eq!(all(none()).await, "root@ user0 user1 user2 user3 user4");
    assert_eq!(all(ListUsersRequest { roles: roles(&[Role::Admin]), ..none() }).await, "root@");
    assert_eq!(all(ListUsersRequest { active: Some(false), ..none() }).await, "user3");
    let active = ListUsersRequest { active: Some(true), roles: roles(&[Role::Attendee]), ..none() };
    assert_eq!(all(active).await, "user0 user1 user2 user4");
    let email = |email: &str| ListUsersRequest { email: email.into(), ..none() };
    assert_eq!(all(email("USER2@example.org")).await, "user2");
    assert_eq!(all(email("nobody@example.org")).await, "");
    assert_eq!(all(ListUsersRequest { active: Some(false), ..email("user2@example.org") }).await, "");

    let page_token =
        list(&server, &token, ListUsersRequest { page_size: 2, ..none() }).await.unwrap().next_page_token;
    let other = ListUsersRequest { page_token, active: Some(true), ..none() };
    assert_eq!(refusal(&list(&server, &token, other).await.unwrap_err()), invalid("PAGE_TOKEN_INVALID"));
    for (request, field) in [
        (ListUsersRequest { page_size: -1, ..none() }, "page_size"),
        (ListUsersRequest { roles: vec![2, 0], ..none() }, "roles[1]"),
        (ListUsersRequest { roles: vec![77], ..none() }, "roles[0]"),
        (email("nobody"), "email"),
    ] {
        assert_eq!(violated(&list(&server, &token, request).await.unwrap_err()), [field]);
    }
}

#[tokio::test]
async fn a_new_role_voids_the_tokens_that_are_out_and_the_next_refresh_has_it() {
    let (server, _, token) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let change = User { role: Role::Organizer.into(), display_name: "ignored".into(), ..ada.clone() };
    let changed = update(&server, &token, change, &["role"]).await.unwrap();
    assert_eq!((changed.role(), &changed.display_name), (Role::Organizer, &ada.display_name));
    assert_eq!(voided(&server, &ada).await, [2]);
    let request = RefreshTokensRequest { refresh_token: session.refresh_token };
    let next = server.auth().refresh_tokens(request).await.unwrap().into_inner();
    assert_eq!(next.user, Some(changed));
}

#[tokio::test]
async fn a_deactivated_users_sessions_end_and_stay_ended() {
    let (server, _, token) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let off = update(&server, &token, User { active: false, ..ada.clone() }, &["active"]).await.unwrap();
    assert!(!off.active);
    let status = server.sign_in("ada@example.org", PASSWORD).await.unwrap_err();
    assert_eq!(refusal(&status).1, "CREDENTIALS_INVALID");
    update(&server, &token, User { active: true, ..off.clone() }, &["active"]).await.unwrap();
    let request = RefreshTokensRequest { refresh_token: session.refresh_token };
    let status = server.auth().refresh_tokens(request).await.unwrap_err();
    assert_eq!(refusal(&status).1, "REFRESH_TOKEN_INVALID");
    assert_eq!(voided(&server, &ada).await, [2]);
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
}

#[tokio::test]
async fn an_update_of_a_user_is_refused_by_the_name_of_what_is_wrong() {
    let (server, _, token) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    for (user, paths, fields) in [
        (User { role: 0, ..ada.clone() }, &["role"][..], vec!["user.role"]),
        (User { role: Role::Service.into(), ..ada.clone() }, &["role"], vec!["user.role"]),
        (User { role: 77, ..ada.clone() }, &["role"], vec!["user.role"]),
        (User { user_id: String::new(), ..ada.clone() }, &["active"], vec!["user.user_id"]),
        (ada.clone(), &["email"], vec!["update_mask"]),
        (ada.clone(), &[], vec!["update_mask"]),
        (User { display_name: String::new(), ..ada.clone() }, &["display_name"], vec!["user.display_name"]),
    ] {
        let status = update(&server, &token, user, paths).await.unwrap_err();
        assert_eq!(refusal(&status), invalid("VALIDATION_FAILED"));
        assert_eq!(violated(&status), fields);
    }
    let stale = User { etag: "0".into(), active: false, ..ada.clone() };
    let status = update(&server, &token, stale, &["active"]).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::Aborted, "ETAG_MISMATCH".into()));
    let nobody = User { user_id: Uuid::nil().to_string(), ..ada };
    let status = update(&server, &token, nobody, &["active"]).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::NotFound, "USER_NOT_FOUND".into()));
}

#[tokio::test]
async fn the_last_active_admin_can_neither_lose_the_role_nor_be_deactivated() {
    let (server, root, token) = with_admin().await;
    let demoted = User { role: Role::Attendee.into(), ..root.clone() };
    let off = User { active: false, ..root.clone() };
    for (user, path) in [(&demoted, "role"), (&off, "active")] {
        let status = update(&server, &token, user.clone(), &[path]).await.unwrap_err();
        assert_eq!(refusal(&status), (Code::FailedPrecondition, "LAST_ADMIN".into()));
    }
    let second = admin(&server, "second@example.org").await;
    update(&server, &token, User { active: false, ..second }, &["active"]).await.unwrap();
    let status = update(&server, &token, off, &["active"]).await.unwrap_err();
    assert_eq!(refusal(&status).1, "LAST_ADMIN", "a deactivated admin does not count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_admins_who_demote_each_other_at_once_leave_one() {
    let (server, root, _) = with_admin().await;
    let second = admin(&server, "second@example.org").await;
    // Of neither of them: theirs end with the first round.
    let third = Uuid::from_u128(1);
    server.enroll(third).await;
    let token = server.token(third, auth::Role::Admin);
    for round in 0..20 {
        let demote = |user: &User| {
            let user = User { role: Role::Attendee.into(), etag: String::new(), ..user.clone() };
            let request = UpdateUserRequest { user: Some(user), update_mask: mask(&["role"]) };
            let (mut users, request) = (server.users(), with_token(request, &token));
            tokio::spawn(async move { users.update_user(request).await })
        };
        let (a, b) = (demote(&root), demote(&second));
        let (a, b) = (a.await.unwrap(), b.await.unwrap());
        assert!(a.is_ok() != b.is_ok(), "round {round}: {a:?} {b:?}");
        assert_eq!(refusal(&a.err().or(b.err()).unwrap()).1, "LAST_ADMIN");
        sqlx::query("UPDATE users SET role = 'admin' WHERE id <> $1")
            .bind(third)
            .execute(&server.database.pool(1))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_refreshes_without_a_pause_does_not_keep_an_admin_from_deactivating_them() {
    let (server, _, token) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let pool = server.database.pool(2);
    let mut earlier = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM users WHERE email = 'ada@example.org' FOR SHARE")
        .execute(&mut *earlier)
        .await
        .unwrap();
    let off = UpdateUserRequest {
        user: Some(User { active: false, etag: String::new(), ..ada }),
        update_mask: mask(&["active"]),
    };
    let (mut users, off) = (server.users(), with_token(off, &token));
    let off = tokio::spawn(async move { users.update_user(off).await });
    waiting(&pool, "SELECT id, email%FOR UPDATE").await;
    let request = RefreshTokensRequest { refresh_token: session.refresh_token };
    let mut auth = server.auth();
    let later = tokio::spawn(async move { auth.refresh_tokens(request).await });
    waiting(&pool, "SELECT id, email%FOR NO KEY UPDATE").await;
    earlier.rollback().await.unwrap();
    off.await.unwrap().unwrap();
    assert_eq!(refusal(&later.await.unwrap().unwrap_err()).1, "REFRESH_TOKEN_INVALID");
}

#[tokio::test]
async fn an_admin_ends_all_sessions_of_a_user_who_may_sign_in_again() {
    let (server, _, token) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    let sessions = [
        server.sign_in("ada@example.org", PASSWORD).await.unwrap(),
        server.sign_in("ada@example.org", PASSWORD).await.unwrap(),
    ];
    let revoke = async |user_id: &str| {
        let request = RevokeUserSessionsRequest { user_id: user_id.into() };
        server
            .users()
            .revoke_user_sessions(with_token(request, &token))
            .await
            .map(|a| a.into_inner().revoked_sessions)
    };
    assert_eq!(revoke(&ada.user_id).await.unwrap(), 2);
    assert_eq!(revoke(&ada.user_id).await.unwrap(), 0);
    assert_eq!(voided(&server, &ada).await, [2, 3]);
    for session in sessions {
        let request = RefreshTokensRequest { refresh_token: session.refresh_token };
        server.auth().refresh_tokens(request).await.unwrap_err();
    }
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let status = revoke(&Uuid::nil().to_string()).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::NotFound, "USER_NOT_FOUND".into()));
}
