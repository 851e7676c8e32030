//! The client's side.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::files::{authorities, certificates, private_key, provider, read};
use super::{ALPN, TlsError};

/// Whom a client trusts, and what it shows of itself.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// The authorities that a server's certificate must come from, as PEM. No others are trusted.
    pub ca_file: PathBuf,
    /// The client's own certificate and its private key, as PEM.
    pub identity: Option<ClientIdentity>,
    /// The name that the server's certificate must have, if it is not the host that is connected to.
    pub server_name: Option<String>,
}

/// A client's own certificate.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The certificate and those between it and its authority, as PEM.
    pub cert_file: PathBuf,
    /// Its private key, as PEM.
    pub key_file: PathBuf,
}

impl ClientTls {
    /// Reads the files to see whether they can be used.
    ///
    /// # Errors
    /// The first file that cannot.
    pub fn check(&self) -> Result<(), TlsError> {
        self.server_name.as_deref().map(name).transpose()?;
        self.connector().map(|_| ())
    }

    /// By the files as they are now.
    pub(crate) fn connector(&self) -> Result<TlsConnector, TlsError> {
        let unusable = |path: &PathBuf| {
            let path = path.clone();
            move |cause| TlsError::Unusable { path, cause }
        };
        let roots = authorities(&self.ca_file, &read(&self.ca_file)?)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable(&self.ca_file))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(ClientIdentity { cert_file, key_file }) => {
                let chain = certificates(cert_file, &read(cert_file)?)?;
                let key = private_key(key_file, &read(key_file)?)?;
                builder.with_client_auth_cert(chain, key).map_err(unusable(cert_file))?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config).into())
    }

    /// The name that the certificate of the server at `host` must have.
    pub(crate) fn name_of(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        name(self.server_name.as_deref().unwrap_or(host))
    }
}

fn name(text: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(text.to_owned()).map_err(|_| TlsError::Name(text.to_owned()))
}
