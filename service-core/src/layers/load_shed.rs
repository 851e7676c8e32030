//! Refuses calls beyond what the process can hold, at once and cheaply.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http_body::SizeHint;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::{Code, Status};

use super::{Methods, Middleware, Next, PolledFrame, Request, Response, poll_body, refuse};
use crate::status::{Failure, reason};

/// Long enough for a queue to move on, short enough for a person to wait.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Lets a number of calls in at a time, and keeps a number of streams open. A stream counts as a call until its response
/// begins. Health and reflection pass as calls, since an overloaded replica is not a dead one; their streams are counted.
#[derive(Clone)]
pub(crate) struct LoadShedLayer {
    pub(crate) domain: &'static str,
    pub(crate) methods: Methods,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
}

impl Middleware for LoadShedLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let method = self.methods.find(request.uri().path());
        let stream = match method {
            Some(method) if method.streams => match Arc::clone(&self.streams).try_acquire_owned() {
                Ok(place) => Some(OpenStream::counted(place)),
                Err(_) => return self.shed("streams", "too many streams at once"),
            },
            _ => None,
        };
        let response = if method.is_some_and(|method| method.infrastructure) {
            next.run(request).await
        } else {
            let Ok(_place) = self.places.try_acquire() else {
                return self.shed("calls", "too many calls at once");
            };
            metrics::gauge!("grpc_calls_in_flight").increment(1.0);
            let _leaves = Leaves;
            next.run(request).await
        };
        match stream {
            Some(place) => response.map(|inner| Body::new(StreamBody { inner, _place: place })),
            None => response,
        }
    }
}

impl LoadShedLayer {
    fn shed(&self, limit: &'static str, message: &'static str) -> Response {
        metrics::counter!("grpc_calls_shed_total", "limit" => limit).increment(1);
        let failure = Failure::new(Code::ResourceExhausted, self.domain, reason::OVERLOADED, message);
        refuse(failure.push_back(RETRY_AFTER))
    }
}

/// Counts down also when the client goes away in between.
struct Leaves;

impl Drop for Leaves {
    fn drop(&mut self) {
        metrics::gauge!("grpc_calls_in_flight").decrement(1.0);
    }
}

/// One of the streams that may be open, until it ends or its client goes away.
struct OpenStream {
    _permit: OwnedSemaphorePermit,
}

impl OpenStream {
    fn counted(permit: OwnedSemaphorePermit) -> Self {
        metrics::gauge!("grpc_streams").increment(1.0);
        Self { _permit: permit }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        metrics::gauge!("grpc_streams").decrement(1.0);
    }
}

struct StreamBody {
    inner: Body,
    _place: OpenStream,
}

impl http_body::Body for StreamBody {
    type Data = bytes::Bytes;
    type Error = Status;

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
