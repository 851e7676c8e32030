//! TLS: who gets in, who does not, and certificates that change.

use std::path::Path;
use std::time::Duration;

use service_core::config::{ConfigErrors, ServerConfig};
use service_core::test_support::{TestAuthority, TestCertificate};
use service_core::tls::ServerTls;
use service_core::upstream::{Upstream, UpstreamOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Request;
use tonic::transport::Channel;

use crate::bench::{Bench, counted, eventually, streaming, unary};

/// A server over TLS, and the folder of its certificates.
struct Secure {
    bench: Bench,
    dir: TempDir,
    authority: TestAuthority,
}

impl Secure {
    async fn start(mutual: bool) -> Self {
        Self::showing(mutual, TestAuthority::issue).await
    }

    /// A server with a certificate, and this besides.
    async fn with(edit: impl FnOnce(&mut ServerConfig)) -> Self {
        let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
        let bench = Bench::with(|config| {
            serve(config, dir.path(), &authority.issue());
            edit(config);
        })
        .await;
        Self { bench, dir, authority }
    }

    async fn showing(mutual: bool, issue: impl FnOnce(&TestAuthority) -> TestCertificate) -> Self {
        let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
        let bench = Bench::with(|config| serve(config, dir.path(), &issue(&authority))).await;
        let secure = Self { bench, dir, authority };
        if mutual { secure.asking_for_certificates().await } else { secure }
    }

    /// Another server of the same authority.
    async fn asking_for_certificates(self) -> Self {
        let ca = self.authority.write(self.dir.path(), "clients.pem");
        let bench = Bench::with(|config| {
            serve(config, self.dir.path(), &self.authority.issue());
            config.tls.as_mut().unwrap().client_ca_file = Some(ca);
        })
        .await;
        Self { bench, ..self }
    }

    /// What a client of that authority needs.
    fn options(&self) -> UpstreamOptions {
        self.trusting(&self.authority)
    }

    fn trusting(&self, authority: &TestAuthority) -> UpstreamOptions {
        UpstreamOptions {
            url: format!("https://{}", self.bench.grpc),
            ca_file: Some(authority.write(self.dir.path(), "ca.pem")),
            ..UpstreamOptions::default()
        }
    }

    fn showing_client(&self, certificate: &TestCertificate) -> UpstreamOptions {
        let (cert_file, key_file) = certificate.write(self.dir.path(), "client");
        UpstreamOptions { cert_file: Some(cert_file), key_file: Some(key_file), ..self.options() }
    }
}

fn serve(config: &mut ServerConfig, dir: &Path, certificate: &TestCertificate) {
    let (cert_file, key_file) = certificate.write(dir, "server");
    let reload_interval = Duration::from_millis(20);
    config.tls = Some(ServerTls { cert_file, key_file, client_ca_file: None, reload_interval });
}

fn upstream(options: UpstreamOptions) -> Upstream {
    let mut errors = ConfigErrors::default();
    let upstream = options.check("--addr", &mut errors);
    errors.finish().unwrap();
    upstream
}

async fn echo(channel: Channel) -> Result<String, String> {
    let answer = unary(channel, "/test.Probe/Echo", Request::new("hello".to_owned())).await;
    answer.map(tonic::Response::into_inner).map_err(|status| format!("{status:?}"))
}

#[tokio::test]
async fn a_client_of_the_servers_authority_is_served_and_its_address_is_known() {
    let secure = Secure::start(false).await;
    let channel = upstream(secure.options()).connect().await.unwrap();
    assert_eq!(echo(channel.clone()).await.unwrap(), "hello");
    let context = unary(channel, "/test.Probe/Context", Request::new(String::new())).await.unwrap();
    assert!(context.into_inner().contains("127.0.0.1:"));
    // A name for an address that the certificate does not have.
    let named = UpstreamOptions { server_name: Some("localhost".to_owned()), ..secure.options() };
    assert_eq!(echo(upstream(named).channel()).await.unwrap(), "hello");
    let misnamed = UpstreamOptions { server_name: Some("other.test".to_owned()), ..secure.options() };
    assert!(echo(upstream(misnamed).channel()).await.unwrap_err().contains("not valid for name"));
}

#[tokio::test]
async fn a_server_of_another_authority_or_with_an_expired_certificate_is_not_trusted() {
    let secure = Secure::start(false).await;
    let refused = echo(upstream(secure.trusting(&TestAuthority::new())).channel()).await.unwrap_err();
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    let expired = Secure::showing(false, TestAuthority::issue_expired).await;
    let refused = echo(upstream(expired.options()).channel()).await.unwrap_err();
    assert!(refused.contains("certificate expired"), "{refused}");
}

#[tokio::test]
async fn plaintext_to_a_tls_port_and_tls_to_a_plaintext_port_get_nowhere() {
    let secure = Secure::start(false).await;
    assert!(echo(secure.bench.channel()).await.is_err());
    let mut raw = TcpStream::connect(secure.bench.grpc).await.unwrap();
    raw.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer).await;
    // A TLS alert at most: nothing of HTTP/2.
    assert!(answer.is_empty() || (answer[0] == 21 && answer.len() == 7), "{answer:?}");

    let plain = Bench::start().await;
    let options = UpstreamOptions { url: format!("https://{}", plain.grpc), ..secure.options() };
    assert!(echo(upstream(options).channel()).await.is_err());
}

#[tokio::test]
async fn with_client_authorities_only_their_clients_get_in() {
    let secure = Secure::start(true).await;
    let good = secure.showing_client(&secure.authority.issue());
    assert_eq!(echo(upstream(good).channel()).await.unwrap(), "hello");
    assert!(echo(upstream(secure.options()).channel()).await.is_err(), "without a certificate");
    let foreign = secure.showing_client(&TestAuthority::new().issue());
    assert!(echo(upstream(foreign).channel()).await.is_err(), "of another authority");
    let expired = secure.showing_client(&secure.authority.issue_expired());
    assert!(echo(upstream(expired).channel()).await.is_err(), "expired");
    let good = secure.showing_client(&secure.authority.issue());
    assert_eq!(echo(upstream(good).channel()).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_connections_that_stand_go_on() {
    let secure = Secure::start(false).await;
    let old = upstream(secure.options()).connect().await.unwrap();
    let mut watch = streaming(old.clone(), "Watch").await.unwrap();
    assert_eq!(watch.message().await.unwrap().as_deref(), Some("first"));

    // A certificate whose key is yet to come, and then no certificate at all: what was there stays.
    let new = TestAuthority::new();
    let certificate = new.issue();
    let (new_cert, new_key) = certificate.write(secure.dir.path(), "new");
    let at = |name: &str| secure.dir.path().join(name);
    for broken in [std::fs::read(&new_cert).unwrap(), b"no PEM".to_vec()] {
        let before = failed_reloads();
        std::fs::write(at("server.crt"), broken).unwrap();
        eventually(async || failed_reloads() > before).await;
        assert_eq!(echo(upstream(secure.options()).channel()).await.unwrap(), "hello");
    }

    std::fs::rename(new_key, at("server.key")).unwrap();
    std::fs::rename(new_cert, at("server.crt")).unwrap();
    // The client's file changes too: the same channel would take it up for its next connection.
    let client = upstream(secure.trusting(&new));
    eventually(async || echo(client.channel()).await.is_ok()).await;
    assert_eq!(echo(old).await.unwrap(), "hello");
    let quiet = tokio::time::timeout(Duration::from_millis(50), watch.message()).await;
    assert!(quiet.is_err(), "the stream has ended: {quiet:?}");
    let _ = secure.authority.write(secure.dir.path(), "ca.pem");
    assert!(echo(client.channel()).await.is_err(), "the authority from before is trusted no more");
}

fn failed_reloads() -> u64 {
    counted("tls_reloads_total{outcome=\"failed\"}")
}

#[tokio::test]
async fn a_client_whose_authority_is_taken_out_does_not_get_in_again() {
    let secure = Secure::start(true).await;
    let client = upstream(secure.showing_client(&secure.authority.issue()));
    assert!(echo(client.channel()).await.is_ok());
    let _ = TestAuthority::new().write(secure.dir.path(), "clients.pem");
    eventually(async || echo(client.channel()).await.is_err()).await;
}

#[tokio::test]
async fn those_who_connect_and_say_nothing_or_a_byte_keep_nobody_out() {
    let secure = Secure::with(|config| config.handshake_timeout = Duration::from_secs(120)).await;
    let mut silent = Vec::new();
    for beginning in [&b""[..], b"\x16"] {
        // More than may be in a handshake at once.
        for _ in 0..600 {
            let mut client = TcpStream::connect(secure.bench.grpc).await.unwrap();
            client.write_all(beginning).await.unwrap();
            silent.push(client);
        }
        let answer = echo(upstream(secure.options()).channel());
        let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
        let answer = answer.expect("it comes before the first of them is cut");
        assert_eq!(answer.unwrap(), "hello");
    }
}

#[tokio::test]
async fn who_does_not_finish_the_handshake_is_cut() {
    let secure = Secure::with(|config| config.handshake_timeout = Duration::from_millis(200)).await;
    for beginning in [&b""[..], b"\x16\x03\x01\x02\x00"] {
        let mut silent = TcpStream::connect(secure.bench.grpc).await.unwrap();
        silent.write_all(beginning).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "it is still open");
    }
}

#[test]
fn files_that_cannot_be_used_are_named_at_the_start() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
    let (cert_file, key_file) = authority.issue().write(dir.path(), "server");
    let (_, other_key) = authority.issue().write(dir.path(), "other");
    let odd = dir.path().join("odd.pem");
    std::fs::write(&odd, "no PEM").unwrap();
    let reload_interval = Duration::from_secs(5);
    let good = ServerTls { cert_file, key_file, client_ca_file: None, reload_interval };
    good.check().unwrap();
    for (tls, expected) in [
        (ServerTls { cert_file: dir.path().join("absent.pem"), ..good.clone() }, "absent.pem cannot be read"),
        (ServerTls { cert_file: odd.clone(), ..good.clone() }, "odd.pem holds no certificate"),
        (ServerTls { key_file: odd.clone(), ..good.clone() }, "odd.pem holds no private key"),
        (ServerTls { key_file: other_key, ..good.clone() }, "server.crt cannot be used"),
        (ServerTls { client_ca_file: Some(odd), ..good.clone() }, "odd.pem holds no certificate"),
    ] {
        let error = tls.check().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut errors = ConfigErrors::default();
    for options in [
        UpstreamOptions { url: "https://127.0.0.1:1".to_owned(), ..UpstreamOptions::default() },
        UpstreamOptions {
            url: "http://127.0.0.1:1".to_owned(),
            ca_file: Some(authority.write(dir.path(), "ca.pem")),
            ..UpstreamOptions::default()
        },
        UpstreamOptions {
            url: "https://127.0.0.1:1".to_owned(),
            ca_file: Some(authority.write(dir.path(), "ca.pem")),
            cert_file: Some(good.cert_file),
            ..UpstreamOptions::default()
        },
        UpstreamOptions { url: "ftp://127.0.0.1:1".to_owned(), ..UpstreamOptions::default() },
    ] {
        let _ = options.check("--addr", &mut errors);
    }
    assert_eq!(errors.to_string().matches("\n  --addr ").count(), 4, "{errors}");
}
