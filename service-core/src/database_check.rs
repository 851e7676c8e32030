//! Readiness of the database: there, and with the schema that the program knows.

use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::database::{code, has_settings, refuse_standby, refuses_settings, unavailable};
use crate::lifecycle::ReadinessHandle;
use crate::migrate::{SchemaError, check_schema};

/// How often the database is looked at, while it is there and while it is not.
const LOOK_WHEN_READY: Duration = Duration::from_secs(2);
const LOOK_WHEN_NOT: Duration = Duration::from_millis(100);
/// Longer than a healthy database takes to answer or to take a connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sets the readiness by looking at the database again and again, until `stop`. The database may be down at first. While it
/// takes no connections, the pool opens none either: whoever asks it is told at once.
///
/// # Errors
/// If the schema is not the one that this program knows, or sessions do not get its settings. It is looked at until it was
/// right once: later migrations are made so that a program from before can go on.
pub async fn watch_database(
    pool: &PgPool,
    migrator: &Migrator,
    check: &ReadinessHandle,
    stop: &CancellationToken,
) -> Result<(), SchemaError> {
    let mut known = false;
    let mut door = Door { pool, way: pool.connect_options(), shut: false };
    loop {
        measure(pool);
        let looked = async {
            if !known {
                door.knock().await?;
                return check_schema(pool, migrator).await;
            }
            match timeout(PATIENCE, ping(pool)).await {
                Ok(Ok(())) if !door.shut => Ok(()),
                // Nobody is there, or the pool is busy and nothing else.
                _ => door.knock().await,
            }
        };
        let Some(looked) = stop.run_until_cancelled(looked).await else { return Ok(()) };
        let pause = match looked {
            Ok(()) => {
                known = true;
                check.set_ready();
                LOOK_WHEN_READY
            }
            // The pool is busy, and the server full: those sessions that there are go on.
            Err(SchemaError::Database(error))
                if known && code(&error) == TOO_MANY_CONNECTIONS && !door.shut && pool.size() > 0 =>
            {
                check.set_degraded("the database takes no more connections");
                LOOK_WHEN_READY
            }
            Err(error) if known || error.is_temporary() => {
                check.set_unready("the database cannot be reached");
                tracing::debug!(%error, "the database cannot be reached");
                LOOK_WHEN_NOT
            }
            Err(error @ SchemaError::SettingsLost) => {
                check.set_unready("the database's sessions do not get their settings");
                return Err(error);
            }
            Err(error) if error.is_not_let_in() => {
                check.set_unready("the database does not take the user or password that it is given");
                return Err(error);
            }
            Err(error) => {
                check.set_unready("the schema is not the one that this program knows");
                return Err(error);
            }
        };
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return Ok(());
        }
    }
}

/// How full the pool is.
fn measure(pool: &PgPool) {
    let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
    metrics::gauge!("db_pool_connections", "state" => "idle").set(f64::from(idle));
    metrics::gauge!("db_pool_connections", "state" => "used")
        .set(f64::from(pool.size().saturating_sub(idle)));
    metrics::gauge!("db_pool_connections_max").set(f64::from(pool.options().get_max_connections()));
}

async fn ping(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT 1").execute(pool).await.map(|_| ())
}

/// The pool's way to the database. By itself the pool tries for all of its `acquire_timeout` to connect to a server that
/// takes no connections, and everybody who asks waits with it.
struct Door<'a> {
    pool: &'a PgPool,
    way: Arc<PgConnectOptions>,
    shut: bool,
}

impl Door<'_> {
    /// Opens a session past the pool, and the door if there is one behind it, or else shuts the door.
    async fn knock(&mut self) -> Result<(), SchemaError> {
        let asked = timeout(PATIENCE, self.ask()).await;
        let error = match asked {
            Ok(Ok(has_settings)) => {
                if self.shut {
                    self.pool.set_connect_options((*self.way).clone());
                    self.shut = false;
                }
                return if has_settings { Ok(()) } else { Err(SchemaError::SettingsLost) };
            }
            Ok(Err(error)) if refuses_settings(&error) => return Err(SchemaError::SettingsLost),
            Ok(Err(error)) => error,
            Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
        };
        // With too many sessions those that the pool has are still good.
        if unavailable(&error) && code(&error) != TOO_MANY_CONNECTIONS && !self.shut {
            self.pool.set_connect_options((*self.way).clone().socket(NOWHERE));
            self.shut = true;
        }
        Err(SchemaError::Database(error))
    }

    /// Whether sessions have the settings that were asked for.
    async fn ask(&self) -> Result<bool, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.way).await?;
        refuse_standby(&mut connection).await?;
        let has_settings = has_settings(&mut connection).await?;
        connection.close().await?;
        Ok(has_settings)
    }
}

/// A folder that cannot hold a socket: connecting fails at once, and is not tried again by the pool.
const NOWHERE: &str = "/dev/null";
const TOO_MANY_CONNECTIONS: &str = "53300";
