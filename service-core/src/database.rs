//! The connection pool, and transactions that are tried again when the database asks for it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::RngExt;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgPoolOptions, PgSeverity};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row};
use tokio::time::{Instant, sleep, timeout};

use crate::config::DatabaseConfig;
use crate::trace::Span;

/// How often a transaction is tried at most.
const MAX_TRIES: u32 = 5;
/// The longest pause after the first failure; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// A connection that idled for longer is asked whether it still lives before it is used.
/// Connections of a busy pool idle for less and are not asked; where there is time to idle, there is time for a round trip.
/// What an outage has cut has idled for longer when the outage is over.
const TRUSTED_IDLE: Duration = Duration::from_millis(100);
/// How long a connection may take to say that it lives.
const PATIENCE: Duration = Duration::from_secs(2);

/// A setting that means nothing but that settings arrive: a pooler in between may drop them without a word.
const SETTINGS_MARK: (&str, &str) = ("rowlock.settings", "taken");

/// How every session of this service is opened. The timeouts are the server's, so that a replica that hangs or vanishes
/// does not hold locks: they work without the client.
#[must_use]
pub fn connect_options(config: &DatabaseConfig, application_name: &str) -> PgConnectOptions {
    let millis = |duration: Duration| duration.as_millis().to_string();
    config.options.clone().application_name(application_name).statement_cache_capacity(200).options([
        ("statement_timeout", millis(config.statement_timeout)),
        ("lock_timeout", millis(config.lock_timeout)),
        ("idle_in_transaction_session_timeout", millis(config.idle_in_transaction_timeout)),
        // A client that is gone without a word is noticed within half a minute, also in the middle of a statement.
        ("tcp_keepalives_idle", "15".to_owned()),
        ("tcp_keepalives_interval", "5".to_owned()),
        ("tcp_keepalives_count", "3".to_owned()),
        ("tcp_user_timeout", "30000".to_owned()),
        ("client_connection_check_interval", "5000".to_owned()),
        (SETTINGS_MARK.0, SETTINGS_MARK.1.to_owned()),
        // Compiling costs more than any of our statements takes.
        ("jit", "off".to_owned()),
    ])
}

/// A pool of at most `max_connections`. It connects when it is used: this does not fail while the database is down.
///
/// It must be called within a tokio runtime.
#[expect(clippy::unused_async, reason = "a pool needs a runtime; `async` says so")]
pub async fn pool(config: &DatabaseConfig, application_name: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(config.connect_timeout)
        // So that connections find their way back to all replicas of a database that failed over.
        .max_lifetime(Duration::from_secs(30 * 60))
        .idle_timeout(Duration::from_secs(10 * 60))
        // The pool's own checks wait without end for a server that went silent, and each would take a place of the pool
        // with it. These do not; and a connection that was in use just now is not asked again before the next use.
        .test_before_acquire(false)
        .after_connect(|connection, _| Box::pin(refuse_standby(connection)))
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED_IDLE {
                    answers(connection).await?;
                }
                Ok(true)
            })
        })
        .after_release(|connection, _| Box::pin(async move { answers(connection).await.map(|()| true) }))
        .connect_lazy_with(connect_options(config, application_name))
}

/// Fails where the server is a standby, as the old primary is after a switchover, as long as an address leads there: what it
/// tells may be of the past. No server becomes one without being started anew, so a session that has begun is never at one.
///
/// # Errors
/// Whatever the database says; [`sqlx::Error::Io`] for a standby.
pub(crate) async fn refuse_standby(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Not prepared, as in `has_settings`, so that what is behind a pooler is told by that name.
    let look = sqlx::raw_sql("SELECT pg_is_in_recovery()");
    let is_standby: bool = look.fetch_one(connection).await?.try_get(0)?;
    if is_standby { Err(sqlx::Error::Io(std::io::Error::other("the server is a standby"))) } else { Ok(()) }
}

async fn answers(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match timeout(PATIENCE, connection.ping()).await {
        Ok(answered) => answered,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// What [`run_tx`] needs to know of an error type.
pub trait TxError {
    /// The database's error, if it is one.
    fn database(&self) -> Option<&sqlx::Error>;

    /// The connection was lost at COMMIT: whether the transaction took effect is unknown.
    fn commit_unknown() -> Self;
}

impl TxError for sqlx::Error {
    fn database(&self) -> Option<&sqlx::Error> {
        Some(self)
    }

    fn commit_unknown() -> Self {
        Self::Io(std::io::Error::other("the connection was lost at COMMIT: the outcome is unknown"))
    }
}

/// Runs `work` in a transaction under READ COMMITTED and commits it.
///
/// **`work` may run more than once**: what fails before COMMIT for a reason that goes away is rolled back and tried again
/// with a growing, random pause, at most five times (see [`retryable`]). So `work` must do nothing but talk to the database, and must
/// begin from the same values each time. Any other error rolls back and is returned.
///
/// `name` is for metrics and logs, such as `user.create`.
///
/// ```
/// # async fn example(pool: sqlx::PgPool, name: String) -> Result<i64, sqlx::Error> {
/// use service_core::database::run_tx;
///
/// run_tx(&pool, "thing.count", move |tx| {
///     // Each try needs its own copy: the future borrows nothing but the transaction.
///     let name = name.clone();
///     Box::pin(async move {
///         sqlx::query_scalar("SELECT count(*) FROM things WHERE name = $1").bind(name).fetch_one(tx).await
///     })
/// })
/// .await
/// # }
/// ```
///
/// # Errors
/// What `work` returned; what the database said; [`TxError::commit_unknown`] if the connection was lost at COMMIT, which
/// is not tried again: look for the ids that `work` wrote.
pub async fn run_tx<T, E>(
    pool: &PgPool,
    name: &'static str,
    mut work: impl for<'c> FnMut(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send,
) -> Result<T, E>
where
    T: Send,
    E: From<sqlx::Error> + TxError + Send,
{
    let began = Instant::now();
    let mut tries = 1;
    let span = Span::child(name);
    let result = loop {
        let error = match span.enclose(try_once(pool, &mut work)).await {
            Ok(value) => break Ok(value),
            Err(Failed::ForGood(error)) => break Err(error),
            Err(Failed::ForNow(error)) => error,
        };
        if tries == MAX_TRIES {
            break Err(error);
        }
        let code = error.database().map(code).filter(|code| !code.is_empty());
        let code = code.unwrap_or_else(|| "connection".to_owned());
        tracing::debug!(tx = name, tries, %code, "transaction is tried again");
        metrics::counter!("db_transaction_retries_total", "tx" => name, "code" => code).increment(1);
        let longest = FIRST_PAUSE * (1 << (tries - 1));
        // Bound first: the generator is not `Send` and must not live across the await.
        let pause = rand::rng().random_range(Duration::ZERO..=longest);
        sleep(pause).await;
        tries += 1;
    };
    let outcome = if result.is_ok() { "committed" } else { "failed" };
    metrics::counter!("db_transactions_total", "tx" => name, "outcome" => outcome).increment(1);
    metrics::histogram!("db_transaction_duration_seconds", "tx" => name)
        .record(began.elapsed().as_secs_f64());
    result
}

enum Failed<E> {
    ForNow(E),
    ForGood(E),
}

async fn try_once<T, E>(
    pool: &PgPool,
    work: &mut (impl for<'c> FnMut(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send),
) -> Result<T, Failed<E>>
where
    E: From<sqlx::Error> + TxError,
{
    let judge = |error: E| match error.database() {
        Some(cause) if retryable(cause) => Failed::ForNow(error),
        _ => Failed::ForGood(error),
    };
    let mut connection = pool.acquire().await.map_err(|error| judge(error.into()))?;
    match attempt(&mut connection, work).await {
        Ok(value) => Ok(value),
        Err(Broken::Refused(error)) => {
            // A session on a server that went away or became read-only is of no use to the next one.
            if error.database().is_some_and(unavailable) {
                connection.close_on_drop();
            }
            Err(judge(error))
        }
        Err(Broken::AtCommit(cause)) => {
            tracing::warn!(code = %code(&cause), "connection lost at COMMIT: outcome unknown");
            connection.close_on_drop();
            Err(Failed::ForGood(E::commit_unknown()))
        }
    }
}

enum Broken<E> {
    /// Certainly undone.
    Refused(E),
    /// Done or undone, nobody knows.
    AtCommit(sqlx::Error),
}

async fn attempt<T, E>(
    connection: &mut PgConnection,
    work: &mut (impl for<'c> FnMut(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send),
) -> Result<T, Broken<E>>
where
    E: From<sqlx::Error> + TxError,
{
    let mut tx = connection.begin().await.map_err(|error| Broken::Refused(error.into()))?;
    let value = work(&mut tx).await.map_err(Broken::Refused)?;
    let span = Span::statement("COMMIT");
    let committed = tx.commit().await;
    drop(span);
    match committed {
        Ok(()) => Ok(value),
        Err(error) if is_plain_refusal(&error) => Err(Broken::Refused(error.into())),
        Err(error) => Err(Broken::AtCommit(error)),
    }
}

/// Whether the same transaction may succeed a moment later: serialization failure (40001), deadlock (40P01), and whatever
/// is [`unavailable`], except waiting in vain for the pool, which has waited long enough.
#[must_use]
pub fn retryable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => false,
        _ => matches!(code(error).as_str(), "40001" | "40P01") || unavailable(error),
    }
}

/// Whether the trouble is with reaching a writable database, not with the statement: no connection, a lost one (08…), a
/// server that shuts down, starts up or crashed (57P01, 57P02, 57P03), too many clients (53300), or one that became a
/// standby (25006).
#[must_use]
pub fn unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
            true
        }
        // The driver takes the end of a connection for an answer, the byte 0, to its question for TLS.
        sqlx::Error::Protocol(what) => what.contains("SSLRequest"),
        sqlx::Error::Database(_) => {
            let code = code(error);
            matches!(code.as_str(), "57P01" | "57P02" | "57P03" | "25006" | "53300") || code.starts_with("08")
        }
        _ => false,
    }
}

/// Whether the server could not do it now, for a reason that lies in its state and not in the statement: no disk, no memory
/// (class 53), an error of the system below it (class 58), or a lock that was not granted (55P03).
#[must_use]
pub fn overwhelmed(error: &sqlx::Error) -> bool {
    let code = code(error);
    code.starts_with("53") || code.starts_with("58") || code == "55P03"
}

/// Whether a statement took longer than the session's `statement_timeout`.
#[must_use]
pub fn timed_out(error: &sqlx::Error) -> bool {
    code(error) == "57014"
}

/// Whether the server refused with an ordinary ERROR, after which its session goes on: the transaction is undone. FATAL and
/// PANIC do not say so: they may come when the commit is written already, and recovery finds it.
#[must_use]
pub fn is_plain_refusal(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(cause) = error else { return false };
    let severity = cause.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
    severity == Some(PgSeverity::Error) && !unavailable(error)
}

/// The SQLSTATE, or nothing.
pub(crate) fn code(error: &sqlx::Error) -> String {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .map(std::borrow::Cow::into_owned)
        .unwrap_or_default()
}

/// Whether a session has the settings of [`connect_options`].
pub(crate) async fn has_settings(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let (name, taken) = SETTINGS_MARK;
    // Not prepared: behind a pooler that swaps sessions, another one may have taken the statement's name.
    let look = AssertSqlSafe(format!("SELECT current_setting('{name}', true)"));
    let mark: Option<String> = sqlx::raw_sql(look).fetch_one(connection).await?.try_get(0)?;
    Ok(mark.as_deref() == Some(taken))
}

/// Whether a pooler does not let a session have settings. It says so in words only: the code, a violation of the protocol,
/// stands for much else with it.
pub(crate) fn refuses_settings(error: &sqlx::Error) -> bool {
    code(error) == "08P01"
        && error.as_database_error().is_some_and(|error| error.message().contains("startup parameter"))
}
