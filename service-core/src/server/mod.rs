//! The server of both services: gRPC on one port, operations on another.

mod connection;
mod descriptors;
mod goaway;
mod health;
mod operations;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::ServiceBuilder;

use crate::auth::AccessTable;
use crate::config::ServerConfig;
use crate::ids::IdSource;
use crate::layers::auth::AuthLayer;
use crate::layers::catch_panic::CatchPanicLayer;
use crate::layers::drain::DrainLayer;
use crate::layers::load_shed::LoadShedLayer;
use crate::layers::observe::ObserveLayer;
use crate::layers::{
    ArrivingLayer, CallerStreamsLayer, DeadlineLayer, Entrance, ErrorInfoLayer, Handlers,
    INFRASTRUCTURE_MESSAGE_BYTES, LeavingLayer, Methods, Next, RateLimitLayer, RequestIdLayer, Through,
};
use crate::lifecycle::Readiness;
use crate::shares::Shares;
use crate::telemetry::MetricsHandle;
use crate::tls::Acceptor;
use crate::token::TokenVerifier;

/// What every server serves beside its own.
const INFRASTRUCTURE_SERVICES: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The bound sockets of a server. Bound by the caller, so that a taken port ends the start early and tests can use port 0.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For operations.
    pub http: TcpListener,
}

impl Listeners {
    /// Binds both addresses.
    ///
    /// # Errors
    /// One line that names the address and the cause, such as `address 0.0.0.0:50051 is already in use`.
    pub async fn bind(config: &ServerConfig) -> anyhow::Result<Self> {
        Ok(Self { grpc: bind(config.grpc_addr).await?, http: bind(config.http_addr).await? })
    }
}

async fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow::anyhow!("address {address} is already in use"),
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("address {address} may not be used: permission denied")
        }
        io::ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!("address {address} is not an address of this machine")
        }
        _ => anyhow::anyhow!("address {address} cannot be listened on: {error}"),
    })
}

/// A server, ready to serve.
pub struct GrpcServer {
    /// Addresses, limits and times.
    pub config: ServerConfig,
    /// The domain of the errors that layers give, such as `booking.rowlock`.
    pub domain: &'static str,
    /// Every method and what it asks of its caller.
    pub access: AccessTable,
    /// Those of the methods that answer with a stream.
    pub streams: &'static [&'static str],
    /// Verifies access tokens.
    pub verifier: Arc<TokenVerifier>,
    /// Makes request ids.
    pub ids: Arc<dyn IdSource>,
    /// Encoded descriptor sets for reflection. Health and the error details are added.
    pub descriptor_sets: Vec<&'static [u8]>,
    /// The services whose health can be asked for, such as `rowlock.booking.v1.EventService`.
    pub service_names: Vec<&'static str>,
    /// What must be there before traffic may come.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: MetricsHandle,
}

impl GrpcServer {
    /// Serves until `shutdown`, then stops to accept, reports NOT_SERVING, and gives calls in flight `drain_grace` to end.
    /// `http` is added to the port for operations, such as `/.well-known/jwks.json`.
    ///
    /// # Errors
    /// If the certificates cannot be used, a descriptor set is malformed or a listener fails. Calls that did not end in time are no error.
    pub async fn serve(
        self,
        routes: Routes,
        http: axum::Router,
        listeners: Listeners,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        descriptors::raise_limit(&self.config);
        let tls = self.config.tls.clone().map(Acceptor::load).transpose().context("TLS cannot be spoken")?;
        let connections = connection::accept(listeners.grpc, &self.config, tls.clone());
        let last_call = CancellationToken::new();
        let (reporter, health) = tonic_health::server::health_reporter();
        // From the start on: an alert on a rise needs the value before it.
        metrics::counter!("grpc_panics_total").increment(0);
        metrics::counter!("grpc_rate_limited_total").increment(0);
        connection::begin_to_count();
        for limit in [
            "calls",
            "arriving_bytes",
            "arriving_calls",
            "leaving_bytes",
            "streams",
            "infrastructure_streams",
            "caller_streams",
        ] {
            metrics::counter!("grpc_calls_shed_total", "limit" => limit).increment(0);
        }
        health::report_alive(&reporter).await;
        health::report(&reporter, &self.service_names, false).await;
        let health = health.max_decoding_message_size(INFRASTRUCTURE_MESSAGE_BYTES);
        let routes = self.with_reflection(routes.add_service(health))?;
        let service = self.stack(routes, &shutdown, &last_call);

        let operations_end = CancellationToken::new();
        let operations = tokio::spawn(operations::serve(
            listeners.http,
            &self.config,
            http,
            self.readiness.clone(),
            self.metrics.clone(),
            operations_end.clone(),
        ));
        let health_end = CancellationToken::new();
        let follow = health::follow(reporter.clone(), self.service_names.clone(), self.readiness.watch());
        tokio::spawn(health_end.clone().run_until_cancelled_owned(follow));
        if let Some(tls) = tls {
            tokio::spawn(health_end.clone().run_until_cancelled_owned(tls.follow()));
        }

        let grace = self.config.drain_grace;
        let readiness = self.readiness.clone();
        let names = self.service_names.clone();
        let stopping = shutdown.clone();
        let stop = async move {
            stopping.cancelled().await;
            // First say so, then close the door: balancers should look elsewhere before a connection is refused.
            readiness.drain();
            health::report(&reporter, &names, false).await;
        };
        let config = &self.config;
        let serving = Server::builder()
            .max_concurrent_streams(config.max_calls_per_connection)
            .http2_max_header_list_size(config.max_header_bytes)
            .http2_max_pending_accept_reset_streams(Some(config.max_cancelled_calls))
            .http2_keepalive_interval(Some(config.keepalive_interval))
            .http2_keepalive_timeout(Some(config.keepalive_timeout))
            // GOAWAY at this age. Tonic's own grace would cut instead of it, see `connection`.
            .max_connection_age(config.max_connection_age)
            .serve_with_incoming_shutdown(service, connections, stop);
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(grace.mul_f64(0.9)).await;
            last_call.cancel();
            tokio::time::sleep(grace.mul_f64(0.1)).await;
        };
        let served = tokio::select! {
            served = serving => served.context("the gRPC server failed"),
            () = late => {
                tracing::warn!(?grace, "connections were still open at the end of the grace time");
                Ok(())
            }
        };
        health_end.cancel();
        operations_end.cancel();
        // An operator's connection does not hold up the end.
        let operations = tokio::time::timeout(Duration::from_secs(1), operations).await;
        served.and(operations.unwrap_or(Ok(Ok(()))).context("the operations server panicked")?)
    }

    /// The way of a call, from the socket to its handler.
    fn stack(
        &self,
        routes: Routes,
        shutdown: &CancellationToken,
        last_call: &CancellationToken,
    ) -> Entrance<impl Next + use<>> {
        let (domain, methods) = (self.domain, Methods::new(self.access, self.streams));
        let way = ServiceBuilder::new()
            // Outermost: where it gives an answer up, nobody makes trailers of that, which would lie there as well.
            .layer(Through(LeavingLayer::new(
                methods.clone(),
                self.config.max_leaving_bytes,
                self.config.max_calls_in_flight,
            )))
            // Above the rest, so that everything below logs under the request id and every answer carries it.
            .layer(Through(RequestIdLayer { ids: self.ids.clone(), methods: methods.clone() }))
            // Sees the final answer of every call, whichever layer gave it.
            .layer(Through(ObserveLayer::new(&methods)))
            // Completes the errors of everything below, tonic's own included.
            .layer(Through(ErrorInfoLayer {
                domain,
                methods: methods.clone(),
                max_message_bytes: self.config.max_message_bytes,
            }))
            // Below the observer: a panic must end as a call that is logged and counted.
            .layer(Through(CatchPanicLayer { domain }))
            // Ends what is left at the end of the shutdown, whether it waits for a handler or streams.
            .layer(Through(DrainLayer {
                domain,
                methods: methods.clone(),
                began: shutdown.clone(),
                last_call: last_call.clone(),
            }))
            // Before anything that costs: a refusal must be cheaper than a call.
            .layer(Through(LoadShedLayer::new(
                domain,
                methods.clone(),
                self.config.max_calls_in_flight,
                self.config.max_streams,
            )))
            // Beside the places for calls: what each of them may bring.
            .layer(Through(ArrivingLayer::new(
                domain,
                methods.clone(),
                self.config.max_arriving_bytes,
                self.config.max_calls_in_flight,
            )))
            // Above the verification: the caller's time runs from the arrival.
            .layer(Through(DeadlineLayer {
                domain,
                default: self.config.default_deadline,
                longest: self.config.max_deadline,
            }))
            // Nothing is between the decision who may call and the handler but the count of the caller's calls and streams.
            .layer(Through(AuthLayer { domain, methods: methods.clone(), verifier: self.verifier.clone() }))
            .layer(Through(RateLimitLayer::new(domain, &self.config.rate_limits)))
            .layer(Through(CallerStreamsLayer {
                domain,
                methods: methods.clone(),
                most: self.config.max_streams_per_caller,
                open: Shares::default(),
            }))
            .service(Handlers(routes.prepare()));
        Entrance { way: Arc::new(way), methods }
    }

    fn with_reflection(&self, routes: Routes) -> anyhow::Result<Routes> {
        if !self.config.reflection {
            return Ok(routes);
        }
        let builder = || {
            let known = [tonic_types::pb::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
            let described = self.descriptor_sets.iter().copied().chain(known).fold(
                tonic_reflection::server::Builder::configure(),
                tonic_reflection::server::Builder::register_encoded_file_descriptor_set,
            );
            // The sets describe both services; what is listed is what is served here.
            let served = self.service_names.iter().copied().chain(INFRASTRUCTURE_SERVICES);
            served.fold(described, tonic_reflection::server::Builder::with_service_name)
        };
        // Tools differ in which of the two they ask for.
        let v1 = builder().build_v1().context("a descriptor set is malformed")?;
        let v1alpha = builder().build_v1alpha().context("a descriptor set is malformed")?;
        Ok(routes
            .add_service(v1.max_decoding_message_size(INFRASTRUCTURE_MESSAGE_BYTES))
            .add_service(v1alpha.max_decoding_message_size(INFRASTRUCTURE_MESSAGE_BYTES)))
    }
}
