//! Queues: long ones, and the way from them to a seat.

use std::time::Duration;

use super::{answers_are, seats_are_right};
use crate::bench::{Bench, Host};
use crate::load::{Call, Plan, Tally};
use crate::proof::{Books, prove};
use crate::row::{PLENTY, Row};
use crate::server::System;

/// As long as it takes: the end comes with the number of calls.
const UNTIL_DONE: Duration = Duration::from_secs(300);

pub(super) async fn queue(bench: &Bench) -> anyhow::Result<Row> {
    let waiting = bench.size(100_000, 2_000);
    let mut row = Row::new("queue", &format!("joining the queue, and the rank in it, at {waiting} waiting"));
    let (system, host) = bench.system(1).await?;
    let long = full_event(bench, &system, &host, 1).await?;
    let mut queued = fill(bench, &system, Call::Join { event: long.clone() }, waiting).await?.count("queue");
    for _ in 0..bench.rounds {
        let short = full_event(bench, &system, &host, 1).await?;
        let mut queued_behind_few = 0;
        for (name, event) in [("empty queue", &short), ("long queue", &long)] {
            // One client: how long it takes; a hundred: how many it is.
            for clients in [1, 100] {
                let plan = bench.plan(&system, Call::Join { event: event.clone() }, clients);
                let calls = Some(u64::try_from(bench.size(5_000, 500))?).filter(|_| clients == 100);
                let (tally, used) = bench.load(&system, &Plan { calls, ..plan }).await?;
                answers_are(&tally, &["queue"])?;
                row.loaded(&format!("{name}, {clients} clients"), &tally, used);
                let queue = if event == &long { &mut queued } else { &mut queued_behind_few };
                *queue += tally.count("queue");
            }
        }
        let entries = sqlx::query_scalar(
            "SELECT id::text FROM waitlist_entries WHERE event_id = $1::uuid AND state = 'WAITING' ORDER BY random() LIMIT 10000",
        );
        let entries = entries.bind(&long).fetch_all(&system.pool).await?;
        let (tally, used) = bench.load(&system, &bench.plan(&system, Call::Rank { entries }, 1)).await?;
        answers_are(&tally, &["ok"])?;
        row.loaded("rank", &tally, used);
        for (event, waiting) in [(&long, queued), (&short, queued_behind_few)] {
            prove(&host, &system.pool, std::slice::from_ref(event), Books { seated: 1, waiting }).await?;
        }
    }
    row.at_most(
        1.3,
        "× the p50 of joining an empty queue",
        row.ratio("long queue, 1 clients: p50", "empty queue, 1 clients: p50"),
    );
    row.at_most(
        1.3,
        "× fewer joins a second",
        row.ratio("empty queue, 100 clients: rate", "long queue, 100 clients: rate"),
    );
    row.at_most(5.0, "ms p99 of a rank", row.median("rank: p99"));
    Ok(row)
}

pub(super) async fn cancel(bench: &Bench) -> anyhow::Result<Row> {
    let mut row = Row::new("cancel", "cancellations that each promote somebody, 100 clients");
    let (system, host) = bench.system(1).await?;
    let seats = bench.size(40_000, 3_000);
    for _ in 0..bench.rounds {
        let open = host.event(PLENTY).await?;
        let plan = bench.plan(&system, Call::Register { events: vec![open.clone()] }, 100);
        let (registered, used) = bench.load(&system, &plan).await?;
        seats_are_right(&system, &host, &[open], &registered, &["seat"]).await?;
        row.loaded("Register", &registered, used);

        let event = full_event(bench, &system, &host, seats).await?;
        fill(bench, &system, Call::Join { event: event.clone() }, seats).await?;
        let registrations = sqlx::query_scalar(
            "SELECT id::text FROM registrations WHERE event_id = $1::uuid ORDER BY random()",
        );
        let registrations = registrations.bind(&event).fetch_all(&system.pool).await?;
        let plan = bench.plan(&system, Call::Cancel { registrations }, 100);
        let (tally, used) = bench.load(&system, &Plan { calls: Some(u64::try_from(seats)?), ..plan }).await?;
        answers_are(&tally, &["ok"])?;
        row.loaded("CancelRegistration", &tally, used);
        let seated = u64::try_from(seats)?;
        prove(&host, &system.pool, &[event], Books { seated, waiting: seated - tally.calls() }).await?;
    }
    row.at_least(0.5, "× Register", row.ratio("CancelRegistration: rate", "Register: rate"));
    bench.note_statements(&system, &mut row).await?;
    Ok(row)
}

/// An event whose seats are all taken.
async fn full_event(bench: &Bench, system: &System, host: &Host, seats: usize) -> anyhow::Result<String> {
    let event = host.event(seats).await?;
    let tally = fill(bench, system, Call::Register { events: vec![event.clone()] }, seats).await?;
    seats_are_right(system, host, std::slice::from_ref(&event), &tally, &["seat"]).await?;
    Ok(event)
}

async fn fill(bench: &Bench, system: &System, call: Call, count: usize) -> anyhow::Result<Tally> {
    let plan = bench.plan(system, call, 200.min(count));
    let plan = Plan { calls: Some(u64::try_from(count)?), measured: UNTIL_DONE, ..plan };
    let (tally, _) = bench.load(system, &plan).await?;
    answers_are(&tally, &["seat", "queue"])?;
    Ok(tally)
}
