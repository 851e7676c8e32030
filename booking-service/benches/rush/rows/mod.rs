//! The rows of the table.

mod growth;
mod hot;
mod process;
mod queue;
mod reading;
mod spread;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use crate::bench::{Bench, Host};
use crate::load::Tally;
use crate::proof::{Books, prove};
use crate::row::Row;
use crate::server::System;

/// Measures a row.
pub(crate) type Measure = for<'a> fn(&'a Bench) -> LocalBoxFuture<'a, anyhow::Result<Row>>;

/// Every row: the name to choose it by, and how it is measured.
pub(crate) const ROWS: &[(&str, Measure)] = &[
    ("hot-event", |bench| hot::hot_event(bench).boxed_local()),
    ("clients", |bench| hot::clients(bench).boxed_local()),
    ("two-replicas", |bench| hot::two_replicas(bench).boxed_local()),
    ("many-64", |bench| spread::many(bench, "many-64", 64, 1.0).boxed_local()),
    ("many-256", |bench| spread::many(bench, "many-256", 256, 1.4).boxed_local()),
    ("alone", |bench| hot::alone(bench).boxed_local()),
    ("neighbours", |bench| spread::neighbours(bench).boxed_local()),
    ("refusals", |bench| reading::refusals(bench).boxed_local()),
    ("queue", |bench| queue::queue(bench).boxed_local()),
    ("cancel", |bench| queue::cancel(bench).boxed_local()),
    ("reading", |bench| reading::reading(bench).boxed_local()),
    ("auth", |bench| process::auth(bench).boxed_local()),
    ("memory", |bench| process::memory(bench).boxed_local()),
    ("start", |bench| process::start(bench).boxed_local()),
    ("growth", |bench| growth::growth(bench).boxed_local()),
    ("sold-out", |bench| hot::sold_out(bench).boxed_local()),
    ("own-tokens", |bench| hot::own_tokens(bench).boxed_local()),
    ("own-connections", |bench| hot::own_connections(bench).boxed_local()),
    ("open-loop", |bench| hot::open_loop(bench).boxed_local()),
];

/// Proves that the books are what the answers of a load say, and that all answers were of these kinds.
async fn seats_are_right(
    system: &System,
    host: &Host,
    events: &[String],
    tally: &Tally,
    allowed: &[&str],
) -> anyhow::Result<()> {
    answers_are(tally, allowed)?;
    let expected = Books { seated: tally.count("seat"), waiting: tally.count("queue") };
    prove(host, &system.pool, events, expected).await
}

/// A call that fails is not part of a figure: it is the end of the benchmark.
fn answers_are(tally: &Tally, allowed: &[&str]) -> anyhow::Result<()> {
    let others: Vec<_> =
        tally.answers.iter().filter(|(answer, _)| !allowed.contains(&answer.as_str())).collect();
    anyhow::ensure!(others.is_empty(), "WRONG: unexpected answers {others:?}, such as {:?}", tally.example);
    Ok(())
}
