//! One private key.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey};

/// How tokens are signed. The place to add RS256 and EdDSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SigningAlgorithm {
    /// ECDSA with P-256 and SHA-256: small tokens, fast to make, known everywhere.
    Es256,
}

impl SigningAlgorithm {
    /// Its name in the header of a token.
    #[must_use]
    pub fn jwt(self) -> Algorithm {
        match self {
            Self::Es256 => Algorithm::ES256,
        }
    }

    /// A new private key in PKCS#8, as PEM.
    ///
    /// # Errors
    /// If the cryptography library fails.
    pub fn generate_pem(self) -> Result<String, KeyInvalid> {
        let pkcs8 = match self {
            Self::Es256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                    .map_err(|_| KeyInvalid::NotGenerated)?
            }
        };
        Ok(pem::encode(&pem::Pem::new("PRIVATE KEY", pkcs8.as_ref())))
    }
}

/// Why a file is no key that tokens may be signed with. Nothing of the file's contents is in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyInvalid {
    /// There is no PEM block in it.
    #[error("is not a PEM file")]
    NotPem,
    /// It is locked with a passphrase.
    #[error("is encrypted: decrypt it with `openssl pkcs8`")]
    Encrypted,
    /// It is a PEM block of another kind.
    #[error(
        "is not a PKCS#8 private key (BEGIN PRIVATE KEY): convert it with `openssl pkcs8 -topk8 -nocrypt`"
    )]
    NotPkcs8,
    /// It is of another kind, of another curve, or damaged.
    #[error("is not a P-256 key, the only kind that is strong enough and supported")]
    NotSupported,
    /// The cryptography library made no key.
    #[error("could not be generated")]
    NotGenerated,
}

/// A private key, the algorithm that it is for, and its public half.
pub struct SigningKey {
    algorithm: SigningAlgorithm,
    private: EncodingKey,
    public: Jwk,
    kid: String,
}

impl SigningKey {
    /// Reads a private key in PKCS#8.
    ///
    /// # Errors
    /// [`KeyInvalid`].
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyInvalid> {
        let block = pem::parse(text).map_err(|_| KeyInvalid::NotPem)?;
        match block.tag() {
            "PRIVATE KEY" => {}
            "ENCRYPTED PRIVATE KEY" => return Err(KeyInvalid::Encrypted),
            _ => return Err(KeyInvalid::NotPkcs8),
        }
        let algorithm = SigningAlgorithm::Es256;
        let private = EncodingKey::from_ec_der(block.contents());
        // Parses the key, and with it checks the curve and that the public half belongs to the private one.
        let mut public =
            Jwk::from_encoding_key(&private, algorithm.jwt()).map_err(|_| KeyInvalid::NotSupported)?;
        let kid = public.thumbprint(ThumbprintHash::SHA256).map_err(|_| KeyInvalid::NotSupported)?;
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { algorithm, private, public, kid })
    }

    /// The key's id: its thumbprint (RFC 7638, SHA-256, base64url).
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// What it signs with.
    #[must_use]
    pub fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// The public half, with `kid`, `alg` and `use`.
    #[must_use]
    pub fn public(&self) -> &Jwk {
        &self.public
    }

    pub(super) fn private(&self) -> &EncodingKey {
        &self.private
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    #[test]
    fn the_kid_is_the_thumbprint_of_rfc_7638() {
        let key = SigningKey::from_pem(SigningAlgorithm::Es256.generate_pem().unwrap().as_bytes()).unwrap();
        let jwk = serde_json::to_value(key.public()).unwrap();
        // Section 3: the required members alone, in lexicographic order, without white space.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
        let expected = URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()));
        assert_eq!(key.kid(), expected);
        assert_eq!(jwk["kid"], expected);
        assert_eq!((jwk["alg"].as_str(), jwk["use"].as_str()), (Some("ES256"), Some("sig")));
    }

    #[test]
    fn the_public_half_has_no_private_member() {
        let key = SigningKey::from_pem(SigningAlgorithm::Es256.generate_pem().unwrap().as_bytes()).unwrap();
        let jwk = serde_json::to_value(key.public()).unwrap();
        let mut members: Vec<_> = jwk.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    }

    #[test]
    fn other_keys_are_refused_by_what_is_wrong_with_them() {
        let p384 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pem = |tag: &str, contents: &[u8]| pem::encode(&pem::Pem::new(tag, contents));
        for (text, expected) in [
            (String::new(), KeyInvalid::NotPem),
            ("not a key".to_owned(), KeyInvalid::NotPem),
            (pem("PRIVATE KEY", p384.as_ref()), KeyInvalid::NotSupported),
            (pem("PRIVATE KEY", b"garbage"), KeyInvalid::NotSupported),
            (pem("EC PRIVATE KEY", b"whatever"), KeyInvalid::NotPkcs8),
            (pem("RSA PRIVATE KEY", b"whatever"), KeyInvalid::NotPkcs8),
            (pem("PUBLIC KEY", b"whatever"), KeyInvalid::NotPkcs8),
            (pem("ENCRYPTED PRIVATE KEY", b"whatever"), KeyInvalid::Encrypted),
        ] {
            assert_eq!(SigningKey::from_pem(text.as_bytes()).unwrap_err(), expected, "{text}");
        }
    }
}
