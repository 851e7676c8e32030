//! Refresh tokens.

use service_core::digest::sha256;
use service_core::secret::Secret;

use super::random_token::{presented_token, random_token};
use crate::sources::{Entropy, NoEntropy};

const PREFIX: &str = "rowlock_refresh_";

/// A refresh token: 256 random bits. The database has its digest only; a plain one is enough, since nobody
/// can try them all.
#[derive(Clone, Debug)]
pub struct RefreshToken(Secret);

impl RefreshToken {
    /// A new one.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, NoEntropy> {
        random_token(PREFIX, entropy).map(Self)
    }

    /// One that a client brought. `None` if it cannot be one.
    #[must_use]
    pub fn presented(text: &str) -> Option<Self> {
        presented_token(PREFIX, text).map(Self)
    }

    /// What the client gets.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// What is stored.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256(&[self.0.expose().as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::SystemEntropy;

    #[test]
    fn every_token_is_another_one_and_none_prints() {
        let (a, b) = (
            RefreshToken::generate(&SystemEntropy).unwrap(),
            RefreshToken::generate(&SystemEntropy).unwrap(),
        );
        assert_ne!(a.expose(), b.expose());
        assert_ne!(a.digest(), b.digest());
        assert_eq!(RefreshToken::presented(a.expose()).map(|same| same.digest()), Some(a.digest()));
        for wrong in ["", PREFIX, &a.expose()[1..], &format!("{}x", a.expose()), &"x".repeat(100_000)] {
            assert!(RefreshToken::presented(wrong).is_none());
        }
        assert_eq!(format!("{a:?}"), "RefreshToken([secret])");
    }
}
