//! The binary: its commands, its complaints, its logs and its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use identity_service::MIGRATOR;
use identity_service::cli::Cli;
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use rowlock_proto::identity::v1::user_service_client::UserServiceClient;
use rowlock_proto::identity::v1::{
    GetMeRequest, IssueServiceTokenRequest, Role, SignInRequest, SignInResponse,
};
use service_core::test_support::{Serving, TestCluster, TestDatabase, run};
use sqlx::migrate::Migrator;
use tonic::transport::{Channel, Endpoint};

use crate::child::{binary, serve};
use crate::server::{PASSWORD, sign_up, with_token};

fn keys() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("keys").to_str().unwrap().to_owned();
    let (code, out, err) = run(binary(&["keys", "generate", "--dir", &dir]), "");
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(".pem: it signs"), "{out}");
    (folder, dir)
}

fn files(dir: &str) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// `serve` that must not come up: its complaint.
fn serve_fails(database: &TestDatabase, keys: &str) -> String {
    let mut command = binary(&["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]);
    command.env("ROWLOCK_DATABASE_URL", &database.url).env("ROWLOCK_KEYS_DIR", keys);
    let (code, _, err) = run(command, "");
    assert_eq!(code, 1, "{err}");
    let line = err
        .lines()
        .find(|line| line.starts_with("identity-service: error:"))
        .unwrap_or_else(|| panic!("{err}"));
    line.to_owned()
}

async fn connect(serving: &Serving) -> Channel {
    Endpoint::from_shared(format!("http://{}", serving.grpc)).unwrap().connect().await.unwrap()
}

async fn sign_in(serving: &Serving, email: &str, password: &str) -> Result<SignInResponse, tonic::Status> {
    let request = SignInRequest { email: email.into(), password: password.into() };
    AuthServiceClient::new(connect(serving).await).sign_in(request).await.map(tonic::Response::into_inner)
}

#[test]
fn the_page_of_options_is_what_the_options_say() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/options/identity-service.md");
    service_core::test_support::assert_reference(&Cli::command(), std::path::Path::new(page));
}

#[test]
fn help_names_every_option_and_its_environment_variable() {
    let (code, out, _) = run(binary(&["--help"]), "");
    assert_eq!(code, 0);
    for command in ["serve", "migrate", "keys", "admin", "health"] {
        assert!(out.contains(&format!("\n  {command}")), "{command} is missing in {out}");
    }
    let (code, out, _) = run(binary(&["serve", "--help"]), "");
    assert_eq!(code, 0);
    for name in [
        "ROWLOCK_DATABASE_URL",
        "ROWLOCK_DATABASE_URL_FILE",
        "ROWLOCK_GRPC_ADDR",
        "ROWLOCK_HTTP_ADDR",
        "ROWLOCK_KEYS_DIR",
        "ROWLOCK_TOKEN_ISSUER",
        "ROWLOCK_TOKEN_AUDIENCE",
        "ROWLOCK_ACCESS_TOKEN_LIFETIME",
        "ROWLOCK_REFRESH_TOKEN_LIFETIME",
        "ROWLOCK_PASSWORD_HASH_THREADS",
        "ROWLOCK_SIGN_IN_ACCOUNT_FAILURES",
        "ROWLOCK_CLIENT_ADDRESS_HEADER",
        "ROWLOCK_LOG_FORMAT",
    ] {
        let named = |end| out.contains(&format!("[env: {name}{end}"));
        assert!(named("=") || named("]"), "{name} is missing in {out}");
    }
    for command in [
        &["migrate", "--help"][..],
        &["keys", "generate", "--help"],
        &["keys", "activate", "--help"],
        &["admin", "create", "--help"],
        &["health", "--help"],
    ] {
        let (code, out, _) = run(binary(command), "");
        assert!(code == 0 && out.contains("[env: ROWLOCK_"), "{command:?}: {out}");
    }
}

#[test]
fn every_error_of_the_configuration_is_reported_in_one_run_without_secrets() {
    let mut command = binary(&["serve"]);
    command
        .env("ROWLOCK_DATABASE_URL", "mysql://somebody:hunter2hunter2@db/x")
        .env("ROWLOCK_GRPC_ADDR", "50051")
        .env("ROWLOCK_LOG_FORMAT", "xml")
        .env("ROWLOCK_KEYS_DIRR", "/keys");
    let (code, out, err) = run(command, "");
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    for name in ["ROWLOCK_DATABASE_URL", "ROWLOCK_GRPC_ADDR", "ROWLOCK_LOG_FORMAT", "ROWLOCK_KEYS_DIR)"] {
        assert!(err.contains(name), "{name} is missing in {err}");
    }
    assert!(err.contains("ROWLOCK_KEYS_DIRR is not known"), "{err}");
    assert!(!err.contains("hunter2"), "{err}");
}

#[test]
fn keys_are_never_overwritten_and_change_by_being_activated() {
    let (_folder, dir) = keys();
    let first = files(&dir);
    let (code, out, _) = run(binary(&["keys", "generate", "--dir", &dir, "--algorithm", "es256"]), "");
    assert!(code == 0 && out.contains("it is published"), "{out}");
    let second = files(&dir);
    let (code, out, _) = run(binary(&["keys", "generate", "--dir", &dir, "--if-none"]), "");
    assert!(code == 0 && out.contains("has keys already"), "{out}");
    assert_eq!(files(&dir), second);
    assert_eq!(second.iter().filter(|name| name.ends_with(".pem")).count(), 2, "{second:?}");
    assert!(second.contains(&first[0]));
    let new = second.iter().find(|name| name.ends_with(".pem") && **name != first[0]).unwrap();
    let kid = new.strip_suffix(".pem").unwrap();
    let (code, _, err) = run(binary(&["keys", "activate", "--dir", &dir, kid]), "");
    assert_eq!(code, 0, "{err}");
    assert_eq!(fs::read_to_string(Path::new(&dir).join("signing")).unwrap().trim(), kid);
    // A thumbprint may begin with a hyphen, and is no option for that.
    for unknown in ["no-such-kid", "-no-such-kid"] {
        let (code, _, err) = run(binary(&["keys", "activate", "--dir", &dir, unknown]), "");
        assert!(code == 1 && err.contains(&format!(" {unknown}")), "{err}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_used_stop_the_start_with_one_line() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap().to_owned();
    let line = serve_fails(&database, &format!("{dir}/gone"));
    assert!(line.contains("gone cannot be read"), "{line}");
    let line = serve_fails(&database, &dir);
    assert!(line.contains("holds no *.pem file") && line.contains("keys generate"), "{line}");

    let (_keys, dir) = keys();
    let path = Path::new(&dir).join(&files(&dir)[0]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let line = serve_fails(&database, &dir);
    assert!(line.contains("is open to others (mode 0644)") && line.contains("chmod 600"), "{line}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    // A P-384 key: not one that is supported.
    let weak =
        aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING)
            .unwrap()
            .to_pkcs8v1()
            .unwrap();
    fs::write(&path, pem::encode(&pem::Pem::new("PRIVATE KEY", weak.as_ref()))).unwrap();
    let line = serve_fails(&database, &dir);
    assert!(line.contains("is not a P-256, Ed25519 or RSA key"), "{line}");
    let weak = include_str!("../weak_rsa_1024.pkcs8.b64");
    fs::write(&path, format!("-----BEGIN PRIVATE KEY-----\n{weak}-----END PRIVATE KEY-----\n")).unwrap();
    let line = serve_fails(&database, &dir);
    assert!(line.contains("fewer than 2048 bits"), "{line}");
}

#[tokio::test]
async fn a_taken_port_stops_the_start_with_one_line() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let (_keys, dir) = keys();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command =
        binary(&["serve", "--grpc-addr", &address, "--http-addr", "127.0.0.1:0", "--keys-dir", &dir]);
    command.env("ROWLOCK_DATABASE_URL", &database.url);
    let (code, _, err) = run(command, "");
    assert!(code == 1 && err.contains(&format!("address {address} is already in use")), "{err}");
}

#[tokio::test]
async fn migrate_brings_a_database_up_to_date_and_says_so() {
    static NOTHING: Migrator = Migrator::DEFAULT;
    let database = TestCluster::database("empty", &NOTHING).await;
    let migrate = || {
        let mut command = binary(&["migrate"]);
        command.env("ROWLOCK_DATABASE_URL", &database.url);
        run(command, "")
    };
    let (code, out, err) = migrate();
    assert!(code == 0 && out.contains("migration(s) applied"), "{out}{err}");
    let (code, out, err) = migrate();
    assert!(code == 0 && out.contains("up to date"), "{out}{err}");
    let (_keys, dir) = keys();
    let (status, _) = serve(&database, &dir, &["--log-filter", "info"]).stop("-TERM");
    assert_eq!(status.code(), Some(0));
}

fn admin_create(database: &TestDatabase, arguments: &[&str]) -> Command {
    let mut command = binary(&["admin", "create", "--email", "root@example.org"]);
    command.args(arguments).env("ROWLOCK_DATABASE_URL", &database.url);
    command
}

#[tokio::test]
async fn an_admin_is_made_once_and_reset_when_asked_for() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let (keys, dir) = keys();
    let file = keys.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let from_file = ["--password-file", file.to_str().unwrap()];
    let (code, out, err) = run(admin_create(&database, &from_file), "");
    assert!(code == 0 && out.contains("created"), "{out}{err}");
    let serving = serve(&database, &dir, &["--log-filter", "info"]);
    let session = sign_in(&serving, "root@example.org", PASSWORD).await.unwrap();
    assert_eq!(session.user.unwrap().role(), Role::Admin);

    // Again, with another password: nothing changes.
    let mut from_environment = admin_create(&database, &[]);
    from_environment.env("ROWLOCK_ADMIN_PASSWORD", "another tram 82");
    let (code, out, err) = run(from_environment, "");
    assert!(code == 0 && out.contains("left as is"), "{out}{err}");
    sign_in(&serving, "root@example.org", PASSWORD).await.unwrap();

    let (code, out, err) = run(admin_create(&database, &["--reset"]), "another tram 82\n");
    assert!(code == 0 && out.contains("new password"), "{out}{err}");
    sign_in(&serving, "root@example.org", PASSWORD).await.unwrap_err();
    sign_in(&serving, "root@example.org", "another tram 82").await.unwrap();
    let (ended, version): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM sessions WHERE revoke_time IS NOT NULL), session_version FROM users",
    )
    .fetch_one(&database.pool(1))
    .await
    .unwrap();
    assert_eq!((ended, version), (2, 2), "who was signed in is signed out");
    let acts: Vec<String> =
        sqlx::query_scalar("SELECT action FROM audit_entries WHERE action <> 'signed_in' ORDER BY id")
            .fetch_all(&database.pool(1))
            .await
            .unwrap();
    assert_eq!(acts, ["admin_created", "admin_reset"]);
}

#[tokio::test]
async fn a_user_is_not_made_an_admin_by_accident() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let (_keys, dir) = keys();
    let serving = serve(&database, &dir, &["--log-filter", "info"]);
    AuthServiceClient::new(connect(&serving).await).sign_up(sign_up("root@example.org")).await.unwrap();
    let (code, _, err) = run(admin_create(&database, &[]), "another tram 82\n");
    assert!(code == 1 && err.contains("no active administrator"), "{err}");
    let session = sign_in(&serving, "root@example.org", PASSWORD).await.unwrap();
    assert_eq!(session.user.unwrap().role(), Role::Attendee);
}

#[tokio::test]
async fn a_service_account_is_made_before_there_is_an_admin_and_its_secret_is_told_once() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let (_keys, dir) = keys();
    let mut create = binary(&["service-account", "create", "--display-name", "booking"]);
    create.env("ROWLOCK_DATABASE_URL", &database.url);
    let (code, out, err) = run(create, "");
    assert!(code == 0, "{out}{err}");
    let value = |name: &str| out.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let request = IssueServiceTokenRequest {
        client_id: value("ROWLOCK_IDENTITY_CLIENT_ID="),
        client_secret: value("ROWLOCK_IDENTITY_CLIENT_SECRET="),
    };
    assert_eq!(out.lines().count(), 2, "a shell and a Secret can be made of it");
    assert!(!err.contains(&request.client_secret), "{err}");
    let serving = serve(&database, &dir, &["--log-filter", "info"]);
    let channel = Endpoint::from_shared(format!("http://{}", serving.grpc)).unwrap().connect_lazy();
    let issued = AuthServiceClient::new(channel).issue_service_token(request).await.unwrap().into_inner();
    assert!(!issued.access_token.is_empty());
    let actors: Vec<Option<uuid::Uuid>> =
        sqlx::query_scalar("SELECT actor_id FROM audit_entries WHERE action = 'service_account_created'")
            .fetch_all(&database.pool(1))
            .await
            .unwrap();
    assert_eq!(actors, [None]);
}

#[tokio::test]
async fn the_credentials_of_a_service_account_are_kept_in_files_and_made_once() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("deep").join("account");
    let create = |dir: &Path| {
        let dir = dir.to_str().unwrap();
        let mut create = binary(&["service-account", "create", "--display-name", "booking", "--dir", dir]);
        create.env("ROWLOCK_DATABASE_URL", &database.url);
        run(create, "")
    };
    let (code, out, err) = create(&kept);
    assert!(code == 0, "{out}{err}");
    let read = |name: &str| std::fs::read_to_string(kept.join(name)).unwrap();
    let request =
        IssueServiceTokenRequest { client_id: read("client-id"), client_secret: read("client-secret") };
    assert!(!out.contains(&request.client_secret) && !err.contains(&request.client_secret), "{out}{err}");
    for name in ["client-id", "client-secret"] {
        let mode = std::fs::metadata(kept.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    let (_keys, keys) = keys();
    let serving = serve(&database, &keys, &["--log-filter", "info"]);
    AuthServiceClient::new(connect(&serving).await).issue_service_token(request.clone()).await.unwrap();

    let (code, out, err) = create(&kept);
    assert!(code == 0 && out.contains("already"), "{out}{err}");
    assert_eq!(read("client-secret"), request.client_secret);
    let (code, out, err) = create(Path::new("/dev/null/account"));
    assert!(code == 1 && err.contains("cannot be made"), "{out}{err}");
    let accounts: i64 = sqlx::query_scalar("SELECT count(*) FROM service_accounts")
        .fetch_one(&database.pool(1))
        .await
        .unwrap();
    assert_eq!(accounts, 1, "neither of them made another");
}

#[tokio::test]
async fn a_service_account_whose_credentials_cannot_be_kept_is_taken_back() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("client-secret");
    fs::create_dir(&in_the_way).unwrap();
    let create = || {
        let dir = folder.path().to_str().unwrap();
        let mut create = binary(&["service-account", "create", "--display-name", "booking", "--dir", dir]);
        create.env("ROWLOCK_DATABASE_URL", &database.url);
        run(create, "")
    };
    let pool = database.pool(1);
    let count = async || {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM service_accounts").fetch_one(&pool).await.unwrap()
    };
    let (code, out, err) = create();
    assert!(code == 1 && err.contains("client-secret cannot be written"), "{out}{err}");
    assert_eq!(count().await, 0);
    assert_eq!(files(folder.path().to_str().unwrap()), ["client-secret"]);
    fs::remove_dir(&in_the_way).unwrap();
    let (code, out, err) = create();
    assert!(code == 0, "{out}{err}");
    assert_eq!(count().await, 1);
}

#[tokio::test]
async fn an_admins_password_keeps_the_rules() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    for (input, complaint) in [("", "is required"), ("short 7\n", "at least 8"), ("password123\n", "common")]
    {
        let (code, _, err) = run(admin_create(&database, &[]), input);
        assert!(code == 1 && err.contains(complaint), "{input:?}: {err}");
        assert!(input.is_empty() || !err.contains(input.trim()), "{err}");
    }
    let mut both = admin_create(&database, &["--password-file", "/dev/null"]);
    both.env("ROWLOCK_ADMIN_PASSWORD", PASSWORD);
    let (code, _, err) = run(both, "");
    assert!(code == 2 && err.contains("give only one"), "{err}");
}

#[tokio::test]
async fn health_tells_whether_a_server_serves() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let (_keys, dir) = keys();
    let serving = serve(&database, &dir, &["--log-filter", "info"]);
    let addr = format!("http://{}", serving.grpc);
    // Ready a moment after it listens.
    let mut answers = (0..1_000).map(|_| run(binary(&["health", "--addr", &addr]), ""));
    let (_, out, _) = answers.find(|(code, _, _)| *code == 0).expect("it becomes ready");
    assert_eq!(out, "serving\n");
    let (code, _, err) = run(binary(&["health", "--addr", &addr, "--service", "no.such.Service"]), "");
    assert_eq!(code, 1, "{err}");
    serving.stop("-TERM");
    let (code, _, err) = run(binary(&["health", "--addr", &addr]), "");
    assert_eq!(code, 1, "{err}");
}

#[tokio::test]
async fn both_signals_end_it_with_exit_code_0() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let (_keys, dir) = keys();
    for signal in ["-TERM", "-INT"] {
        let serving = serve(&database, &dir, &["--log-filter", "info"]);
        let (status, log) = serving.stop(signal);
        assert_eq!(status.code(), Some(0), "{log}");
    }
}

#[tokio::test]
async fn logs_hold_no_password_no_token_and_no_address_at_any_level() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let (_keys, dir) = keys();
    let serving = serve(&database, &dir, &["--log-filter", "trace"]);
    let channel = connect(&serving).await;
    let mut auth = AuthServiceClient::new(channel.clone());
    auth.sign_up(sign_up("Ada.Quiet@example.org")).await.unwrap();
    auth.sign_up(sign_up("ada.quiet@example.org")).await.unwrap_err();
    let session = sign_in(&serving, "ada.quiet@example.org", PASSWORD).await.unwrap();
    sign_in(&serving, "ada.quiet@example.org", "wrong tram 83").await.unwrap_err();
    sign_in(&serving, "no.quiet@example.org", "wrong tram 83").await.unwrap_err();
    let mut users = UserServiceClient::new(channel);
    users.get_me(with_token(GetMeRequest {}, &session.access_token)).await.unwrap();
    let forged = format!("{}x", session.access_token);
    users.get_me(with_token(GetMeRequest {}, &forged)).await.unwrap_err();
    let (status, log) = serving.stop("-TERM");
    assert_eq!(status.code(), Some(0));
    assert!(log.contains("user signed up") && log.contains("CREDENTIALS_INVALID"), "it logs: {log}");
    let lower = log.to_lowercase();
    for secret in
        [PASSWORD, "tram 83", "quiet", &session.refresh_token, &session.access_token, "$argon2id", "hunter2"]
    {
        assert!(!lower.contains(&secret.to_lowercase()), "{secret} is in the log:\n{log}");
    }
    let signature = session.access_token.rsplit('.').next().unwrap();
    assert!(!log.contains(signature), "a part of a token is in the log");
}
