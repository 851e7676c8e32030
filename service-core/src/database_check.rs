//! Readiness of the database: there, and with the schema that the program knows.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::ReadinessHandle;
use crate::migrate::{SchemaError, check_schema};

/// How often the database is looked at, while it is there and while it is not.
const LOOK_WHEN_READY: Duration = Duration::from_secs(2);
const LOOK_WHEN_NOT: Duration = Duration::from_millis(100);

/// Sets the readiness by looking at the database again and again, until `stop`. The database may be down at first.
///
/// # Errors
/// If the schema is not the one that this program knows. It is looked at until it was right once: later migrations are made
/// so that a program from before can go on.
pub async fn watch_database(
    pool: &PgPool,
    migrator: &Migrator,
    check: &ReadinessHandle,
    stop: &CancellationToken,
) -> Result<(), SchemaError> {
    let mut known = false;
    loop {
        measure(pool);
        let looked = async { if known { ping(pool).await } else { check_schema(pool, migrator).await } };
        let Some(looked) = stop.run_until_cancelled(looked).await else { return Ok(()) };
        let pause = match looked {
            Ok(()) => {
                known = true;
                check.set_ready();
                LOOK_WHEN_READY
            }
            Err(error) if known || error.is_temporary() => {
                check.set_unready("the database cannot be reached");
                tracing::debug!(%error, "the database cannot be reached");
                LOOK_WHEN_NOT
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

async fn ping(pool: &PgPool) -> Result<(), SchemaError> {
    sqlx::query("SELECT 1").execute(pool).await.map(|_| ()).map_err(SchemaError::Database)
}
