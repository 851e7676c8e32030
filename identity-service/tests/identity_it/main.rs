//! identity-service over real sockets: gRPC, HTTP, PostgreSQL, and the binary itself.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is tests"
)]

mod access;
mod admin;
mod architecture;
mod audit;
mod backoff;
mod bad_input;
mod binary;
mod change_password;
mod child;
mod database;
mod decoders;
mod deletion;
mod guessing;
mod jwks;
mod password_reset;
mod raw;
mod revocations;
mod rotation;
mod server;
mod service_accounts;
mod sessions;
mod sign_in;
mod sign_up;
mod tls;
mod tokens;
mod traces;
mod users;
