//! The configuration of `serve`, checked: every error is found before any is reported.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use service_core::auth::Role;
use service_core::config::{
    Checked, ConfigErrors, DatabaseConfig, Period, ServerConfig, ServerDefaults, TelemetryConfig, secret,
};
use service_core::layers::{RateLimit, RateOption};
use service_core::secret::Secret;
use service_core::token::VerifierConfig;
use service_core::upstream::{Upstream, UpstreamOptions};

use crate::cli::{RevocationArgs, SeatingArgs, ServeArgs, TokenArgs};
use crate::identity::ServiceAccount;
use crate::seating::SeatingConfig;

/// By its row in the log it is found out what became of a batch without an answer: that row must outlive the longest statement
/// (11 minutes) and the longest retry window (5 minutes) by far.
const SHORTEST_RETENTION: Duration = Duration::from_secs(3_600);
const REGISTER: &str = "/rowlock.booking.v1.RegistrationService/Register";

/// How this service is served unless it is told otherwise.
pub const DEFAULTS: ServerDefaults = ServerDefaults {
    grpc: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 50052),
    http: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9052),
    // An organizer may register a thousand guests.
    limited: &[Role::Attendee],
};

/// Everything that serving needs to know.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The database.
    pub database: DatabaseConfig,
    /// Addresses, limits and times of the server.
    pub server: ServerConfig,
    /// Whose tokens are accepted.
    pub tokens: TokenConfig,
    /// How seats are given.
    pub seating: SeatingConfig,
    /// How long changes are kept; `None`: for ever.
    pub change_retention: Option<Duration>,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

/// Whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// identity-service.
    pub identity: Upstream,
    /// What their tokens must be like.
    pub verify: VerifierConfig,
    /// How tokens that identity-service has revoked are known.
    pub revocations: RevocationConfig,
}

/// How tokens that identity-service has revoked are known.
#[derive(Clone, Debug)]
pub struct RevocationConfig {
    /// As whom identity-service is asked; `None`: it is not.
    pub account: Option<ServiceAccount>,
    /// For how long identity-service may be silent before the knowledge is stale.
    pub max_age: Duration,
    /// What happens then.
    pub when_stale: WhenStale,
}

/// What to do with tokens when it is not known which were revoked lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenStale {
    /// Accept them: each expires within minutes.
    Continue,
    /// Refuse them all.
    Refuse,
}

/// The word is no [`WhenStale`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected continue or refuse")]
pub struct NotWhenStale;

impl FromStr for WhenStale {
    type Err = NotWhenStale;

    fn from_str(word: &str) -> Result<Self, NotWhenStale> {
        match word {
            "continue" => Ok(Self::Continue),
            "refuse" => Ok(Self::Refuse),
            _ => Err(NotWhenStale),
        }
    }
}

impl ServeArgs {
    /// Checks all options.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn check(self) -> Result<ServeConfig, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.database.check(&mut errors);
        let mut server = self.server.check(DEFAULTS, &mut errors);
        let rate =
            self.seating.register_rate.clone().take("--register-rate (ROWLOCK_REGISTER_RATE)", &mut errors);
        if let Some(RateOption(Some(rate))) = rate {
            // First, so that Register is not counted with the other calls.
            server
                .rate_limits
                .insert(0, RateLimit { roles: DEFAULTS.limited, methods: Some(&[REGISTER]), rate });
        }
        let tokens = self.tokens.check(&mut errors);
        let seating = self.seating.check(&mut errors);
        let name = "--change-retention (ROWLOCK_CHANGE_RETENTION)";
        let change_retention = self.change_retention.and_then(|period| {
            let longest = Duration::from_secs(100 * 365 * 86_400);
            period
                .take_within(name, Period(SHORTEST_RETENTION)..=Period(longest), &mut errors)
                .map(|Period(keep)| keep)
        });
        let mut telemetry = self.telemetry.check(&mut errors);
        telemetry.traces = self.traces.check(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), &mut errors);
        errors.finish()?;
        Ok(ServeConfig { database, server, tokens, seating, change_retention, telemetry })
    }
}

impl TokenArgs {
    fn check(self, errors: &mut ConfigErrors) -> TokenConfig {
        let identity = UpstreamOptions {
            url: self.identity_addr,
            ca_file: self.identity_ca_file,
            cert_file: self.identity_cert_file,
            key_file: self.identity_key_file,
            server_name: self.identity_server_name,
        };
        let identity = identity.check("--identity-addr (ROWLOCK_IDENTITY_ADDR)", errors);
        let mut required = |name: &str, value: &str| {
            if value.trim().is_empty() {
                errors.add(name, "must not be empty");
            }
        };
        required("--token-issuer (ROWLOCK_TOKEN_ISSUER)", &self.token_issuer);
        required("--token-audience (ROWLOCK_TOKEN_AUDIENCE)", &self.token_audience);
        let mut verify = VerifierConfig::new(self.token_issuer, self.token_audience);
        let name = "--token-algorithms (ROWLOCK_TOKEN_ALGORITHMS)";
        if let Some(algorithms) = self.token_algorithms.take(name, errors) {
            verify.algorithms = algorithms.0;
        }
        let revocations = self.revocations.check(errors);
        TokenConfig { identity, verify, revocations }
    }
}

impl RevocationArgs {
    fn check(self, errors: &mut ConfigErrors) -> RevocationConfig {
        let secret_name = "--identity-client-secret (ROWLOCK_IDENTITY_CLIENT_SECRET)";
        let secret_given =
            self.identity_client_secret.is_some() || self.identity_client_secret_file.is_some();
        let file = self.identity_client_secret_file.as_deref();
        let client_secret = secret(secret_name, self.identity_client_secret, file, errors);
        let id_name = "--identity-client-id (ROWLOCK_IDENTITY_CLIENT_ID)";
        let id = self.identity_client_id.filter(|id| !id.trim().is_empty()).map(Secret::new);
        let file = self.identity_client_id_file.as_deref();
        let id_given = id.is_some() || file.is_some();
        let client_id = secret(id_name, id, file, errors).map(|id| id.expose().to_owned());
        match (id_given, secret_given) {
            (true, false) => errors.add(secret_name, "is required with a client id"),
            (false, true) => errors.add(id_name, "is required with a client secret"),
            (true, true) | (false, false) => {}
        }
        let name = "--revocations-max-age (ROWLOCK_REVOCATIONS_MAX_AGE)";
        let (shortest, longest) = (Duration::from_secs(5), Duration::from_secs(3_600));
        let max_age = self
            .revocations_max_age
            .take_within(name, Period(shortest)..=Period(longest), errors)
            .map_or(longest, |Period(age)| age);
        let name = "--revocations-when-stale (ROWLOCK_REVOCATIONS_WHEN_STALE)";
        let when_stale = self.revocations_when_stale.take(name, errors).unwrap_or(WhenStale::Continue);
        if when_stale == WhenStale::Refuse && !id_given {
            errors.add(name, "is refuse, which needs --identity-client-id: nothing would ever be accepted");
        }
        let account = client_id
            .zip(client_secret)
            .map(|(client_id, client_secret)| ServiceAccount { client_id, client_secret });
        RevocationConfig { account, max_age, when_stale }
    }
}

impl SeatingArgs {
    fn check(self, errors: &mut ConfigErrors) -> SeatingConfig {
        let mut config = SeatingConfig::default();
        let name = "--seating-sessions (ROWLOCK_SEATING_SESSIONS)";
        if let Some(sessions) = self.seating_sessions.take_within(name, 1..=64, errors) {
            config.sessions = sessions;
        }
        let name = "--seating-queue (ROWLOCK_SEATING_QUEUE)";
        if let Some(queue) = self.seating_queue.take_within(name, 1..=1_000_000, errors) {
            config.queue = queue;
        }
        let mut period = |to: &mut Duration, value: Checked<Period>, name: &str, shortest, longest| {
            if let Some(Period(duration)) =
                value.take_within(name, Period(shortest)..=Period(longest), errors)
            {
                *to = duration;
            }
        };
        let name = "--event-lock-timeout (ROWLOCK_EVENT_LOCK_TIMEOUT)";
        let (shortest, longest) = (Duration::from_millis(1), Duration::from_secs(10));
        period(&mut config.lock_timeout, self.event_lock_timeout, name, shortest, longest);
        let name = "--retry-window (ROWLOCK_RETRY_WINDOW)";
        period(&mut config.retry_window, self.retry_window, name, Duration::ZERO, Duration::from_secs(300));
        config
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn check(options: &str) -> Result<ServeConfig, ConfigErrors> {
        let given = "booking-service serve --database-url postgres://localhost/x";
        let Command::Serve(args) =
            Cli::try_parse_from(given.split(' ').chain(options.split_whitespace())).unwrap().command
        else {
            panic!("not serve");
        };
        args.check()
    }

    #[test]
    fn every_option_of_its_own_reaches_what_it_configures() {
        let seconds = Duration::from_secs;
        let config = check(
            "--seating-sessions 3 --seating-queue 77 --event-lock-timeout 7ms --retry-window 8s --change-retention 9h
             --token-issuer issuer --token-audience audience --token-algorithms EdDSA
             --identity-client-id me --identity-client-secret secret --revocations-max-age 11s
             --revocations-when-stale refuse --register-rate 2/s --call-rate 50/s",
        )
        .unwrap();
        let seating = &config.seating;
        assert_eq!((seating.sessions, seating.queue), (3, 77));
        assert_eq!((seating.lock_timeout, seating.retry_window), (Duration::from_millis(7), seconds(8)));
        assert_eq!(config.change_retention, Some(seconds(9 * 3_600)));
        let verify = &config.tokens.verify;
        assert_eq!((verify.issuer.as_str(), verify.audience.as_str()), ("issuer", "audience"));
        assert_eq!(format!("{:?}", verify.algorithms), "[EdDSA]");
        let revocations = &config.tokens.revocations;
        let account = revocations.account.as_ref().unwrap();
        assert_eq!((account.client_id.as_str(), account.client_secret.expose()), ("me", "secret"));
        assert_eq!((revocations.max_age, revocations.when_stale), (seconds(11), WhenStale::Refuse));
        // The first that fits counts a call.
        let rates: Vec<_> =
            config.server.rate_limits.iter().map(|limit| (limit.methods, limit.rate)).collect();
        let rate = |text: &str| text.parse::<RateOption>().unwrap().0.unwrap();
        assert_eq!(rates, [(Some(&[REGISTER][..]), rate("2/s")), (None, rate("50/s"))]);
    }

    #[test]
    fn without_them_changes_are_kept_and_nobody_is_asked_for_revocations() {
        let config = check("").unwrap();
        assert_eq!(config.change_retention, None);
        assert!(config.tokens.revocations.account.is_none());
        assert_eq!(config.tokens.revocations.when_stale, WhenStale::Continue);
        let errors =
            check("--identity-client-id me --revocations-when-stale refuse").unwrap_err().to_string();
        assert!(errors.contains("is required with a client id"), "{errors}");
    }
}
