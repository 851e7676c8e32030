//! The rules of booking without a database: cases that say what each rule is, and properties that hold them against a
//! naive model over random sequences of commands in random batches.
//!
//! `cases/` reads as a list of facts. `properties` plays what `scenario` makes up: once in [`model`], which is written
//! from the contract's words and scans everything, and twice through the rules, behind a [`store`] that gives them
//! nothing that they did not ask for and refuses what the database would refuse.

#![cfg(test)]

mod architecture;
mod audit;
mod cases;
mod model;
mod promises;
mod properties;
mod scenario;
mod snapshot;
mod store;
mod world;
