//! The service over TLS, with certificates on both sides.

use std::path::Path;
use std::time::Duration;

use identity_service::MIGRATOR;
use rowlock_proto::identity::v1::GetJwksRequest;
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use service_core::config::ConfigErrors;
use service_core::test_support::{TestAuthority, TestCertificate, TestCluster, run};
use service_core::tls::ServerTls;
use service_core::upstream::UpstreamOptions;

use crate::child::binary;
use crate::server::{PATIENCE, TestServer};

async fn get_jwks(options: UpstreamOptions) -> Result<String, String> {
    let channel = options.check("--addr", &mut ConfigErrors::default()).channel();
    let answer = AuthServiceClient::new(channel).get_jwks(GetJwksRequest {}).await;
    answer.map(|answer| answer.into_inner().jwks_json).map_err(|status| format!("{status:?}"))
}

fn options(
    url: &str,
    dir: &Path,
    ca: &TestAuthority,
    certificate: Option<&TestCertificate>,
) -> UpstreamOptions {
    let shown = certificate.map(|certificate| certificate.write(dir, "client"));
    let (cert_file, key_file) = shown.unzip();
    UpstreamOptions {
        url: url.to_owned(),
        ca_file: Some(ca.write(dir, "ca.pem")),
        cert_file,
        key_file,
        server_name: None,
    }
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
    let (cert_file, key_file) = authority.issue().write(dir.path(), "server");
    let tls = ServerTls {
        cert_file,
        key_file,
        client_ca_file: Some(authority.write(dir.path(), "clients.pem")),
        reload_interval: Duration::from_millis(20),
    };
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let server = TestServer::on(database, |config| config.server.tls = Some(tls)).await;
    let url = format!("https://{}", server.grpc);
    let client = authority.issue();

    let good = options(&url, dir.path(), &authority, Some(&client));
    assert!(get_jwks(good.clone()).await.unwrap().contains("keys"));
    let ready = async { while health(&good) != 0 {} };
    tokio::time::timeout(PATIENCE, ready).await.expect("it becomes ready");

    assert!(
        get_jwks(options(&url, dir.path(), &TestAuthority::new(), Some(&client))).await.is_err(),
        "wrong authority"
    );
    for (name, certificate) in [
        ("no certificate", None),
        ("an expired one", Some(authority.issue_expired())),
        ("one of another authority", Some(TestAuthority::new().issue())),
    ] {
        let bad = options(&url, dir.path(), &authority, certificate.as_ref());
        assert!(get_jwks(bad.clone()).await.is_err(), "{name}");
        assert_eq!(health(&bad), 1, "{name}");
    }
    let plaintext = UpstreamOptions { url: url.replace("https", "http"), ..UpstreamOptions::default() };
    assert!(get_jwks(plaintext.clone()).await.is_err(), "plaintext");
    assert_eq!(health(&plaintext), 1, "plaintext");

    // Both sides move to another authority while the server runs.
    let next = TestAuthority::new();
    let _ = next.write(dir.path(), "clients.pem");
    let _ = next.issue().write(dir.path(), "server");
    let moved = options(&url, dir.path(), &next, Some(&next.issue()));
    let taken_up = async { while get_jwks(moved.clone()).await.is_err() {} };
    tokio::time::timeout(PATIENCE, taken_up).await.expect("the new certificates are taken up");
    assert!(
        get_jwks(options(&url, dir.path(), &next, Some(&client))).await.is_err(),
        "of the authority before"
    );
}

#[test]
fn half_of_what_tls_needs_is_an_error_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, _) = TestAuthority::new().issue().write(dir.path(), "server");
    for (set, named) in [
        (&[("ROWLOCK_TLS_CERT_FILE", cert.as_path())][..], "ROWLOCK_TLS_KEY_FILE"),
        (&[("ROWLOCK_TLS_KEY_FILE", cert.as_path())], "ROWLOCK_TLS_CERT_FILE"),
        (&[("ROWLOCK_TLS_CLIENT_CA_FILE", cert.as_path())], "ROWLOCK_TLS_CLIENT_CA_FILE"),
        (
            &[("ROWLOCK_TLS_CERT_FILE", cert.as_path()), ("ROWLOCK_TLS_KEY_FILE", cert.as_path())],
            "server.crt holds no private key",
        ),
    ] {
        let mut command = binary(&["serve"]);
        command.envs(set.iter().copied());
        let (code, _, err) = run(command, "");
        assert!(code == 2 && err.contains(named), "{set:?}: {err}");
    }
}
