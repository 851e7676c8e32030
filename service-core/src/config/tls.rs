//! The options for TLS on a service's own port.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::checked::{Checked, ConfigErrors, Period};
use crate::tls::ServerTls;

/// TLS on the port for gRPC.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// The server's certificate and the chain behind it, a PEM file; with it gRPC is served over TLS only
    #[arg(long, env = "ROWLOCK_TLS_CERT_FILE", value_name = "PATH")]
    pub tls_cert_file: Option<PathBuf>,
    /// The private key of the certificate, a PEM file
    #[arg(long, env = "ROWLOCK_TLS_KEY_FILE", value_name = "PATH")]
    pub tls_key_file: Option<PathBuf>,
    /// The authorities of clients, a PEM file; with it only clients with a certificate of theirs may connect
    #[arg(long, env = "ROWLOCK_TLS_CLIENT_CA_FILE", value_name = "PATH")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// How often it is looked whether these files have changed, 100ms to 1d
    #[arg(long, env = "ROWLOCK_TLS_RELOAD_INTERVAL", value_name = "DURATION", default_value = "5s")]
    pub tls_reload_interval: Checked<Period>,
}

impl TlsArgs {
    /// Checks the group, with the files. `None` stands for no TLS.
    pub(super) fn check(self, errors: &mut ConfigErrors) -> Option<ServerTls> {
        let (cert, key) =
            ("--tls-cert-file (ROWLOCK_TLS_CERT_FILE)", "--tls-key-file (ROWLOCK_TLS_KEY_FILE)");
        let name = "--tls-reload-interval (ROWLOCK_TLS_RELOAD_INTERVAL)";
        let range = Period(Duration::from_millis(100))..=Period(Duration::from_secs(86_400));
        let interval = self.tls_reload_interval.take_within(name, range, errors);
        let (cert_file, key_file) = match (self.tls_cert_file, self.tls_key_file) {
            (Some(cert_file), Some(key_file)) => (cert_file, key_file),
            (None, None) => {
                if self.tls_client_ca_file.is_some() {
                    let name = "--tls-client-ca-file (ROWLOCK_TLS_CLIENT_CA_FILE)";
                    errors.add(
                        name,
                        format!("is set, but {cert} is not: clients are asked for certificates over TLS"),
                    );
                }
                return None;
            }
            (Some(_), None) => {
                errors.add(key, format!("is required with {cert}"));
                return None;
            }
            (None, Some(_)) => {
                errors.add(cert, format!("is required with {key}"));
                return None;
            }
        };
        let Period(reload_interval) = interval?;
        let tls = ServerTls { cert_file, key_file, client_ca_file: self.tls_client_ca_file, reload_interval };
        if let Err(error) = tls.check() {
            errors.add(cert, format!("and what belongs to it cannot be used: {error}"));
        }
        Some(tls)
    }
}
