//! Service accounts, the tokens that they get, and asking about tokens.

use std::time::Duration;

use prost_types::FieldMask;
use rowlock_proto::identity::v1::service_account_service_client::ServiceAccountServiceClient;
use rowlock_proto::identity::v1::{
    CreatePasswordResetRequest, CreateServiceAccountRequest, CreateServiceAccountResponse,
    DeleteServiceAccountRequest, DeleteUserRequest, IntrospectTokenRequest, IntrospectTokenResponse,
    IssueServiceTokenRequest, IssueServiceTokenResponse, ListServiceAccountsRequest,
    ListServiceAccountsResponse, RevokeUserSessionsRequest, Role, RotateServiceAccountSecretRequest,
    RotateServiceAccountSecretResponse, UpdateUserRequest, User,
};
use service_core::auth;
use service_core::clock::Clock;
use service_core::validation::timestamp;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::server::{PASSWORD, TestServer, invalid, refusal, violated, with_token};

const ADMIN: Uuid = Uuid::from_u128(0xAD);

/// The server and an admin's token.
pub(crate) struct Backoffice {
    pub(crate) server: TestServer,
    admin: String,
}

impl Backoffice {
    async fn start() -> Self {
        Self::of(TestServer::start().await).await
    }

    pub(crate) async fn of(server: TestServer) -> Self {
        server.enroll(ADMIN).await;
        let admin = server.token(ADMIN, auth::Role::Admin);
        Self { server, admin }
    }

    fn accounts(&self) -> ServiceAccountServiceClient<Channel> {
        ServiceAccountServiceClient::new(self.server.channel.clone())
    }

    pub(crate) async fn create(&self, display_name: &str) -> (String, String, String) {
        let request = CreateServiceAccountRequest { display_name: display_name.to_owned() };
        let made = self.accounts().create_service_account(with_token(request, &self.admin)).await;
        let CreateServiceAccountResponse { service_account, client_secret } = made.unwrap().into_inner();
        let account = service_account.unwrap();
        (account.service_account_id, account.client_id, client_secret)
    }

    async fn list(&self, size: i32, token: &str) -> Result<ListServiceAccountsResponse, Status> {
        let request = ListServiceAccountsRequest { page_size: size, page_token: token.to_owned() };
        let answer = self.accounts().list_service_accounts(with_token(request, &self.admin)).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn rotate(
        &self,
        id: &str,
        overlap: Option<Duration>,
    ) -> Result<RotateServiceAccountSecretResponse, Status> {
        let overlap = overlap.map(|overlap| overlap.try_into().unwrap());
        let request = RotateServiceAccountSecretRequest { service_account_id: id.to_owned(), overlap };
        let answer = self.accounts().rotate_service_account_secret(with_token(request, &self.admin)).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = DeleteServiceAccountRequest { service_account_id: id.to_owned() };
        self.accounts().delete_service_account(with_token(request, &self.admin)).await.map(|_| ())
    }

    async fn issue(&self, client: &str, secret: &str) -> Result<IssueServiceTokenResponse, Status> {
        let request =
            IssueServiceTokenRequest { client_id: client.to_owned(), client_secret: secret.to_owned() };
        self.server.auth().issue_service_token(request).await.map(tonic::Response::into_inner)
    }

    async fn introspect(&self, token: &str) -> IntrospectTokenResponse {
        let request = with_token(IntrospectTokenRequest { token: token.to_owned() }, &self.admin);
        self.server.auth().introspect_token(request).await.unwrap().into_inner()
    }

    async fn text(&self, sql: &'static str) -> String {
        sqlx::query_scalar(sql).fetch_one(&self.server.database.pool(1)).await.unwrap()
    }
}

fn credentials_invalid() -> (Code, String) {
    (Code::Unauthenticated, "CREDENTIALS_INVALID".into())
}

fn not_found() -> (Code, String) {
    (Code::NotFound, "SERVICE_ACCOUNT_NOT_FOUND".into())
}

#[tokio::test]
async fn a_service_account_gets_tokens_with_its_id_and_the_role_of_a_service() {
    let office = Backoffice::start().await;
    let (id, client, secret) = office.create("Mailer").await;
    let issued = office.issue(&client, &secret).await.unwrap();
    let told = office.introspect(&issued.access_token).await;
    assert_eq!((told.active, told.user_id, told.role), (true, id, Role::Service.into()));
    assert_eq!(told.expire_time, issued.access_token_expire_time);
    // It opens what is for services.
    let request =
        with_token(IntrospectTokenRequest { token: issued.access_token.clone() }, &issued.access_token);
    assert!(office.server.auth().introspect_token(request).await.unwrap().into_inner().active);
}

#[tokio::test]
async fn the_database_holds_no_secret() {
    let office = Backoffice::start().await;
    let (_, _, secret) = office.create("Mailer").await;
    let stored = office
        .text("SELECT row_to_json(s)::text || (SELECT json_agg(a)::text FROM audit_entries a) FROM service_accounts s")
        .await;
    assert!(
        !stored.contains(&secret) && !stored.contains(secret.trim_start_matches("rowlock_secret_")),
        "{stored}"
    );
}

#[tokio::test]
async fn a_wrong_secret_and_an_unknown_client_are_answered_alike_and_pause_alike() {
    let office = Backoffice::of(TestServer::with(|config| config.sign_in.account.free = 2).await).await;
    let (_, client, secret) = office.create("Mailer").await;
    let mut answers = Vec::new();
    for client in [client.as_str(), "rowlock_client_nobody"] {
        let mut given = Vec::new();
        for _ in 0..4 {
            let status = office.issue(client, "rowlock_secret_wrong").await.unwrap_err();
            given.push((status.code(), status.message().to_owned(), status.details().to_vec()));
        }
        answers.push(given);
    }
    assert_eq!(answers[0], answers[1]);
    let status = office.issue(&client, "rowlock_secret_wrong").await.unwrap_err();
    assert_eq!(refusal(&status), (Code::ResourceExhausted, "TOO_MANY_ATTEMPTS".into()));
    assert!(status.get_error_details().retry_info().is_some());
    office.issue(&client, &secret).await.expect("nobody guesses it, so the right one is welcome");
    let status = office.issue(&client, "rowlock_secret_wrong").await.unwrap_err();
    assert_eq!(refusal(&status), credentials_invalid(), "counted from the beginning");
}

#[tokio::test]
async fn what_an_admin_does_with_accounts_needs_a_token_that_stands_by_the_database() {
    let office = Backoffice::start().await;
    let (id, ..) = office.create("Mailer").await;
    // As a demotion does of which this replica has not heard yet.
    sqlx::query("UPDATE users SET session_version = session_version + 1")
        .execute(&office.server.database.pool(1))
        .await
        .unwrap();
    let mut users = office.server.users();
    let user = User { user_id: ADMIN.to_string(), role: Role::Admin.into(), ..User::default() };
    let mask = FieldMask { paths: vec!["role".to_owned()] };
    let update = UpdateUserRequest { user: Some(user), update_mask: Some(mask) };
    let revoke = RevokeUserSessionsRequest { user_id: ADMIN.to_string() };
    let create = CreateServiceAccountRequest { display_name: "Another".to_owned() };
    let reset = CreatePasswordResetRequest { user_id: ADMIN.to_string() };
    let delete = DeleteUserRequest { user_id: ADMIN.to_string() };
    let refused = [
        users.create_password_reset(with_token(reset, &office.admin)).await.map(|_| ()),
        users.delete_user(with_token(delete, &office.admin)).await.map(|_| ()),
        office.rotate(&id, None).await.map(|_| ()),
        office.delete(&id).await,
        office.accounts().create_service_account(with_token(create, &office.admin)).await.map(|_| ()),
        users.update_user(with_token(update, &office.admin)).await.map(|_| ()),
        users.revoke_user_sessions(with_token(revoke, &office.admin)).await.map(|_| ()),
    ];
    for refused in refused {
        assert_eq!(refusal(&refused.unwrap_err()), (Code::Unauthenticated, "TOKEN_REVOKED".into()));
    }
    assert_eq!(office.list(0, "").await.unwrap().service_accounts.len(), 1, "nothing was done");
}

#[tokio::test]
async fn within_the_overlap_both_secrets_work_and_tokens_stay_good() {
    let office = Backoffice::start().await;
    let (id, client, old) = office.create("Mailer").await;
    let token = office.issue(&client, &old).await.unwrap().access_token;
    let rotated = office.rotate(&id, Some(Duration::from_secs(60))).await.unwrap();
    let new = rotated.client_secret;
    assert!(rotated.service_account.unwrap().old_secret_expire_time.is_some());
    for secret in [&old, &new] {
        office.issue(&client, secret).await.unwrap();
    }
    assert!(office.introspect(&token).await.active);
    office.server.clock.advance(Duration::from_secs(59));
    office.issue(&client, &old).await.unwrap();
    office.server.clock.advance(Duration::from_secs(1));
    assert_eq!(refusal(&office.issue(&client, &old).await.unwrap_err()), credentials_invalid());
    office.issue(&client, &new).await.unwrap();

    // Two secrets at most: the oldest one is gone with the next rotation.
    let newer = office.rotate(&id, Some(Duration::from_secs(60))).await.unwrap().client_secret;
    let newest = office.rotate(&id, Some(Duration::from_secs(60))).await.unwrap().client_secret;
    assert_eq!(refusal(&office.issue(&client, &new).await.unwrap_err()), credentials_invalid());
    for secret in [&newer, &newest] {
        office.issue(&client, secret).await.unwrap();
    }
}

#[tokio::test]
async fn rotating_without_an_overlap_ends_the_old_secret_and_the_tokens() {
    let office = Backoffice::start().await;
    let (id, client, old) = office.create("Mailer").await;
    let before = office.issue(&client, &old).await.unwrap().access_token;
    let new = office.rotate(&id, None).await.unwrap().client_secret;
    assert_eq!(refusal(&office.issue(&client, &old).await.unwrap_err()), credentials_invalid());
    assert_eq!(office.introspect(&before).await, IntrospectTokenResponse::default());
    let after = office.issue(&client, &new).await.unwrap().access_token;
    assert!(office.introspect(&after).await.active);
    let revoked = office.text("SELECT user_id || ' ' || minimum_session_version FROM revocations").await;
    assert_eq!(revoked, format!("{id} 2"));
    let last =
        office.text("SELECT action || ' ' || actor_id FROM audit_entries ORDER BY id DESC LIMIT 1").await;
    assert_eq!(last, format!("service_account_secret_rotated {ADMIN}"));
}

#[tokio::test]
async fn a_deleted_account_is_gone_with_its_tokens() {
    let office = Backoffice::start().await;
    let (id, client, secret) = office.create("Mailer").await;
    let token = office.issue(&client, &secret).await.unwrap().access_token;
    office.delete(&id).await.unwrap();
    assert_eq!(refusal(&office.issue(&client, &secret).await.unwrap_err()), credentials_invalid());
    assert!(!office.introspect(&token).await.active);
    let revoked = office.text("SELECT user_id || ' ' || minimum_session_version FROM revocations").await;
    assert_eq!(revoked, format!("{id} 2"));
    assert_eq!(refusal(&office.delete(&id).await.unwrap_err()), not_found());
    assert_eq!(refusal(&office.rotate(&id, None).await.unwrap_err()), not_found());
    let actions = office
        .text("SELECT string_agg(action || ' ' || actor_id, ', ' ORDER BY id) FROM audit_entries")
        .await;
    assert_eq!(actions, format!("service_account_created {ADMIN}, service_account_deleted {ADMIN}"));
}

#[tokio::test]
async fn the_list_tells_to_the_minute_when_each_secret_was_last_used() {
    let office = Backoffice::start().await;
    let (id, client, old) = office.create("Mailer").await;
    let used = async || {
        let account = office.list(0, "").await.unwrap().service_accounts.remove(0);
        [account.secret_last_use_time, account.old_secret_last_use_time]
    };
    let now = || Some(timestamp(office.server.clock.now()));
    assert_eq!(used().await, [None, None]);
    office.issue(&client, "rowlock_secret_wrong").await.unwrap_err();
    assert_eq!(used().await, [None, None], "a wrong one is none");
    let first = now();
    office.issue(&client, &old).await.unwrap();
    assert_eq!(used().await, [first, None]);
    office.server.clock.advance(Duration::from_secs(59));
    office.issue(&client, &old).await.unwrap();
    assert_eq!(used().await, [first, None], "so soon it is not written down");

    let new = office.rotate(&id, Some(Duration::from_secs(600))).await.unwrap();
    let told = new.service_account.unwrap();
    assert_eq!([told.secret_last_use_time, told.old_secret_last_use_time], [None, first]);
    office.issue(&client, &new.client_secret).await.unwrap();
    let second = now();
    assert_eq!(used().await, [second, first]);
    office.server.clock.advance(Duration::from_secs(60));
    office.issue(&client, &old).await.unwrap();
    assert_eq!(used().await, [second, now()], "somebody still has the old one");
    office.rotate(&id, None).await.unwrap();
    assert_eq!(used().await, [None, None]);
}

#[tokio::test]
async fn a_use_that_cannot_be_written_down_keeps_nobody_from_a_token() {
    let office = Backoffice::start().await;
    let (_, client, secret) = office.create("Mailer").await;
    for statement in [
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$",
        "CREATE TRIGGER fail BEFORE UPDATE ON service_accounts FOR EACH ROW EXECUTE FUNCTION fail()",
    ] {
        sqlx::query(statement).execute(&office.server.database.pool(1)).await.unwrap();
    }
    office.issue(&client, &secret).await.unwrap();
}

#[tokio::test]
async fn the_list_has_every_account_once_and_no_secret() {
    let office = Backoffice::start().await;
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(office.create(&format!("Backend {n}")).await.0);
    }
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let page = office.list(2, &token).await.unwrap();
        assert!(page.service_accounts.len() <= 2);
        listed.extend(page.service_accounts.into_iter().map(|account| account.service_account_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, made);
    assert_eq!(refusal(&office.list(2, "made-up").await.unwrap_err()), invalid("PAGE_TOKEN_INVALID"));
    let status = office.list(-1, "").await.unwrap_err();
    assert_eq!(
        (refusal(&status), violated(&status)),
        (invalid("VALIDATION_FAILED"), vec!["page_size".into()])
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() {
    let office = Backoffice::start().await;
    let long = "x".repeat(257);
    for (client, secret, fields) in [
        ("", "", vec!["client_id", "client_secret"]),
        (long.as_str(), long.as_str(), vec!["client_id", "client_secret"]),
        ("a\0b", "c", vec!["client_id"]),
    ] {
        let status = office.issue(client, secret).await.unwrap_err();
        assert_eq!(
            (refusal(&status), violated(&status)),
            (invalid("VALIDATION_FAILED"), fields.iter().map(|f| (*f).to_owned()).collect())
        );
    }
    let status = office.rotate("x", Some(Duration::from_secs(31 * 86_400))).await.unwrap_err();
    assert_eq!(violated(&status), ["service_account_id", "overlap"]);
    assert_eq!(violated(&office.delete("").await.unwrap_err()), ["service_account_id"]);
}

#[tokio::test]
async fn introspection_knows_what_became_of_a_user_since() {
    let office = Backoffice::start().await;
    let user = office.server.sign_up("ada@example.org").await;
    let pool = office.server.database.pool(1);
    for change in [
        "UPDATE users SET active = false",
        "UPDATE users SET session_version = session_version + 1",
        "UPDATE sessions SET revoke_time = now()",
    ] {
        sqlx::query("UPDATE users SET active = true").execute(&pool).await.unwrap();
        let token = office.server.sign_in("ada@example.org", PASSWORD).await.unwrap().access_token;
        let told = office.introspect(&token).await;
        assert_eq!(
            (told.active, told.user_id, told.role),
            (true, user.user_id.clone(), Role::Attendee.into())
        );
        sqlx::query(change).execute(&pool).await.unwrap();
        assert_eq!(office.introspect(&token).await, IntrospectTokenResponse::default(), "{change}");
    }
    for token in ["no token", "a.b.c"] {
        assert_eq!(office.introspect(token).await, IntrospectTokenResponse::default());
    }
}
