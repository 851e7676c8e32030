//! Certificates of a test's own making.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use time::macros::datetime;

/// Valid for long enough.
const FROM: OffsetDateTime = datetime!(2020-01-01 00:00 UTC);
const UNTIL: OffsetDateTime = datetime!(2120-01-01 00:00 UTC);
/// Valid no more.
const EXPIRED: OffsetDateTime = datetime!(2021-01-01 00:00 UTC);

/// An authority whose key is made at random.
pub struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Default for TestAuthority {
    fn default() -> Self {
        Self::new()
    }
}

impl TestAuthority {
    /// A new authority, trusted by nobody yet.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Rowlock test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = (FROM, UNTIL);
        let pem = params.self_signed(&key).expect("it signs itself").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for servers and clients on 127.0.0.1 and localhost.
    #[must_use]
    pub fn issue(&self) -> TestCertificate {
        self.issue_until(UNTIL)
    }

    /// The same, but no longer valid.
    #[must_use]
    pub fn issue_expired(&self) -> TestCertificate {
        self.issue_until(EXPIRED)
    }

    fn issue_until(&self, until: OffsetDateTime) -> TestCertificate {
        let key = KeyPair::generate().expect("a key can be made");
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("the names are good");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (FROM, until);
        let cert = params.signed_by(&key, &self.issuer).expect("it can be signed");
        TestCertificate { cert_pem: cert.pem(), key_pem: key.serialize_pem() }
    }

    /// Writes the authority's own certificate, for those who trust it.
    #[must_use]
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        write(dir.join(name), &self.pem)
    }
}

impl std::fmt::Debug for TestAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestAuthority").finish_non_exhaustive()
    }
}

/// A certificate and its private key, as PEM.
pub struct TestCertificate {
    cert_pem: String,
    key_pem: String,
}

impl TestCertificate {
    /// Writes it as `name.crt` and `name.key`, and gives the paths in this order.
    #[must_use]
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = write(dir.join(format!("{name}.key")), &self.key_pem);
        (write(dir.join(format!("{name}.crt")), &self.cert_pem), key)
    }
}

impl std::fmt::Debug for TestCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestCertificate").finish_non_exhaustive()
    }
}

fn write(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).expect("the file can be written");
    path
}
