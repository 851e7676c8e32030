//! One hot event.

use super::seats_are_right;
use crate::baselines::Flow;
use crate::bench::Bench;
use crate::load::{Call, Pace, Plan};
use crate::row::{PLENTY, Plot, Row};

/// The flows that are used today.
const FLOWS: [Flow; 3] = [Flow::B, Flow::A, Flow::C];

pub(super) async fn hot_event(bench: &Bench) -> anyhow::Result<Row> {
    let mut row = Row::new("hot-event", "one hot event, 100 clients, single replica");
    let (system, host) = bench.system(1).await?;
    for _ in 0..bench.rounds {
        let event = host.event(PLENTY).await?;
        let plan = bench.plan(&system, Call::Register { events: vec![event.clone()] }, 100);
        let (tally, used) = bench.load(&system, &plan).await?;
        seats_are_right(&system, &host, &[event], &tally, &["seat"]).await?;
        row.loaded("Rowlock", &tally, used);
        for flow in FLOWS {
            let measured = bench.baselines.run(flow, 100, 1, bench.time).await?;
            row.found(flow.name(), "/s", measured.rate);
        }
    }
    row.at_least(20.0, "× B", row.ratio("Rowlock: rate", "B"));
    bench.note_statements(&system, &mut row).await?;
    Ok(row)
}

pub(super) async fn clients(bench: &Bench) -> anyhow::Result<Row> {
    let mut row = Row::new("clients", "one hot event, from 100 to 1,000 clients");
    let (system, host) = bench.system(1).await?;
    let counts: &[usize] = if bench.quick { &[100, 1000] } else { &[1, 10, 100, 300, 1000] };
    let label = |clients: usize| format!("{clients} clients");
    for _ in 0..bench.rounds {
        for &clients in counts {
            let event = host.event(PLENTY).await?;
            let plan = bench.plan(&system, Call::Register { events: vec![event.clone()] }, clients);
            let (tally, used) = bench.load(&system, &plan).await?;
            seats_are_right(&system, &host, &[event], &tally, &["seat"]).await?;
            row.loaded(&label(clients), &tally, used);
            if clients >= 100 {
                row.line(Plot::Latency, &format!("one hot event, {clients} clients"), tally.curve);
            }
            if !bench.quick && clients <= 300 {
                for flow in FLOWS {
                    let rate = bench.baselines.run(flow, clients, 1, bench.time).await?.rate;
                    row.found(&format!("{} at {clients}", flow.name()), "/s", rate);
                }
            }
        }
    }
    let rate = |row: &Row, clients: usize| row.median(&format!("{}: rate", label(clients)));
    let least = counts
        .iter()
        .filter(|&&clients| clients >= 100)
        .map(|&clients| rate(&row, clients))
        .fold(f64::MAX, f64::min);
    row.at_least(0.95, "× the rate at 100, at its lowest", least / rate(&row, 100));
    row.at_most(100.0, "ms p99 at 1,000", row.median(&format!("{}: p99", label(1000))));
    row.line(Plot::Throughput, "Rowlock", counts.iter().map(|&n| (n as f64, rate(&row, n))).collect());
    for flow in FLOWS {
        let at = |&n: &usize| (n as f64, row.median(&format!("{} at {n}", flow.name())));
        let points = counts.iter().map(at).filter(|(_, rate)| rate.is_finite()).collect();
        row.line(Plot::Throughput, flow.name(), points);
    }
    Ok(row)
}

pub(super) async fn two_replicas(bench: &Bench) -> anyhow::Result<Row> {
    let mut row = Row::new("two-replicas", "two replicas on one hot event, 100 clients");
    let (one, host_of_one) = bench.system(1).await?;
    let (two, host_of_two) = bench.system(2).await?;
    for _ in 0..bench.rounds {
        for (name, system, host) in
            [("one replica", &one, &host_of_one), ("two replicas", &two, &host_of_two)]
        {
            let event = host.event(PLENTY).await?;
            let plan = bench.plan(system, Call::Register { events: vec![event.clone()] }, 100);
            let (tally, used) = bench.load(system, &plan).await?;
            seats_are_right(system, host, &[event], &tally, &["seat"]).await?;
            row.loaded(name, &tally, used);
        }
    }
    row.at_least(0.9, "× one replica", row.ratio("two replicas: rate", "one replica: rate"));
    Ok(row)
}

pub(super) async fn alone(bench: &Bench) -> anyhow::Result<Row> {
    let mut row = Row::new("alone", "alone, no load: p50 of Register");
    let (system, host) = bench.system(1).await?;
    for _ in 0..bench.rounds {
        let event = host.event(PLENTY).await?;
        let plan = bench.plan(&system, Call::Register { events: vec![event.clone()] }, 1);
        let (tally, used) = bench.load(&system, &plan).await?;
        seats_are_right(&system, &host, &[event], &tally, &["seat"]).await?;
        row.loaded("Rowlock", &tally, used);
        row.line(Plot::Latency, "alone", tally.curve);
        for flow in FLOWS {
            let measured = bench.baselines.run(flow, 1, 1, bench.time).await?;
            row.found(&format!("{} p50", flow.name()), "ms", measured.p50);
        }
    }
    row.at_most(1.3, "× B's p50", row.ratio("Rowlock: p50", "B p50"));
    Ok(row)
}

pub(super) async fn sold_out(bench: &Bench) -> anyhow::Result<Row> {
    let seats = bench.size(40_000, 5_000);
    let mut row = Row::new(
        "sold-out",
        "1,000 clients until the seats are gone, two replicas: exactly all of them are sold",
    );
    let (system, host) = bench.system(2).await?;
    for _ in 0..bench.rounds {
        let event = host.event(seats).await?;
        let calls = u64::try_from(seats + seats / 2)?;
        let plan = bench.plan(&system, Call::Register { events: vec![event.clone()] }, 1000);
        let plan = Plan { calls: Some(calls), measured: std::time::Duration::from_secs(60), ..plan };
        let (tally, _) = bench.load(&system, &plan).await?;
        seats_are_right(&system, &host, &[event], &tally, &["seat", "FAILED_PRECONDITION"]).await?;
        anyhow::ensure!(
            tally.count("seat") == u64::try_from(seats)?,
            "WRONG: {:?} for {seats} seats",
            tally.answers
        );
        row.found("seats sold", "", tally.count("seat") as f64);
        row.found("refused", "", tally.count("FAILED_PRECONDITION") as f64);
        row.seats_line("two replicas, 1,000 clients", seats, &tally);
    }
    Ok(row)
}

pub(super) async fn own_tokens(bench: &Bench) -> anyhow::Result<Row> {
    let mut row = Row::new(
        "own-tokens",
        "one hot event, 100 clients; everybody comes for the first time with a token of their own",
    );
    let people = bench.size(40_000, 2_000);
    let (system, host) = bench.system(1).await?;
    for _ in 0..bench.rounds {
        let event = host.event(PLENTY).await?;
        let plan = bench.plan(&system, Call::RegisterOneself { event: event.clone() }, 100);
        let plan = Plan { tokens: bench.attendees(people), calls: Some(u64::try_from(people)?), ..plan };
        let (tally, used) = bench.load(&system, &plan).await?;
        seats_are_right(&system, &host, &[event], &tally, &["seat"]).await?;
        row.loaded("first calls", &tally, used);
    }
    Ok(row)
}

pub(super) async fn own_connections(bench: &Bench) -> anyhow::Result<Row> {
    let mut row = Row::new("own-connections", "one hot event, 100 clients; each has a connection of its own");
    let (system, host) = bench.system(1).await?;
    for _ in 0..bench.rounds {
        let event = host.event(PLENTY).await?;
        let plan = bench.plan(&system, Call::Register { events: vec![event.clone()] }, 100);
        let (tally, used) = bench.load(&system, &Plan { connections: 100, ..plan }).await?;
        seats_are_right(&system, &host, &[event], &tally, &["seat"]).await?;
        row.loaded("100 connections", &tally, used);
    }
    Ok(row)
}

pub(super) async fn open_loop(bench: &Bench) -> anyhow::Result<Row> {
    let mut row =
        Row::new("open-loop", "one hot event, calls that come whether or not earlier ones are answered");
    let (system, host) = bench.system(1).await?;
    for _ in 0..bench.rounds {
        for per_second in [1_000.0, 2_500.0, 5_000.0, 7_500.0] {
            let event = host.event(PLENTY).await?;
            let plan = bench.plan(&system, Call::Register { events: vec![event.clone()] }, 100);
            let plan = Plan { pace: Pace::Open { per_second }, ..plan };
            let (tally, used) = bench.load(&system, &plan).await?;
            seats_are_right(&system, &host, &[event], &tally, &["seat"]).await?;
            row.loaded(&format!("{per_second} a second"), &tally, used);
            row.line(Plot::Latency, &format!("open loop, {per_second}/s"), tally.curve);
        }
    }
    Ok(row)
}
