//! Refuses calls beyond what the process can hold, at once and cheaply.

use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code;

use super::methods::Method;
use super::{Methods, Middleware, Next, Peer, Request, Response, hold_until_end, refuse};
use crate::status::{Failure, reason};

/// Long enough for a queue to move on, short enough for a person to wait.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Streams of health, at most: clients that watch the health open one for each connection, of which there
/// are 10,000 by default. Each costs a few kilobytes.
const HEALTH_STREAMS: usize = 20_000;
/// Of them on one connection: anybody may open them, and no connection shall take all. A proxy in front carries so many
/// clients over one.
const HEALTH_STREAMS_EACH: usize = 256;
/// Streams of reflection, at most: tools open one for a moment. Of whoever asks and does not read, as much is kept of what
/// they ask as HTTP/2's window lets through, a megabyte.
const REFLECTIONS: usize = 64;
/// Of them on one connection.
const REFLECTIONS_EACH: usize = 16;

/// How many streams of health and of reflection may be open, in all or of one connection.
#[derive(Clone)]
pub(super) struct InfrastructureStreams {
    health: Arc<Semaphore>,
    reflections: Arc<Semaphore>,
}

impl InfrastructureStreams {
    fn of_all() -> Self {
        Self::new(HEALTH_STREAMS, REFLECTIONS)
    }

    pub(super) fn of_one() -> Self {
        Self::new(HEALTH_STREAMS_EACH, REFLECTIONS_EACH)
    }

    fn new(health: usize, reflections: usize) -> Self {
        Self { health: Arc::new(Semaphore::new(health)), reflections: Arc::new(Semaphore::new(reflections)) }
    }

    fn of(&self, method: &Method) -> &Arc<Semaphore> {
        if method.reflects { &self.reflections } else { &self.health }
    }
}

/// Lets a number of calls in at a time, and keeps a number of streams open. A stream counts as a call until its response
/// begins. Health and reflection pass as calls, since an overloaded replica is not a dead one; their streams are counted
/// apart, so that neither they nor the service's own keep the others out.
#[derive(Clone)]
pub(crate) struct LoadShedLayer {
    domain: &'static str,
    methods: Methods,
    places: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    infrastructure_streams: InfrastructureStreams,
    in_flight: Gauge,
}

impl Middleware for LoadShedLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let method = self.methods.find(request.uri().path());
        let infrastructure = method.is_some_and(|method| method.infrastructure);
        let stream = match method {
            Some(method) if method.streams => match self.open(&method, request.extensions().get()) {
                Some(stream) => Some(stream),
                None if infrastructure => {
                    return self.shed("infrastructure_streams", "too many streams of health and reflection");
                }
                None => return self.shed("streams", "too many streams at once"),
            },
            _ => None,
        };
        let response = if infrastructure {
            next.run(request).await
        } else {
            let Ok(_place) = self.places.try_acquire() else {
                return self.shed("calls", "too many calls at once");
            };
            let _in_flight = InFlight::counted(&self.in_flight);
            next.run(request).await
        };
        match stream {
            Some(stream) => hold_until_end(response, stream),
            None => response,
        }
    }
}

impl LoadShedLayer {
    pub(crate) fn new(domain: &'static str, methods: Methods, max_calls: usize, max_streams: usize) -> Self {
        Self {
            domain,
            methods,
            places: Arc::new(Semaphore::new(max_calls)),
            streams: Arc::new(Semaphore::new(max_streams)),
            infrastructure_streams: InfrastructureStreams::of_all(),
            in_flight: metrics::gauge!("grpc_calls_in_flight"),
        }
    }

    /// A place for a stream, if there is one.
    fn open(&self, method: &Method, peer: Option<&Peer>) -> Option<OpenStream> {
        let place = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        if !method.infrastructure {
            return Some(OpenStream::counted(place(&self.streams)?, None));
        }
        let share = match peer {
            Some(peer) => Some(place(peer.infrastructure_streams.of(method))?),
            None => None,
        };
        Some(OpenStream::counted(place(self.infrastructure_streams.of(method))?, share))
    }

    fn shed(&self, limit: &'static str, message: &'static str) -> Response {
        refuse(shed(self.domain, limit, message))
    }
}

/// What a call is told that is refused for this limit, counted.
pub(super) fn shed(domain: &'static str, limit: &'static str, message: &'static str) -> Failure {
    metrics::counter!("grpc_calls_shed_total", "limit" => limit).increment(1);
    Failure::new(Code::ResourceExhausted, domain, reason::OVERLOADED, message).push_back(RETRY_AFTER)
}

/// A call, counted until it ends or its client goes away.
struct InFlight<'a>(&'a Gauge);

impl<'a> InFlight<'a> {
    fn counted(calls: &'a Gauge) -> Self {
        calls.increment(1.0);
        Self(calls)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// One of the streams that may be open, until it ends or its client goes away.
struct OpenStream {
    _place: OwnedSemaphorePermit,
    _share: Option<OwnedSemaphorePermit>,
}

impl OpenStream {
    fn counted(place: OwnedSemaphorePermit, share: Option<OwnedSemaphorePermit>) -> Self {
        metrics::gauge!("grpc_streams").increment(1.0);
        Self { _place: place, _share: share }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        metrics::gauge!("grpc_streams").decrement(1.0);
    }
}
