//! The empty call: what any call of a signed-in caller costs, whatever it is for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use service_core::auth::{Access, AccessTable, principal};
use service_core::clock::SystemClock;
use service_core::config::{LogFormat, TelemetryConfig};
use service_core::ids::UuidV7;
use service_core::lifecycle::Readiness;
use service_core::server::{GrpcServer, Listeners};
use service_core::telemetry;
use service_core::test_support::{TokenMint, server_config};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// The one method: like GetMe, it says who calls. An empty message in, a `google.protobuf.StringValue` out.
pub(crate) const WHO: &str = "/rush.Empty/Who";

const ACCESS: AccessTable = &[(WHO, Access::SignedIn)];

/// The server of both services with all of its layers, and nothing behind it: no database, no queue. On threads of its own,
/// as many as a service has.
pub(crate) struct EmptyServer {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl EmptyServer {
    pub(crate) async fn start(mint: &TokenMint) -> anyhow::Result<Self> {
        let config = server_config();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let verifier = mint.verifier();
        let serving = async move {
            let listeners = Listeners::bind(&config).await?;
            let address = listeners.grpc.local_addr()?;
            let logs = TelemetryConfig { format: LogFormat::Json, filter: "info".to_owned(), traces: None };
            let server = GrpcServer {
                config,
                domain: "empty.rush",
                access: ACCESS,
                streams: &[],
                verifier,
                ids: Arc::new(UuidV7::new(Arc::new(SystemClock))),
                descriptor_sets: Vec::new(),
                service_names: vec![Who::NAME],
                readiness: Readiness::new(),
                metrics: telemetry::init(&logs)?,
            };
            let never = CancellationToken::new();
            tokio::spawn(server.serve(Routes::new(Who), axum::Router::new(), listeners, never));
            anyhow::Ok(address)
        };
        let address = runtime.spawn(serving).await??;
        Ok(Self { address, runtime: Some(runtime) })
    }
}

impl Drop for EmptyServer {
    fn drop(&mut self) {
        // A runtime may not be waited for within another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone)]
struct Who;

impl NamedService for Who {
    const NAME: &'static str = "rush.Empty";
}

impl UnaryService<()> for Who {
    type Response = String;
    type Future = std::future::Ready<Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let caller = principal(&request).map(|caller| caller.user_id.to_string());
        std::future::ready(caller.map(Response::new).map_err(|_| Status::internal("nobody calls")))
    }
}

impl Service<HttpRequest<Body>> for Who {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        Box::pin(async move { Ok(Grpc::new(ProstCodec::<String, ()>::default()).unary(Who, request).await) })
    }
}
