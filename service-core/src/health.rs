//! The `health` command of both services: asks a running server whether it serves, as probes do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::{Checked, ConfigErrors, Period};
use crate::upstream::UpstreamOptions;

/// Options of `health`.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// The server to ask [default: this machine, the service's own port]
    #[arg(long, env = "ROWLOCK_HEALTH_ADDR", value_name = "URL")]
    pub addr: Option<String>,
    /// The authorities of the server's certificate, a PEM file; with it the server is asked over TLS
    #[arg(long, env = "ROWLOCK_HEALTH_CA_FILE", value_name = "PATH")]
    pub ca_file: Option<PathBuf>,
    /// The certificate to show to a server that asks for one, a PEM file
    #[arg(long, env = "ROWLOCK_HEALTH_CERT_FILE", value_name = "PATH")]
    pub cert_file: Option<PathBuf>,
    /// The private key of that certificate, a PEM file
    #[arg(long, env = "ROWLOCK_HEALTH_KEY_FILE", value_name = "PATH")]
    pub key_file: Option<PathBuf>,
    /// The name in the server's certificate [default: the host of the address]
    #[arg(long, env = "ROWLOCK_HEALTH_SERVER_NAME", value_name = "NAME")]
    pub server_name: Option<String>,
    /// The gRPC service to ask for; empty: the server as a whole
    #[arg(long, value_name = "NAME", default_value = "")]
    pub service: String,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    pub timeout: Checked<Period>,
}

/// Asks a server whether it serves; `port` is where to ask unless it is said.
///
/// # Errors
/// If it does not, or does not answer in time.
pub async fn ask(args: HealthArgs, port: u16) -> anyhow::Result<()> {
    let mut errors = ConfigErrors::default();
    let timeout =
        args.timeout.take("--timeout", &mut errors).map_or(Duration::ZERO, |Period(duration)| duration);
    let scheme = if args.ca_file.is_some() { "https" } else { "http" };
    let addr = args.addr.unwrap_or_else(|| format!("{scheme}://127.0.0.1:{port}"));
    let options = UpstreamOptions {
        url: addr.clone(),
        ca_file: args.ca_file,
        cert_file: args.cert_file,
        key_file: args.key_file,
        server_name: args.server_name,
    };
    let server = options.check("--addr (ROWLOCK_HEALTH_ADDR)", &mut errors);
    errors.finish()?;
    let ask = async {
        let channel = server.connect().await?;
        let request = HealthCheckRequest { service: args.service.clone() };
        anyhow::Ok(HealthClient::new(channel).check(request).await?.into_inner().status())
    };
    let asked = tokio::time::timeout(timeout, ask).await;
    match asked.with_context(|| format!("{addr} did not answer in time"))? {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(status) => bail!("{addr} answers {}", status.as_str_name()),
        Err(error) => Err(error.context(format!("{addr} cannot be asked"))),
    }
}
