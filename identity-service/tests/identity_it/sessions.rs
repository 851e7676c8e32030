//! RefreshTokens, SignOut, and a user's own sessions.

use std::time::Duration;

use rowlock_proto::identity::v1::{
    GetMeRequest, ListMySessionsRequest, ListMySessionsResponse, RefreshTokensRequest, RefreshTokensResponse,
    RevokeMySessionRequest, Role, SignInRequest, SignInResponse, SignOutRequest,
};
use service_core::clock::Clock;
use service_core::validation::timestamp;
use tonic::{Code, Request, Status};
use uuid::Uuid;

use crate::server::{PASSWORD, PATIENCE, TestServer, invalid, refusal, violated, with_token};
use crate::sign_in::waiting;

const DAY: Duration = Duration::from_secs(86_400);

async fn signed_in(server: &TestServer) -> SignInResponse {
    server.sign_up("ada@example.org").await;
    server.sign_in("ada@example.org", PASSWORD).await.unwrap()
}

async fn refresh(server: &TestServer, token: &str) -> Result<RefreshTokensResponse, Status> {
    let request = RefreshTokensRequest { refresh_token: token.to_owned() };
    server.auth().refresh_tokens(request).await.map(tonic::Response::into_inner)
}

async fn refused(server: &TestServer, token: &str) {
    let status = refresh(server, token).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::Unauthenticated, "REFRESH_TOKEN_INVALID".into()));
}

async fn sign_out(server: &TestServer, token: &str) -> Result<(), Status> {
    server.auth().sign_out(SignOutRequest { refresh_token: token.to_owned() }).await.map(|_| ())
}

async fn sessions(server: &TestServer, token: &str, size: i32, page: &str) -> ListMySessionsResponse {
    let request = ListMySessionsRequest { page_size: size, page_token: page.to_owned() };
    server.users().list_my_sessions(with_token(request, token)).await.unwrap().into_inner()
}

/// The sessions that are revoked one by one, as the stream will tell them.
async fn revoked(server: &TestServer) -> Vec<Uuid> {
    sqlx::query_scalar("SELECT session_id FROM revocations WHERE session_id IS NOT NULL ORDER BY id")
        .fetch_all(&server.database.pool(1))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_refresh_gives_the_next_tokens_of_the_same_session_and_the_user_as_of_now() {
    let server = TestServer::start().await;
    let first = signed_in(&server).await;
    sqlx::query("UPDATE users SET role = 'organizer'").execute(&server.database.pool(1)).await.unwrap();
    server.clock.advance(DAY);
    let second = refresh(&server, &first.refresh_token).await.unwrap();
    assert_ne!(second.refresh_token, first.refresh_token);
    let now = server.clock.now();
    assert_eq!(second.refresh_token_expire_time, Some(timestamp(now + 30 * DAY)));
    let whole = now.replace_nanosecond(0).unwrap();
    assert_eq!(second.access_token_expire_time, Some(timestamp(whole + Duration::from_secs(300))));
    assert_eq!(second.user.unwrap().role(), Role::Organizer);
    let listed = sessions(&server, &second.access_token, 0, "").await.sessions;
    assert_eq!(listed.len(), 1);
    assert!(listed[0].current);
    assert_eq!(listed[0].last_use_time, Some(timestamp(now)));
    assert_eq!(listed[0].create_time, Some(timestamp(now - DAY)));
    refresh(&server, &second.refresh_token).await.unwrap();
}

#[tokio::test]
async fn a_refresh_token_that_comes_a_second_time_ends_its_session_and_no_other() {
    let server = TestServer::start().await;
    let first = signed_in(&server).await;
    let other = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let second = refresh(&server, &first.refresh_token).await.unwrap();
    let session = sessions(&server, &second.access_token, 0, "").await.sessions;
    let session = session.iter().find(|session| session.current).unwrap().session_id.clone();
    refused(&server, &first.refresh_token).await;
    refused(&server, &second.refresh_token).await;
    refused(&server, &first.refresh_token).await;
    assert_eq!(revoked(&server).await, [session.parse::<Uuid>().unwrap()], "once, however often it comes");
    refresh(&server, &other.refresh_token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_refreshes_of_one_token_at_once_one_wins_and_the_session_ends() {
    let server = TestServer::start().await;
    let first = signed_in(&server).await;
    let pool = server.database.pool(2);
    // Holds all of them up where they meet.
    let mut other = pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM sessions FOR UPDATE").execute(&mut *other).await.unwrap();
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let (mut auth, refresh_token) = (server.auth(), first.refresh_token.clone());
            tokio::spawn(async move { auth.refresh_tokens(RefreshTokensRequest { refresh_token }).await })
        })
        .collect();
    let all_wait = async {
        while sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&pool)
        .await
        .unwrap()
            < 4
        {}
    };
    tokio::time::timeout(PATIENCE, all_wait).await.expect("all of them wait");
    other.commit().await.unwrap();
    let mut won = Vec::new();
    for call in calls {
        match call.await.unwrap() {
            Ok(answer) => won.push(answer.into_inner()),
            Err(status) => assert_eq!(refusal(&status).1, "REFRESH_TOKEN_INVALID"),
        }
    }
    assert_eq!(won.len(), 1);
    refused(&server, &won[0].refresh_token).await;
    assert_eq!(revoked(&server).await.len(), 1);
}

#[tokio::test]
async fn a_refresh_token_lapses_unused_and_with_its_session() {
    let server = TestServer::start().await;
    let first = signed_in(&server).await;
    server.clock.advance(30 * DAY);
    refused(&server, &first.refresh_token).await;

    let mut tokens = server.sign_in("ada@example.org", PASSWORD).await.unwrap().refresh_token;
    let begin = server.clock.now();
    for _ in 0..4 {
        server.clock.advance(20 * DAY);
        tokens = refresh(&server, &tokens).await.unwrap().refresh_token;
    }
    server.clock.advance(Duration::from_secs(5 * 86_400));
    let last = refresh(&server, &tokens).await.unwrap();
    assert_eq!(last.refresh_token_expire_time, Some(timestamp(begin + 90 * DAY)));
    server.clock.advance(5 * DAY);
    refused(&server, &last.refresh_token).await;
    assert!(revoked(&server).await.is_empty(), "what lapsed is not revoked");
}

#[tokio::test]
async fn what_is_no_refresh_token_is_refused() {
    let server = TestServer::start().await;
    let first = signed_in(&server).await;
    let unknown = format!("{}A", &first.refresh_token[..first.refresh_token.len() - 1]);
    let other = format!("{}B", &first.refresh_token[..first.refresh_token.len() - 1]);
    for wrong in ["x", &first.access_token, &"y".repeat(10_000), &unknown, &other] {
        if wrong == first.refresh_token {
            continue;
        }
        refused(&server, wrong).await;
        let status = sign_out(&server, wrong).await.unwrap_err();
        assert_eq!(refusal(&status), (Code::Unauthenticated, "REFRESH_TOKEN_INVALID".into()));
    }
    let status = refresh(&server, "").await.unwrap_err();
    assert_eq!(
        (refusal(&status), violated(&status)),
        (invalid("VALIDATION_FAILED"), vec!["refresh_token".into()])
    );
    refresh(&server, &first.refresh_token).await.unwrap();
}

#[tokio::test]
async fn a_sign_out_ends_the_session_and_a_second_one_is_answered_alike() {
    let server = TestServer::start().await;
    let first = signed_in(&server).await;
    let second = refresh(&server, &first.refresh_token).await.unwrap();
    sign_out(&server, &first.refresh_token).await.unwrap();
    sign_out(&server, &second.refresh_token).await.unwrap();
    refused(&server, &second.refresh_token).await;
    assert_eq!(revoked(&server).await.len(), 1);
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
}

#[tokio::test]
async fn a_deactivated_user_cannot_refresh() {
    let server = TestServer::start().await;
    let first = signed_in(&server).await;
    sqlx::query("UPDATE users SET active = false").execute(&server.database.pool(1)).await.unwrap();
    refused(&server, &first.refresh_token).await;
}

#[tokio::test]
async fn users_list_their_living_sessions_page_by_page_newest_first() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    server.sign_up("bob@example.org").await;
    server.sign_in("bob@example.org", PASSWORD).await.unwrap();
    let mut answers = Vec::new();
    for agent in ["a", "b", "c", "d", "e"] {
        let mut request =
            Request::new(SignInRequest { email: "ada@example.org".into(), password: PASSWORD.into() });
        request.metadata_mut().insert("user-agent", agent.parse().unwrap());
        answers.push(server.auth().sign_in(request).await.unwrap().into_inner());
    }
    sign_out(&server, &answers[1].refresh_token).await.unwrap();
    let token = &answers[2].access_token;
    let name = |agent: &str| agent.split(' ').next().unwrap().to_owned();
    let (mut agents, mut current, mut page, mut pages) = (Vec::new(), Vec::new(), String::new(), 0);
    loop {
        let answer = sessions(&server, token, 2, &page).await;
        agents.extend(answer.sessions.iter().map(|session| name(&session.user_agent)));
        current.extend(answer.sessions.iter().map(|session| session.current));
        pages += 1;
        page = answer.next_page_token;
        if page.is_empty() {
            break;
        }
    }
    assert_eq!((agents.join(""), pages), ("edca".into(), 2));
    assert_eq!(current, [false, false, true, false]);

    let first = sessions(&server, token, 2, "").await.next_page_token;
    let bob = server.sign_in("bob@example.org", PASSWORD).await.unwrap().access_token;
    for (token, page_token) in [(&bob, first.clone()), (token, format!("{first}x")), (token, "x".into())] {
        let request = ListMySessionsRequest { page_size: 2, page_token };
        let status = server.users().list_my_sessions(with_token(request, token)).await.unwrap_err();
        assert_eq!(refusal(&status), invalid("PAGE_TOKEN_INVALID"));
    }
    let request = ListMySessionsRequest { page_size: -1, page_token: String::new() };
    let status = server.users().list_my_sessions(with_token(request, token)).await.unwrap_err();
    assert_eq!(refusal(&status), invalid("VALIDATION_FAILED"));
}

#[tokio::test]
async fn users_end_their_own_sessions_and_nobody_elses() {
    let server = TestServer::start().await;
    let first = signed_in(&server).await;
    let second = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    server.sign_up("bob@example.org").await;
    let bob = server.sign_in("bob@example.org", PASSWORD).await.unwrap();
    let of = async |token: &str| sessions(&server, token, 0, "").await.sessions;
    let id = of(&second.access_token).await.into_iter().find(|s| !s.current).unwrap().session_id;
    let revoke = async |token: &str, session_id: &str| {
        let request = RevokeMySessionRequest { session_id: session_id.to_owned() };
        server.users().revoke_my_session(with_token(request, token)).await.map(|_| ())
    };
    for (token, session) in [(&bob.access_token, id.clone()), (&first.access_token, Uuid::nil().to_string())]
    {
        let status = revoke(token, &session).await.unwrap_err();
        assert_eq!(refusal(&status), (Code::NotFound, "SESSION_NOT_FOUND".into()));
    }
    let status = revoke(&first.access_token, "7").await.unwrap_err();
    assert_eq!(violated(&status), ["session_id"]);
    for _ in 0..2 {
        revoke(&second.access_token, &id).await.unwrap();
    }
    refused(&server, &first.refresh_token).await;
    assert_eq!(of(&second.access_token).await.len(), 1);
    refresh(&server, &second.refresh_token).await.unwrap();
    assert_eq!(revoked(&server).await, [id.parse::<Uuid>().unwrap()]);
    server.users().get_me(with_token(GetMeRequest {}, &bob.access_token)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_token_that_goes_ahead_of_its_user_is_refused_and_no_bug() {
    let server = TestServer::start().await;
    let token = signed_in(&server).await.refresh_token;
    refresh(&server, &token).await.unwrap();
    let pool = server.database.pool(2);
    let mut deletion = pool.begin().await.unwrap();
    sqlx::query("DELETE FROM refresh_tokens WHERE use_time IS NOT NULL")
        .execute(&mut *deletion)
        .await
        .unwrap();
    let commits = async {
        waiting(&pool, "SELECT use_time").await;
        deletion.commit().await.unwrap();
    };
    tokio::join!(refused(&server, &token), commits);
}

#[tokio::test]
async fn beyond_a_hundred_sessions_a_sign_in_ends_the_one_that_was_used_longest_ago() {
    let server = TestServer::start().await;
    let first = signed_in(&server).await;
    let pool = server.database.pool(1);
    // Ninety-nine more, each used a second after the one before; and some that are over, which take no room.
    sqlx::query(
        "INSERT INTO sessions SELECT gen_random_uuid(), user_id, user_agent, create_time, last_use_time + n * interval '1 second',
                                     CASE WHEN n > 99 THEN create_time ELSE expire_time END
           FROM sessions, generate_series(1, 102) AS n",
    )
    .execute(&pool)
    .await
    .unwrap();
    let alive = async || -> Vec<Uuid> {
        let alive = "SELECT id FROM sessions WHERE revoke_time IS NULL AND expire_time > create_time ORDER BY last_use_time";
        sqlx::query_scalar(alive).fetch_all(&pool).await.unwrap()
    };
    let before = alive().await;
    assert_eq!(before.len(), 100);
    server.clock.advance(Duration::from_secs(120));
    refresh(&server, &first.refresh_token).await.unwrap();
    server.clock.advance(Duration::from_secs(1));
    server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let after = alive().await;
    assert_eq!(after.len(), 100);
    assert_eq!(after[..98], before[2..], "the first one has been used since");
    assert_eq!(after[98], before[0]);
    assert_eq!(revoked(&server).await, [before[1]], "its access tokens are refused");
    let details: String = sqlx::query_scalar("SELECT details::text FROM audit_entries WHERE details <> '{}'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(details, format!(r#"{{"sessions_ended": ["{}"]}}"#, before[1]));
}

#[tokio::test]
async fn who_is_given_tokens_too_often_has_to_wait_and_a_token_that_comes_again_still_ends_its_session() {
    let server = TestServer::start().await;
    let first = signed_in(&server).await;
    let mut token = first.refresh_token.clone();
    let mut given = 1;
    // A hundred at once; and one a second, by a clock that goes on.
    let limited = loop {
        assert!(given < 1_000);
        match refresh(&server, &token).await {
            Ok(next) => token = next.refresh_token,
            Err(status) => break status,
        }
        given += 1;
    };
    assert!(given >= 100, "{given}");
    assert_eq!(refusal(&limited), (Code::ResourceExhausted, "RATE_LIMITED".into()));
    assert!(limited.metadata().contains_key("grpc-retry-pushback-ms"));
    server.sign_up("bob@example.org").await;
    server.sign_in("bob@example.org", PASSWORD).await.unwrap();

    let later = async {
        loop {
            match refresh(&server, &token).await {
                Err(status) => assert_eq!(refusal(&status).1, "RATE_LIMITED"),
                Ok(next) => return next.refresh_token,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let token = tokio::time::timeout(PATIENCE, later).await.expect("it was not used up by that");
    // Whatever the pace.
    refused(&server, &first.refresh_token).await;
    assert_eq!(revoked(&server).await.len(), 1);
    refused(&server, &token).await;
}
