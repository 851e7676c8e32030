//! What a backend proves itself with.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::OffsetDateTime;

use super::ClientSecret;
use crate::domain::{SecretDigests, WhichSecret};
use crate::sources::{Entropy, NoEntropy};

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

impl ClientSecret {
    /// Which of the secrets of an account it is at `now`; `None` is an account that does not exist. It takes the same time
    /// whatever the answer.
    #[must_use]
    pub fn which(&self, secrets: Option<&SecretDigests>, now: OffsetDateTime) -> Option<WhichSecret> {
        let digest = self.digest();
        let equal = |other: &[u8; 32]| verify_slices_are_equal(&digest, other).is_ok();
        // No secret has this digest.
        let nobody = [0; 32];
        let present = secrets.map_or(&nobody, |secrets| &secrets.present);
        let old = secrets.and_then(|secrets| secrets.old.as_ref());
        let is_present = equal(present);
        let is_old = equal(old.map_or(&nobody, |(digest, _)| digest));
        let old_works = old.is_some_and(|(_, expire_time)| now < *expire_time);
        match (is_present, is_old & old_works) {
            (true, _) => Some(WhichSecret::Present),
            (false, true) => Some(WhichSecret::Old),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::macros::datetime;

    use super::*;
    use crate::sources::SystemEntropy;

    #[test]
    fn every_client_id_is_another_one() {
        assert_ne!(new_client_id(&SystemEntropy).unwrap(), new_client_id(&SystemEntropy).unwrap());
    }

    #[test]
    fn the_old_secret_is_taken_until_its_time_is_over_and_a_strangers_never() {
        let now = datetime!(2026-01-01 12:00 UTC);
        let [present, old, other] = [0, 1, 2].map(|_| ClientSecret::generate(&SystemEntropy).unwrap());
        let until = now + Duration::from_secs(60);
        let secrets = SecretDigests { present: present.digest(), old: Some((old.digest(), until)) };
        for (at, old_works) in [(now, true), (until - Duration::from_nanos(1), true), (until, false)] {
            assert_eq!(present.which(Some(&secrets), at), Some(WhichSecret::Present));
            assert_eq!(old.which(Some(&secrets), at), old_works.then_some(WhichSecret::Old));
            assert_eq!((other.which(Some(&secrets), at), present.which(None, at)), (None, None));
        }
        let alone = SecretDigests { old: None, ..secrets };
        assert_eq!(present.which(Some(&alone), now), Some(WhichSecret::Present));
        assert_eq!(old.which(Some(&alone), now), None);
    }
}
