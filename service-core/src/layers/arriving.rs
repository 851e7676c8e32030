//! Bounds what messages cost that have not arrived whole: their memory, and the calls that wait for them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http_body::SizeHint;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::awaited::{Awaited, Wait};
use super::load_shed::shed;
use super::{Methods, Middleware, Next, PolledFrame, Request, Response, poll_body};

/// So much of each call is not counted, with the five bytes before a message. Most messages are far smaller: they get through however many large ones are on their
/// way, so that whoever sends those and never ends them keeps out others of that size alone.
const FREE: usize = (16 << 10) + 5;

/// Refuses the rest of a message when all that are arriving take more than they may. A place for a call says nothing of its
/// size: as many calls as may be in flight could each bring almost the largest message, and never its end. And ends those who
/// have waited longest for their message when too many do.
///
/// Streams of health and reflection pass: their messages are bounded one by one, see [`crate::server`], and one that lasts would
/// be counted until its end.
#[derive(Clone)]
pub(crate) struct ArrivingLayer {
    methods: Methods,
    budget: Arc<Budget>,
    awaited: Arc<Awaited>,
}

/// What all messages share that are arriving.
struct Budget {
    domain: &'static str,
    most: usize,
    /// How many bytes are here, without what is free.
    bytes: AtomicUsize,
}

impl ArrivingLayer {
    /// At most so many bytes, and a part of so many calls.
    pub(crate) fn new(domain: &'static str, methods: Methods, bytes: usize, calls: usize) -> Self {
        let budget = Budget { domain, most: bytes, bytes: AtomicUsize::new(0) };
        Self { methods, budget: Arc::new(budget), awaited: Awaited::of(calls) }
    }
}

impl Middleware for ArrivingLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let method = self.methods.find(request.uri().path());
        if method.is_some_and(|method| method.infrastructure && method.streams) {
            return next.run(request).await;
        }
        let (budget, awaited) = (self.budget.clone(), self.awaited.clone());
        let arriving = |inner| Arriving { inner, budget, free: FREE, counted: 0, awaited, wait: None };
        next.run(request.map(|inner| Body::new(arriving(inner)))).await
    }
}

/// The body of a request, until whoever reads the message lets go of it.
struct Arriving {
    inner: Body,
    budget: Arc<Budget>,
    /// How much may still come uncounted.
    free: usize,
    counted: usize,
    awaited: Arc<Awaited>,
    /// From when it has not been there at once.
    wait: Option<Wait>,
}

impl Arriving {
    /// Counts what came.
    fn count(&mut self, bytes: usize) -> Result<(), Status> {
        let uncounted = bytes.min(self.free);
        self.free -= uncounted;
        let bytes = bytes - uncounted;
        if bytes == 0 {
            return Ok(());
        }
        self.counted += bytes;
        // A sum that nothing else depends on.
        let before = self.budget.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.budget.most {
            return Err(shed(self.budget.domain, "arriving_bytes", "too much is arriving at once").into());
        }
        Ok(())
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.budget.bytes.fetch_sub(self.counted, Ordering::Relaxed);
        }
    }
}

impl http_body::Body for Arriving {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let Poll::Ready(frame) = poll_body(&mut self.inner, cx) else {
            let this = &mut *self;
            let wait = this.wait.get_or_insert_with(|| this.awaited.enter(Instant::now()));
            return wait.poll_gives_way(cx).map(|()| {
                let refused =
                    shed(this.budget.domain, "arriving_calls", "too many calls wait for their message");
                Some(Err(refused.into()))
            });
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(refused) = self.count(data.len())
        {
            return Poll::Ready(Some(Err(refused)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
