//! The `health` command of both services: asks a running server whether it serves, as probes do.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::{Checked, ConfigErrors, Period};

/// Options of `health`.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// The server to ask [default: this machine, the service's own port]
    #[arg(long, env = "ROWLOCK_HEALTH_ADDR", value_name = "URL")]
    pub addr: Option<String>,
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
    errors.finish()?;
    let addr = args.addr.unwrap_or_else(|| format!("http://127.0.0.1:{port}"));
    let ask = async {
        let channel = Endpoint::from_shared(addr.clone())?.connect().await?;
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
