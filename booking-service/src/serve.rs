//! `serve`: putting the parts together.

use std::sync::Arc;
use std::time::Duration;

use service_core::clock::Clock;
use service_core::database;
use service_core::database_check::watch_database;
use service_core::ids::IdSource;
use service_core::lifecycle::{Readiness, ReadinessHandle};
use service_core::server::{GrpcServer, Listeners};
use service_core::telemetry;
use service_core::token::{KeySet, KnownRevocations, TokenVerifier, refresh_keys};
use sqlx::migrate::Migrator;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::ServeConfig;
use crate::feed::Feed;
use crate::grpc::{self, Booking, Turns};
use crate::identity::{Keys, RevocationWatch};
use crate::seating::Seating;
use crate::simulate::Simulator;
use crate::store::reading_options;
use crate::worker::Worker;

/// How this service calls itself in PostgreSQL's `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "rowlock-booking";

/// How often identity's keys are fetched, and how soon again for a token of an unknown key.
const FETCH_KEYS_EVERY: Duration = Duration::from_secs(60);
const FETCH_KEYS_GAP: Duration = Duration::from_secs(5);
/// How long batches and sessions that are left when no caller is any more are waited for. The server finishes what it has
/// been sent, or rolls it back, without us.
const LAST_BATCHES: Duration = Duration::from_secs(10);
/// How often it is looked whether the first keys are there.
const LOOK_FOR_KEYS: Duration = Duration::from_millis(50);

/// What the service takes from outside of itself.
#[derive(Clone)]
pub struct Sources {
    /// Tells the time for tokens; seats go by the database's clock.
    pub clock: Arc<dyn Clock>,
    /// Makes ids.
    pub ids: Arc<dyn IdSource>,
}

/// Serves a database with this `schema` on `listeners` until `shutdown`, then finishes what is accepted. The database and identity may be down at first:
/// the service is ready when both have been there.
///
/// # Errors
/// If the listeners cannot be used, or the database's schema is not the one that this program knows.
pub async fn serve(
    config: ServeConfig,
    schema: &'static Migrator,
    listeners: Listeners,
    sources: Sources,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = telemetry::init(&config.telemetry)?;
    let (grpc_addr, http_addr) = (listeners.grpc.local_addr()?, listeners.http.local_addr()?);
    tracing::info!(%grpc_addr, %http_addr, "listening");

    let keys = Arc::new(KeySet::new());
    let verify = config.tokens.verify;
    let revocations = Arc::new(KnownRevocations::new());
    let verifier = TokenVerifier::new(verify, Arc::clone(&keys), Arc::clone(&sources.clock));
    let verifier = Arc::new(verifier.with_revocations(Arc::clone(&revocations)));

    let pool = database::pool(&config.database, APPLICATION_NAME).await;
    let reading = database::connect_options(&config.database, APPLICATION_NAME);
    pool.set_connect_options(reading.options(reading_options()));
    let seats = database::connect_options(&config.database, "rowlock-booking-seating");
    let seating = Arc::new(Seating::start(&config.seating, &seats, &sources.ids));
    let feed = Feed::default();
    let booking = Arc::new(Booking {
        turns: Turns::new(config.database.max_connections),
        seating: Arc::clone(&seating),
        pool: pool.clone(),
        lookups: grpc::Lookups::start(&pool),
        ids: Arc::clone(&sources.ids),
        simulator: Simulator::default(),
        feed: feed.clone(),
        clock: Arc::clone(&sources.clock),
        revocations: Arc::clone(&revocations),
        draining: shutdown.clone(),
    });
    let worker = Worker {
        seating: Arc::clone(&seating),
        pool: pool.clone(),
        change_retention: config.change_retention,
    };

    let routes = grpc::routes(&booking, config.server.max_message_bytes);
    let readiness = Readiness::new();
    let (database_check, keys_check) = (readiness.register("database"), readiness.register("identity_keys"));
    let revocation_watch = RevocationWatch {
        identity: config.tokens.identity.clone(),
        config: config.tokens.revocations,
        known: Arc::clone(&revocations),
        clock: Arc::clone(&sources.clock),
        check: readiness.register("revocations"),
    };
    let server = GrpcServer {
        config: config.server,
        domain: grpc::DOMAIN,
        access: grpc::access::ACCESS,
        streams: &grpc::access::STREAMS,
        verifier,
        ids: Arc::clone(&sources.ids),
        descriptor_sets: vec![rowlock_proto::FILE_DESCRIPTOR_SET],
        service_names: grpc::SERVICE_NAMES.to_vec(),
        readiness,
        metrics,
    };

    // Ends all of it: the outer shutdown, a schema that cannot be served, or a server that cannot go on.
    let stop = shutdown.child_token();
    let watch = async {
        let watched = watch_database(&pool, schema, &database_check, &stop).await;
        stop.cancel();
        watched
    };
    let fetch = refresh_keys(
        Arc::clone(&keys),
        Keys::at(&config.tokens.identity),
        FETCH_KEYS_EVERY,
        FETCH_KEYS_GAP,
        stop.clone(),
    );
    let serving = async {
        let served = server.serve(routes, axum::Router::new(), listeners, stop.clone()).await;
        stop.cancel();
        served
    };
    let (served, watched, (), (), (), (), ()) = tokio::join!(
        serving,
        watch,
        fetch,
        await_keys(&keys, &keys_check, &stop),
        revocation_watch.run(stop.clone()),
        feed.run(pool.clone(), stop.clone()),
        worker.run(stop.clone()),
    );
    // Every call has its answer or is out of time: what seating still holds is finished.
    let finished = async {
        seating.drain().await;
        pool.close().await;
    };
    if timeout(LAST_BATCHES, finished).await.is_err() {
        tracing::warn!("the database does not answer: what it was sent last is left to it");
    }
    watched?;
    served
}

/// Ready once the first keys are there. Later failures keep the old keys, and with them the readiness.
async fn await_keys(keys: &KeySet, check: &ReadinessHandle, stop: &CancellationToken) {
    check.set_unready("identity-service has not given its keys yet");
    while keys.is_empty() {
        if stop.run_until_cancelled(sleep(LOOK_FOR_KEYS)).await.is_none() {
            return;
        }
    }
    check.set_ready();
}
