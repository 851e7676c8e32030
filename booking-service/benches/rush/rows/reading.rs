//! What changes nothing: reads, and refusals.

use super::{answers_are, seats_are_right};
use crate::bench::{Bench, Host};
use crate::load::{Call, FIRST_START, Pace, Plan};
use crate::proof::{Books, prove};
use crate::row::Row;
use crate::server::System;

pub(super) async fn refusals(bench: &Bench) -> anyhow::Result<Row> {
    let mut row = Row::new("refusals", "refusals once full, 100 clients");
    let (system, host) = bench.system(1).await?;
    let event = host.event(1).await?;
    let first = bench.plan(&system, Call::Register { events: vec![event.clone()] }, 1);
    let (first, _) = bench.load(&system, &Plan { calls: Some(1), ..first }).await?;
    seats_are_right(&system, &host, std::slice::from_ref(&event), &first, &["seat"]).await?;
    for _ in 0..bench.rounds {
        empty_calls(bench, &system, &mut row).await?;
        let plan = bench.plan(&system, Call::Register { events: vec![event.clone()] }, 100);
        let (tally, used) = bench.load(&system, &plan).await?;
        answers_are(&tally, &["FAILED_PRECONDITION"])?;
        row.loaded("refused", &tally, used);
        prove(&host, &system.pool, std::slice::from_ref(&event), Books { seated: 1, waiting: 0 }).await?;
    }
    row.at_least(0.6, "× the empty call", row.ratio("refused: rate", "empty call: rate"));
    Ok(row)
}

pub(super) async fn reading(bench: &Bench) -> anyhow::Result<Row> {
    let count = bench.size(100_000, 2_000);
    let mut row =
        Row::new("reading", &format!("a page of ListEvents over {count} events; GetEvent; 100 clients"));
    let (system, host) = bench.system(1).await?;
    let events = many_events(&system, &host, count).await?;
    let hours = i64::try_from(count)?;
    for _ in 0..bench.rounds {
        empty_calls(bench, &system, &mut row).await?;
        let calls = [
            ("GetEvent", Call::GetEvent { events: events.clone() }),
            ("ListEvents", Call::ListEvents { hours }),
        ];
        for (name, call) in calls {
            let plan = bench.plan(&system, call, 100);
            let (tally, used) = bench.load(&system, &plan).await?;
            answers_are(&tally, &["ok"])?;
            row.loaded(name, &tally, used);
            // Half as many calls, whether or not earlier ones have their answer.
            let pace = Pace::Open { per_second: tally.rate / 2.0 };
            let (tally, used) = bench.load(&system, &Plan { pace, ..plan }).await?;
            answers_are(&tally, &["ok"])?;
            row.loaded(&format!("{name} at half that rate"), &tally, used);
        }
    }
    row.at_most(5.0, "ms p99 of ListEvents", row.median("ListEvents: p99"));
    row.at_most(5.0, "ms p99 of GetEvent", row.median("GetEvent: p99"));
    row.at_least(0.5, "× the empty call, GetEvent", row.ratio("GetEvent: rate", "empty call: rate"));
    Ok(row)
}

/// What the bars of reads and refusals are measured by.
async fn empty_calls(bench: &Bench, system: &System, row: &mut Row) -> anyhow::Result<()> {
    let replicas = vec![format!("http://{}", bench.empty.address)];
    let plan = Plan { replicas, ..bench.plan(system, Call::Empty, 100) };
    let (tally, used) = bench.load(system, &plan).await?;
    answers_are(&tally, &["ok"])?;
    row.answered("empty call", &tally);
    // Its server is in this process.
    let each = used.clients.as_secs_f64() * 1e6 / (tally.calls() as f64).max(1.0);
    row.found("empty call: server and client CPU", "µs/call", each);
    Ok(())
}

/// So many events, one beginning each hour, all like one that was made by the service.
async fn many_events(system: &System, host: &Host, count: usize) -> anyhow::Result<Vec<String>> {
    let pattern = host.event(100).await?;
    let made = sqlx::query_scalar(
        "INSERT INTO events (id, organizer_id, title, description, location, start_time, end_time, capacity,
                             seats_remaining, max_seats_per_registration, waitlist_policy, offer_ttl_ms,
                             queue_discipline, state, version, create_time, update_time)
         SELECT gen_random_uuid(), organizer_id, title || ' ' || n, repeat('Everything about it. ', 10), location,
                to_timestamp($3) + n * interval '1 hour', to_timestamp($3) + n * interval '1 hour' + interval '2 hours',
                capacity, seats_remaining, max_seats_per_registration, waitlist_policy, offer_ttl_ms, queue_discipline,
                state, version, create_time, update_time
           FROM events, generate_series(1, $2) AS n WHERE id = $1::uuid
         RETURNING id::text",
    );
    let events = made.bind(&pattern).bind(i32::try_from(count)?).bind(FIRST_START as f64);
    let events = events.fetch_all(&system.pool).await?;
    sqlx::query("VACUUM ANALYZE events").execute(&system.pool).await?;
    Ok(events)
}
