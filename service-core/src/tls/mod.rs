//! TLS from PEM files that may change while they are used.
//!
//! The one cryptography provider is aws-lc-rs, with its TLS 1.3 and 1.2 suites. A server looks at its files again and again
//! ([`ServerTls`]); a client reads them for every connection that it opens ([`ClientTls`]). Connections that stand are
//! left alone by a change: they end with `max_connection_age`.
//!
//! Who may read a private key's file is warned about, not enforced: Kubernetes mounts Secrets readable by all unless it is
//! told otherwise, within a container where there is nobody else.

mod client;
mod files;
mod server;

use std::path::PathBuf;

pub use client::{ClientIdentity, ClientTls};
pub(crate) use server::Acceptor;
pub use server::ServerTls;

/// What is spoken over TLS, by both sides.
const ALPN: &[u8] = b"h2";

/// Files that TLS cannot be spoken with. The text names the file and what is wrong with it, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// It is larger than any such file.
    #[error("{0} is larger than 1 MiB")]
    TooLarge(PathBuf),
    /// It is not PEM.
    #[error("{0} is not a PEM file")]
    NotPem(PathBuf),
    /// There is no certificate in it.
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    /// There is no private key in it.
    #[error("{0} holds no private key (PKCS#8, PKCS#1 or SEC1, without a passphrase)")]
    NoKey(PathBuf),
    /// The files do not fit together, or hold something that is not supported.
    #[error("{path} cannot be used: {cause}")]
    Unusable {
        /// The file that was read last.
        path: PathBuf,
        /// Why, in words of the TLS library.
        cause: rustls::Error,
    },
    /// The certificates of the authorities cannot be used.
    #[error("{path} cannot be used: {cause}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why, in words of the TLS library.
        cause: rustls::server::VerifierBuilderError,
    },
    /// A name that no certificate can have.
    #[error("{0} is neither a DNS name nor an address")]
    Name(String),
}
