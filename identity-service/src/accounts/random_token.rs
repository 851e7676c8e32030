//! What is random and proves something: refresh tokens, reset tokens, secrets of service accounts.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use service_core::digest::sha256;
use service_core::secret::Secret;

use crate::sources::{Entropy, NoEntropy};

/// How many characters there are behind the prefix: 256 bits in Base64.
const BITS_CHARS: usize = 43;

/// What a token is for.
pub trait Purpose {
    /// What it begins with, which lets people, and scanners for leaked secrets, see what it is.
    const PREFIX: &'static str;
    /// What it is called where it must not be shown.
    const NAME: &'static str;
}

/// 256 random bits behind a prefix. The database has its digest only; a plain one is enough, since nobody can try them all.
pub struct RandomToken<P>(Secret, PhantomData<P>);

/// Continues a session.
pub type RefreshToken = RandomToken<Refresh>;
/// Replaces a password.
pub type ResetToken = RandomToken<Reset>;
/// Proves a service account.
pub type ClientSecret = RandomToken<Client>;

/// See [`RefreshToken`].
pub enum Refresh {}
/// See [`ResetToken`].
pub enum Reset {}
/// See [`ClientSecret`].
pub enum Client {}

impl Purpose for Refresh {
    const PREFIX: &'static str = "rowlock_refresh_";
    const NAME: &'static str = "RefreshToken";
}

impl Purpose for Reset {
    const PREFIX: &'static str = "rowlock_reset_";
    const NAME: &'static str = "ResetToken";
}

impl Purpose for Client {
    const PREFIX: &'static str = "rowlock_secret_";
    const NAME: &'static str = "ClientSecret";
}

impl<P: Purpose> RandomToken<P> {
    /// A new one.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, NoEntropy> {
        let mut bits = [0; 32];
        entropy.fill(&mut bits)?;
        Ok(Self::claimed(&format!("{}{}", P::PREFIX, URL_SAFE_NO_PAD.encode(bits))))
    }

    /// One that a client brought. `None` if it cannot be one.
    #[must_use]
    pub fn presented(text: &str) -> Option<Self> {
        let bits = text.strip_prefix(P::PREFIX)?;
        (bits.len() == BITS_CHARS).then(|| Self::claimed(text))
    }

    /// Whatever a client says is one: where what cannot be one has to fail like what is none.
    #[must_use]
    pub fn claimed(text: &str) -> Self {
        Self(Secret::new(text), PhantomData)
    }

    /// What its holder gets, once.
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

impl<P> Clone for RandomToken<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<P: Purpose> fmt::Debug for RandomToken<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple(P::NAME).field(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::SystemEntropy;

    fn every_one_is_another_and_none_prints<P: Purpose>() {
        let [a, b] = [0, 1].map(|_| RandomToken::<P>::generate(&SystemEntropy).unwrap());
        assert_ne!(a.expose(), b.expose());
        assert_ne!(a.digest(), b.digest());
        assert_eq!(RandomToken::<P>::presented(a.expose()).map(|same| same.digest()), Some(a.digest()));
        for wrong in ["", P::PREFIX, &a.expose()[1..], &format!("{}x", a.expose()), &"x".repeat(100_000)] {
            assert!(RandomToken::<P>::presented(wrong).is_none());
        }
        assert_eq!(format!("{a:?}"), format!("{}([secret])", P::NAME));
    }

    #[test]
    fn every_token_is_another_one_and_none_prints() {
        every_one_is_another_and_none_prints::<Refresh>();
        every_one_is_another_and_none_prints::<Reset>();
        every_one_is_another_and_none_prints::<Client>();
    }

    #[test]
    fn no_token_is_taken_for_one_of_another_purpose() {
        let refresh = RefreshToken::generate(&SystemEntropy).unwrap();
        assert!(ResetToken::presented(refresh.expose()).is_none());
        assert!(ClientSecret::presented(refresh.expose()).is_none());
    }
}
