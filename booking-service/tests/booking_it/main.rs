//! booking-service over real sockets: gRPC by several replicas, PostgreSQL, and the binary itself.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is tests"
)]

mod acts;
mod caller;
mod crowd;
mod identity;
mod proof;
mod refusal;
mod system;

mod change_log;
mod counting;
mod events;
mod interference;
mod lapse;
mod lists;
mod offers;
mod races;
mod registrations;
mod request_ids;
mod stream;
mod turmoil;
mod waitlist;
mod watch;
