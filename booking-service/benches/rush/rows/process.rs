//! The process itself: what it costs to have one, and to know a caller.

use std::hint::black_box;

use service_core::auth::Role;
use tokio::time::Instant;

use super::seats_are_right;
use crate::bench::Bench;
use crate::load::{Call, Plan, new_id};
use crate::row::{PLENTY, Row};
use crate::server::binary;

const MIB: f64 = 1024.0 * 1024.0;

pub(super) async fn auth(bench: &Bench) -> anyhow::Result<Row> {
    let mut row =
        Row::new("auth", "a known token, for each call (in this process; `--bench decide` guards it)");
    let verifier = bench.mint.verifier();
    let tokens: Vec<String> = (0..1000).map(|_| bench.mint.token(new_id(), Role::Attendee)).collect();
    for _ in 0..bench.rounds {
        for name in ["new", "known"] {
            let (repeats, verifier) =
                if name == "new" { (1, &bench.mint.verifier()) } else { (20, &verifier) };
            let verify = || -> anyhow::Result<()> {
                for token in &tokens {
                    black_box(verifier.verify(black_box(token))?);
                }
                Ok(())
            };
            if name == "known" {
                verify()?;
            }
            let began = Instant::now();
            for _ in 0..repeats {
                verify()?;
            }
            let each = began.elapsed().as_secs_f64() * 1e6 / (f64::from(repeats) * tokens.len() as f64);
            row.found(&format!("{name} token"), "µs", each);
        }
    }
    row.at_most(5.0, "µs", row.median("known token"));
    Ok(row)
}

pub(super) async fn memory(bench: &Bench) -> anyhow::Result<Row> {
    let watchers = bench.size(5_000, 500);
    let mut row = Row::new(
        "memory",
        &format!("memory, idle, and at its highest with 1,000 clients and {watchers} watchers"),
    );
    for _ in 0..bench.rounds {
        let (system, host) = bench.system(1).await?;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let memory = || system.replicas.first().map_or((f64::NAN, f64::NAN), crate::server::Replica::memory);
        row.found("idle", "MiB", memory().0);
        let events = host.events(100, PLENTY).await?;
        let watches = events.iter().cycle().take(watchers).cloned().collect();
        let plan = bench.plan(&system, Call::Register { events: events.clone() }, 1000);
        let plan = Plan { connections: 1000, watches, ..plan };
        let (tally, used) = bench.load(&system, &plan).await?;
        seats_are_right(&system, &host, &events, &tally, &["seat"]).await?;
        row.found("at its highest", "MiB", memory().1);
        row.found("messages to watchers", "", tally.watched as f64);
        row.loaded("Register", &tally, used);
    }
    row.at_most(30.0, "MiB idle", row.median("idle"));
    row.at_most(120.0, "MiB at its highest", row.median("at its highest"));
    Ok(row)
}

pub(super) async fn start(bench: &Bench) -> anyhow::Result<Row> {
    let mut row = Row::new("start", "from start to ready on a migrated database; the release binary");
    for _ in 0..bench.rounds {
        let (system, _) = bench.system(1).await?;
        for replica in &system.replicas {
            row.found("ready after", "s", replica.ready_after.as_secs_f64());
        }
    }
    row.found("binary", "MiB", std::fs::metadata(binary())?.len() as f64 / MIB);
    row.at_most(0.5, "s to ready", row.median("ready after"));
    row.at_most(25.0, "MiB of binary", row.median("binary"));
    Ok(row)
}
