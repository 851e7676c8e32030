//! The service over TLS, with certificates on both sides, and its way to an identity-service that asks for the same.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rowlock_proto::booking::v1::ListEventsRequest;
use rowlock_proto::booking::v1::event_service_client::EventServiceClient;
use service_core::auth::{Access, Role};
use service_core::clock::SystemClock;
use service_core::config::{ConfigErrors, ServerConfig};
use service_core::ids::UuidV7;
use service_core::lifecycle::Readiness;
use service_core::server::{GrpcServer, Listeners};
use service_core::telemetry;
use service_core::test_support::{TestAuthority, TestCertificate, TokenMint, counted, run, server_config};
use service_core::tls::ServerTls;
use service_core::upstream::{Upstream, UpstreamOptions};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::caller::Caller;
use crate::child::binary;
use crate::identity::{self, Revocations};
use crate::refusal::refused;
use crate::revocations::informed;
use crate::system::{System, eventually, get};

fn server_tls(dir: &Path, name: &str, certificate: &TestCertificate, clients: &TestAuthority) -> ServerTls {
    let (cert_file, key_file) = certificate.write(dir, name);
    let client_ca_file = Some(clients.write(dir, &format!("{name}-clients.pem")));
    ServerTls { cert_file, key_file, client_ca_file, reload_interval: Duration::from_millis(20) }
}

fn options(
    url: &str,
    dir: &Path,
    ca: &TestAuthority,
    certificate: Option<&TestCertificate>,
) -> UpstreamOptions {
    let (cert_file, key_file) = certificate.map(|certificate| certificate.write(dir, "client")).unzip();
    let ca_file = Some(ca.write(dir, "ca.pem"));
    UpstreamOptions { url: url.to_owned(), ca_file, cert_file, key_file, server_name: None }
}

fn upstream(options: UpstreamOptions) -> Upstream {
    options.check("--addr", &mut ConfigErrors::default())
}

/// An identity-service over TLS, as far as booking needs it: its address, and what it revokes.
async fn secure_identity(mint: &TokenMint, tls: ServerTls) -> (String, Arc<Revocations>, DropGuard) {
    let config = ServerConfig { tls: Some(tls), ..server_config() };
    let listeners = Listeners::bind(&config).await.unwrap();
    let url = format!("https://{}", listeners.grpc.local_addr().unwrap());
    let logs = service_core::config::TelemetryConfig {
        format: service_core::config::LogFormat::Json,
        filter: "off".to_owned(),
        traces: None,
    };
    let server = GrpcServer {
        config,
        domain: "identity.rowlock",
        streams: &["/rowlock.identity.v1.RevocationService/WatchRevocations"],
        access: &[
            ("/rowlock.identity.v1.AuthService/GetJwks", Access::Public),
            ("/rowlock.identity.v1.AuthService/IssueServiceToken", Access::Public),
            ("/rowlock.identity.v1.RevocationService/WatchRevocations", Access::AnyOf(&[Role::Service])),
        ],
        verifier: mint.verifier(),
        ids: Arc::new(UuidV7::new(Arc::new(SystemClock))),
        descriptor_sets: vec![],
        service_names: vec![],
        readiness: Readiness::new(),
        metrics: telemetry::init(&logs).unwrap(),
    };
    let (end, revocations) = (CancellationToken::new(), Arc::default());
    let routes = identity::routes(mint, &Arc::default(), &revocations, &end);
    tokio::spawn(server.serve(routes, axum::Router::new(), listeners, end.clone()));
    (url, revocations, end.drop_guard())
}

async fn list_events(system: &System, upstream: &Upstream) -> Result<(), String> {
    let caller = system.organizer();
    let at = Caller { channel: upstream.channel(), ..caller };
    at.events()
        .list_events(ListEventsRequest::default())
        .await
        .map(|_| ())
        .map_err(|status| format!("{status:?}"))
}

/// The exit code of `health`, with what `options` say.
fn health(options: &UpstreamOptions) -> i32 {
    let mut command = binary(&["health", "--addr", &options.url]);
    for (name, path) in [
        ("ROWLOCK_HEALTH_CA_FILE", &options.ca_file),
        ("ROWLOCK_HEALTH_CERT_FILE", &options.cert_file),
        ("ROWLOCK_HEALTH_KEY_FILE", &options.key_file),
    ] {
        command.envs(path.as_ref().map(|path| (name, path)));
    }
    run(command, "").0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_client_certificates_nobody_else_gets_in() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
    let dir = dir.path();
    let mut system = System::with_replicas(0).await;
    let tls = server_tls(dir, "server", &authority.issue(), &authority);
    system.add_replica(|config| config.server.tls = Some(tls.clone())).await;
    let url = format!("https://{}", system.replicas[0].grpc);
    let client = authority.issue();
    let good = options(&url, dir, &authority, Some(&client));
    let standing = upstream(good.clone());
    system.replicas[0].channel = standing.channel();
    system.replicas[0].ready().await;
    list_events(&system, &standing).await.unwrap();
    assert_eq!(health(&good), 0);

    let stranger = upstream(options(&url, dir, &TestAuthority::new(), Some(&client)));
    assert!(list_events(&system, &stranger).await.is_err(), "wrong authority");
    for (name, certificate) in [
        ("no certificate", None),
        ("an expired one", Some(authority.issue_expired())),
        ("one of another authority", Some(TestAuthority::new().issue())),
    ] {
        let bad = options(&url, dir, &authority, certificate.as_ref());
        assert!(list_events(&system, &upstream(bad.clone())).await.is_err(), "{name}");
        assert_eq!(health(&bad), 1, "{name}");
    }
    let plaintext = UpstreamOptions { url: url.replace("https", "http"), ..UpstreamOptions::default() };
    assert!(list_events(&system, &upstream(plaintext.clone())).await.is_err(), "plaintext");
    assert_eq!(health(&plaintext), 1, "plaintext");

    // Both sides move to another authority while the server runs; the connection that stands is not cut.
    let next = TestAuthority::new();
    let _ = server_tls(dir, "server", &next.issue(), &next);
    let moved = upstream(options(&url, dir, &next, Some(&next.issue())));
    eventually(async || list_events(&system, &moved).await.is_ok()).await;
    let mut events = EventServiceClient::new(system.replicas[0].channel.clone());
    let unauthenticated = events.list_events(ListEventsRequest::default()).await.unwrap_err();
    assert_eq!(unauthenticated.code(), tonic::Code::Unauthenticated);
}

/// A replica that reaches identity-service so gets nothing of it.
async fn kept_out(identity: UpstreamOptions) {
    let mut system = System::with_replicas(0).await;
    system
        .add_replica(|config| {
            informed(config);
            config.tokens.identity = upstream(identity.clone());
        })
        .await;
    let http = system.replicas[0].http;
    let failed = async || counted(&get(http, "/metrics").await.1, "jwks_refreshes_total{outcome=\"failed\"}");
    // More than the first of its tries, for the number is of all replicas of this process.
    let before = failed().await;
    eventually(async || failed().await >= before + 2).await;
    assert!(get(http, "/readyz").await.1.contains("identity-service has not given its keys yet"));
    let answer = system.organizer().events().list_events(ListEventsRequest::default()).await;
    assert_eq!(answer.unwrap_err().code(), tonic::Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_revocations_come_over_tls_from_an_identity_that_is_trusted_and_trusts_us() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
    let dir = dir.path();
    let mut system = System::with_replicas(0).await;
    let tls = server_tls(dir, "identity", &authority.issue(), &authority);
    let (url, revocations, _identity) = secure_identity(&system.mint, tls).await;
    let good = options(&url, dir, &authority, Some(&authority.issue()));
    // Nobody else may write to these files.
    let apart = |name: &str| {
        let apart = dir.join(name);
        std::fs::create_dir(&apart).unwrap();
        apart
    };
    kept_out(options(&url, &apart("without"), &authority, None)).await;
    kept_out(options(&url, &apart("strange"), &TestAuthority::new(), Some(&authority.issue()))).await;
    system
        .add_replica(|config| {
            informed(config);
            config.tokens.identity = upstream(good.clone());
        })
        .await;
    system.replicas[0].ready().await;
    let caller = system.caller_with_id(Role::Organizer, system.new_id());
    caller.events().list_events(ListEventsRequest::default()).await.unwrap();
    eventually(async || revocations.opened.load(Ordering::SeqCst) == 1).await;
    revocations.user(caller.id, 2);
    eventually(async || caller.events().list_events(ListEventsRequest::default()).await.is_err()).await;
    refused(caller.events().list_events(ListEventsRequest::default()).await, "TOKEN_REVOKED");
}
