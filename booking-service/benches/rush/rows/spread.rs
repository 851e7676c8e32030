//! Many events at once.

use std::time::Duration;

use super::seats_are_right;
use crate::baselines::Flow;
use crate::bench::{Bench, send};
use crate::load::{Call, Pace, Plan};
use crate::row::{PLENTY, Row};

/// What arrives for the neighbours of a rush, in calls a second.
const QUIET_RATE: f64 = 300.0;

pub(super) async fn many(bench: &Bench, name: &str, clients: usize, bar: f64) -> anyhow::Result<Row> {
    let mut row = Row::new(name, &format!("1,000 events, {clients} clients"));
    let (system, host) = bench.system(1).await?;
    for _ in 0..bench.rounds {
        let events = host.events(1000, PLENTY).await?;
        let plan = bench.plan(&system, Call::Register { events: events.clone() }, clients);
        let (tally, used) = bench.load(&system, &plan).await?;
        seats_are_right(&system, &host, &events, &tally, &["seat"]).await?;
        row.loaded("Rowlock", &tally, used);
        for flow in [Flow::B, Flow::C] {
            row.found(flow.name(), "/s", bench.baselines.run(flow, clients, 1000, bench.time).await?.rate);
        }
    }
    row.at_least(bar, "× C", row.ratio("Rowlock: rate", "C"));
    Ok(row)
}

pub(super) async fn neighbours(bench: &Bench) -> anyhow::Result<Row> {
    let mut row = Row::new("neighbours", "p99 of other events' Register during a 1,000-client rush on one");
    let (system, host) = bench.system(1).await?;
    for _ in 0..bench.rounds {
        let others = host.events(100, PLENTY).await?;
        let quiet = bench.plan(&system, Call::Register { events: others.clone() }, 100);
        let quiet = Plan { pace: Pace::Open { per_second: QUIET_RATE }, ..quiet };
        let (before, used) = bench.load(&system, &quiet).await?;
        row.loaded("without the rush", &before, used);

        let hot = host.event(PLENTY).await?;
        let rush = bench.plan(&system, Call::Register { events: vec![hot.clone()] }, 1000);
        // It is there from before the others until after.
        let rush = Plan { measured: rush.measured + Duration::from_secs(2), ..rush };
        let quiet = Plan { warm_up: quiet.warm_up + Duration::from_secs(1), ..quiet };
        system.settle().await?;
        let (rush, during) = tokio::try_join!(send(&rush), send(&quiet))?;
        row.found("during the rush: p50", "ms", during.p50);
        row.found("during the rush: p99", "ms", during.p99);
        row.found("the rush: rate", "/s", rush.rate);
        seats_are_right(&system, &host, &[hot], &rush, &["seat"]).await?;
        let mut both = before;
        *both.answers.entry("seat".to_owned()).or_default() += during.count("seat");
        super::answers_are(&during, &["seat"])?;
        seats_are_right(&system, &host, &others, &both, &["seat"]).await?;
    }
    row.at_most(3.0, "× without the rush", row.ratio("during the rush: p99", "without the rush: p99"));
    Ok(row)
}
