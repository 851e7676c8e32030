//! The schema: bringing it up to date, and refusing to serve on one that is not known.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migration, Migrator};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::time::sleep;

use crate::config::DatabaseConfig;
use crate::database::{code, connect_options, has_settings, refuses_settings, retryable};

/// How long a migration waits for a lock. While it waits, everybody behind it waits too: better to step back and try again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_TRIES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// The advisory lock of whoever migrates this database, and how often those who wait for it ask.
const MIGRATING: i64 = 0x0072_6f77_6c6f_636b;
const ASK_EVERY: Duration = Duration::from_millis(200);

/// What a run of [`migrate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// How many migrations were applied; 0 if the schema was up to date.
    pub applied: usize,
    /// The newest version that the database has now.
    pub version: Option<i64>,
}

/// The schema is not the one that this program knows.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Migrations of this program were not applied.
    #[error("the database lacks {} migration(s), the first is {}: run the `migrate` command first", .pending.len(), first(.pending))]
    Pending {
        /// Their versions, in order.
        pending: Vec<i64>,
    },
    /// The database has migrations that this program does not know.
    #[error("the database has migration {} that this program does not know: use a newer version of the program", first(.unknown))]
    Unknown {
        /// Their versions, in order.
        unknown: Vec<i64>,
    },
    /// A migration was changed after it was applied.
    #[error("migration {version} was changed after it was applied to the database")]
    Changed {
        /// Its version.
        version: i64,
    },
    /// A migration stopped halfway.
    #[error(
        "migration {version} was applied only in part: mend the database and remove its row from _sqlx_migrations"
    )]
    Dirty {
        /// Its version.
        version: i64,
    },
    /// A migration without a transaction could not be run again if it stopped halfway.
    #[error(
        "migration {version} runs without a transaction, so it must be one CREATE INDEX CONCURRENTLY IF NOT EXISTS or one DROP INDEX CONCURRENTLY IF EXISTS"
    )]
    Unrepeatable {
        /// Its version.
        version: i64,
    },
    /// Sessions do not have the timeouts that they were opened with. Without them a replica that hangs holds its locks for ever.
    #[error(
        "sessions do not get their settings: a pooler such as PgBouncer refuses or ignores the startup parameter `options`; connect to PostgreSQL itself"
    )]
    SettingsLost,
    /// The database could not be asked, or refused a migration.
    #[error("the database could not be read or changed")]
    Database(#[source] sqlx::Error),
}

impl SchemaError {
    /// Whether the database may answer otherwise a moment later, without anybody changing the schema.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Database(error) if crate::database::unavailable(error) || retryable(error))
    }

    /// Whether the server does not take this user or password (SQLSTATE class 28).
    #[must_use]
    pub fn is_not_let_in(&self) -> bool {
        matches!(self, Self::Database(error) if code(error).starts_with("28"))
    }
}

fn first(versions: &[i64]) -> i64 {
    versions.first().copied().unwrap_or_default()
}

/// Applies the migrations that the database lacks, one after the other, each in its own transaction, in a session of its
/// own that must not go through a transaction pooler. Programs that migrate at the same time wait for each other. A
/// migration that does not get its locks within 2 s steps back and is tried again, ten times at most. A migration without
/// a transaction waits for as long as it has to, since nobody waits behind it; an index that it leaves behind INVALID is
/// dropped, at the latest before it runs again.
///
/// # Errors
/// [`SchemaError::Unknown`], [`SchemaError::Changed`], [`SchemaError::Dirty`] and [`SchemaError::Unrepeatable`] before
/// anything is changed.
pub async fn migrate(config: &DatabaseConfig, migrator: &'static Migrator) -> Result<Migrated, SchemaError> {
    if let Some(bad) = migrator.iter().find(|m| m.no_tx && concurrent_index(m.sql.as_str()).is_none()) {
        return Err(SchemaError::Unrepeatable { version: bad.version });
    }
    let mut pause = FIRST_PAUSE;
    let mut tries = 1;
    let mut applied = 0;
    loop {
        match migrate_once(config, migrator, &mut applied).await {
            Ok(version) => return Ok(Migrated { applied, version }),
            Err(SchemaError::Database(error))
                if tries < MAX_TRIES && (retryable(&error) || is_lock_timeout(&error)) =>
            {
                tracing::warn!(%error, tries, "migration is tried again");
            }
            Err(error) => return Err(error),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        tries += 1;
    }
}

async fn migrate_once(
    config: &DatabaseConfig,
    migrator: &'static Migrator,
    applied: &mut usize,
) -> Result<Option<i64>, SchemaError> {
    let options = connect_options(config, "rowlock-migrate").options([
        ("lock_timeout", LOCK_TIMEOUT.as_millis().to_string()),
        // Building an index takes as long as it takes.
        ("statement_timeout", "0".to_owned()),
    ]);
    let connecting = tokio::time::timeout(config.connect_timeout, PgConnection::connect_with(&options));
    let mut connection = match connecting.await {
        Ok(Err(error)) if refuses_settings(&error) => return Err(SchemaError::SettingsLost),
        Ok(connected) => connected.map_err(SchemaError::Database)?,
        Err(_) => return Err(SchemaError::Database(sqlx::Error::PoolTimedOut)),
    };
    if !has_settings(&mut connection).await.map_err(SchemaError::Database)? {
        return Err(SchemaError::SettingsLost);
    }
    lock(&mut connection).await.map_err(SchemaError::Database)?;
    connection.ensure_migrations_table(&migrator.table_name).await.map_err(broken)?;
    let pending = match compare(&mut connection, migrator).await {
        Ok(()) => Vec::new(),
        Err(SchemaError::Pending { pending }) => pending,
        Err(error) => return Err(error),
    };
    for migration in migrator.iter().filter(|m| pending.contains(&m.version)) {
        match concurrent_index(migration.sql.as_str()) {
            Some(index) if migration.no_tx => {
                apply_concurrently(&mut connection, migrator, migration, index).await?;
            }
            _ => drop(connection.apply(&migrator.table_name, migration).await.map_err(broken)?),
        }
        *applied += 1;
        tracing::info!(version = migration.version, description = %migration.description, "migration applied");
    }
    // The session ends, and with it the lock.
    let _ = connection.close().await;
    Ok(migrator.iter().map(|m| m.version).max())
}

/// Waits until nobody else migrates. A session that waits inside `pg_advisory_lock` has a snapshot, and an index that is
/// built concurrently waits for all snapshots: the two would wait for each other. So this asks again and again.
async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut told = false;
    loop {
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(MIGRATING)
            .fetch_one(&mut *connection)
            .await?;
        if locked {
            return Ok(());
        }
        if !told {
            tracing::info!("another program migrates: waiting for it");
            told = true;
        }
        sleep(ASK_EVERY).await;
    }
}

/// The index that a statement makes or drops, if it is one that can be run again after it stopped anywhere.
fn concurrent_index(sql: &str) -> Option<String> {
    let lines = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    let statement = words.join(" ");
    let statement = statement.strip_suffix(';').unwrap_or(&statement);
    let rest = [
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS ",
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS ",
        "DROP INDEX CONCURRENTLY IF EXISTS ",
    ]
    .iter()
    .find_map(|start| statement.strip_prefix(start))?;
    let name = rest.split(' ').next()?;
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    (plain && !name.is_empty() && !rest.contains(';')).then(|| name.to_owned())
}

/// Runs a migration without a transaction. It waits for every transaction that is older than itself, and nobody waits for
/// the lock that it holds meanwhile but other changes of the schema: no timeout.
async fn apply_concurrently(
    connection: &mut PgConnection,
    migrator: &Migrator,
    migration: &Migration,
    index: String,
) -> Result<(), SchemaError> {
    execute(connection, "SET lock_timeout = 0".to_owned()).await.map_err(SchemaError::Database)?;
    // Of a try that was killed. IF NOT EXISTS would take it for the index.
    drop_invalid(connection, &index).await.map_err(SchemaError::Database)?;
    if let Err(error) = connection.apply(&migrator.table_name, migration).await {
        // It would slow every write down until somebody tries again; if it cannot be dropped now, it is then.
        if let Err(error) = drop_invalid(connection, &index).await {
            tracing::warn!(%error, index, "an index that was built halfway is left behind");
        }
        return Err(broken(error));
    }
    execute(connection, "RESET lock_timeout".to_owned()).await.map_err(SchemaError::Database)
}

async fn drop_invalid(connection: &mut PgConnection, index: &str) -> Result<(), sqlx::Error> {
    let is_there: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT (indisvalid AND indisready))",
    )
    .bind(index)
    .fetch_one(&mut *connection)
    .await?;
    if !is_there {
        return Ok(());
    }
    execute(connection, format!("DROP INDEX CONCURRENTLY IF EXISTS {index}")).await?;
    tracing::info!(index, "an index that was built halfway is dropped");
    Ok(())
}

async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    connection.execute(AssertSqlSafe(sql)).await.map(drop)
}

/// Whether the database has exactly the migrations of this program.
///
/// # Errors
/// [`SchemaError`], whose text says what to do. While [`SchemaError::is_temporary`], ask again.
pub async fn check_schema(pool: &PgPool, migrator: &Migrator) -> Result<(), SchemaError> {
    let mut connection = pool.acquire().await.map_err(SchemaError::Database)?;
    compare(&mut connection, migrator).await
}

async fn compare(connection: &mut PgConnection, migrator: &Migrator) -> Result<(), SchemaError> {
    let dirty = match connection.dirty_version(&migrator.table_name).await {
        Err(MigrateError::Execute(error)) if is_undefined_table(&error) => {
            return pending(migrator, &BTreeMap::<i64, ()>::new());
        }
        dirty => dirty.map_err(broken)?,
    };
    if let Some(version) = dirty {
        return Err(SchemaError::Dirty { version });
    }
    let applied: BTreeMap<i64, _> = connection
        .list_applied_migrations(&migrator.table_name)
        .await
        .map_err(broken)?
        .into_iter()
        .map(|m| (m.version, m.checksum))
        .collect();
    let unknown: Vec<i64> =
        applied.keys().copied().filter(|version| !migrator.version_exists(*version)).collect();
    if !unknown.is_empty() {
        return Err(SchemaError::Unknown { unknown });
    }
    let changed =
        migrator.iter().find(|m| applied.get(&m.version).is_some_and(|checksum| *checksum != m.checksum));
    if let Some(migration) = changed {
        return Err(SchemaError::Changed { version: migration.version });
    }
    pending(migrator, &applied)
}

fn pending<C>(migrator: &Migrator, applied: &BTreeMap<i64, C>) -> Result<(), SchemaError> {
    let pending: Vec<i64> = migrator
        .iter()
        .filter(|m| !m.migration_type.is_down_migration())
        .map(|m| m.version)
        .filter(|version| !applied.contains_key(version))
        .collect();
    if pending.is_empty() { Ok(()) } else { Err(SchemaError::Pending { pending }) }
}

fn broken(error: MigrateError) -> SchemaError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            SchemaError::Database(error)
        }
        other => SchemaError::Database(sqlx::Error::Migrate(Box::new(other))),
    }
}

fn is_undefined_table(error: &sqlx::Error) -> bool {
    code(error) == "42P01"
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    code(error) == "55P03"
}
