//! identity-service: who people are, and the tokens that prove it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`domain`] | the rules, without I/O |
//! | [`accounts`] | what the rpcs do, step by step |
//! | [`hashing`] | Argon2id on a bounded number of threads |
//! | [`signing`] | key files, the JWKS, access tokens |
//! | [`revocations`] | revoked tokens as they become known to this replica |
//! | [`store`] | SQL |
//! | [`grpc`] | messages, status codes, and who may call what |
//! | [`cli`], [`config`] | the command line and the checked configuration |
//! | [`serve`], [`commands`] | what the binary does |
//!
//! # How to add an rpc
//!
//! Its line in `grpc/access.rs`, its reading and writing in `grpc/convert.rs`, its steps in `accounts/`, its
//! statements in `store/`, its rules in `domain/`; a new way to fail is a variant of [`domain::Error`], and
//! the compiler then asks `grpc/error.rs` for its status. `deploy/local/sqlx-prepare` refreshes `.sqlx` when
//! a statement changed.

pub mod accounts;
pub mod cli;
pub mod commands;
pub mod config;
pub mod domain;
pub mod grpc;
pub mod hashing;
mod http;
pub mod revocations;
pub mod serve;
pub mod signing;
pub mod sources;
pub mod store;
mod whole_file;

/// The schema of this service's database.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/identity");
