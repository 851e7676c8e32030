//! The service as `serve` starts it, on ports of its own, with a database of its own and a clock that a test
//! moves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use identity_service::MIGRATOR;
use identity_service::cli::{Cli, Command};
use identity_service::config::ServeConfig;
use identity_service::serve::serve;
use identity_service::signing::{AccessTokens, KeyDir, SigningAlgorithm};
use identity_service::sources::Sources;
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use rowlock_proto::identity::v1::user_service_client::UserServiceClient;
use rowlock_proto::identity::v1::{Role, SignInRequest, SignInResponse, SignUpRequest, User};
use service_core::auth;
use service_core::clock::{Clock, ManualClock};
use service_core::server::Listeners;
use service_core::test_support::{TestCluster, TestDatabase};
use time::macros::datetime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

pub(crate) const PASSWORD: &str = "violet tram 81";

/// Longer than anything in these tests takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct TestServer {
    pub(crate) channel: Channel,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) database: TestDatabase,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<anyhow::Result<()>>,
    pub(crate) config: ServeConfig,
    pub(crate) keys: tempfile::TempDir,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(edit: impl FnOnce(&mut ServeConfig)) -> Self {
        let database = TestCluster::database("identity", &MIGRATOR).await;
        let server = Self::on(database, edit).await;
        server.ready().await;
        server
    }

    /// Does not wait until it is ready.
    pub(crate) async fn on(database: TestDatabase, edit: impl FnOnce(&mut ServeConfig)) -> Self {
        let keys = tempfile::tempdir().unwrap();
        KeyDir::new(keys.path(), false).generate(SigningAlgorithm::Es256, false).unwrap();
        let mut config = config(&database.url, keys.path().to_str().unwrap());
        edit(&mut config);
        let listeners = Listeners::bind(&config.server).await.unwrap();
        let (grpc, http) = (listeners.grpc.local_addr().unwrap(), listeners.http.local_addr().unwrap());
        let clock = Arc::new(ManualClock::new(datetime!(2026-05-04 12:00:00.123456 UTC)));
        let stop = CancellationToken::new();
        let sources = Sources::with_clock(clock.clone());
        let task = tokio::spawn(Box::pin(serve(config.clone(), listeners, sources, stop.clone())));
        let channel = Endpoint::from_shared(format!("http://{grpc}")).unwrap().connect_lazy();
        Self { channel, grpc, http, database, clock, stop, task, config, keys }
    }

    /// Waits until the server says that it serves.
    pub(crate) async fn ready(&self) {
        ready(&self.channel).await;
    }

    /// Another replica: its own server, clock and connections, over the same database and with the same keys.
    pub(crate) async fn replica(&self) -> Replica {
        let config = self.config.clone();
        let listeners = Listeners::bind(&config.server).await.unwrap();
        let grpc = listeners.grpc.local_addr().unwrap();
        let stop = CancellationToken::new();
        let sources = Sources::with_clock(self.clock.clone());
        tokio::spawn(Box::pin(serve(config, listeners, sources, stop.clone())));
        let channel = Endpoint::from_shared(format!("http://{grpc}")).unwrap().connect_lazy();
        ready(&channel).await;
        Replica { channel, _stop: stop.drop_guard() }
    }

    pub(crate) fn auth(&self) -> AuthServiceClient<Channel> {
        AuthServiceClient::new(self.channel.clone())
    }

    pub(crate) fn users(&self) -> UserServiceClient<Channel> {
        UserServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn sign_up(&self, email: &str) -> User {
        self.auth().sign_up(sign_up(email)).await.unwrap().into_inner().user.unwrap()
    }

    pub(crate) async fn sign_in(&self, email: &str, password: &str) -> Result<SignInResponse, Status> {
        let request = SignInRequest { email: email.to_owned(), password: password.to_owned() };
        self.auth().sign_in(request).await.map(tonic::Response::into_inner)
    }

    /// Behind the service's back.
    pub(crate) async fn deactivate(&self, email: &str) {
        sqlx::query("UPDATE users SET active = false WHERE email = $1")
            .bind(email)
            .execute(&self.database.pool(1))
            .await
            .unwrap();
    }

    /// Makes a user with this id, an attendee, whose tokens stand.
    pub(crate) async fn enroll(&self, id: Uuid) {
        sqlx::query(
            "INSERT INTO users (id, email, password_hash, display_name, role, create_time, update_time)
             VALUES ($1, $1 || '@example.org', '', 'Enrolled', 'attendee', now(), now())",
        )
        .bind(id)
        .execute(&self.database.pool(1))
        .await
        .unwrap();
    }

    /// A token of the server's own key, for a role that the user need not have.
    pub(crate) fn token(&self, user: Uuid, role: auth::Role) -> String {
        let tokens = AccessTokens::new(
            Arc::new(self.config.keys.load().unwrap()),
            Sources::system().ids,
            self.config.tokens.issuer.clone(),
            self.config.tokens.audience.clone(),
            self.config.tokens.access_lifetime,
        );
        tokens.issue(user, role, None, 1, self.clock.now()).unwrap().token.expose().to_owned()
    }

    /// `GET path` over a connection of its own: the status line and headers in lower case, and the body.
    pub(crate) async fn get(&self, path: &str, header: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }
}

/// Another server over the database of a [`TestServer`]. Ends when it is dropped.
pub(crate) struct Replica {
    pub(crate) channel: Channel,
    _stop: DropGuard,
}

async fn ready(channel: &Channel) {
    let mut health = HealthClient::new(channel.clone());
    let watch = async {
        let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        while watch.message().await.unwrap().unwrap().status != 1 {}
    };
    tokio::time::timeout(PATIENCE, watch).await.expect("the server becomes ready");
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What `serve` makes of these few options, on free ports of this machine.
pub(crate) fn config(database_url: &str, keys_dir: &str) -> ServeConfig {
    let options = ["identity-service", "serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
    let given = ["--database-url", database_url, "--keys-dir", keys_dir, "--log-filter", "off"];
    let Command::Serve(args) = Cli::try_parse_from(options.iter().chain(&given)).unwrap().command else {
        panic!("not serve");
    };
    let mut config = args.check().unwrap();
    // Who waits for a lock waits for a test, on a busy machine.
    config.database.lock_timeout = PATIENCE;
    config
}

pub(crate) fn sign_up(email: &str) -> SignUpRequest {
    SignUpRequest {
        email: email.to_owned(),
        password: PASSWORD.to_owned(),
        display_name: "Ada Lovelace".to_owned(),
        role: Role::Attendee.into(),
    }
}

/// A request that carries this token.
pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// The code and the reason of an error, which must be one of this service.
pub(crate) fn refusal(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "identity.rowlock", "{status:?}");
    (status.code(), info.reason.clone())
}

/// The fields that a refused request is told about.
pub(crate) fn violated(status: &Status) -> Vec<String> {
    let details: ErrorDetails = status.get_error_details();
    details
        .bad_request()
        .map_or(Vec::new(), |bad| bad.field_violations.iter().map(|v| v.field.clone()).collect())
}

pub(crate) fn invalid(reason: &str) -> (Code, String) {
    (Code::InvalidArgument, reason.to_owned())
}
