//! booking-service over real sockets: gRPC by several replicas, PostgreSQL, and the binary itself.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is tests"
)]

mod access;
mod acts;
mod caller;
mod child;
mod contract;
mod fuzz;
mod identity;
mod panics;
mod proof;
mod proxy;
mod raw;
mod refusal;
mod scene;
mod system;

mod bad_input;
mod bad_lists;
mod binary;
mod capacity;
mod change_log;
mod counting;
mod decoders;
mod duels;
mod events;
mod interference;
mod limits;
mod lists;
mod lookup;
mod lost_commits;
mod offers;
mod outages;
mod races;
mod registrations;
mod request_ids;
mod revocations;
mod simulate;
mod tls;
mod tokens;
mod traces;
mod turmoil;
mod unlocked;
mod waitlist;
