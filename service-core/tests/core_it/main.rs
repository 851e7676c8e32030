//! service-core over real sockets and a real PostgreSQL.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy knows test functions, but not what they call"
)]

mod bench;
mod cluster;
mod connections;
mod drain;
mod errors;
mod migrations;
mod operations;
mod outages;
mod probe;
mod signals;
mod tls;
mod transactions;
