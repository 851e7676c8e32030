//! Company for what is done in batches.

use tokio::task::yield_now;

/// How often a batch yields for company at most.
const MOST: usize = 4;

/// Lets those come along whose calls have arrived already but were not looked at yet: not by the clock, but as long as the
/// runtime's other tasks bring more. `waiting` says how many there are.
pub(crate) async fn gather(waiting: impl Fn() -> usize) {
    let mut before = waiting();
    for _ in 0..MOST {
        yield_now().await;
        let now = waiting();
        if now == before {
            return;
        }
        before = now;
    }
}
