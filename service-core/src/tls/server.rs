//! The server's side.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::time::sleep;

use super::files::{authorities, certificates, private_key, provider, read, warn_if_readable_by_all};
use super::{ALPN, TlsError};
use crate::digest::sha256;

/// What a server shows, and whom it lets connect.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The server's certificate and those between it and its authority, as PEM.
    pub cert_file: PathBuf,
    /// Its private key, as PEM.
    pub key_file: PathBuf,
    /// The authorities of clients, as PEM. With them only clients with a certificate of theirs may connect.
    pub client_ca_file: Option<PathBuf>,
    /// How often it is looked whether the files have changed.
    pub reload_interval: Duration,
}

/// The files' bytes at one moment.
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl ServerTls {
    /// Reads the files to see whether they can be used, as at the start.
    ///
    /// # Errors
    /// The first file that cannot.
    pub fn check(&self) -> Result<(), TlsError> {
        self.config(&self.read()?).map(|_| ())
    }

    fn read(&self) -> Result<Files, TlsError> {
        let client_ca = self.client_ca_file.as_deref().map(read).transpose()?;
        Ok(Files { cert: read(&self.cert_file)?, key: read(&self.key_file)?, client_ca })
    }

    /// A configuration of its own for each state of the files: sessions of the one before cannot be resumed, so that a
    /// client whose authority was taken out has to show its certificate again.
    fn config(&self, files: &Files) -> Result<ServerConfig, TlsError> {
        let chain = certificates(&self.cert_file, &files.cert)?;
        let key = private_key(&self.key_file, &files.key)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|cause| self.unusable(cause))?;
        let builder = match (&self.client_ca_file, &files.client_ca) {
            (Some(path), Some(pem)) => {
                let roots = Arc::new(authorities(path, pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|cause| TlsError::Authorities { path: path.clone(), cause })?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        // Refuses a key that is not the certificate's.
        let mut config = builder.with_single_cert(chain, key).map_err(|cause| self.unusable(cause))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    fn unusable(&self, cause: rustls::Error) -> TlsError {
        TlsError::Unusable { path: self.cert_file.clone(), cause }
    }
}

impl Files {
    fn digest(&self) -> [u8; 32] {
        sha256(&[&self.cert, &self.key, self.client_ca.as_deref().unwrap_or_default()])
    }
}

/// Gives every handshake the configuration of the moment. Clones share it.
#[derive(Clone)]
pub(crate) struct Acceptor {
    tls: ServerTls,
    current: Arc<RwLock<Arc<ServerConfig>>>,
    /// What the files looked like when they were last looked at, good or bad.
    seen: [u8; 32],
}

impl Acceptor {
    pub(crate) fn load(tls: ServerTls) -> Result<Self, TlsError> {
        let files = tls.read()?;
        let current = Arc::new(RwLock::new(Arc::new(tls.config(&files)?)));
        warn_if_readable_by_all(&tls.key_file);
        Ok(Self { tls, current, seen: files.digest() })
    }

    /// What is to be used for a connection that comes now.
    pub(crate) fn get(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes changed files up, for ever. What cannot be used, such as a new certificate whose key is yet to come, leaves what
    /// was there.
    pub(crate) async fn follow(mut self) {
        loop {
            sleep(self.tls.reload_interval).await;
            match self.look() {
                Ok(false) => {}
                Ok(true) => {
                    metrics::counter!("tls_reloads_total", "outcome" => "ok").increment(1);
                    metrics::gauge!("tls_files_in_use").set(1);
                    tracing::info!("certificates are read anew");
                }
                Err(error) => {
                    metrics::counter!("tls_reloads_total", "outcome" => "failed").increment(1);
                    metrics::gauge!("tls_files_in_use").set(0);
                    tracing::warn!(%error, "changed certificates cannot be used; the ones from before stay");
                }
            }
        }
    }

    /// Whether something new is in use.
    fn look(&mut self) -> Result<bool, TlsError> {
        let files = match self.tls.read() {
            Ok(files) => files,
            // Told once, not at every look.
            Err(_) if self.seen == UNREADABLE => return Ok(false),
            Err(error) => {
                self.seen = UNREADABLE;
                return Err(error);
            }
        };
        let digest = files.digest();
        if digest == self.seen {
            return Ok(false);
        }
        self.seen = digest;
        let config = Arc::new(self.tls.config(&files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(true)
    }
}

/// Stands for files that cannot be read, which have no digest.
const UNREADABLE: [u8; 32] = [0; 32];
