//! The option groups that both services have.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use sqlx::postgres::PgConnectOptions;

use super::checked::{Checked, ConfigErrors, Period, secret};
use super::tls::TlsArgs;
use crate::auth::Role;
use crate::layers::{Rate, RateLimit, RateOption};
use crate::secret::Secret;
use crate::tls::ServerTls;
use crate::trace::TracesConfig;

/// How to reach the database.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Database")]
pub struct DatabaseArgs {
    /// The database, such as postgres://user:password@host:5432/name?sslmode=verify-full
    #[arg(long, env = "ROWLOCK_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<Secret>,
    /// A file that holds the database URL, instead of --database-url
    #[arg(long, env = "ROWLOCK_DATABASE_URL_FILE", value_name = "PATH")]
    pub database_url_file: Option<PathBuf>,
    /// The most connections of the pool, 1 to 1000
    #[arg(long, env = "ROWLOCK_DATABASE_MAX_CONNECTIONS", value_name = "N", default_value = "8")]
    pub database_max_connections: Checked<u32>,
    /// How long to wait for a connection, 100ms to 5m
    #[arg(long, env = "ROWLOCK_DATABASE_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "5s")]
    pub database_connect_timeout: Checked<Period>,
    /// After how long the database gives up a statement, 100ms to 1h
    #[arg(long, env = "ROWLOCK_DATABASE_STATEMENT_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    pub database_statement_timeout: Checked<Period>,
    /// After how long the database gives up waiting for a lock, 10ms to 1h
    #[arg(long, env = "ROWLOCK_DATABASE_LOCK_TIMEOUT", value_name = "DURATION", default_value = "3s")]
    pub database_lock_timeout: Checked<Period>,
    /// After how long the database ends a session that idles within a transaction, 1s to 1h
    #[arg(long, env = "ROWLOCK_DATABASE_IDLE_TIMEOUT", value_name = "DURATION", default_value = "30s")]
    pub database_idle_timeout: Checked<Period>,
}

/// How to reach the database, checked.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// The URL, with its password.
    pub url: Secret,
    /// What the URL says, parsed.
    pub(crate) options: PgConnectOptions,
    /// The most connections of the pool.
    pub max_connections: u32,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// `statement_timeout` of every session.
    pub statement_timeout: Duration,
    /// `lock_timeout` of every session.
    pub lock_timeout: Duration,
    /// `idle_in_transaction_session_timeout` of every session.
    pub idle_in_transaction_timeout: Duration,
}

impl DatabaseConfig {
    /// The defaults, for this URL.
    ///
    /// # Errors
    /// If it is not the URL of a PostgreSQL database; the text does not repeat it.
    pub fn from_url(url: impl Into<String>) -> Result<Self, DatabaseUrlInvalid> {
        let url: String = url.into();
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(DatabaseUrlInvalid);
        }
        let options = PgConnectOptions::from_str(&url).map_err(|_| DatabaseUrlInvalid)?;
        Ok(Self { url: Secret::new(url), options, ..Self::unreachable() })
    }

    /// Stands in while errors are collected: it leads nowhere.
    fn unreachable() -> Self {
        Self {
            url: Secret::new(""),
            options: PgConnectOptions::new_without_pgpass(),
            max_connections: 8,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(3),
            idle_in_transaction_timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("host", &self.options.get_host())
            .field("port", &self.options.get_port())
            .field("database", &self.options.get_database())
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

/// The text is not the URL of a PostgreSQL database.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not a PostgreSQL URL: expected postgres://user:password@host:port/database")]
pub struct DatabaseUrlInvalid;

impl DatabaseArgs {
    /// Checks the group. The result is of use only if `errors` stays empty.
    pub fn check(self, errors: &mut ConfigErrors) -> DatabaseConfig {
        let name = "--database-url (ROWLOCK_DATABASE_URL)";
        let given = self.database_url.is_some() || self.database_url_file.is_some();
        let url = secret(name, self.database_url, self.database_url_file.as_deref(), errors);
        if !given {
            errors.add(name, "is required");
        }
        let mut config = DatabaseConfig::unreachable();
        if let Some(url) = url {
            match DatabaseConfig::from_url(url.expose()) {
                Ok(parsed) => config = parsed,
                Err(error) => errors.add(name, format!("is wrong: {error}")),
            }
        }
        let max = "--database-max-connections (ROWLOCK_DATABASE_MAX_CONNECTIONS)";
        if let Some(n) = self.database_max_connections.take_within(max, 1..=1_000, errors) {
            config.max_connections = n;
        }
        let mut period = |to: &mut Duration, value: Checked<Period>, name: &str, shortest_ms, longest_s| {
            let range = Period(Duration::from_millis(shortest_ms))..=Period(Duration::from_secs(longest_s));
            if let Some(Period(duration)) = value.take_within(name, range, errors) {
                *to = duration;
            }
        };
        let name = "--database-connect-timeout (ROWLOCK_DATABASE_CONNECT_TIMEOUT)";
        period(&mut config.connect_timeout, self.database_connect_timeout, name, 100, 300);
        let name = "--database-statement-timeout (ROWLOCK_DATABASE_STATEMENT_TIMEOUT)";
        period(&mut config.statement_timeout, self.database_statement_timeout, name, 100, 3_600);
        let name = "--database-lock-timeout (ROWLOCK_DATABASE_LOCK_TIMEOUT)";
        period(&mut config.lock_timeout, self.database_lock_timeout, name, 10, 3_600);
        let name = "--database-idle-timeout (ROWLOCK_DATABASE_IDLE_TIMEOUT)";
        period(&mut config.idle_in_transaction_timeout, self.database_idle_timeout, name, 1_000, 3_600);
        config
    }
}

/// How a service is served unless it is told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct ServerDefaults {
    /// Where it listens for gRPC.
    pub grpc: SocketAddr,
    /// Where it listens for operations.
    pub http: SocketAddr,
    /// Whose calls are limited. Others are trusted with more.
    pub limited: &'static [Role],
}

impl ServerDefaults {
    fn limit(&self, rate: Rate) -> RateLimit {
        RateLimit { roles: self.limited, methods: None, rate }
    }
}

/// How to serve.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// Where to listen for gRPC [default: all IPv4 addresses, the service's own port]
    #[arg(long, env = "ROWLOCK_GRPC_ADDR", value_name = "HOST:PORT")]
    pub grpc_addr: Option<Checked<SocketAddr>>,
    /// Where to listen for operations (/metrics, /livez, /readyz) [default: all IPv4 addresses, the service's own port]
    #[arg(long, env = "ROWLOCK_HTTP_ADDR", value_name = "HOST:PORT")]
    pub http_addr: Option<Checked<SocketAddr>>,
    /// Whether to answer gRPC reflection, true or false
    #[arg(long, env = "ROWLOCK_REFLECTION", value_name = "BOOL", default_value = "true")]
    pub reflection: Checked<bool>,
    /// The largest request that is accepted in bytes, 1024 to 67108864
    #[arg(long, env = "ROWLOCK_MAX_MESSAGE_BYTES", value_name = "N", default_value = "1048576")]
    pub max_message_bytes: Checked<usize>,
    /// The most bytes of messages that are arriving at once, the first 16384 of each not counted, before the rest of further ones is
    /// refused, --max-message-bytes to 1099511627776
    #[arg(long, env = "ROWLOCK_MAX_ARRIVING_BYTES", value_name = "N", default_value = "67108864")]
    pub max_arriving_bytes: Checked<usize>,
    /// The most bytes of answers that lie here unread, those of 131072 and more and the others apart, before what has lain longest is
    /// given up, 4194304 to 1099511627776
    #[arg(long, env = "ROWLOCK_MAX_LEAVING_BYTES", value_name = "N", default_value = "67108864")]
    pub max_leaving_bytes: Checked<usize>,
    /// The deadline of a call that brings none, and of the message of any call, 100ms to 1h
    #[arg(long, env = "ROWLOCK_DEFAULT_DEADLINE", value_name = "DURATION", default_value = "30s")]
    pub default_deadline: Checked<Period>,
    /// The longest deadline of any call until its response begins, 100ms to 1d
    #[arg(long, env = "ROWLOCK_MAX_DEADLINE", value_name = "DURATION", default_value = "5m")]
    pub max_deadline: Checked<Period>,
    /// The most calls in flight before further ones are refused, 1 to 1000000
    #[arg(long, env = "ROWLOCK_MAX_CALLS_IN_FLIGHT", value_name = "N", default_value = "10000")]
    pub max_calls_in_flight: Checked<usize>,
    /// The largest head of a call (its metadata) in bytes, 1024 to 1048576
    #[arg(long, env = "ROWLOCK_MAX_HEADER_BYTES", value_name = "N", default_value = "16384")]
    pub max_header_bytes: Checked<u32>,
    /// The most connections before further ones are closed at once, 1 to 1000000
    #[arg(long, env = "ROWLOCK_MAX_CONNECTIONS", value_name = "N", default_value = "10000")]
    pub max_connections: Checked<usize>,
    /// The most calls at once on one connection, 1 to 1000000; further ones wait at the client
    #[arg(long, env = "ROWLOCK_MAX_CALLS_PER_CONNECTION", value_name = "N", default_value = "4096")]
    pub max_calls_per_connection: Checked<u32>,
    /// The most calls of one connection that were cancelled before they were looked at, 1 to 1000000; with more it is closed
    #[arg(long, env = "ROWLOCK_MAX_CANCELLED_CALLS", value_name = "N", default_value = "1024")]
    pub max_cancelled_calls: Checked<usize>,
    /// The most streams to clients that are open before further ones are refused, 1 to 1000000
    #[arg(long, env = "ROWLOCK_MAX_STREAMS", value_name = "N", default_value = "20000")]
    pub max_streams: Checked<usize>,
    /// The most streams of one attendee or organizer that are open before further ones are refused, 1 to 1000000
    #[arg(long, env = "ROWLOCK_MAX_STREAMS_PER_CALLER", value_name = "N", default_value = "100")]
    pub max_streams_per_caller: Checked<usize>,
    /// The most connections for operations before further ones are closed at once, 1 to 100000
    #[arg(long, env = "ROWLOCK_MAX_HTTP_CONNECTIONS", value_name = "N", default_value = "256")]
    pub max_http_connections: Checked<usize>,
    /// After how long without an answer a connection for operations is cut, 100ms to 1h
    #[arg(long, env = "ROWLOCK_HTTP_IDLE_TIMEOUT", value_name = "DURATION", default_value = "1m")]
    pub http_idle_timeout: Checked<Period>,
    /// How long a new connection may take to speak TLS and HTTP/2 before it is cut, 100ms to 5m
    #[arg(long, env = "ROWLOCK_HANDSHAKE_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    pub handshake_timeout: Checked<Period>,
    /// After how long a connection is asked to close, 1s to 7d, so that clients spread over replicas anew
    #[arg(long, env = "ROWLOCK_MAX_CONNECTION_AGE", value_name = "DURATION", default_value = "30m")]
    pub max_connection_age: Checked<Period>,
    /// How long a connection that was asked to close may finish its calls, 1s to 1d
    #[arg(long, env = "ROWLOCK_MAX_CONNECTION_AGE_GRACE", value_name = "DURATION", default_value = "30s")]
    pub max_connection_age_grace: Checked<Period>,
    /// How often an HTTP/2 ping checks a connection, 1s to 1h
    #[arg(long, env = "ROWLOCK_KEEPALIVE_INTERVAL", value_name = "DURATION", default_value = "30s")]
    pub keepalive_interval: Checked<Period>,
    /// How long to wait for the answer to a ping before the connection is closed, 1s to 10m
    #[arg(long, env = "ROWLOCK_KEEPALIVE_TIMEOUT", value_name = "DURATION", default_value = "20s")]
    pub keepalive_timeout: Checked<Period>,
    /// Calls a second that one attendee may make (at identity-service one organizer too), twice as many in a burst, such as 50/s; off for no limit
    #[arg(long, env = "ROWLOCK_CALL_RATE", value_name = "RATE", default_value = "50/s")]
    pub call_rate: Checked<RateOption>,
    /// How long calls may take to finish after SIGTERM, 0s to 10m
    #[arg(long, env = "ROWLOCK_DRAIN_GRACE", value_name = "DURATION", default_value = "20s")]
    pub drain_grace: Checked<Period>,
    /// TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// How to serve, checked.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen for gRPC.
    pub grpc_addr: SocketAddr,
    /// Where to listen for operations.
    pub http_addr: SocketAddr,
    /// Whether to answer gRPC reflection.
    pub reflection: bool,
    /// The largest request in bytes. The services set it on their generated servers (`max_decoding_message_size`).
    pub max_message_bytes: usize,
    /// The most bytes of messages that are arriving at once, but for the first 16 KiB of each. No less than one message may
    /// have.
    pub max_arriving_bytes: usize,
    /// The most bytes of answers that lie here unread: of those of 128 KiB and more, and of the others.
    pub max_leaving_bytes: usize,
    /// The deadline of a call that brings none, until its response begins; and of any call, until its message is there.
    pub default_deadline: Duration,
    /// The longest deadline of any call, until its response begins.
    pub max_deadline: Duration,
    /// The most calls whose response has not begun.
    pub max_calls_in_flight: usize,
    /// The largest head of a call in bytes.
    pub max_header_bytes: u32,
    /// The most connections; further ones are closed at once.
    pub max_connections: usize,
    /// The most calls at once on one connection; further ones wait at the client.
    pub max_calls_per_connection: u32,
    /// Calls that a client has cancelled before they were looked at are kept until then; with more than these on one connection
    /// it is closed. A client that gives up on a burst of calls stays below; it is the bound on the memory that one can take.
    pub max_cancelled_calls: usize,
    /// The most streams that are open at once; further ones are refused.
    pub max_streams: usize,
    /// The most streams of one attendee or organizer that are open at once; services and admins are not counted.
    pub max_streams_per_caller: usize,
    /// The most connections to the port for operations; further ones are closed at once.
    pub max_http_connections: usize,
    /// How long a connection to the port for operations may be without an answer: idle, or asking very slowly.
    pub http_idle_timeout: Duration,
    /// How long a new connection may take until it speaks HTTP/2.
    pub handshake_timeout: Duration,
    /// After how long a connection gets a GOAWAY.
    pub max_connection_age: Duration,
    /// How long after the GOAWAY it is cut.
    pub max_connection_age_grace: Duration,
    /// How often an HTTP/2 ping checks a connection.
    pub keepalive_interval: Duration,
    /// How long to wait for the answer to a ping.
    pub keepalive_timeout: Duration,
    /// How many calls one caller may make; the first that fits counts.
    pub rate_limits: Vec<RateLimit>,
    /// How long calls may take to finish after the shutdown began.
    pub drain_grace: Duration,
    /// TLS on the port for gRPC; `None`: plaintext.
    pub tls: Option<ServerTls>,
}

impl ServerConfig {
    /// The defaults.
    #[must_use]
    pub fn at(defaults: ServerDefaults) -> Self {
        Self {
            grpc_addr: defaults.grpc,
            http_addr: defaults.http,
            reflection: true,
            max_message_bytes: 1 << 20,
            max_arriving_bytes: 64 << 20,
            max_leaving_bytes: 64 << 20,
            default_deadline: Duration::from_secs(30),
            max_deadline: Duration::from_secs(5 * 60),
            max_calls_in_flight: 10_000,
            max_header_bytes: 16 << 10,
            max_connections: 10_000,
            max_calls_per_connection: 4_096,
            max_cancelled_calls: 1_024,
            max_streams: 20_000,
            max_streams_per_caller: 100,
            max_http_connections: 256,
            http_idle_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
            max_connection_age: Duration::from_secs(30 * 60),
            max_connection_age_grace: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            rate_limits: vec![defaults.limit(DEFAULT_CALL_RATE)],
            drain_grace: Duration::from_secs(20),
            tls: None,
        }
    }
}

/// 50 calls a second.
const DEFAULT_CALL_RATE: Rate = Rate::per_second(NonZeroU32::MIN.saturating_add(49));

impl ServerArgs {
    /// Checks the group. The result is of use only if `errors` stays empty.
    pub fn check(self, defaults: ServerDefaults, errors: &mut ConfigErrors) -> ServerConfig {
        let mut config = ServerConfig::at(defaults);
        let name = "--grpc-addr (ROWLOCK_GRPC_ADDR)";
        if let Some(addr) = self.grpc_addr.and_then(|a| a.take(name, errors)) {
            config.grpc_addr = addr;
        }
        let name = "--http-addr (ROWLOCK_HTTP_ADDR)";
        if let Some(addr) = self.http_addr.and_then(|a| a.take(name, errors)) {
            config.http_addr = addr;
        }
        if let Some(on) = self.reflection.take("--reflection (ROWLOCK_REFLECTION)", errors) {
            config.reflection = on;
        }
        let name = "--max-message-bytes (ROWLOCK_MAX_MESSAGE_BYTES)";
        if let Some(n) = self.max_message_bytes.take_within(name, 1_024..=64 << 20, errors) {
            config.max_message_bytes = n;
        }
        let name = "--max-arriving-bytes (ROWLOCK_MAX_ARRIVING_BYTES)";
        let range = config.max_message_bytes..=1 << 40;
        if let Some(n) = self.max_arriving_bytes.take_within(name, range, errors) {
            config.max_arriving_bytes = n;
        }
        let name = "--max-leaving-bytes (ROWLOCK_MAX_LEAVING_BYTES)";
        if let Some(n) = self.max_leaving_bytes.take_within(name, 4 << 20..=1 << 40, errors) {
            config.max_leaving_bytes = n;
        }
        let name = "--max-calls-in-flight (ROWLOCK_MAX_CALLS_IN_FLIGHT)";
        if let Some(n) = self.max_calls_in_flight.take_within(name, 1..=1_000_000, errors) {
            config.max_calls_in_flight = n;
        }
        let name = "--max-header-bytes (ROWLOCK_MAX_HEADER_BYTES)";
        if let Some(n) = self.max_header_bytes.take_within(name, 1_024..=1 << 20, errors) {
            config.max_header_bytes = n;
        }
        let name = "--max-connections (ROWLOCK_MAX_CONNECTIONS)";
        if let Some(n) = self.max_connections.take_within(name, 1..=1_000_000, errors) {
            config.max_connections = n;
        }
        let name = "--max-calls-per-connection (ROWLOCK_MAX_CALLS_PER_CONNECTION)";
        if let Some(n) = self.max_calls_per_connection.take_within(name, 1..=1_000_000, errors) {
            config.max_calls_per_connection = n;
        }
        let name = "--max-cancelled-calls (ROWLOCK_MAX_CANCELLED_CALLS)";
        if let Some(n) = self.max_cancelled_calls.take_within(name, 1..=1_000_000, errors) {
            config.max_cancelled_calls = n;
        }
        let name = "--max-streams (ROWLOCK_MAX_STREAMS)";
        if let Some(n) = self.max_streams.take_within(name, 1..=1_000_000, errors) {
            config.max_streams = n;
        }
        let name = "--max-streams-per-caller (ROWLOCK_MAX_STREAMS_PER_CALLER)";
        if let Some(n) = self.max_streams_per_caller.take_within(name, 1..=1_000_000, errors) {
            config.max_streams_per_caller = n;
        }
        let name = "--max-http-connections (ROWLOCK_MAX_HTTP_CONNECTIONS)";
        if let Some(n) = self.max_http_connections.take_within(name, 1..=100_000, errors) {
            config.max_http_connections = n;
        }
        config.tls = self.tls.check(errors);
        let rate = self.call_rate.take("--call-rate (ROWLOCK_CALL_RATE)", errors);
        if let Some(RateOption(rate)) = rate {
            config.rate_limits = rate.map(|rate| defaults.limit(rate)).into_iter().collect();
        }
        let mut period = |to: &mut Duration, value: Checked<Period>, name: &str, shortest_ms, longest_s| {
            let range = Period(Duration::from_millis(shortest_ms))..=Period(Duration::from_secs(longest_s));
            if let Some(Period(duration)) = value.take_within(name, range, errors) {
                *to = duration;
            }
        };
        let name = "--default-deadline (ROWLOCK_DEFAULT_DEADLINE)";
        period(&mut config.default_deadline, self.default_deadline, name, 100, 3_600);
        let name = "--max-deadline (ROWLOCK_MAX_DEADLINE)";
        period(&mut config.max_deadline, self.max_deadline, name, 100, 86_400);
        let name = "--http-idle-timeout (ROWLOCK_HTTP_IDLE_TIMEOUT)";
        period(&mut config.http_idle_timeout, self.http_idle_timeout, name, 100, 3_600);
        let name = "--handshake-timeout (ROWLOCK_HANDSHAKE_TIMEOUT)";
        period(&mut config.handshake_timeout, self.handshake_timeout, name, 100, 300);
        let name = "--max-connection-age (ROWLOCK_MAX_CONNECTION_AGE)";
        period(&mut config.max_connection_age, self.max_connection_age, name, 1_000, 7 * 86_400);
        let name = "--max-connection-age-grace (ROWLOCK_MAX_CONNECTION_AGE_GRACE)";
        period(&mut config.max_connection_age_grace, self.max_connection_age_grace, name, 1_000, 86_400);
        let name = "--keepalive-interval (ROWLOCK_KEEPALIVE_INTERVAL)";
        period(&mut config.keepalive_interval, self.keepalive_interval, name, 1_000, 3_600);
        let name = "--keepalive-timeout (ROWLOCK_KEEPALIVE_TIMEOUT)";
        period(&mut config.keepalive_timeout, self.keepalive_timeout, name, 1_000, 600);
        let name = "--drain-grace (ROWLOCK_DRAIN_GRACE)";
        period(&mut config.drain_grace, self.drain_grace, name, 0, 600);
        config
    }
}

/// What to log and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct TelemetryArgs {
    /// How log lines look: json or pretty
    #[arg(long, env = "ROWLOCK_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    pub log_format: Checked<LogFormat>,
    /// What is logged, in the form of RUST_LOG, such as info,sqlx=debug
    #[arg(long, env = "ROWLOCK_LOG_FILTER", value_name = "FILTER", default_value = "info")]
    pub log_filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people at a terminal.
    Pretty,
}

/// The text names no [`LogFormat`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("expected json or pretty")]
pub struct UnknownLogFormat;

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, UnknownLogFormat> {
        match text {
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            _ => Err(UnknownLogFormat),
        }
    }
}

/// What to log and how, checked.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// How log lines look.
    pub format: LogFormat,
    /// What is logged, in the form of RUST_LOG.
    pub filter: String,
    /// Where traces go; `None`: nothing is traced. Set by those who serve.
    pub traces: Option<TracesConfig>,
}

impl TelemetryArgs {
    /// Checks the group. The result is of use only if `errors` stays empty.
    pub fn check(self, errors: &mut ConfigErrors) -> TelemetryConfig {
        let format = self.log_format.take("--log-format (ROWLOCK_LOG_FORMAT)", errors);
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log_filter) {
            errors.add("--log-filter (ROWLOCK_LOG_FILTER)", format!("is wrong: {error}"));
        }
        TelemetryConfig { format: format.unwrap_or(LogFormat::Json), filter: self.log_filter, traces: None }
    }
}
