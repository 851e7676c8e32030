//! The database session of a runner: opened when needed, given up when it does not answer.

use std::future::Future;
use std::time::Duration;

use service_core::database::{is_plain_refusal, overwhelmed, retryable, timed_out, unavailable};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::time::{Instant, timeout};

use super::SeatingConfig;
use crate::store::StoreError;
use crate::store::seating::{discard_plans, prepare_lock, session_options};

/// How long cached plans are used. Making them anew takes about 2 ms.
const PLANS_LIVE: Duration = Duration::from_secs(2);
/// The longest that opening a session may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What the server is given beyond its own `statement_timeout` before the session is taken for dead.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// A statement was prepared for a table that a migration has changed since, or on a session that a pooler has swapped, or
/// the session was ended for being idle, within a transaction (25P03), or for a transaction that took too long (25P04, from
/// PostgreSQL 17 on): what stood still may have been this process.
const STALE_SESSION: [&str; 5] = ["0A000", "26000", "57P05", "25P03", "25P04"];

/// Why a step of a batch did not succeed.
#[derive(Debug)]
pub(super) enum Setback {
    /// Another session holds an event's lock.
    Busy,
    /// It goes away by itself: a deadlock, a failover, a lost session. Nothing was committed.
    Passing {
        /// The SQLSTATE or what stands in for it, for metrics.
        code: String,
        /// Whether the session is of no use any more.
        lost: bool,
    },
    /// It does not go away: one of the commands meets with something that no rule foresaw.
    Unforeseen(StoreError),
}

impl Setback {
    /// Whether the session is of no use any more.
    pub(super) fn lost_session(&self) -> bool {
        matches!(self, Self::Passing { lost: true, .. })
    }

    /// Whether it is certain that nothing of the statement was written: the server itself says so, on a session that goes on. If
    /// not, it may have been written and committed, and has to be found out before anything is repeated.
    pub(super) fn surely_undone(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::Passing { lost, .. } => !lost,
            Self::Unforeseen(StoreError::Database(cause)) => is_plain_refusal(cause),
            Self::Unforeseen(_) => false,
        }
    }
}

impl From<StoreError> for Setback {
    fn from(error: StoreError) -> Self {
        let StoreError::Database(cause) = &error else { return Self::Unforeseen(error) };
        let code = cause.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
        if code == "55P03" {
            Self::Busy
        } else if STALE_SESSION.contains(&code.as_ref()) {
            Self::Passing { code: code.into_owned(), lost: true }
        } else if overwhelmed(cause) || timed_out(cause) {
            Self::Passing { code: code.into_owned(), lost: !is_plain_refusal(cause) }
        } else if unavailable(cause) {
            let code = if code.is_empty() { "connection".to_owned() } else { code.into_owned() };
            Self::Passing { code, lost: true }
        } else if retryable(cause) {
            Self::Passing { code: code.into_owned(), lost: false }
        } else {
            Self::Unforeseen(error)
        }
    }
}

/// A session that opens itself.
pub(super) struct Session {
    options: PgConnectOptions,
    statement_timeout: Duration,
    connection: Option<PgConnection>,
    /// When the plans were last made anew.
    planned: Option<Instant>,
}

impl Session {
    pub(super) fn new(database: PgConnectOptions, config: &SeatingConfig) -> Self {
        let statement_timeout = ("statement_timeout", format!("{}ms", config.statement_timeout.as_millis()));
        let options = session_options(config.lock_timeout).into_iter().chain([statement_timeout]);
        Self {
            options: database.options(options),
            statement_timeout: config.statement_timeout,
            connection: None,
            planned: None,
        }
    }

    /// The open session.
    pub(super) async fn connection(&mut self) -> Result<&mut PgConnection, Setback> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => match timeout(CONNECT_TIMEOUT, self.options.connect()).await {
                Ok(Ok(mut connection)) => {
                    within(self.patience(), prepare_lock(&mut connection)).await?;
                    self.planned = None;
                    connection
                }
                // Whatever kept us from connecting, no command is at fault.
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot open a database session");
                    return Err(Setback::Passing { code: "connect".to_owned(), lost: true });
                }
                Err(_) => return Err(Setback::Passing { code: "connect_timeout".to_owned(), lost: true }),
            },
        };
        let patience = self.patience();
        let connection = self.connection.insert(connection);
        if self.planned.is_none_or(|planned| planned.elapsed() >= PLANS_LIVE) {
            within(patience, discard_plans(connection)).await?;
            self.planned = Some(Instant::now());
        }
        Ok(connection)
    }

    /// The open session as it is, with what it has locked. Plans are made anew only where nobody waits for that.
    pub(super) fn locked_connection(&mut self) -> Result<&mut PgConnection, Setback> {
        let lost = || Setback::Passing { code: "connection".to_owned(), lost: true };
        self.connection.as_mut().ok_or_else(lost)
    }

    /// Gives the session up. The server rolls back whatever it was doing.
    pub(super) fn discard(&mut self) {
        self.connection = None;
    }

    /// How long a statement may go unanswered.
    pub(super) fn patience(&self) -> Duration {
        self.statement_timeout + ANSWER_GRACE
    }
}

/// Waits for one step, but not for ever: a network that swallows packets gives no error.
pub(super) async fn within<T>(
    patience: Duration,
    step: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, Setback> {
    match timeout(patience, step).await {
        Ok(result) => result.map_err(Setback::from),
        Err(_) => Err(Setback::Passing { code: "no_answer".to_owned(), lost: true }),
    }
}

#[cfg(test)]
mod tests {
    use service_core::database::connect_options;
    use service_core::test_support::TestCluster;

    use super::*;
    use crate::MIGRATOR;
    use crate::store::events::database_time;
    use crate::store::seating::begin_and_lock_events;

    #[tokio::test]
    async fn a_session_that_was_ended_while_this_process_stood_still_says_nothing_about_a_command() {
        let database = TestCluster::database("booking", &MIGRATOR).await;
        for (idle, code) in
            [("idle_in_transaction_session_timeout", "25P03"), ("idle_session_timeout", "57P05")]
        {
            let options = connect_options(&database.config(), "rowlock-test");
            let mut session = options.options([(idle, "500ms")]).connect().await.unwrap();
            prepare_lock(&mut session).await.unwrap();
            if code == "25P03" {
                begin_and_lock_events(&mut session, &[]).await.unwrap();
            }
            // Whoever is slow to end it is asked once more.
            let mut asked = 0;
            let ended = loop {
                asked += 1;
                assert!(asked < 10, "{code}: it goes on");
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Err(error) = database_time(&mut session).await {
                    break Setback::from(error);
                }
            };
            assert!(
                matches!(&ended, Setback::Passing { code: told, lost: true } if told == code),
                "{ended:?}"
            );
            assert!(!ended.surely_undone());
        }
    }
}
