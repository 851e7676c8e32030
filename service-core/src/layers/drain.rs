//! The end of what would otherwise not end before the process does: every caller is told, nobody is cut off.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::SizeHint;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;

use super::{Methods, Middleware, Next, PolledFrame, Request, Response, last_frame, poll_body, refuse};
use crate::status::Failure;
use crate::stream_end::StreamEnded;

/// Ends calls with UNAVAILABLE / SHUTTING_DOWN: health and reflection streams as soon as the shutdown begins, since they
/// never end by themselves; all others when the time for the shutdown is nearly over.
#[derive(Clone)]
pub(crate) struct DrainLayer {
    pub(crate) domain: &'static str,
    pub(crate) methods: Methods,
    /// The shutdown has begun.
    pub(crate) began: CancellationToken,
    /// The time for the shutdown is nearly over.
    pub(crate) last_call: CancellationToken,
}

impl Middleware for DrainLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let method = self.methods.find(request.uri().path());
        let domain = self.domain;
        let response = tokio::select! {
            biased;
            response = next.run(request) => response,
            () = self.last_call.cancelled() => return refuse(shutting_down(domain)),
        };
        let end = match method {
            Some(method) if method.streams && method.infrastructure => &self.began,
            Some(method) if method.streams => &self.last_call,
            // There is nothing to wait for in it.
            _ => return response,
        };
        response.map(|inner| {
            Body::new(DrainedBody {
                inner: Some(inner),
                end: Box::pin(end.clone().cancelled_owned()),
                domain,
            })
        })
    }
}

fn shutting_down(domain: &'static str) -> Failure {
    StreamEnded::Draining.failure(domain)
}

struct DrainedBody {
    inner: Option<Body>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    domain: &'static str,
}

impl http_body::Body for DrainedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        // What is ready goes out first, so that only streams that wait are ended.
        if let Poll::Ready(frame) = poll_body(inner, cx) {
            return Poll::Ready(frame);
        }
        if this.end.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.inner = None;
        Poll::Ready(last_frame(shutting_down(this.domain)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}
