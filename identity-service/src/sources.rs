//! Time, ids and randomness as parameters: tests bring their own.

use std::sync::Arc;

use service_core::clock::{Clock, SystemClock};
use service_core::ids::{IdSource, UuidV7};

/// Where time, ids and randomness come from.
#[derive(Clone)]
pub struct Sources {
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// Ids of users, sessions and tokens.
    pub ids: Arc<dyn IdSource>,
    /// Salts and refresh tokens are made of it.
    pub entropy: Arc<dyn Entropy>,
}

impl Sources {
    /// Those of the system, with the time of `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { ids: Arc::new(UuidV7::new(clock.clone())), clock, entropy: Arc::new(SystemEntropy) }
    }

    /// Those of the system.
    #[must_use]
    pub fn system() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sources")
    }
}

/// Gives random bytes that nobody can guess.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `buffer`.
    ///
    /// # Errors
    /// If the system has no randomness to give; nothing may be made from the buffer then.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), NoEntropy>;
}

/// The system has no randomness to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's random generator failed")]
pub struct NoEntropy;

/// The random generator of the cryptography library, seeded by the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        aws_lc_rs::rand::fill(buffer).map_err(|_| NoEntropy)
    }
}
