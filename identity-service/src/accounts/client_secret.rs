//! What a backend proves itself with.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use service_core::digest::sha256;
use service_core::secret::Secret;
use time::OffsetDateTime;

use crate::domain::SecretDigests;
use crate::sources::{Entropy, NoEntropy};

/// Let people, and scanners for leaked secrets, see what it is.
const SECRET_PREFIX: &str = "rowlock_secret_";
const CLIENT_PREFIX: &str = "rowlock_client_";

/// A new client id: 128 random bits. It is no secret, but whoever does not know it cannot make the account pause.
///
/// # Errors
/// If there is no randomness.
pub(super) fn new_client_id(entropy: &dyn Entropy) -> Result<String, NoEntropy> {
    let mut bits = [0; 16];
    entropy.fill(&mut bits)?;
    Ok(format!("{CLIENT_PREFIX}{}", URL_SAFE_NO_PAD.encode(bits)))
}

/// The secret of a service account: 256 random bits. The database has its digest only; a plain one is enough, since
/// nobody can try them all.
#[derive(Clone, Debug)]
pub struct ClientSecret(Secret);

impl ClientSecret {
    /// A new one.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, NoEntropy> {
        let mut bits = [0; 32];
        entropy.fill(&mut bits)?;
        Ok(Self(Secret::new(format!("{SECRET_PREFIX}{}", URL_SAFE_NO_PAD.encode(bits)))))
    }

    /// One that a client sent.
    #[must_use]
    pub fn presented(text: &str) -> Self {
        Self(Secret::new(text))
    }

    /// What the admin gets, once.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// What is stored.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256(&[self.0.expose().as_bytes()])
    }

    /// Whether it is one of the secrets of an account at `now`; `None` is an account that does not exist. It takes
    /// the same time whatever the answer.
    #[must_use]
    pub fn is_one_of(&self, secrets: Option<&SecretDigests>, now: OffsetDateTime) -> bool {
        let digest = self.digest();
        let equal = |other: &[u8; 32]| verify_slices_are_equal(&digest, other).is_ok();
        // No secret has this digest.
        let nobody = [0; 32];
        let present = secrets.map_or(&nobody, |secrets| &secrets.present);
        let old = secrets.and_then(|secrets| secrets.old.as_ref());
        let is_present = equal(present);
        let is_old = equal(old.map_or(&nobody, |(digest, _)| digest));
        let old_works = old.is_some_and(|(_, expire_time)| now < *expire_time);
        is_present | (is_old & old_works)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::macros::datetime;

    use super::*;
    use crate::sources::SystemEntropy;

    #[test]
    fn every_secret_is_another_one_and_none_prints() {
        let [a, b] = [0, 1].map(|_| ClientSecret::generate(&SystemEntropy).unwrap());
        assert_ne!(a.expose(), b.expose());
        assert_eq!(a.expose().len(), SECRET_PREFIX.len() + 43);
        assert_eq!(format!("{a:?}"), "ClientSecret([secret])");
        assert_ne!(new_client_id(&SystemEntropy).unwrap(), new_client_id(&SystemEntropy).unwrap());
    }

    #[test]
    fn the_old_secret_is_taken_until_its_time_is_over_and_a_strangers_never() {
        let now = datetime!(2026-01-01 12:00 UTC);
        let [present, old, other] = [0, 1, 2].map(|_| ClientSecret::generate(&SystemEntropy).unwrap());
        let until = now + Duration::from_secs(60);
        let secrets = SecretDigests { present: present.digest(), old: Some((old.digest(), until)) };
        for (at, old_works) in [(now, true), (until - Duration::from_nanos(1), true), (until, false)] {
            assert!(present.is_one_of(Some(&secrets), at));
            assert_eq!(old.is_one_of(Some(&secrets), at), old_works);
            assert!(!other.is_one_of(Some(&secrets), at) && !present.is_one_of(None, at));
        }
        let alone = SecretDigests { old: None, ..secrets };
        assert!(present.is_one_of(Some(&alone), now) && !old.is_one_of(Some(&alone), now));
    }
}
