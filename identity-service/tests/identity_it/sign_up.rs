//! SignUp.

use rowlock_proto::identity::v1::{Role, SignUpRequest};
use service_core::clock::Clock;
use service_core::validation::timestamp;
use tonic::Code;

use crate::server::{PASSWORD, TestServer, refusal, sign_up};

#[tokio::test]
async fn a_new_user_is_an_active_attendee_by_default() {
    let server = TestServer::start().await;
    let request = SignUpRequest { role: Role::Unspecified.into(), ..sign_up("Ada@Example.org") };
    let user = server.auth().sign_up(request).await.unwrap().into_inner().user.unwrap();
    assert_eq!(uuid::Uuid::parse_str(&user.user_id).unwrap().get_version_num(), 7);
    assert_eq!(user.email, "ada@example.org", "kept in lower case");
    assert_eq!(user.display_name, "Ada Lovelace");
    assert_eq!((user.role(), user.active), (Role::Attendee, true));
    assert_eq!(user.create_time, Some(timestamp(server.clock.now())));
    assert!(!user.etag.is_empty());
}

#[tokio::test]
async fn somebody_may_sign_up_as_an_organizer() {
    let server = TestServer::start().await;
    let request = SignUpRequest { role: Role::Organizer.into(), ..sign_up("org@example.org") };
    let user = server.auth().sign_up(request).await.unwrap().into_inner().user.unwrap();
    assert_eq!(user.role(), Role::Organizer);
}

#[tokio::test]
async fn an_address_is_taken_whatever_its_case() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let status = server.auth().sign_up(sign_up("ADA@example.ORG")).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::AlreadyExists, "EMAIL_TAKEN".into()));
    assert!(
        !format!("{status:?}").to_lowercase().contains("ada@"),
        "the address is not repeated: {status:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_sign_ups_of_one_address_at_once_one_wins() {
    let server = TestServer::start().await;
    let attempts: Vec<_> = (0..20)
        .map(|n| {
            let mut auth = server.auth();
            let email = if n % 2 == 0 { "ada@example.org" } else { "Ada@Example.Org" };
            tokio::spawn(async move { auth.sign_up(sign_up(email)).await })
        })
        .collect();
    let mut won = 0;
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(_) => won += 1,
            Err(status) => assert_eq!(refusal(&status), (Code::AlreadyExists, "EMAIL_TAKEN".into())),
        }
    }
    assert_eq!(won, 1);
    let stored: i64 =
        sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&server.database.pool(1)).await.unwrap();
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn the_database_keeps_neither_the_password_nor_a_refresh_token() {
    let server = TestServer::start().await;
    server.sign_up("ada@example.org").await;
    let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let everything: Vec<String> = sqlx::query_scalar(
        "SELECT row_to_json(u)::text FROM users u UNION ALL SELECT row_to_json(s)::text FROM sessions s
         UNION ALL SELECT row_to_json(r)::text FROM refresh_tokens r",
    )
    .fetch_all(&server.database.pool(1))
    .await
    .unwrap();
    assert_eq!(everything.len(), 3);
    for row in everything {
        assert!(!row.contains(PASSWORD) && !row.contains(&session.refresh_token), "{row}");
        let hash = row.contains("\"password_hash\":\"$argon2id$v=19$m=19456,t=2,p=1$");
        assert_eq!(hash, row.contains("\"email\""), "{row}");
    }
}
