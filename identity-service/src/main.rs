//! The binary: parses the command line and runs a command.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use identity_service::cli::{AdminCommand, Cli, Command, ServiceAccountCommand};
use identity_service::commands;
use service_core::config::{ConfigErrors, unknown_variables};

/// The exit code of a configuration that is wrong, as clap has it for the command line.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in unknown_variables(&Cli::command(), variables) {
        complain(&format!("warning: the environment variable {name} is not known and has no effect"));
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
        Command::Serve(args) => Box::pin(commands::serve(*args)).await,
        Command::Migrate(args) => Box::pin(commands::migrate(*args)).await,
        Command::Keys(command) => commands::keys(&command),
        Command::Admin(AdminCommand::Create(args)) => Box::pin(commands::admin_create(*args)).await,
        Command::ServiceAccount(ServiceAccountCommand::Create(args)) => {
            Box::pin(commands::service_account_create(*args)).await
        }
        Command::Health(args) => Box::pin(commands::health(args)).await,
    }
}

fn complain(line: &str) {
    // Nowhere is left to say that standard error cannot be written.
    let _ = writeln!(std::io::stderr(), "identity-service: {line}");
}
