//! What every call passes on its way to a handler. [`crate::server`] puts the layers in order and says why each is where
//! it is; here is what they share.

pub(crate) mod auth;
pub(crate) mod catch_panic;
mod deadline;
pub(crate) mod drain;
mod error_info;
pub(crate) mod load_shed;
mod methods;
pub(crate) mod observe;
mod rate_limit;
mod request_id;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http_body::{Body as _, Frame};
use tonic::body::Body;
use tower::ServiceExt;

pub(crate) use deadline::DeadlineLayer;
pub use deadline::{Deadline, deadline};
pub(crate) use error_info::ErrorInfoLayer;
pub use methods::INFRASTRUCTURE;
pub(crate) use methods::Methods;
pub(crate) use rate_limit::RateLimitLayer;
pub use rate_limit::{NotARate, Rate, RateLimit, RateOption};
pub(crate) use request_id::RequestIdLayer;
pub use request_id::{REQUEST_ID_HEADER, RequestId};

use crate::status::Failure;

pub(crate) type Request = http::Request<Body>;
pub(crate) type Response = http::Response<Body>;

/// One layer: what to do with a call, given what comes after it.
pub(crate) trait Middleware: Clone + Send + Sync + 'static {
    fn handle(self, request: Request, next: impl Next) -> impl Future<Output = Response> + Send;
}

/// The rest of the way.
pub(crate) trait Next: Send + 'static {
    fn run(self, request: Request) -> impl Future<Output = Response> + Send;
}

impl<S> Next for S
where
    S: tower::Service<Request, Response = Response, Error = Infallible, Future: Send> + Send + 'static,
{
    async fn run(self, request: Request) -> Response {
        match self.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Makes a tower layer of a [`Middleware`].
#[derive(Clone)]
pub(crate) struct Through<M>(pub(crate) M);

impl<M: Clone, S> tower::Layer<S> for Through<M> {
    type Service = Wrapped<M, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped { middleware: self.0.clone(), inner }
    }
}

/// A service behind a [`Middleware`].
#[derive(Clone)]
pub(crate) struct Wrapped<M, S> {
    middleware: M,
    inner: S,
}

impl<M, S> tower::Service<Request> for Wrapped<M, S>
where
    M: Middleware,
    S: tower::Service<Request, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Each call waits for its own clone, see `Next`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let handled = self.middleware.clone().handle(request, self.inner.clone());
        Box::pin(async move { Ok(handled.await) })
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
