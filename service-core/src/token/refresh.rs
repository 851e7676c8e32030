//! Keeping the issuer's keys fresh.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::keys::KeySet;

/// Where the issuer publishes its keys.
pub trait JwksSource: Send + Sync + 'static {
    /// Fetches the key set as JSON.
    fn fetch(&self) -> BoxFuture<'_, Result<String, Box<dyn std::error::Error + Send + Sync>>>;
}

/// The first pause after a failure, while there are no keys at all.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Longer than any healthy issuer takes.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches the keys now, then `every` so often (60 s is usual), and when a token names a key that is not known; but never
/// twice within `min_gap` (5 s), so that made-up keys cannot make it fetch at will. A failure keeps the keys from before.
/// While there are none yet, it tries again after 200 ms, doubling up to `every`. Ends with `shutdown`.
pub async fn refresh_keys(
    keys: Arc<KeySet>,
    source: impl JwksSource,
    every: Duration,
    min_gap: Duration,
    shutdown: CancellationToken,
) {
    let mut backoff = FIRST_BACKOFF;
    for outcome in ["ok", "failed"] {
        metrics::counter!("jwks_refreshes_total", "outcome" => outcome).increment(0);
    }
    loop {
        let fetched = tokio::select! {
            () = shutdown.cancelled() => return,
            fetched = fetch(&keys, &source) => fetched,
        };
        let now = Instant::now();
        match fetched {
            Ok(()) => metrics::counter!("jwks_refreshes_total", "outcome" => "ok").increment(1),
            Err(error) => {
                metrics::counter!("jwks_refreshes_total", "outcome" => "failed").increment(1);
                tracing::warn!(%error, "the issuer's keys could not be fetched");
            }
        }
        let (next, nudge_from) = if keys.is_empty() {
            let pause = backoff;
            backoff = (backoff * 2).min(every);
            (now + pause, now + every)
        } else {
            (now + every, now + min_gap)
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep_until(next) => {}
            () = nudged(&keys, nudge_from) => {}
        }
    }
}

async fn fetch(
    keys: &KeySet,
    source: &impl JwksSource,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let jwks = timeout(FETCH_TIMEOUT, source.fetch()).await??;
    Ok(keys.replace_from_jwks(&jwks)?)
}

/// Waits for a token of an unknown key, and then at least until `earliest`.
async fn nudged(keys: &KeySet, earliest: Instant) {
    keys.unknown_kid.notified().await;
    sleep_until(earliest).await;
}
