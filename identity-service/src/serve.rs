//! `serve`: putting the parts together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use service_core::database;
use service_core::database_check::watch_database;
use service_core::lifecycle::Readiness;
use service_core::pace::Pace;
use service_core::server::{GrpcServer, Listeners};
use service_core::telemetry;
use service_core::token::{KeySet, TokenVerifier, VerifierConfig};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::MIGRATOR;
use crate::accounts::Accounts;
use crate::config::ServeConfig;
use crate::domain::{TOKENS_AT_ONCE, TOKENS_PER_SECOND};
use crate::grpc::{self, Revocations};
use crate::hashing::PasswordHasher;
use crate::http;
use crate::revocations::RevocationFeed;
use crate::signing::AccessTokens;
use crate::sources::Sources;
use crate::store;

/// How this service calls itself in PostgreSQL's `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "rowlock-identity";

/// How the session that looks for revocations calls itself there.
const REVOCATIONS_NAME: &str = "rowlock-identity-revocations";

/// How often rows that nobody asks for any more are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(10 * 60);
/// How long sessions with the database may take to end when the server has.
const LAST_SESSIONS: Duration = Duration::from_secs(10);
/// How long an expired session stays for whoever looks into what happened.
const KEEP_SESSIONS: Duration = Duration::from_secs(7 * 86_400);
/// How long counts of failures stay. Longer than any pause.
const KEEP_FAILURES: Duration = Duration::from_secs(7 * 86_400);

/// Serves on `listeners` until `shutdown`, then finishes what is accepted. The database may be down at first:
/// the service is ready when it is there.
///
/// # Errors
/// If the keys cannot be used, or the database's schema is not the one that this program knows.
pub async fn serve(
    config: ServeConfig,
    listeners: Listeners,
    sources: Sources,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = telemetry::init(&config.telemetry)?;
    // From the start on: an alert on a rise needs the value before it.
    metrics::counter!("sign_ins_paused_total").increment(0);
    let ring = Arc::new(config.keys.load()?);
    let (grpc_addr, http_addr) = (listeners.grpc.local_addr()?, listeners.http.local_addr()?);
    tracing::info!(%grpc_addr, %http_addr, kid = ring.signing_kid(), "listening");

    let keys = Arc::new(KeySet::new());
    keys.replace_from_jwks(ring.jwks_json()).context("the own keys cannot be used")?;
    let verify = VerifierConfig {
        algorithms: ring.algorithms().to_vec(),
        ..VerifierConfig::new(&config.tokens.issuer, &config.tokens.audience)
    };
    let feed = Arc::new(RevocationFeed::default());
    let verifier = TokenVerifier::new(verify, keys, sources.clock.clone()).with_revocations(feed.known());
    let verifier = Arc::new(verifier);

    let (issuer, public_url) = (config.tokens.issuer.clone(), config.tokens.public_url.clone());
    let pool = database::pool(&config.database, APPLICATION_NAME).await;
    // Calls that take all sessions of the pool do not keep revocations from being heard of.
    let mut one_session = config.database.clone();
    one_session.max_connections = 1;
    let revocations_pool = database::pool(&one_session, REVOCATIONS_NAME).await;
    let accounts = Arc::new(Accounts {
        pool: pool.clone(),
        hasher: PasswordHasher::new(config.hashing.cost, config.hashing.limits, sources.entropy.clone())?,
        tokens: AccessTokens::new(
            ring.clone(),
            sources.ids.clone(),
            config.tokens.issuer,
            config.tokens.audience,
            config.tokens.access_lifetime,
        ),
        sessions: config.tokens.sessions,
        reset_lifetime: config.tokens.reset_lifetime,
        pace: Pace::new(TOKENS_AT_ONCE, TOKENS_PER_SECOND),
        limits: config.sign_in,
        sources: sources.clone(),
    });

    let max_message_bytes = config.server.max_message_bytes;
    let revocations =
        Revocations { feed: feed.clone(), clock: sources.clock.clone(), draining: shutdown.clone() };
    let routes = grpc::routes(
        accounts,
        ring.clone(),
        verifier.clone(),
        config.client_address,
        revocations,
        max_message_bytes,
    );
    let readiness = Readiness::new();
    let (database_check, revocations_check) =
        (readiness.register("database"), readiness.register("revocations"));
    let server = GrpcServer {
        config: config.server,
        domain: grpc::DOMAIN,
        access: grpc::ACCESS,
        streams: &grpc::STREAMS,
        verifier,
        ids: sources.ids.clone(),
        descriptor_sets: vec![rowlock_proto::FILE_DESCRIPTOR_SET],
        service_names: grpc::SERVICE_NAMES.to_vec(),
        readiness,
        metrics,
    };
    // Ends both: the outer shutdown, a schema that cannot be served, or a server that cannot go on.
    let stop = shutdown.child_token();
    let serving = async {
        let served =
            server.serve(routes, http::router(ring, issuer, public_url), listeners, stop.clone()).await;
        stop.cancel();
        served
    };
    let watching = async {
        let watched = watch_database(&pool, &MIGRATOR, &database_check, &stop).await;
        stop.cancel();
        watched
    };
    let (served, watched, (), ()) = tokio::join!(
        serving,
        watching,
        feed.run(&revocations_pool, sources.clock.as_ref(), &revocations_check, &stop),
        keep_house(&pool, &sources, &stop),
    );
    // Sessions that a database holds open which is not there any more are left to it.
    let closing = async { tokio::join!(pool.close(), revocations_pool.close()) };
    let _ = tokio::time::timeout(LAST_SESSIONS, closing).await;
    watched?;
    served
}

/// Removes now and then what nobody asks for any more, until `stop`.
async fn keep_house(pool: &PgPool, sources: &Sources, stop: &CancellationToken) {
    let sweeping = async {
        loop {
            sweep(pool, sources).await;
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    };
    stop.run_until_cancelled(sweeping).await;
}

async fn sweep(pool: &PgPool, sources: &Sources) {
    let now = sources.clock.now();
    match store::sweep(pool, now - KEEP_SESSIONS, now - KEEP_FAILURES, now).await {
        Ok(swept) => tracing::debug!(sessions = swept.sessions, failures = swept.failures, "swept"),
        Err(error) => tracing::warn!(%error, "sweeping failed; it is tried again later"),
    }
}
