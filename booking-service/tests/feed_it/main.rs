//! What lives by itself: holds and offers that lapse, watches, the change stream, the audit trail, retention. Over real
//! sockets and several replicas, in the house of `booking_it`.
//!
//! `ROWLOCK_TEST_SCALE=20 cargo test --release --test feed_it -- --nocapture --test-threads 1` prints figures by hand.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is tests"
)]
#![expect(dead_code, reason = "booking_it needs more of the house than this does")]

#[path = "../booking_it/acts.rs"]
mod acts;
#[path = "../booking_it/caller.rs"]
mod caller;
mod crowd;
#[path = "../booking_it/identity.rs"]
mod identity;
#[path = "../booking_it/proof.rs"]
mod proof;
#[path = "../booking_it/refusal.rs"]
mod refusal;
#[path = "../booking_it/system.rs"]
mod system;

mod audit;
mod lapse;
mod stream;
mod watch;
