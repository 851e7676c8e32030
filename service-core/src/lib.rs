//! What both services of Rowlock use and that knows no domain.
//!
//! A module enters this crate only when both services use it. Nothing here names an event, a seat or a password.
//!
//! | module | what it gives |
//! |---|---|
//! | [`clock`], [`ids`] | time and identifiers as parameters |
//! | [`secret`], [`digest`] | strings that do not print, SHA-256 over parts |
//! | [`status`] | how an error looks on the wire |
//! | [`validation`], [`page`] | reading requests: every violation at once, page tokens |
//! | [`auth`], [`token`] | who calls, what a method asks for, and how a token is verified |
//! | [`config`], [`telemetry`], [`lifecycle`] | options, logs and metrics, signals and readiness |
//! | [`trace`] | which calls and statements took how long, for a collector |
//! | [`server`], [`layers`] | the server stack, the same for both services |
//! | [`tls`], [`upstream`] | certificates that may change while they are used, the way to another service |
//! | [`stream_end`] | when a stream that would go on for ever has to end |
//! | [`database`], [`database_check`], [`migrate`] | the pool, transactions that are retried, readiness, the schema |
//! | [`health`] | the `health` command |
//! | `test_support` | feature `test-support`: a throw-away PostgreSQL and a token mint |

pub mod auth;
pub mod clock;
pub mod config;
pub mod database;
pub mod database_check;
pub mod digest;
pub mod health;
pub mod ids;
pub mod layers;
pub mod lifecycle;
pub mod migrate;
pub mod pace;
pub mod page;
pub mod secret;
pub mod server;
pub mod shares;
pub mod status;
pub mod stream_end;
pub mod telemetry;
#[cfg(feature = "test-support")]
pub mod test_support;
pub mod tls;
pub mod token;
pub mod trace;
pub mod upstream;
pub mod validation;
