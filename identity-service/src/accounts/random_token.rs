//! What is random and proves something: refresh tokens, reset tokens, secrets of service accounts.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use service_core::secret::Secret;

use crate::sources::{Entropy, NoEntropy};

/// How many characters [`random_token`] puts behind the prefix: 256 bits in Base64.
pub(super) const BITS_CHARS: usize = 43;

/// 256 random bits behind a prefix, which lets people, and scanners for leaked secrets, see what it is.
///
/// # Errors
/// If there is no randomness.
pub(super) fn random_token(prefix: &str, entropy: &dyn Entropy) -> Result<Secret, NoEntropy> {
    let mut bits = [0; 32];
    entropy.fill(&mut bits)?;
    Ok(Secret::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bits))))
}

/// Something that a client brought. `None` if it cannot be one of [`random_token`]'s.
pub(super) fn presented_token(prefix: &str, text: &str) -> Option<Secret> {
    let bits = text.strip_prefix(prefix)?;
    (bits.len() == BITS_CHARS).then(|| Secret::new(text))
}
