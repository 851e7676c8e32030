//! A service without generated code, whose methods do what a test needs. Requests and responses are
//! `google.protobuf.StringValue`, which prost writes for `String`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, Stream, StreamExt};
use service_core::auth::{Access, AccessTable, Role, principal};
use service_core::layers::{RequestId, deadline};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

pub(crate) const ACCESS: AccessTable = &[
    ("/test.Probe/Echo", Access::Public),
    ("/test.Probe/Wait", Access::Public),
    ("/test.Probe/Panic", Access::Public),
    ("/test.Probe/Watch", Access::Public),
    ("/test.Probe/PanicLater", Access::Public),
    ("/test.Probe/FailLater", Access::Public),
    ("/test.Probe/Context", Access::Public),
    ("/test.Probe/WatchSignedIn", Access::SignedIn),
    ("/test.Probe/Who", Access::SignedIn),
    ("/test.Probe/AdminOnly", Access::AnyOf(&[Role::Admin])),
];

#[derive(Clone)]
pub(crate) struct Probe {
    /// One permit lets one `Wait` go on.
    pub(crate) gate: Arc<Semaphore>,
    /// How many `Wait` are at the gate.
    pub(crate) waiting: watch::Sender<usize>,
    /// How often the method that is not in the table was reached.
    pub(crate) hidden: Arc<AtomicUsize>,
}

/// Longer than anything in these tests takes.
const PATIENCE: Duration = Duration::from_secs(60);

impl Probe {
    pub(crate) fn new() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), waiting: watch::Sender::new(0), hidden: Arc::default() }
    }

    pub(crate) async fn until_waiting(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        let are_there = waiting.wait_for(|waiting| *waiting == count);
        tokio::time::timeout(PATIENCE, are_there).await.expect("they wait").unwrap();
    }

    async fn unary(self, path: String, request: Request<String>) -> Result<Response<String>, Status> {
        match path.as_str() {
            "/test.Probe/Echo" => Ok(Response::new(request.into_inner())),
            "/test.Probe/Wait" => {
                let _leaves = Waiting::begin(self.waiting);
                self.gate.acquire().await.unwrap().forget();
                Ok(Response::new("done".to_owned()))
            }
            "/test.Probe/Context" => {
                let left = deadline(&request) - Instant::now();
                let id = request.extensions().get::<RequestId>().unwrap().0.clone();
                let peer = request.remote_addr().unwrap();
                Ok(Response::new(format!("{id} {} {peer}", left.as_millis())))
            }
            "/test.Probe/Who" | "/test.Probe/AdminOnly" => {
                let caller = principal(&request).unwrap();
                Ok(Response::new(format!("{} {}", caller.role, caller.user_id)))
            }
            "/test.Probe/Hidden" => {
                self.hidden.fetch_add(1, Ordering::SeqCst);
                Ok(Response::new("reached".to_owned()))
            }
            _ => panic!("a secret of the handler"),
        }
    }
}

struct Waiting(watch::Sender<usize>);

impl Waiting {
    fn begin(count: watch::Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Self(count)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

/// One message, and then what the path says.
fn streaming(path: &str) -> Messages {
    let first = stream::iter([Ok("first".to_owned())]);
    match path {
        "/test.Probe/Watch" | "/test.Probe/WatchSignedIn" => first.chain(stream::pending()).boxed(),
        path => {
            let fails = path == "/test.Probe/FailLater";
            let second = async move {
                // A message goes out only when the next one is not ready yet.
                tokio::task::yield_now().await;
                if fails { Err(Status::internal("SELECT secret")) } else { panic!("a secret of the stream") }
            };
            first.chain(stream::once(second)).boxed()
        }
    }
}

impl NamedService for Probe {
    const NAME: &'static str = "test.Probe";
}

impl tower::Service<http::Request<Body>> for Probe {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (probe, path) = (self.clone(), request.uri().path().to_owned());
        Box::pin(async move {
            let mut grpc =
                Grpc::new(ProstCodec::<String, String>::default()).max_decoding_message_size(300_000);
            Ok(match path.as_str() {
                "/test.Probe/Watch"
                | "/test.Probe/WatchSignedIn"
                | "/test.Probe/PanicLater"
                | "/test.Probe/FailLater" => {
                    let service = service_fn(move |_: Request<String>| {
                        let messages = streaming(&path);
                        async move { Ok::<_, Status>(Response::new(messages)) }
                    });
                    grpc.server_streaming(service, request).await
                }
                _ => {
                    let service = service_fn(move |request| probe.clone().unary(path.clone(), request));
                    grpc.unary(service, request).await
                }
            })
        })
    }
}
