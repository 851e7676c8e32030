//! What is remembered of events, for so many of them at most.

use std::collections::HashMap;

use uuid::Uuid;

/// How many are remembered. Beyond that all are forgotten: they are soon learned again.
pub(super) const MOST: usize = 10_000;

/// Remembers `what` of the event, in place of what was known of it.
pub(super) fn remember<T>(known: &mut HashMap<Uuid, T>, event_id: Uuid, what: T) {
    if known.len() >= MOST && !known.contains_key(&event_id) {
        known.clear();
    }
    known.insert(event_id, what);
}
