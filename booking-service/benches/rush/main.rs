//! The rush: how fast Rowlock is, beside what one would have instead. See `benches/README.md`.

mod baselines;
mod bench;
mod empty;
mod load;
mod page;
mod proof;
mod report;
mod row;
mod rows;
mod server;
mod usage;

// As far as booking-service needs it: a publisher of keys.
#[allow(clippy::unwrap_used, dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/booking_it/identity.rs"]
mod identity;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use mimalloc::MiMalloc;
use service_core::clock::{Clock, SystemClock};
use time::format_description::well_known::Rfc3339;

use bench::Bench;
use report::Run;
use rows::ROWS;

// As in the service, for the empty call.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The argument that makes this program the load generator.
pub(crate) const LOAD: &str = "load";

const USAGE: &str = "\
usage: cargo bench -p booking-service --bench rush -- [--quick] [--only ROW,ROW…] [--rounds N] [--seconds S] [--profile]

  --quick      one short round of everything, on small tables: for its correctness, not for its figures
  --only       these rows alone; results are kept, so a table can be gathered in portions
  --rounds     interleaved rounds (3)
  --seconds    how long one thing is measured in a round (4)
  --profile    also what PostgreSQL spent its time on, by pg_stat_statements (in rows hot-event and cancel)
  --report     measure nothing: the table and the page of what is there of this build
  --list       the names of the rows";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some(LOAD) => load::main(),
        _ => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = report::progress(&format!("error: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

struct Options {
    quick: bool,
    profile: bool,
    report: bool,
    list: bool,
    only: Option<Vec<String>>,
    rounds: usize,
    seconds: Option<f64>,
}

impl Options {
    fn read(arguments: &[String]) -> anyhow::Result<Self> {
        let mut options = Self {
            quick: false,
            profile: false,
            report: false,
            list: false,
            only: None,
            rounds: 0,
            seconds: None,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
            match argument.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--quick" => options.quick = true,
                "--profile" => options.profile = true,
                "--report" => options.report = true,
                "--list" => options.list = true,
                "--only" => options.only = Some(value()?.split(',').map(str::to_owned).collect()),
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.seconds = Some(value()?.parse()?),
                _ => anyhow::bail!("{argument} is not known\n{USAGE}"),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 1 } else { 3 };
        }
        for name in options.only.iter().flatten() {
            anyhow::ensure!(ROWS.iter().any(|(row, _)| row == name), "there is no row {name}; see --list");
        }
        Ok(options)
    }

    fn wants(&self, row: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|name| name == row))
    }
}

fn measure(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::read(arguments)?;
    let names: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
    if options.list {
        return report::say(&names.join("\n"));
    }
    if !options.report {
        // Few threads: this process waits while others work.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(run(&options))?;
    }
    let runs = report::kept(&names, &server::build()?)?;
    let folder = report::folder()?;
    std::fs::write(folder.join("rush.json"), serde_json::to_vec_pretty(&runs)?)?;
    std::fs::write(folder.join("rush.html"), page::page(&runs)?)?;
    let measured: Vec<Run> = runs.into_iter().filter(|run| options.wants(&run.row.name)).collect();
    report::say(&report::table(&measured)?)?;
    report::say(&format!("{}\n{}", folder.join("rush.html").display(), folder.join("rush.json").display()))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let seconds = options.seconds.unwrap_or(if options.quick { 1.0 } else { 4.0 });
    let time = Duration::try_from_secs_f64(seconds).context("--seconds is a time")?;
    let bench = Bench::prepare(options.rounds, time, options.quick, options.profile).await?;
    let settings = server::settings(&bench.baselines.pool).await?;
    let (machine, build) = (machine(), server::build()?);
    report::say(&format!("{machine}\n{}\n", settings.join(", ")))?;
    for (name, measure) in ROWS.iter().filter(|(name, _)| options.wants(name)) {
        report::progress(&format!("{name} …"))?;
        let began = SystemClock.now();
        let row = measure(&bench).await.with_context(|| format!("row {name}"))?;
        report::say(&report::text(&row)?)?;
        anyhow::ensure!(row.is_complete(), "row {name} has figures without a value");
        let time = began.format(&Rfc3339)?;
        let (machine, build, settings) = (machine.clone(), build.clone(), settings.clone());
        report::keep(&Run {
            time,
            build,
            machine,
            settings,
            rounds: options.rounds,
            seconds,
            quick: options.quick,
            row,
        })?;
    }
    Ok(())
}

/// The processor and how much of it there is.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("", |(_, name)| name);
    format!("{cores} cores {model}, with clients, services and PostgreSQL all on them")
}
