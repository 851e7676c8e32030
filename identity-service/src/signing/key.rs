//! One private key.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey};

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SigningAlgorithm {
    /// ECDSA with P-256 and SHA-256: small tokens, fast to make, known everywhere.
    Es256,
    /// RSA (PKCS#1 v1.5) with SHA-256, 2048 bits or more: for verifiers that know nothing else.
    Rs256,
    /// Ed25519: small tokens, the fastest to make.
    #[value(name = "eddsa")]
    EdDsa,
}

impl SigningAlgorithm {
    /// Its name in the header of a token.
    #[must_use]
    pub fn jwt(self) -> Algorithm {
        match self {
            Self::Es256 => Algorithm::ES256,
            Self::Rs256 => Algorithm::RS256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }

    /// A new private key in PKCS#8, as PEM. RSA keys have 2048 bits.
    ///
    /// # Errors
    /// If the cryptography library fails.
    pub fn generate_pem(self) -> Result<String, KeyInvalid> {
        let pkcs8 = match self {
            Self::Es256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                    .map(|document| document.as_ref().to_vec())
            }
            Self::Rs256 => RsaKeyPair::generate(KeySize::Rsa2048)
                .and_then(|key| AsDer::<Pkcs8V1Der<'_>>::as_der(&key))
                .map(|der| der.as_ref().to_vec()),
            Self::EdDsa => Ed25519KeyPair::generate()
                .and_then(|key| key.to_pkcs8v1())
                .map(|document| document.as_ref().to_vec()),
        };
        let pkcs8 = pkcs8.map_err(|_| KeyInvalid::NotGenerated)?;
        Ok(pem::encode(&pem::Pem::new("PRIVATE KEY", pkcs8)))
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
    #[error("is not a P-256, Ed25519 or RSA key, the kinds that are supported")]
    NotSupported,
    /// It is an RSA key of fewer than 2048 bits.
    #[error("is an RSA key of fewer than 2048 bits, which is too weak: make another one")]
    Weak,
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
        let (algorithm, private) = recognize(&block, text)?;
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

/// What kind of key it is. Each attempt parses the key as a whole, and with it checks the curve and that the public
/// half belongs to the private one.
fn recognize(block: &pem::Pem, text: &[u8]) -> Result<(SigningAlgorithm, EncodingKey), KeyInvalid> {
    let pkcs8 = block.contents();
    if EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).is_ok() {
        return Ok((SigningAlgorithm::Es256, EncodingKey::from_ec_der(pkcs8)));
    }
    if let Ok(key) = Ed25519KeyPair::from_pkcs8(pkcs8) {
        // The JWT library knows the form without the public half only.
        let plain = key.to_pkcs8v1().map_err(|_| KeyInvalid::NotSupported)?;
        return Ok((SigningAlgorithm::EdDsa, EncodingKey::from_ed_der(plain.as_ref())));
    }
    match RsaKeyPair::from_pkcs8(pkcs8) {
        Ok(_) => {
            let key = EncodingKey::from_rsa_pem(text).map_err(|_| KeyInvalid::NotSupported)?;
            Ok((SigningAlgorithm::Rs256, key))
        }
        Err(rejected) if rejected.to_string() == "TooSmall" => Err(KeyInvalid::Weak),
        Err(_) => Err(KeyInvalid::NotSupported),
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING;
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    const ALL: [SigningAlgorithm; 3] =
        [SigningAlgorithm::Es256, SigningAlgorithm::Rs256, SigningAlgorithm::EdDsa];

    fn generated(algorithm: SigningAlgorithm) -> SigningKey {
        SigningKey::from_pem(algorithm.generate_pem().unwrap().as_bytes()).unwrap()
    }

    #[test]
    fn the_kid_is_the_thumbprint_of_rfc_7638() {
        for algorithm in ALL {
            let key = generated(algorithm);
            assert_eq!(key.algorithm(), algorithm);
            let jwk = serde_json::to_value(key.public()).unwrap();
            // Section 3: the required members alone, in lexicographic order, without white space.
            let (canonical, alg) = match algorithm {
                SigningAlgorithm::Es256 => {
                    (format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]), "ES256")
                }
                SigningAlgorithm::Rs256 => {
                    (format!(r#"{{"e":{},"kty":"RSA","n":{}}}"#, jwk["e"], jwk["n"]), "RS256")
                }
                SigningAlgorithm::EdDsa => {
                    (format!(r#"{{"crv":"Ed25519","kty":"OKP","x":{}}}"#, jwk["x"]), "EdDSA")
                }
            };
            let expected = URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()));
            assert_eq!(key.kid(), expected, "{jwk}");
            assert_eq!(jwk["kid"], expected);
            assert_eq!((jwk["alg"].as_str(), jwk["use"].as_str()), (Some(alg), Some("sig")));
        }
    }

    #[test]
    fn the_public_half_has_no_private_member() {
        for algorithm in ALL {
            let jwk = serde_json::to_value(generated(algorithm).public()).unwrap();
            let mut members: Vec<_> = jwk.as_object().unwrap().keys().map(String::as_str).collect();
            members.sort_unstable();
            let public: &[_] = match algorithm {
                SigningAlgorithm::Es256 => &["alg", "crv", "kid", "kty", "use", "x", "y"],
                SigningAlgorithm::Rs256 => &["alg", "e", "kid", "kty", "n", "use"],
                SigningAlgorithm::EdDsa => &["alg", "crv", "kid", "kty", "use", "x"],
            };
            assert_eq!(members, public);
        }
    }

    #[test]
    fn an_ed25519_key_that_brings_its_public_half_along_is_taken() {
        let with_public = Ed25519KeyPair::generate().unwrap().to_pkcs8().unwrap();
        let text = pem::encode(&pem::Pem::new("PRIVATE KEY", with_public.as_ref()));
        assert_eq!(SigningKey::from_pem(text.as_bytes()).unwrap().algorithm(), SigningAlgorithm::EdDsa);
    }

    #[test]
    fn other_keys_are_refused_by_what_is_wrong_with_them() {
        let p384 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let weak_rsa = include_str!("../../tests/weak_rsa_1024.pkcs8.b64").replace('\n', "");
        let weak_rsa = STANDARD.decode(weak_rsa).unwrap();
        let pem = |tag: &str, contents: &[u8]| pem::encode(&pem::Pem::new(tag, contents));
        for (text, expected) in [
            (String::new(), KeyInvalid::NotPem),
            ("not a key".to_owned(), KeyInvalid::NotPem),
            (pem("PRIVATE KEY", p384.as_ref()), KeyInvalid::NotSupported),
            (pem("PRIVATE KEY", b"garbage"), KeyInvalid::NotSupported),
            (pem("PRIVATE KEY", &weak_rsa), KeyInvalid::Weak),
            (pem("EC PRIVATE KEY", b"whatever"), KeyInvalid::NotPkcs8),
            (pem("RSA PRIVATE KEY", b"whatever"), KeyInvalid::NotPkcs8),
            (pem("PUBLIC KEY", b"whatever"), KeyInvalid::NotPkcs8),
            (pem("ENCRYPTED PRIVATE KEY", b"whatever"), KeyInvalid::Encrypted),
        ] {
            assert_eq!(SigningKey::from_pem(text.as_bytes()).unwrap_err(), expected, "{text}");
        }
    }
}
