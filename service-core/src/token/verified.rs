//! The memory of verified tokens: a known token costs a digest, not a signature check.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use time::OffsetDateTime;

use crate::auth::Principal;

const SHARDS: usize = 16;

/// Tokens that were found valid, by their digest. Bounded; an entry lives no longer than its token.
pub(super) struct VerifiedTokens {
    shards: [RwLock<HashMap<[u8; 32], Entry>>; SHARDS],
    per_shard: usize,
}

struct Entry {
    /// The generation of the keys under which it was verified.
    generation: u64,
    principal: Principal,
}

impl VerifiedTokens {
    pub(super) fn new(capacity: usize) -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), per_shard: capacity.div_ceil(SHARDS) }
    }

    pub(super) fn find(&self, digest: &[u8; 32], generation: u64, now: OffsetDateTime) -> Option<Principal> {
        let shard = self.shard(digest).read().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.get(digest)?;
        let fresh = entry.generation == generation && now < entry.principal.expires;
        fresh.then(|| entry.principal.clone())
    }

    pub(super) fn remember(
        &self,
        digest: [u8; 32],
        generation: u64,
        now: OffsetDateTime,
        principal: Principal,
    ) {
        if self.per_shard == 0 || now >= principal.expires {
            return;
        }
        let mut shard = self.shard(&digest).write().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= self.per_shard {
            shard.retain(|_, entry| entry.generation == generation && now < entry.principal.expires);
        }
        if shard.len() >= self.per_shard {
            // All in use: half of them go, whichever. Dropping one at a time would sweep the whole shard for each.
            let mut keep = false;
            shard.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        shard.insert(digest, Entry { generation, principal });
    }

    #[cfg(all(test, feature = "test-support"))]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, digest: &[u8; 32]) -> &RwLock<HashMap<[u8; 32], Entry>> {
        let [first, ..] = digest;
        let [zeroth, ..] = &self.shards;
        self.shards.get(usize::from(*first) % SHARDS).unwrap_or(zeroth)
    }
}
