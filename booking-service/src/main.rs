//! The binary: parses the command line and runs a command.

use std::io::Write;
use std::process::ExitCode;

use booking_service::cli::{Cli, Command};
use booking_service::config::DEFAULTS;
use booking_service::{MIGRATOR, commands, demo};
use clap::{CommandFactory, Parser};
use mimalloc::MiMalloc;
use service_core::config::{ConfigErrors, unknown_variables};
use service_core::health;

// Measured, see benches/README.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The exit code of a configuration that is wrong, as clap has it for the command line.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    // The demo runs in the environment of `local.env`, which is for everybody.
    if !matches!(cli.command, Command::Demo(_)) {
        for name in unknown_variables(&Cli::command(), variables) {
            complain(&format!("warning: the environment variable {name} is not known and has no effect"));
        }
    }
    match run(cli.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            if error.is::<ConfigErrors>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => Box::pin(commands::serve(*args, &MIGRATOR)).await,
        Command::Migrate(args) => Box::pin(commands::migrate(*args, &MIGRATOR)).await,
        Command::Health(args) => {
            health::ask(args, DEFAULTS.grpc.port()).await?;
            commands::say("serving")
        }
        Command::Demo(args) => Box::pin(demo::run(args)).await,
    }
}

fn complain(line: &str) {
    // Nowhere is left to say that standard error cannot be written.
    let _ = writeln!(std::io::stderr(), "booking-service: {line}");
}
