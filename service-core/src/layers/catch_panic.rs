//! A handler that panics answers INTERNAL; the process and the other calls of the connection go on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use http_body::SizeHint;
use tonic::body::Body;
use tonic::{Code, Status};

use super::{Middleware, Next, PolledFrame, Request, Response, last_frame, poll_body, refuse};
use crate::status::{Failure, reason};

/// Catches panics of handlers and of the streams that they return.
#[derive(Clone)]
pub(crate) struct CatchPanicLayer {
    pub(crate) domain: &'static str,
}

impl Middleware for CatchPanicLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let domain = self.domain;
        match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response.map(|inner| Body::new(CaughtBody { inner: Some(inner), domain })),
            Err(panic) => refuse(failure(domain, &*panic)),
        }
    }
}

fn failure(domain: &'static str, panic: &(dyn Any + Send)) -> Failure {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    metrics::counter!("grpc_panics_total").increment(1);
    tracing::error!(panic = text.unwrap_or("not a text"), "a handler panicked");
    Failure::new(Code::Internal, domain, reason::INTERNAL_ERROR, "something went wrong on our side")
}

/// A body that ends with INTERNAL when it panics. It is dropped then: whatever state it is in, it is not used again.
struct CaughtBody {
    inner: Option<Body>,
    domain: &'static str,
}

impl http_body::Body for CaughtBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| poll_body(inner, cx))) {
            Ok(polled) => polled,
            Err(panic) => {
                self.inner = None;
                Poll::Ready(last_frame(failure(self.domain, &*panic)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}
