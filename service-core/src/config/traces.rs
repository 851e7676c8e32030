//! The options for traces.

use std::path::PathBuf;

use clap::Args;

use super::checked::{Checked, ConfigErrors};
use crate::trace::TracesConfig;
use crate::upstream::UpstreamOptions;

/// Where traces go.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Traces")]
pub struct TracesArgs {
    /// A collector that takes traces by OTLP over gRPC, such as http://collector:4317 [default: nothing is traced]
    #[arg(long, env = "ROWLOCK_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// The authorities of the collector's certificate, a PEM file; needed with an https address
    #[arg(long, env = "ROWLOCK_OTLP_CA_FILE", value_name = "PATH")]
    pub otlp_ca_file: Option<PathBuf>,
    /// Which share of the calls is traced if their callers have not decided (traceparent), 0 to 1
    #[arg(long, env = "ROWLOCK_OTLP_SAMPLE_RATIO", value_name = "RATIO", default_value = "0.1")]
    pub otlp_sample_ratio: Checked<f64>,
}

impl TracesArgs {
    /// Checks the group for `service`; `None`: nothing is traced. The result is of use only if `errors` stays empty.
    pub fn check(
        self,
        service: &'static str,
        version: &'static str,
        errors: &mut ConfigErrors,
    ) -> Option<TracesConfig> {
        let ratio = "--otlp-sample-ratio (ROWLOCK_OTLP_SAMPLE_RATIO)";
        let ratio = self.otlp_sample_ratio.take_within(ratio, 0.0..=1.0, errors);
        let name = "--otlp-endpoint (ROWLOCK_OTLP_ENDPOINT)";
        let Some(url) = self.otlp_endpoint.filter(|url| !url.trim().is_empty()) else {
            if self.otlp_ca_file.is_some() {
                errors.add(name, "is required with --otlp-ca-file (ROWLOCK_OTLP_CA_FILE)");
            }
            return None;
        };
        let collector = UpstreamOptions { url, ca_file: self.otlp_ca_file, ..UpstreamOptions::default() };
        let collector = collector.check(name, errors);
        Some(TracesConfig { collector, ratio: ratio?, service, version })
    }
}
