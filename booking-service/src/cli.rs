//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use service_core::config::{Checked, DatabaseArgs, Period, ServerArgs, TelemetryArgs, TracesArgs};
use service_core::health::HealthArgs;
use service_core::layers::RateOption;
use service_core::secret::Secret;
use service_core::token::TokenAlgorithms;

use crate::config::WhenStale;

/// Rowlock's booking service: events, registrations, waitlists.
///
/// Every option can also be given by the environment variable that is named beside it.
#[derive(Clone, Debug, Parser)]
#[command(name = "booking-service", version, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve gRPC, and HTTP for operations, until SIGTERM
    Serve(Box<ServeArgs>),
    /// Bring the database's schema up to date, then exit
    Migrate(Box<MigrateArgs>),
    /// Ask a running server whether it serves; exit 0 if it does, 1 if not
    Health(HealthArgs),
    /// Show a running system: make accounts and an event, send a rush over all replicas, prove the result
    Demo(DemoArgs),
}

/// Options of `serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Tokens.
    #[command(flatten)]
    pub tokens: TokenArgs,
    /// Seating.
    #[command(flatten)]
    pub seating: SeatingArgs,
    /// How long changes are kept for the audit trail and for resuming streams, from 1h [default: for ever]
    #[arg(long, env = "ROWLOCK_CHANGE_RETENTION", value_name = "DURATION", help_heading = "Change log")]
    pub change_retention: Option<Checked<Period>>,
    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    /// Traces.
    #[command(flatten)]
    pub traces: TracesArgs,
}

/// Options of `migrate`.
#[derive(Args, Clone, Debug)]
pub struct MigrateArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Whose tokens are accepted.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Tokens")]
pub struct TokenArgs {
    /// identity-service, for the keys that tokens are verified with
    #[arg(long, env = "ROWLOCK_IDENTITY_ADDR", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub identity_addr: String,
    /// The authorities of identity-service's certificate, a PEM file; needed with an https address
    #[arg(long, env = "ROWLOCK_IDENTITY_CA_FILE", value_name = "PATH")]
    pub identity_ca_file: Option<PathBuf>,
    /// The certificate to show to identity-service if it asks for one, a PEM file
    #[arg(long, env = "ROWLOCK_IDENTITY_CERT_FILE", value_name = "PATH")]
    pub identity_cert_file: Option<PathBuf>,
    /// The private key of that certificate, a PEM file
    #[arg(long, env = "ROWLOCK_IDENTITY_KEY_FILE", value_name = "PATH")]
    pub identity_key_file: Option<PathBuf>,
    /// The name in identity-service's certificate [default: the host of its address]
    #[arg(long, env = "ROWLOCK_IDENTITY_SERVER_NAME", value_name = "NAME")]
    pub identity_server_name: Option<String>,
    /// The issuer that tokens must name
    #[arg(long, env = "ROWLOCK_TOKEN_ISSUER", value_name = "TEXT", default_value = "identity.rowlock")]
    pub token_issuer: String,
    /// The audience that tokens must name
    #[arg(long, env = "ROWLOCK_TOKEN_AUDIENCE", value_name = "TEXT", default_value = "rowlock")]
    pub token_audience: String,
    /// The algorithms that tokens may be signed with: one or more of ES256, RS256 and EdDSA, separated by commas
    #[arg(long, env = "ROWLOCK_TOKEN_ALGORITHMS", value_name = "LIST", default_value = "ES256")]
    pub token_algorithms: Checked<TokenAlgorithms>,
    /// Revocations.
    #[command(flatten)]
    pub revocations: RevocationArgs,
}

/// How tokens that identity-service has revoked are known.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Revocations")]
pub struct RevocationArgs {
    /// The service account by which identity-service tells its revocations; without one, a revoked access token is good
    /// until it expires
    #[arg(long, env = "ROWLOCK_IDENTITY_CLIENT_ID", value_name = "ID")]
    pub identity_client_id: Option<String>,
    /// A file that holds the id, instead of --identity-client-id
    #[arg(long, env = "ROWLOCK_IDENTITY_CLIENT_ID_FILE", value_name = "PATH")]
    pub identity_client_id_file: Option<PathBuf>,
    /// The secret of the service account
    #[arg(long, env = "ROWLOCK_IDENTITY_CLIENT_SECRET", value_name = "TEXT", hide_env_values = true)]
    pub identity_client_secret: Option<Secret>,
    /// A file that holds the secret, instead of --identity-client-secret
    #[arg(long, env = "ROWLOCK_IDENTITY_CLIENT_SECRET_FILE", value_name = "PATH")]
    pub identity_client_secret_file: Option<PathBuf>,
    /// For how long identity-service may be silent before its revocations count as not known, 5s to 1h
    #[arg(long, env = "ROWLOCK_REVOCATIONS_MAX_AGE", value_name = "DURATION", default_value = "30s")]
    pub revocations_max_age: Checked<Period>,
    /// What to do then with signed-in callers: continue or refuse
    #[arg(long, env = "ROWLOCK_REVOCATIONS_WHEN_STALE", value_name = "POLICY", default_value = "continue")]
    pub revocations_when_stale: Checked<WhenStale>,
}

/// How seats are given.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Seating")]
pub struct SeatingArgs {
    /// Database sessions that seat, each with one batch at a time, 1 to 64
    #[arg(long, env = "ROWLOCK_SEATING_SESSIONS", value_name = "N", default_value = "2")]
    pub seating_sessions: Checked<usize>,
    /// Commands that may wait to be seated or be under way before further ones are refused, half of them for one event, 1 to 1000000
    #[arg(long, env = "ROWLOCK_SEATING_QUEUE", value_name = "N", default_value = "16384")]
    pub seating_queue: Checked<usize>,
    /// How long a batch waits for an event that somebody else has locked before it goes on without it, 1ms to 10s
    #[arg(long, env = "ROWLOCK_EVENT_LOCK_TIMEOUT", value_name = "DURATION", default_value = "250ms")]
    pub event_lock_timeout: Checked<Period>,
    /// Register calls a second that one attendee may make, twice as many in a burst; counted apart from other calls
    #[arg(long, env = "ROWLOCK_REGISTER_RATE", value_name = "RATE", default_value = "10/s")]
    pub register_rate: Checked<RateOption>,
    /// How long a command is tried again while the database cannot be used, 0s to 5m
    #[arg(long, env = "ROWLOCK_RETRY_WINDOW", value_name = "DURATION", default_value = "5s")]
    pub retry_window: Checked<Period>,
}

/// Options of `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// identity-service
    #[arg(long, env = "ROWLOCK_IDENTITY_ADDR", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub identity_addr: String,
    /// The booking replicas, separated by commas
    #[arg(
        long,
        env = "ROWLOCK_BOOKING_ADDRS",
        value_name = "URLS",
        default_value = "http://127.0.0.1:50052"
    )]
    pub booking_addrs: String,
    /// The organizer's account; made if it does not exist
    #[arg(
        long,
        env = "ROWLOCK_ORGANIZER_EMAIL",
        value_name = "EMAIL",
        default_value = "organizer@rowlock.test"
    )]
    pub organizer_email: String,
    /// The organizer's password
    #[arg(long, env = "ROWLOCK_ORGANIZER_PASSWORD", value_name = "TEXT", hide_env_values = true)]
    pub organizer_password: Secret,
    /// The attendee's account; made if it does not exist
    #[arg(
        long,
        env = "ROWLOCK_ATTENDEE_EMAIL",
        value_name = "EMAIL",
        default_value = "attendee@rowlock.test"
    )]
    pub attendee_email: String,
    /// The attendee's password
    #[arg(long, env = "ROWLOCK_ATTENDEE_PASSWORD", value_name = "TEXT", hide_env_values = true)]
    pub attendee_password: Secret,
    /// How many people want a seat, 1 to 100000
    #[arg(long, value_name = "N", default_value = "1000")]
    pub users: Checked<u32>,
    /// How many seats there are, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "100")]
    pub seats: Checked<u32>,
    /// The file with the accounts and addresses, to be named in the grpcurl lines
    #[arg(long, value_name = "PATH")]
    pub state_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_the_arguments_shows_no_secret() {
        let url = "postgres://rowlock:hunter2@db.example/booking";
        let account = ["--identity-client-id", "booking", "--identity-client-secret", "hunter2"];
        let serve = [&["serve", "--database-url", url], &account[..]].concat();
        let demo = ["demo", "--organizer-password", "hunter2", "--attendee-password", "hunter2"];
        for arguments in [&serve[..], &["migrate", "--database-url", url], &demo] {
            let parsed = Cli::try_parse_from([&["booking-service"], arguments].concat()).unwrap();
            let debug = format!("{parsed:?}");
            assert!(debug.contains("[secret]") && !debug.contains("hunter2"), "{debug}");
        }
    }
}
