//! Real processes that are broken under load, and the proof afterwards that every promise held.
//!
//! A crowd of clients writes down every answer before it goes on (`journal`); a fault is injected, many times; then the
//! clients repeat what they got no answer to, and the books are compared: what the clients were told, the tables, the
//! change log, the feed and the watches (`checks`, `order`, `follow`). Each fault prints one line.
//!
//! These take minutes and the whole machine, so they run when they are asked for: `deploy/local/test faults`.
//! `ROWLOCK_TEST_SCALE` (1) multiplies how often a fault is injected. That the checks can fail is tested always
//! (`planted`, `sabotage`).
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is tests"
)]
#![expect(dead_code, reason = "booking_it and feed_it need more of the house than this does")]

#[path = "../booking_it/acts.rs"]
mod acts;
#[path = "../booking_it/caller.rs"]
mod caller;
#[path = "../booking_it/child.rs"]
mod child;
#[path = "../feed_it/stream/copy.rs"]
mod copy;
#[path = "../booking_it/identity.rs"]
mod identity;
#[path = "../booking_it/proof.rs"]
mod proof;
#[path = "../booking_it/proxy.rs"]
mod proxy;
#[path = "../booking_it/refusal.rs"]
mod refusal;
#[path = "../booking_it/system.rs"]
mod system;

mod checks;
mod envoy;
mod follow;
mod journal;
mod load;
mod order;
mod policy;
mod proving;
mod report;
mod stage;

mod blackhole;
mod callers;
mod clocks;
mod commits;
mod disk;
mod failover;
mod locks;
mod planted;
mod pooler;
mod releases;
mod replicas;
mod sabotage;
mod server;
mod storms;
