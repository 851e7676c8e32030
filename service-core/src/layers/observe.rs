//! One log line and the metrics of every call, written when its last frame is sent.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use http::HeaderMap;
use http_body::SizeHint;
use metrics::{Counter, Histogram};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Span};

use super::methods::UNKNOWN;
use super::{Methods, Middleware, Next, PolledFrame, Request, Response, poll_body};
use crate::pace::Pace;
use crate::trace;

/// How many lines of a level about calls that went wrong, but for bugs, are written at once, and how many a second from then on.
/// Whoever is refused by the thousand would fill the log, and whoever reads it slowly would stop the service: the rest is counted.
/// Of each level, or strangers without a token would hide that a database is away.
const LINES_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(399);
/// See [`LINES_AT_ONCE`].
const LINES_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(199);

/// Observes calls. For a stream the call ends with its last frame; one that the client leaves is CANCELLED.
#[derive(Clone)]
pub(crate) struct ObserveLayer(Arc<Meters>);

impl ObserveLayer {
    /// Shows the counters of bugs from the start on: an alert on a rise needs the value before it.
    pub(crate) fn new(methods: &Methods) -> Self {
        // From the start on, too.
        left_out().increment(0);
        let lines = Arc::new(Pace::new(LINES_AT_ONCE, LINES_PER_SECOND));
        let meter = |rpc| Arc::new(Meter::new(rpc, Arc::clone(&lines)));
        let known: HashMap<_, _> = methods.paths().map(|path| (path, meter(path))).collect();
        for meter in known.values() {
            for code in [Code::Internal, Code::Unknown, Code::DataLoss] {
                meter.ended(code).increment(0);
            }
        }
        Self(Arc::new(Meters { known, unknown: meter(UNKNOWN) }))
    }
}

fn left_out() -> Counter {
    metrics::counter!("log_lines_left_out_total")
}

struct Meters {
    known: HashMap<&'static str, Arc<Meter>>,
    unknown: Arc<Meter>,
}

/// What is measured of a method's calls. It keeps what it measures with: to find that anew for each call is dear.
struct Meter {
    rpc: &'static str,
    seconds: OnceLock<Histogram>,
    /// By code. Those that never come make no series.
    ended: [OnceLock<Counter>; CODES],
    /// What all methods share.
    lines: Arc<Pace<Level>>,
}

/// OK is 0, UNAUTHENTICATED 16.
const CODES: usize = 17;

impl Meter {
    fn new(rpc: &'static str, lines: Arc<Pace<Level>>) -> Self {
        Self { rpc, seconds: OnceLock::new(), ended: [const { OnceLock::new() }; CODES], lines }
    }

    fn seconds(&self) -> &Histogram {
        self.seconds.get_or_init(|| metrics::histogram!("grpc_request_duration_seconds", "rpc" => self.rpc))
    }

    fn ended(&self, code: Code) -> Counter {
        let counter = || metrics::counter!("grpc_requests_total", "rpc" => self.rpc, "code" => name(code));
        let kept = usize::try_from(i32::from(code)).ok().and_then(|code| self.ended.get(code));
        kept.map_or_else(counter, |kept| kept.get_or_init(counter).clone())
    }
}

impl Middleware for ObserveLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let meter = Arc::clone(self.0.known.get(request.uri().path()).unwrap_or(&self.0.unknown));
        // Recorded on drop: also if the client goes away before there is an answer.
        let (span, trace) = (Span::current(), trace::Span::current());
        let call = Call { meter, began: Instant::now(), span, trace, ended: false };
        let response = next.run(request).await;
        let (parts, body) = response.into_parts();
        if parts.headers.contains_key(Status::GRPC_STATUS) {
            call.end(&parts.headers);
            return Response::from_parts(parts, body);
        }
        Response::from_parts(parts, Body::new(ObservedBody { inner: body, call: Some(call) }))
    }
}

struct Call {
    meter: Arc<Meter>,
    began: Instant,
    span: Span,
    trace: trace::Span,
    ended: bool,
}

impl Call {
    fn end(mut self, headers: &HeaderMap) {
        self.ended = true;
        let code = headers.get(Status::GRPC_STATUS).map_or(Code::Unknown, |v| Code::from_bytes(v.as_bytes()));
        self.record(code, headers);
    }

    fn tell_trace(&self, code: Code, reason: &str) {
        if !self.trace.is_some() {
            return;
        }
        self.trace.set("rpc.grpc.status_code", i64::from(i32::from(code)));
        if !reason.is_empty() {
            self.trace.set("rowlock.reason", reason.to_owned());
        }
        if is_ours(code) {
            self.trace.fail(name(code));
        }
        self.trace.end();
    }

    /// Whether somebody hears lines of this level: asked within the span, since a filter may speak of it, and only where the level
    /// is heard of anything.
    fn is_heard(&self, level: Level) -> bool {
        let by_the_filter = || match level {
            Level::WARN => tracing::enabled!(Level::WARN),
            Level::INFO => tracing::enabled!(Level::INFO),
            _ => tracing::enabled!(Level::DEBUG),
        };
        LevelFilter::current() >= level && self.span.in_scope(by_the_filter)
    }

    /// Whether there is a line of this level left for it, or else counts that there is none.
    fn has_a_line(&self, level: Level) -> bool {
        let has_one = self.meter.lines.take(&level).is_ok();
        if !has_one {
            left_out().increment(1);
        }
        has_one
    }

    fn record(&self, code: Code, headers: &HeaderMap) {
        let took = self.began.elapsed();
        self.meter.ended(code).increment(1);
        self.meter.seconds().record(took.as_secs_f64());
        // To read the reason out of the details costs as much as to write it there, and a rush is refused by the thousand.
        let level = level(code);
        let is_told = match level {
            Level::ERROR => true,
            Level::DEBUG => self.is_heard(level),
            _ => self.is_heard(level) && self.has_a_line(level),
        };
        if !is_told && !self.trace.is_some() {
            return;
        }
        let _in_span = self.span.enter();
        let reason = if code == Code::Ok { String::new() } else { reason(headers) };
        self.tell_trace(code, &reason);
        if !is_told {
            return;
        }
        macro_rules! line {
            ($level:ident) => {{
                let duration_ms = took.as_secs_f64() * 1e3;
                tracing::event!(tracing::Level::$level, code = name(code), reason, duration_ms, "call ended");
            }};
        }
        match level {
            Level::ERROR => line!(ERROR),
            Level::WARN => line!(WARN),
            Level::INFO => line!(INFO),
            _ => line!(DEBUG),
        }
    }
}

/// What the conventions call an error of the server's, and not of the caller's.
fn is_ours(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// How loud a call's end is.
fn level(code: Code) -> Level {
    match code {
        // The everyday answers of a service that is in use: thousands a second in a rush.
        Code::Ok
        | Code::Cancelled
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted => Level::DEBUG,
        // Callers that do something wrong.
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unimplemented => Level::INFO,
        // Too much load, or something behind us is missing.
        Code::ResourceExhausted | Code::DeadlineExceeded | Code::Unavailable => Level::WARN,
        // Bugs.
        Code::Internal | Code::Unknown | Code::DataLoss => Level::ERROR,
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.record(Code::Cancelled, &HeaderMap::new());
        }
    }
}

struct ObservedBody {
    inner: Body,
    call: Option<Call>,
}

impl http_body::Body for ObservedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let this = &mut *self;
        let polled = {
            // A stream's handler goes on working while its body is polled.
            let _entered = this.call.as_ref().map(|call| (call.span.enter(), call.trace.enter()));
            poll_body(&mut this.inner, cx)
        };
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
            && let Some(call) = this.call.take()
        {
            call.end(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The reason in the `ErrorInfo` of a refusal, or nothing.
fn reason(headers: &HeaderMap) -> String {
    let status = Status::from_header_map(headers);
    status.and_then(|s| s.get_details_error_info()).map(|info| info.reason).unwrap_or_default()
}

/// The code as gRPC writes it.
pub(crate) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::prelude::*;

    use super::*;

    fn call() -> Call {
        let lines = Arc::new(Pace::new(LINES_AT_ONCE, LINES_PER_SECOND));
        let (span, trace) = (Span::none(), trace::Span::current());
        Call { meter: Arc::new(Meter::new(UNKNOWN, lines)), began: Instant::now(), span, trace, ended: true }
    }

    #[test]
    fn lines_that_nobody_hears_take_no_room() {
        let loud = tracing_subscriber::registry().with(LevelFilter::WARN);
        tracing::subscriber::with_default(loud, || {
            let call = call();
            for _ in 0..LINES_AT_ONCE.get() * 2 {
                call.record(Code::Unauthenticated, &HeaderMap::new());
            }
            assert!(call.has_a_line(Level::INFO));
        });
    }

    #[test]
    fn lines_of_one_level_leave_room_for_those_of_another() {
        let call = call();
        while call.has_a_line(Level::INFO) {}
        assert!(call.has_a_line(Level::WARN));
    }
}
