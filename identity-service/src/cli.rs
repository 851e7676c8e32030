//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use service_core::config::{Checked, DatabaseArgs, Period, ServerArgs, TelemetryArgs, TracesArgs};
use service_core::health::HealthArgs;
use service_core::secret::Secret;

use crate::signing::SigningAlgorithm;

/// Rowlock's identity service: who people are, and the tokens that prove it.
///
/// Every option can also be given by the environment variable that is named beside it.
#[derive(Clone, Debug, Parser)]
#[command(name = "identity-service", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve gRPC, and HTTP for operations and the public keys, until SIGTERM
    Serve(Box<ServeArgs>),
    /// Bring the database's schema up to date, then exit
    Migrate(Box<MigrateArgs>),
    /// The keys that access tokens are signed with
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Administrators
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Accounts of other backends
    #[command(subcommand)]
    ServiceAccount(ServiceAccountCommand),
    /// Ask a running server whether it serves; exit 0 if it does, 1 if not
    Health(HealthArgs),
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
    /// Keys and tokens.
    #[command(flatten)]
    pub tokens: TokenArgs,
    /// Passwords.
    #[command(flatten)]
    pub hashing: HashArgs,
    /// Failed sign-ins.
    #[command(flatten)]
    pub sign_in: SignInArgs,
    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    /// Traces.
    #[command(flatten)]
    pub traces: TracesArgs,
}

/// Keys and tokens.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Tokens")]
pub struct TokenArgs {
    /// The directory of private keys: every *.pem is published, the one that the file `signing` names (or the
    /// only one) signs
    #[arg(long, env = "ROWLOCK_KEYS_DIR", value_name = "PATH")]
    pub keys_dir: Option<PathBuf>,
    /// Whether the keys' group may read them, as in a Kubernetes Secret with fsGroup, true or false
    #[arg(long, env = "ROWLOCK_KEYS_ALLOW_GROUP_READ", value_name = "BOOL", default_value = "false")]
    pub keys_allow_group_read: Checked<bool>,
    /// The issuer that tokens name; verifiers expect it
    #[arg(long, env = "ROWLOCK_TOKEN_ISSUER", value_name = "TEXT", default_value = "identity.rowlock")]
    pub token_issuer: String,
    /// The audience that tokens name; verifiers expect it
    #[arg(long, env = "ROWLOCK_TOKEN_AUDIENCE", value_name = "TEXT", default_value = "rowlock")]
    pub token_audience: String,
    /// Where verifiers reach the HTTP port, such as `https://identity.example.org`, for jwks_uri in
    /// /.well-known/openid-configuration [default: the host of the request]
    #[arg(long, env = "ROWLOCK_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// How long an access token lives, 10s to 1h
    #[arg(long, env = "ROWLOCK_ACCESS_TOKEN_LIFETIME", value_name = "DURATION", default_value = "5m")]
    pub access_token_lifetime: Checked<Period>,
    /// How long a refresh token lives unused, 1m to 365d, and no shorter than an access token
    #[arg(long, env = "ROWLOCK_REFRESH_TOKEN_LIFETIME", value_name = "DURATION", default_value = "30d")]
    pub refresh_token_lifetime: Checked<Period>,
    /// How long a session lives however often it is refreshed, 1m to 3650d, and no shorter than an access token
    #[arg(long, env = "ROWLOCK_SESSION_LIFETIME", value_name = "DURATION", default_value = "90d")]
    pub session_lifetime: Checked<Period>,
    /// How long a token lives that replaces a forgotten password, 1m to 7d
    #[arg(long, env = "ROWLOCK_PASSWORD_RESET_LIFETIME", value_name = "DURATION", default_value = "1h")]
    pub password_reset_lifetime: Checked<Period>,
}

/// Passwords: Argon2id.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Passwords (Argon2id)")]
pub struct HashArgs {
    /// Memory of one hash in KiB, 19456 to 1048576; when it grows, hashes are renewed as users sign in
    #[arg(long, env = "ROWLOCK_PASSWORD_HASH_MEMORY_KIB", value_name = "N", default_value = "19456")]
    pub password_hash_memory_kib: Checked<u32>,
    /// Passes over the memory, 2 to 100
    #[arg(long, env = "ROWLOCK_PASSWORD_HASH_PASSES", value_name = "N", default_value = "2")]
    pub password_hash_passes: Checked<u32>,
    /// Lanes, 1 to 16
    #[arg(long, env = "ROWLOCK_PASSWORD_HASH_LANES", value_name = "N", default_value = "1")]
    pub password_hash_lanes: Checked<u32>,
    /// How many hashes run at once, 1 to 256 [default: one for each core]
    #[arg(long, env = "ROWLOCK_PASSWORD_HASH_THREADS", value_name = "N")]
    pub password_hash_threads: Option<Checked<usize>>,
    /// How many more may wait before further ones are refused, 0 to 100000
    #[arg(long, env = "ROWLOCK_PASSWORD_HASH_QUEUE", value_name = "N", default_value = "256")]
    pub password_hash_queue: Checked<usize>,
}

/// Failed sign-ins.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Failed sign-ins")]
pub struct SignInArgs {
    /// How many failures of one account are answered before it pauses, 1 to 1000; the pause begins with 1s
    /// and doubles
    #[arg(long, env = "ROWLOCK_SIGN_IN_ACCOUNT_FAILURES", value_name = "N", default_value = "10")]
    pub sign_in_account_failures: Checked<u32>,
    /// The longest pause of an account, 1s to 1d; one failure is forgiven for every two such times without
    /// one
    #[arg(long, env = "ROWLOCK_SIGN_IN_ACCOUNT_PAUSE", value_name = "DURATION", default_value = "15m")]
    pub sign_in_account_pause: Checked<Period>,
    /// How many failures of one client address are answered before it pauses, 0 (not counted) to 1000000
    #[arg(long, env = "ROWLOCK_SIGN_IN_ADDRESS_FAILURES", value_name = "N", default_value = "100")]
    pub sign_in_address_failures: Checked<u32>,
    /// The longest pause of a client address, 1s to 1d; one failure is forgiven every 5s
    #[arg(long, env = "ROWLOCK_SIGN_IN_ADDRESS_PAUSE", value_name = "DURATION", default_value = "1m")]
    pub sign_in_address_pause: Checked<Period>,
    /// The metadata that a proxy in front writes the client's address to, such as x-forwarded-for; its last
    /// address counts [default: the connection's address]
    #[arg(long, env = "ROWLOCK_CLIENT_ADDRESS_HEADER", value_name = "NAME")]
    pub client_address_header: Option<String>,
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

/// What to do with keys.
#[derive(Clone, Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a new private key in a file of its own, KID.pem; existing keys are never overwritten
    ///
    /// The first key of a directory signs. Another one is published only, until `keys activate` or --activate
    /// says that it signs. A running server reads the directory when it starts.
    Generate {
        /// The directory; it is made if there is none
        #[arg(long, env = "ROWLOCK_KEYS_DIR", value_name = "PATH")]
        dir: PathBuf,
        /// The kind of key
        #[arg(long, value_enum, default_value = "es256")]
        algorithm: SigningAlgorithm,
        /// Let the new key sign from the next start on
        #[arg(long)]
        activate: bool,
        /// Do nothing if the directory has a key already
        #[arg(long, conflicts_with = "activate")]
        if_none: bool,
        /// Accept keys in the directory that their group may read
        #[arg(long)]
        allow_group_read: bool,
    },
    /// Say which key signs from the next start on
    Activate {
        /// The directory
        #[arg(long, env = "ROWLOCK_KEYS_DIR", value_name = "PATH")]
        dir: PathBuf,
        /// The key, by its file's name without .pem
        // One in 64 thumbprints begins with a hyphen.
        #[arg(allow_hyphen_values = true)]
        kid: String,
        /// Accept keys in the directory that their group may read
        #[arg(long)]
        allow_group_read: bool,
    },
}

/// What to do with administrators.
#[derive(Clone, Debug, Subcommand)]
pub enum AdminCommand {
    /// Make an administrator
    ///
    /// The password comes from --password-file, from the environment variable ROWLOCK_ADMIN_PASSWORD, or is
    /// the first line of standard input. An administrator who is there already is left as is.
    Create(Box<AdminCreateArgs>),
}

/// What to do about service accounts.
#[derive(Clone, Debug, Subcommand)]
pub enum ServiceAccountCommand {
    /// Make a service account and tell its credentials, this once: printed as the variables that booking-service takes,
    /// or in files
    Create(Box<ServiceAccountCreateArgs>),
}

/// Options of `service-account create`.
#[derive(Args, Clone, Debug)]
pub struct ServiceAccountCreateArgs {
    /// What the account is for
    #[arg(long, value_name = "TEXT")]
    pub display_name: String,
    /// Where to write the files `client-id` and `client-secret`, for their owner alone, instead of printing; with a
    /// `client-id` there already, nothing is made
    #[arg(long, value_name = "PATH")]
    pub dir: Option<PathBuf>,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Options of `admin create`.
#[derive(Args, Clone, Debug)]
pub struct AdminCreateArgs {
    /// The e-mail address
    #[arg(long, env = "ROWLOCK_ADMIN_EMAIL", value_name = "ADDRESS", hide_env_values = true)]
    pub email: Secret,
    /// What to call the administrator
    #[arg(long, value_name = "TEXT", default_value = "Administrator")]
    pub display_name: String,
    /// The password itself. Hidden: what stands on a command line is seen by everybody on the machine.
    #[arg(long, env = "ROWLOCK_ADMIN_PASSWORD", hide = true, hide_env_values = true)]
    pub password: Option<Secret>,
    /// A file that holds the password
    #[arg(long, env = "ROWLOCK_ADMIN_PASSWORD_FILE", value_name = "PATH")]
    pub password_file: Option<PathBuf>,
    /// If a user has the address already: make that user an active administrator with this password, signed
    /// out everywhere
    #[arg(long)]
    pub reset: bool,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Passwords.
    #[command(flatten)]
    pub hashing: HashArgs,
    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn debug_of_the_arguments_shows_no_secret() {
        let url = "postgres://rowlock:hunter2@db.example/identity";
        let create = [
            "admin",
            "create",
            "--email",
            "hunter2@example.org",
            "--password",
            "hunter2",
            "--database-url",
            url,
        ];
        for arguments in [&["serve", "--database-url", url][..], &["migrate", "--database-url", url], &create]
        {
            let parsed = Cli::try_parse_from([&["identity-service"], arguments].concat()).unwrap();
            let debug = format!("{parsed:?}");
            assert!(debug.contains("[secret]") && !debug.contains("hunter2"), "{debug}");
        }
    }
}
