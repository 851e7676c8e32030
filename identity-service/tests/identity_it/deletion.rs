//! DeleteUser and DeleteMe.

use rowlock_proto::identity::v1::{
    CreatePasswordResetRequest, DeleteMeRequest, DeleteUserRequest, GetUserRequest, RefreshTokensRequest,
    ResetPasswordRequest, SignUpRequest,
};
use service_core::auth;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::admin::{admin, voided, with_admin};
use crate::server::{PASSWORD, TestServer, invalid, refusal, sign_up, violated, with_token};
use crate::sign_in::waiting;

const WRONG: &str = "violet tram 82";

async fn delete(server: &TestServer, token: &str, user_id: &str) -> Result<(), Status> {
    let request = DeleteUserRequest { user_id: user_id.to_owned() };
    server.users().delete_user(with_token(request, token)).await.map(|_| ())
}

async fn delete_me(server: &TestServer, token: &str, password: &str) -> Result<(), Status> {
    let request = DeleteMeRequest { current_password: password.to_owned() };
    server.users().delete_me(with_token(request, token)).await.map(|_| ())
}

/// How many rows of all tables but the trails have something of a user, or their address's failed sign-ins.
async fn traces(server: &TestServer) -> i64 {
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM users WHERE email = 'ada@example.org') + (SELECT count(*) FROM sessions)
              + (SELECT count(*) FROM refresh_tokens) + (SELECT count(*) FROM password_resets)
              + (SELECT count(*) FROM sign_in_failures WHERE scope = 'account')",
    )
    .fetch_one(&server.database.pool(1))
    .await
    .unwrap()
}

fn not_found() -> (Code, String) {
    (Code::NotFound, "USER_NOT_FOUND".into())
}

#[tokio::test]
async fn a_deleted_user_is_gone_with_all_sessions_and_tokens_and_the_address_is_free() {
    let (server, _, admin) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    server.sign_in("ada@example.org", WRONG).await.unwrap_err();
    let request = CreatePasswordResetRequest { user_id: ada.user_id.clone() };
    let made = server.users().create_password_reset(with_token(request, &admin)).await.unwrap().into_inner();
    assert_eq!(traces(&server).await, 5, "one of each");

    delete(&server, &admin, &ada.user_id).await.unwrap();
    assert_eq!((traces(&server).await, voided(&server, &ada).await), (0, vec![2]));
    server.sign_in("ada@example.org", PASSWORD).await.unwrap_err();
    let refresh = RefreshTokensRequest { refresh_token: session.refresh_token };
    server.auth().refresh_tokens(refresh).await.unwrap_err();
    let reset = ResetPasswordRequest { reset_token: made.reset_token, new_password: "amber ferry 64".into() };
    assert_eq!(refusal(&server.auth().reset_password(reset).await.unwrap_err()).1, "PASSWORD_RESET_INVALID");
    let get = with_token(GetUserRequest { user_id: ada.user_id.clone() }, &admin);
    assert_eq!(refusal(&server.users().get_user(get).await.unwrap_err()), not_found());
    assert_eq!(refusal(&delete(&server, &admin, &ada.user_id).await.unwrap_err()), not_found());
    assert_eq!(violated(&delete(&server, &admin, "x").await.unwrap_err()), ["user_id"]);

    let another = server.sign_up("ada@example.org").await;
    assert_ne!(another.user_id, ada.user_id);
    let trail: Vec<String> =
        sqlx::query_scalar("SELECT action FROM audit_entries WHERE subject_id = $1 ORDER BY id")
            .bind(ada.user_id.parse::<Uuid>().unwrap())
            .fetch_all(&server.database.pool(1))
            .await
            .unwrap();
    assert_eq!(trail, ["signed_in", "password_reset_created", "user_deleted"], "what was written down stays");
}

#[tokio::test]
async fn people_delete_themselves_with_their_password_and_guesses_count() {
    let server = TestServer::with(|config| config.sign_in.account.free = 2).await;
    let ada = server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    let status = delete_me(&server, &token, "").await.unwrap_err();
    assert_eq!(
        (refusal(&status), violated(&status)),
        (invalid("VALIDATION_FAILED"), vec!["current_password".into()])
    );
    for _ in 0..2 {
        let status = delete_me(&server, &token, WRONG).await.unwrap_err();
        assert_eq!(refusal(&status), (Code::Unauthenticated, "CREDENTIALS_INVALID".into()));
    }
    let status = delete_me(&server, &token, PASSWORD).await.unwrap_err();
    assert_eq!(refusal(&status).1, "TOO_MANY_ATTEMPTS");
    server.clock.advance(std::time::Duration::from_secs(1));
    delete_me(&server, &token, PASSWORD).await.unwrap();
    assert_eq!((traces(&server).await, voided(&server, &ada).await), (0, vec![2]));
    let status = delete_me(&server, &token, PASSWORD).await.unwrap_err();
    assert_eq!(refusal(&status).1, "TOKEN_REVOKED");
    let who: (Option<Uuid>, Uuid) =
        sqlx::query_as("SELECT actor_id, subject_id FROM audit_entries WHERE action = 'user_deleted'")
            .fetch_one(&server.database.pool(1))
            .await
            .unwrap();
    let id: Uuid = ada.user_id.parse().unwrap();
    assert_eq!(who, (Some(id), id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_admins_who_delete_each_other_at_once_one_stays() {
    let (server, root, token) = with_admin().await;
    let status = delete(&server, &token, &root.user_id).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::FailedPrecondition, "LAST_ADMIN".into()));
    let alone = server.sign_in("root@example.org", PASSWORD).await.unwrap().access_token;
    // The role of the token is of the moment of its sign-in.
    let status = delete_me(&server, &alone, PASSWORD).await.unwrap_err();
    assert_eq!(refusal(&status).1, "LAST_ADMIN");

    let other = admin(&server, "other@example.org").await;
    let others = server.token(other.user_id.parse().unwrap(), auth::Role::Admin);
    let (a, b) =
        tokio::join!(delete(&server, &token, &other.user_id), delete(&server, &others, &root.user_id));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let admins: i64 = sqlx::query_scalar("SELECT count(*) FROM users WHERE role = 'admin' AND active")
        .fetch_one(&server.database.pool(1))
        .await
        .unwrap();
    assert_eq!(admins, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_signs_in_while_the_user_is_deleted_has_no_session_afterwards() {
    let (server, _, token) = with_admin().await;
    for _ in 0..3 {
        let ada = server.sign_up("ada@example.org").await;
        let sign_ins = async {
            let (a, b) = tokio::join!(
                server.sign_in("ada@example.org", PASSWORD),
                server.sign_in("ada@example.org", PASSWORD)
            );
            for status in [a.err(), b.err()].into_iter().flatten() {
                assert_eq!(refusal(&status).1, "CREDENTIALS_INVALID");
            }
        };
        let ((), deleted) = tokio::join!(sign_ins, delete(&server, &token, &ada.user_id));
        deleted.unwrap();
        assert_eq!(
            traces(&server).await,
            failures(&server).await,
            "but for failures that were counted after it"
        );
        sqlx::query("DELETE FROM sign_in_failures").execute(&server.database.pool(1)).await.unwrap();
    }
}

async fn failures(server: &TestServer) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM sign_in_failures WHERE scope = 'account'");
    count.fetch_one(&server.database.pool(1)).await.unwrap()
}

#[tokio::test]
async fn a_user_with_any_number_of_tokens_and_ended_sessions_is_deleted_piece_by_piece() {
    let (server, _, admin) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let pool = server.database.pool(1);
    for statement in [
        "INSERT INTO refresh_tokens SELECT sha256(n::text::bytea), id, create_time, expire_time, create_time
           FROM sessions, generate_series(1, 2500) AS n",
        "WITH ended AS (
             INSERT INTO sessions SELECT gen_random_uuid(), user_id, user_agent, create_time, last_use_time, expire_time, create_time
               FROM sessions, generate_series(1, 2500) RETURNING id, create_time, expire_time)
         INSERT INTO refresh_tokens SELECT sha256(id::text::bytea), id, create_time, expire_time FROM ended",
        "CREATE FUNCTION few() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF (SELECT count(*) FROM gone) > 1000 THEN RAISE 'too many at once'; END IF; RETURN NULL; END $$",
        "CREATE TRIGGER few AFTER DELETE ON refresh_tokens REFERENCING OLD TABLE AS gone
           FOR EACH STATEMENT EXECUTE FUNCTION few()",
        "CREATE TRIGGER few AFTER DELETE ON sessions REFERENCING OLD TABLE AS gone
           FOR EACH STATEMENT EXECUTE FUNCTION few()",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    delete(&server, &admin, &ada.user_id).await.unwrap();
    assert_eq!(traces(&server).await, 0);
}

#[tokio::test]
async fn who_is_no_admin_is_deleted_without_waiting_for_the_admins() {
    let (server, root, admin) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    let pool = server.database.pool(1);
    let mut busy = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM users WHERE id = $1 FOR UPDATE")
        .bind(root.user_id.parse::<Uuid>().unwrap())
        .execute(&mut *busy)
        .await
        .unwrap();
    delete(&server, &admin, &ada.user_id).await.unwrap();
    busy.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_made_an_admin_while_being_deleted_is_judged_as_one() {
    let (server, _, token) = with_admin().await;
    let ada = server.sign_up("ada@example.org").await;
    let pool = server.database.pool(2);
    let mut promotion = pool.begin().await.unwrap();
    let make = "UPDATE users SET role = 'admin' WHERE email = 'ada@example.org'";
    sqlx::query(make).execute(&mut *promotion).await.unwrap();
    let deletion = async { delete(&server, &token, &ada.user_id).await };
    let commits = async {
        waiting(&pool, "SELECT id, email").await;
        promotion.commit().await.unwrap();
    };
    let (deleted, ()) = tokio::join!(deletion, commits);
    deleted.expect("there is another one");
    assert_eq!(traces(&server).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_password_changes_while_it_is_judged_stays() {
    let server = TestServer::start().await;
    let ada = server.sign_up("ada@example.org").await;
    let token = server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
    server.sign_in("ada@example.org", WRONG).await.unwrap_err();
    let before = traces(&server).await;
    let bob = SignUpRequest { password: WRONG.to_owned(), ..sign_up("bob@example.org") };
    server.auth().sign_up(bob).await.unwrap();
    let pool = server.database.pool(2);
    let mut change = pool.begin().await.unwrap();
    let bobs =
        "UPDATE users SET password_hash = (SELECT password_hash FROM users WHERE email = 'bob@example.org')";
    sqlx::query(bobs).execute(&mut *change).await.unwrap();
    let deletion = async { delete_me(&server, &token, PASSWORD).await };
    let commits = async {
        waiting(&pool, "SELECT id, email").await;
        change.commit().await.unwrap();
    };
    let (deleted, ()) = tokio::join!(deletion, commits);
    assert_eq!(refusal(&deleted.unwrap_err()).1, "CREDENTIALS_INVALID");
    assert_eq!(
        (voided(&server, &ada).await, traces(&server).await),
        (vec![], before),
        "nothing has happened"
    );
    let failures: i32 = sqlx::query_scalar("SELECT failures FROM sign_in_failures WHERE scope = 'account'")
        .fetch_one(&server.database.pool(1))
        .await
        .unwrap();
    assert_eq!(failures, 2, "the wrong one before, and the one that is wrong by now");
}
