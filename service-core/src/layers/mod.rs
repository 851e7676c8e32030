//! What every call passes on its way to a handler. [`crate::server`] puts the layers in order and says why each is where
//! it is; here is what they share.

mod arriving;
pub(crate) mod auth;
mod awaited;
mod caller_streams;
pub(crate) mod catch_panic;
mod deadline;
pub(crate) mod drain;
mod error_info;
mod leaving;
pub(crate) mod load_shed;
mod methods;
pub(crate) mod observe;
mod rate_limit;
mod request_id;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tower::ServiceExt;

pub(crate) use arriving::ArrivingLayer;
pub(crate) use caller_streams::CallerStreamsLayer;
pub(crate) use deadline::DeadlineLayer;
pub use deadline::{Deadline, deadline};
pub(crate) use error_info::ErrorInfoLayer;
pub(crate) use leaving::{LeavingLayer, Unread};
pub use methods::INFRASTRUCTURE;
pub(crate) use methods::Methods;
pub(crate) use rate_limit::RateLimitLayer;
pub use rate_limit::{NotARate, Rate, RateLimit, RateOption};
pub(crate) use request_id::RequestIdLayer;
pub use request_id::{REQUEST_ID_HEADER, RequestId};

use crate::status::Failure;
use crate::trace::Span;

/// The largest question to health and reflection: the name of a service, or of a file. Anybody may ask, at as many calls as a
/// connection has room for, so a few bytes have to do.
pub(crate) const INFRASTRUCTURE_MESSAGE_BYTES: usize = 4_096;

pub(crate) type Request = http::Request<Body>;
pub(crate) type Response = http::Response<Body>;

/// One layer: what to do with a call, given what comes after it.
pub(crate) trait Middleware: Send + Sync + 'static {
    fn handle(&self, request: Request, next: &impl Next) -> impl Future<Output = Response> + Send;
}

/// The rest of the way.
pub(crate) trait Next: Send + Sync + 'static {
    fn run(&self, request: Request) -> impl Future<Output = Response> + Send;
}

/// Makes a [`tower::Layer`] of a [`Middleware`].
pub(crate) struct Through<M>(pub(crate) M);

impl<M, N> tower::Layer<N> for Through<M>
where
    M: Clone,
{
    type Service = Chain<M, N>;

    fn layer(&self, next: N) -> Chain<M, N> {
        Chain { middleware: self.0.clone(), next }
    }
}

/// A layer and the rest of the way behind it. All layers of a call are one future, without allocations in between.
pub(crate) struct Chain<M, N> {
    middleware: M,
    next: N,
}

impl<M: Middleware, N: Next> Next for Chain<M, N> {
    fn run(&self, request: Request) -> impl Future<Output = Response> + Send {
        self.middleware.handle(request, &self.next)
    }
}

/// The end of the way: the handlers.
pub(crate) struct Handlers(pub(crate) Routes);

impl Next for Handlers {
    async fn run(&self, request: Request) -> Response {
        match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// What every call of a connection knows of it.
#[derive(Clone)]
pub(crate) struct Peer {
    tcp: TcpConnectInfo,
    infrastructure_streams: load_shed::InfrastructureStreams,
    unread: Arc<Unread>,
}

impl Peer {
    /// `unread` can end the connection.
    pub(crate) fn new(tcp: TcpConnectInfo, unread: Arc<Unread>) -> Self {
        let infrastructure_streams = load_shed::InfrastructureStreams::of_one();
        Self { tcp, infrastructure_streams, unread }
    }
}

/// The beginning of the way, as tonic's server takes it, and of a call's trace.
pub(crate) struct Entrance<N> {
    pub(crate) way: Arc<N>,
    pub(crate) methods: Methods,
}

impl<N> Clone for Entrance<N> {
    fn clone(&self) -> Self {
        Self { way: self.way.clone(), methods: self.methods.clone() }
    }
}

impl<N: Next> tower::Service<Request> for Entrance<N> {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Who comes when there is no place is told so, see `load_shed`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(peer) = request.extensions().get::<Peer>() {
            // Where tonic looks for the address.
            let tcp = peer.tcp.clone();
            request.extensions_mut().insert(tcp);
        }
        let span = self.span(&request);
        let way = self.way.clone();
        let call = async move { Ok(way.run(request).await) };
        if span.is_some() { Box::pin(span.enclose(call)) } else { Box::pin(call) }
    }
}

impl<N> Entrance<N> {
    /// Probes come every other second and tell nothing: they are not traced.
    fn span(&self, request: &Request) -> Span {
        match self.methods.find(request.uri().path()) {
            Some(method) if method.infrastructure => Span::default(),
            Some(method) => Span::server(method.path, request.headers()),
            None => Span::server(methods::UNKNOWN, request.headers()),
        }
    }
}

/// The answer that a layer gives instead of a handler.
pub(crate) fn refuse(failure: Failure) -> Response {
    tonic::Status::from(failure).into_http()
}

/// The last frame of a response that a layer ends.
fn last_frame(failure: Failure) -> Option<Result<Frame<bytes::Bytes>, tonic::Status>> {
    let mut trailers = http::HeaderMap::new();
    tonic::Status::from(failure).add_header(&mut trailers).ok()?;
    Some(Ok(Frame::trailers(trailers)))
}

type PolledFrame = Poll<Option<Result<Frame<bytes::Bytes>, tonic::Status>>>;

fn poll_body(body: &mut Body, cx: &mut Context<'_>) -> PolledFrame {
    Pin::new(body).poll_frame(cx)
}

/// Keeps `held` until the last frame of the response is sent, or its client has gone away.
fn hold_until_end<T: Send + Unpin + 'static>(response: Response, held: T) -> Response {
    response.map(|body| held_until_end(body, held))
}

/// Keeps `held` until nobody wants anything of the body any more.
fn held_until_end<T: Send + Unpin + 'static>(body: Body, held: T) -> Body {
    Body::new(Holding { inner: body, _held: held })
}

struct Holding<T> {
    inner: Body,
    _held: T,
}

impl<T: Unpin> http_body::Body for Holding<T> {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        poll_body(&mut self.inner, cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
