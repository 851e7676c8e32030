//! What the binary does, one function for each command.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context;
use service_core::clock::SystemClock;
use service_core::config::ConfigErrors;
use service_core::ids::UuidV7;
use service_core::lifecycle::Shutdown;
use service_core::server::Listeners;
use service_core::trace::Flush;
use service_core::{migrate, telemetry};
use sqlx::migrate::Migrator;

use crate::cli::{MigrateArgs, ServeArgs};
use crate::serve::{self, Sources};

/// Serves until SIGTERM or SIGINT, on a database with this schema.
///
/// # Errors
/// What is wrong with the configuration, the addresses or the schema.
pub async fn serve(args: ServeArgs, schema: &'static Migrator) -> anyhow::Result<()> {
    let config = args.check()?;
    telemetry::init(&config.telemetry)?;
    telemetry::log_panics();
    let shutdown = Shutdown::on_signals()?;
    let listeners = Listeners::bind(&config.server).await?;
    let clock = Arc::new(SystemClock);
    let sources = Sources { clock: clock.clone(), ids: Arc::new(UuidV7::new(clock)) };
    let flush = Flush::within(shutdown.token(), config.server.drain_grace);
    let served = Box::pin(serve::serve(config, schema, listeners, sources, shutdown.token())).await;
    flush.finish().await;
    served
}

/// Brings the database up to this schema.
///
/// # Errors
/// If the database cannot be reached, or has a schema that this program does not know.
pub async fn migrate(args: MigrateArgs, schema: &'static Migrator) -> anyhow::Result<()> {
    let mut errors = ConfigErrors::default();
    let database = args.database.check(&mut errors);
    let telemetry = args.telemetry.check(&mut errors);
    errors.finish()?;
    telemetry::init(&telemetry)?;
    let migrated = migrate::migrate(&database, schema).await?;
    match migrated.applied {
        0 => say("the schema is up to date"),
        n => say(&format!("{n} migration(s) applied")),
    }
}

/// Writes a line to standard output.
///
/// # Errors
/// If nobody reads it.
pub fn say(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("standard output cannot be written")
}
