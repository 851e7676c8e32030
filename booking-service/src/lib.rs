//! booking-service: events, registrations, waitlists, and the seats under one row lock.
//!
//! | module | what it holds |
//! |---|---|
//! | [`domain`] | the rules, without I/O: what a batch of commands does to its events |
//! | [`seating`] | inbox, batches, transactions: how commands reach the rules and their effects the database |
//! | [`store`] | SQL |
//! | [`grpc`] | messages, status codes, and who may call what |
//! | [`identity`] | identity-service as a server of ours: keys, revocations |
//! | [`feed`] | the change log as it grows: watches and streams |
//! | [`worker`] | what happens by itself: lapsed holds and offers, retention |
//! | [`simulate`] | rehearsals on private copies of events |
//! | [`cli`], [`config`] | the command line and the checked configuration |
//! | [`serve`], [`commands`], [`demo`] | what the binary does |
//!
//! # How to find a behaviour
//!
//! An rpc `DoThing` is a function `do_thing` in the service's file below `grpc/`. If it changes seats or a queue it makes a
//! [`domain::command::Action`], and what that does is the function of that name below `domain/decide/`. If it reads, it
//! calls a function in `store/`. Every way to be refused is a [`domain::refusal::Refusal`], and `grpc/error.rs` gives it
//! its status.
//!
//! # How to add a command
//!
//! A variant of `Action`; the rows that it needs in `domain/facts.rs`; its rule below `domain/decide/`; what it may be
//! refused for. Locking, loading, writing, retrying and answering are there already.

pub mod cli;
pub mod commands;
pub mod config;
pub mod demo;
pub mod domain;
pub mod feed;
mod gather;
pub mod grpc;
pub mod identity;
pub mod seating;
pub mod serve;
pub mod simulate;
pub mod store;
pub mod worker;

/// The schema of this service's database.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/booking");
