//! The way to another gRPC service, with or without TLS.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::config::ConfigErrors;
use crate::tls::{ClientIdentity, ClientTls};
use crate::trace::TracedChannel;

/// How long a connection may take to open, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that went away without a word is noticed within both, also by a stream that has nothing to say.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Another gRPC service: where it is, and whom to trust there.
#[derive(Clone, Debug)]
pub struct Upstream {
    endpoint: Endpoint,
    tls: Option<ClientTls>,
}

/// An [`Upstream`] as options have it.
#[derive(Clone, Debug, Default)]
pub struct UpstreamOptions {
    /// `http://host:port`, or `https://host:port` for TLS.
    pub url: String,
    /// The authorities of its certificate. Needed with https, and with https only.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show to it; together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// The name in its certificate, if that is not the host.
    pub server_name: Option<String>,
}

impl UpstreamOptions {
    /// Checks the options. `name` is the option of the URL, such as `--identity-addr (ROWLOCK_IDENTITY_ADDR)`. The result is of
    /// use only if `errors` stays empty.
    pub fn check(self, name: &str, errors: &mut ConfigErrors) -> Upstream {
        let nowhere = || Upstream { endpoint: Endpoint::from_static("http://[::1]:0"), tls: None };
        let endpoint = Endpoint::from_shared(self.url.trim().to_owned())
            .ok()
            .filter(|endpoint| matches!(endpoint.uri().scheme_str(), Some("http" | "https")))
            .filter(|endpoint| endpoint.uri().host().is_some())
            .map(|endpoint| {
                endpoint
                    .connect_timeout(CONNECT_TIMEOUT)
                    .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                    .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                    .keep_alive_while_idle(true)
            });
        let Some(endpoint) = endpoint else {
            errors.add(name, "must be a URL such as http://127.0.0.1:50051 or https://identity:50051");
            return nowhere();
        };
        let https = endpoint.uri().scheme_str() == Some("https");
        let identity = match (self.cert_file, self.key_file) {
            (Some(cert_file), Some(key_file)) => Some(ClientIdentity { cert_file, key_file }),
            (None, None) => None,
            _ => {
                errors.add(name, "has a client's certificate or its key, but not both");
                return nowhere();
            }
        };
        let tls = match self.ca_file {
            Some(ca_file) if https => ClientTls { ca_file, identity, server_name: self.server_name },
            None if https => {
                errors.add(name, "is https: the file of the authorities to trust is needed too");
                return nowhere();
            }
            None if identity.is_none() && self.server_name.is_none() => {
                return Upstream { endpoint, tls: None };
            }
            _ => {
                errors.add(name, "is http, but options for TLS are set: use https");
                return nowhere();
            }
        };
        if let Err(error) = tls.check() {
            errors.add(name, format!("has options for TLS that cannot be used: {error}"));
        }
        Upstream { endpoint, tls: Some(tls) }
    }
}

impl Upstream {
    /// Where it is.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        self.endpoint.uri()
    }

    /// A channel that connects when it is used, and again whenever it has to. Files of certificates are read for every
    /// connection, so that changed ones are taken up.
    #[must_use]
    pub fn channel(&self) -> Channel {
        match self.tls.clone() {
            None => self.endpoint.connect_lazy(),
            Some(tls) => {
                self.endpoint.connect_with_connector_lazy(service_fn(move |uri| open(tls.clone(), uri)))
            }
        }
    }

    /// The same, for calls that carry the trace that they are made in.
    #[must_use]
    pub fn traced_channel(&self) -> TracedChannel {
        TracedChannel(self.channel())
    }

    /// [`Upstream::channel`], connected already.
    ///
    /// # Errors
    /// If it cannot be reached, or one side does not trust the other.
    pub async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        match self.tls.clone() {
            None => self.endpoint.connect().await,
            Some(tls) => {
                self.endpoint.connect_with_connector(service_fn(move |uri| open(tls.clone(), uri))).await
            }
        }
    }
}

type Opened = TokioIo<TlsStream<TcpStream>>;

async fn open(tls: ClientTls, uri: Uri) -> Result<Opened, Box<dyn Error + Send + Sync>> {
    // An IPv6 address stands in brackets in a URL, and without them everywhere else.
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let (connector, name) = (tls.connector()?, tls.name_of(host)?);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(connector.connect(name, stream).await?))
}
