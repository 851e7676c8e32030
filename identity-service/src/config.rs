//! The configuration of `serve`, checked: every error is found before any is reported.

use std::time::Duration;

use service_core::auth::Role;
use service_core::config::{
    Checked, ConfigErrors, DatabaseConfig, Period, ServerConfig, ServerDefaults, TelemetryConfig,
};

use crate::accounts::SignInLimits;
use crate::cli::{HashArgs, ServeArgs, SignInArgs, TokenArgs};
use crate::domain::{Backoff, LONGEST_ACCESS_TOKEN_LIFETIME, SessionLifetimes};
use crate::grpc::ClientAddress;
use crate::hashing::{HashCost, HashLimits};
use crate::signing::KeyDir;

/// How this service is served unless it is told otherwise.
pub const DEFAULTS: ServerDefaults = ServerDefaults {
    grpc: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 50051),
    http: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 9051),
    // Nothing that organizers do here has to be done a thousand times, and anybody may sign up as one.
    limited: &[Role::Attendee, Role::Organizer],
};

/// The first pause after too many failed sign-ins.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How fast a client address is forgiven: many people may share one.
const ADDRESS_FORGIVE: Duration = Duration::from_secs(5);

/// Everything that serving needs to know.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The database.
    pub database: DatabaseConfig,
    /// Addresses, limits and times of the server.
    pub server: ServerConfig,
    /// Where the keys are.
    pub keys: KeyDir,
    /// Tokens.
    pub tokens: TokenConfig,
    /// Passwords.
    pub hashing: HashConfig,
    /// How failed sign-ins slow the next ones down.
    pub sign_in: SignInLimits,
    /// Where client addresses are taken from.
    pub client_address: ClientAddress,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

/// What tokens say and how long they live.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// The `iss` claim.
    pub issuer: String,
    /// The `aud` claim.
    pub audience: String,
    /// Where the HTTP port is reached from outside, without a slash at the end.
    pub public_url: Option<String>,
    /// How long an access token lives.
    pub access_lifetime: Duration,
    /// How long sessions live.
    pub sessions: SessionLifetimes,
    /// How long a token lives that replaces a password.
    pub reset_lifetime: Duration,
}

/// What hashes cost, and how many run.
#[derive(Clone, Copy, Debug)]
pub struct HashConfig {
    /// What one costs.
    pub cost: HashCost,
    /// How many run and wait.
    pub limits: HashLimits,
}

impl ServeArgs {
    /// Checks all options.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn check(self) -> Result<ServeConfig, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.database.check(&mut errors);
        let server = self.server.check(DEFAULTS, &mut errors);
        let (keys, tokens) = self.tokens.check(&mut errors);
        let hashing = self.hashing.check(&mut errors);
        let client_address = client_address(self.sign_in.client_address_header.as_deref(), &mut errors);
        let sign_in = self.sign_in.check(&mut errors);
        let mut telemetry = self.telemetry.check(&mut errors);
        telemetry.traces = self.traces.check(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), &mut errors);
        errors.finish()?;
        Ok(ServeConfig { database, server, keys, tokens, hashing, sign_in, client_address, telemetry })
    }
}

impl TokenArgs {
    fn check(self, errors: &mut ConfigErrors) -> (KeyDir, TokenConfig) {
        let name = "--keys-dir (ROWLOCK_KEYS_DIR)";
        if self.keys_dir.is_none() {
            errors.add(name, "is required: make keys with `identity-service keys generate --dir PATH`");
        }
        let name = "--keys-allow-group-read (ROWLOCK_KEYS_ALLOW_GROUP_READ)";
        let group_may_read = self.keys_allow_group_read.take(name, errors).unwrap_or_default();
        let mut required = |name: &str, value: &str| {
            if value.trim().is_empty() {
                errors.add(name, "must not be empty");
            }
        };
        required("--token-issuer (ROWLOCK_TOKEN_ISSUER)", &self.token_issuer);
        required("--token-audience (ROWLOCK_TOKEN_AUDIENCE)", &self.token_audience);
        let public_url = self.public_url.map(|url| url.trim().trim_end_matches('/').to_owned());
        let is_url = |url: &String| {
            url.parse::<axum::http::Uri>()
                .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
        };
        if !public_url.iter().all(is_url) {
            errors.add(
                "--public-url (ROWLOCK_PUBLIC_URL)",
                "must be a URL such as https://identity.example.org",
            );
        }
        let name = "--access-token-lifetime (ROWLOCK_ACCESS_TOKEN_LIFETIME)";
        let access_lifetime =
            period(name, self.access_token_lifetime, 10, LONGEST_ACCESS_TOKEN_LIFETIME.as_secs(), errors);
        let name = "--refresh-token-lifetime (ROWLOCK_REFRESH_TOKEN_LIFETIME)";
        let idle = period(name, self.refresh_token_lifetime, 60, 365 * 86_400, errors);
        let name = "--session-lifetime (ROWLOCK_SESSION_LIFETIME)";
        let absolute = period(name, self.session_lifetime, 60, 3_650 * 86_400, errors);
        if idle.min(absolute) < access_lifetime {
            errors.add(name, "and --refresh-token-lifetime must not be shorter than --access-token-lifetime");
        }
        let name = "--password-reset-lifetime (ROWLOCK_PASSWORD_RESET_LIFETIME)";
        let reset_lifetime = period(name, self.password_reset_lifetime, 60, 7 * 86_400, errors);
        let tokens = TokenConfig {
            issuer: self.token_issuer,
            audience: self.token_audience,
            public_url,
            access_lifetime,
            sessions: SessionLifetimes { idle, absolute },
            reset_lifetime,
        };
        (KeyDir::new(self.keys_dir.unwrap_or_default(), group_may_read), tokens)
    }
}

impl HashArgs {
    /// Checks the group. The result is of use only if `errors` stays empty.
    pub fn check(self, errors: &mut ConfigErrors) -> HashConfig {
        let least = HashCost::LEAST;
        let name = "--password-hash-memory-kib (ROWLOCK_PASSWORD_HASH_MEMORY_KIB)";
        let memory = self.password_hash_memory_kib.take_within(name, least.memory_kib..=1 << 20, errors);
        let name = "--password-hash-passes (ROWLOCK_PASSWORD_HASH_PASSES)";
        let passes = self.password_hash_passes.take_within(name, least.passes..=100, errors);
        let name = "--password-hash-lanes (ROWLOCK_PASSWORD_HASH_LANES)";
        let lanes = self.password_hash_lanes.take_within(name, least.lanes..=16, errors);
        let name = "--password-hash-threads (ROWLOCK_PASSWORD_HASH_THREADS)";
        let threads = self.password_hash_threads.and_then(|n| n.take_within(name, 1..=256, errors));
        let name = "--password-hash-queue (ROWLOCK_PASSWORD_HASH_QUEUE)";
        let waiting = self.password_hash_queue.take_within(name, 0..=100_000, errors);
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        HashConfig {
            cost: HashCost {
                memory_kib: memory.unwrap_or(least.memory_kib),
                passes: passes.unwrap_or(least.passes),
                lanes: lanes.unwrap_or(least.lanes),
            },
            limits: HashLimits {
                threads: threads.unwrap_or_else(cores),
                waiting: waiting.unwrap_or_default(),
            },
        }
    }
}

impl SignInArgs {
    fn check(self, errors: &mut ConfigErrors) -> SignInLimits {
        let name = "--sign-in-account-failures (ROWLOCK_SIGN_IN_ACCOUNT_FAILURES)";
        let free = self.sign_in_account_failures.take_within(name, 1..=1_000, errors);
        let name = "--sign-in-account-pause (ROWLOCK_SIGN_IN_ACCOUNT_PAUSE)";
        let longest = period(name, self.sign_in_account_pause, 1, 86_400, errors);
        // Longer than the pause: who tries again after each pause is not forgiven.
        let account = Backoff {
            free: free.unwrap_or(1),
            first: FIRST_PAUSE,
            longest,
            forgive: longest.saturating_mul(2),
        };
        let name = "--sign-in-address-failures (ROWLOCK_SIGN_IN_ADDRESS_FAILURES)";
        let free = self.sign_in_address_failures.take_within(name, 0..=1_000_000, errors);
        let name = "--sign-in-address-pause (ROWLOCK_SIGN_IN_ADDRESS_PAUSE)";
        let longest = period(name, self.sign_in_address_pause, 1, 86_400, errors);
        let address = free.filter(|free| *free > 0).map(|free| Backoff {
            free,
            first: FIRST_PAUSE,
            longest,
            forgive: ADDRESS_FORGIVE,
        });
        SignInLimits { account, address }
    }
}

fn client_address(header: Option<&str>, errors: &mut ConfigErrors) -> ClientAddress {
    let Some(header) = header else { return ClientAddress::Connection };
    ClientAddress::header(header.trim()).unwrap_or_else(|| {
        let name = "--client-address-header (ROWLOCK_CLIENT_ADDRESS_HEADER)";
        errors.add(name, "is wrong: expected the name of a metadata entry, such as x-forwarded-for");
        ClientAddress::Connection
    })
}

/// A duration between two numbers of seconds.
fn period(
    name: &str,
    value: Checked<Period>,
    shortest: u64,
    longest: u64,
    errors: &mut ConfigErrors,
) -> Duration {
    let range = Period(Duration::from_secs(shortest))..=Period(Duration::from_secs(longest));
    value.take_within(name, range, errors).map_or(Duration::from_secs(longest), |Period(duration)| duration)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn check(options: &[&str]) -> Result<ServeConfig, ConfigErrors> {
        let arguments = ["identity-service", "serve"].iter().chain(options);
        let Command::Serve(args) = Cli::try_parse_from(arguments).unwrap().command else {
            panic!("not serve");
        };
        args.check()
    }

    #[test]
    fn a_database_and_keys_are_all_that_must_be_given() {
        let config = check(&["--database-url", "postgres://localhost/x", "--keys-dir", "/keys"]).unwrap();
        assert_eq!((config.server.grpc_addr.port(), config.server.http_addr.port()), (50051, 9051));
        assert_eq!(config.tokens.access_lifetime, Duration::from_secs(300));
        assert_eq!(config.hashing.cost, HashCost::LEAST);
        assert!(config.sign_in.address.is_some());
    }

    #[test]
    fn every_option_of_its_own_reaches_what_it_configures() {
        let options = "--database-url postgres://localhost/x --keys-dir /keys --token-issuer issuer --token-audience audience
            --public-url https://id.example.org --access-token-lifetime 11s --refresh-token-lifetime 61s
            --session-lifetime 62s --password-reset-lifetime 63s --password-hash-memory-kib 20000 --password-hash-passes 3 --password-hash-lanes 4
            --password-hash-threads 5 --password-hash-queue 6 --sign-in-account-failures 7 --sign-in-account-pause 8s
            --sign-in-address-failures 9 --sign-in-address-pause 10s --client-address-header x-real-ip";
        let config = check(&options.split_whitespace().collect::<Vec<_>>()).unwrap();
        let seconds = Duration::from_secs;
        let tokens = &config.tokens;
        assert_eq!((tokens.issuer.as_str(), tokens.audience.as_str()), ("issuer", "audience"));
        assert_eq!(tokens.access_lifetime, seconds(11));
        assert_eq!((tokens.sessions.idle, tokens.sessions.absolute), (seconds(61), seconds(62)));
        assert_eq!(tokens.reset_lifetime, seconds(63));
        let HashConfig { cost, limits } = config.hashing;
        assert_eq!((cost.memory_kib, cost.passes, cost.lanes), (20_000, 3, 4));
        assert_eq!((limits.threads, limits.waiting), (5, 6));
        let (account, address) = (config.sign_in.account, config.sign_in.address.unwrap());
        assert_eq!((account.free, account.longest, account.forgive), (7, seconds(8), seconds(16)));
        assert_eq!((address.free, address.longest), (9, seconds(10)));
        assert!(format!("{:?} {:?}", config.client_address, tokens.public_url).contains("x-real-ip"));
        assert!(format!("{:?}", tokens.public_url).contains("id.example.org"));
    }

    #[test]
    fn every_error_is_reported_at_once() {
        let text = check(&[
            "--grpc-addr",
            "nowhere",
            "--database-url",
            "mysql://x",
            "--keys-allow-group-read",
            "perhaps",
            "--token-issuer",
            " ",
            "--public-url",
            "identity.example.org",
            "--access-token-lifetime",
            "2d",
            "--refresh-token-lifetime",
            "forever",
            "--password-hash-memory-kib",
            "1024",
            "--password-hash-threads",
            "0",
            "--sign-in-account-failures",
            "0",
            "--client-address-header",
            "not a name",
            "--log-format",
            "xml",
        ])
        .unwrap_err()
        .to_string();
        for name in [
            "ROWLOCK_GRPC_ADDR",
            "ROWLOCK_DATABASE_URL",
            "ROWLOCK_KEYS_DIR",
            "ROWLOCK_KEYS_ALLOW_GROUP_READ",
            "ROWLOCK_TOKEN_ISSUER",
            "ROWLOCK_PUBLIC_URL",
            "ROWLOCK_ACCESS_TOKEN_LIFETIME",
            "ROWLOCK_REFRESH_TOKEN_LIFETIME",
            "ROWLOCK_PASSWORD_HASH_MEMORY_KIB",
            "ROWLOCK_PASSWORD_HASH_THREADS",
            "ROWLOCK_SIGN_IN_ACCOUNT_FAILURES",
            "ROWLOCK_CLIENT_ADDRESS_HEADER",
            "ROWLOCK_LOG_FORMAT",
        ] {
            assert!(text.contains(&format!("({name})")), "{name} is missing in:\n{text}");
        }
        assert_eq!(text.lines().count(), 14, "one line for each, and the heading:\n{text}");
    }

    #[test]
    fn addresses_are_not_counted_when_none_may_fail() {
        let options = [
            "--database-url",
            "postgres://localhost/x",
            "--keys-dir",
            "/k",
            "--sign-in-address-failures",
            "0",
        ];
        assert_eq!(check(&options).unwrap().sign_in.address, None);
    }
}
