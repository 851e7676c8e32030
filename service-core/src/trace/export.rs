//! The way of spans that have ended: a bounded queue, and one task that sends what is in it. Nothing waits for it: what does
//! not fit, or cannot be sent, is lost and counted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{TRACER, sampling};
use crate::layers::observe::name;
use crate::upstream::Upstream;

/// Ended spans that may wait; further ones are lost.
const QUEUE: usize = 8_192;
/// The most spans in one request, and how long it is waited for so many.
const BATCH: usize = 512;
const GATHER: Duration = Duration::from_secs(1);
/// How long a request may take, and how often it is tried, with these pauses in between, doubled each time.
const PATIENCE: Duration = Duration::from_secs(5);
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A batch of commands has a link to each of them.
const MAX_LINKS: u32 = 1_024;
/// What the last spans get of the time for the shutdown if nothing else has left any.
const LEAST_FLUSH: Duration = Duration::from_millis(500);

/// Where traces go, and which.
#[derive(Clone, Debug)]
pub struct TracesConfig {
    /// The collector.
    pub collector: Upstream,
    /// Which share of the traces is recorded where the caller has not decided, 0 to 1.
    pub ratio: f64,
    /// The service's name.
    pub service: &'static str,
    /// The service's version.
    pub version: &'static str,
}

/// The task that sends. Taken by whoever ends it.
static EXPORT: Mutex<Option<Export>> = Mutex::new(None);

struct Export {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Begins to trace. Once a process, within a tokio runtime.
pub(crate) fn start(config: &TracesConfig) {
    // From the start on: an alert on a rise needs the value before it.
    metrics::counter!("trace_spans_exported_total").increment(0);
    for reason in ["queue_full", "export_failed", "rejected"] {
        lost(reason, 0);
    }
    // What a site says of its processes in OTEL_RESOURCE_ATTRIBUTES, as its other services have it, is taken along.
    let resource = Resource::builder()
        .with_service_name(config.service)
        .with_attribute(opentelemetry::KeyValue::new("service.version", config.version))
        .build();
    let (queue, ended) = mpsc::channel(QUEUE);
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampling::parent_based(config.ratio))
        .with_max_links_per_span(MAX_LINKS)
        .with_resource(resource.clone())
        .with_span_processor(Queue(queue))
        .build();
    let stop = CancellationToken::new();
    let sender = Sender {
        client: TraceServiceClient::new(config.collector.channel()),
        resource: ResourceAttributesWithSchema::from(&resource),
        failing: false,
    };
    let task = tokio::spawn(sender.run(ended, stop.clone()));
    *EXPORT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Export { stop, task });
    // The tracer keeps its provider alive.
    let _ = TRACER.set(provider.tracer("rowlock"));
}

fn lost(reason: &'static str, spans: usize) {
    metrics::counter!("trace_spans_dropped_total", "reason" => reason)
        .increment(u64::try_from(spans).unwrap_or(u64::MAX));
}

/// Takes ended spans from whatever task they end in, and never waits.
#[derive(Debug)]
struct Queue(mpsc::Sender<SpanData>);

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.0.try_send(span).is_err() {
            lost("queue_full", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

struct Sender {
    client: TraceServiceClient<Channel>,
    resource: ResourceAttributesWithSchema,
    /// An outage is told of once.
    failing: bool,
}

impl Sender {
    /// Sends until `stop`, and then what is left.
    async fn run(mut self, mut ended: mpsc::Receiver<SpanData>, stop: CancellationToken) {
        let mut spans = Vec::with_capacity(BATCH);
        loop {
            let gathered = async {
                if ended.recv_many(&mut spans, BATCH).await == 0 {
                    return false;
                }
                let until = Instant::now() + GATHER;
                while spans.len() < BATCH {
                    let more = BATCH - spans.len();
                    match timeout_at(until, ended.recv_many(&mut spans, more)).await {
                        Ok(0) | Err(_) => break,
                        Ok(_) => {}
                    }
                }
                true
            };
            match stop.run_until_cancelled(gathered).await {
                Some(true) => {}
                Some(false) => return,
                None => {
                    ended.close();
                    while spans.len() < BATCH
                        && let Ok(span) = ended.try_recv()
                    {
                        spans.push(span);
                    }
                    if spans.is_empty() {
                        return;
                    }
                }
            }
            self.send(std::mem::take(&mut spans)).await;
        }
    }

    async fn send(&mut self, spans: Vec<SpanData>) {
        let count = spans.len();
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        let request = ExportTraceServiceRequest { resource_spans };
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        let answer = loop {
            let answer = timeout(PATIENCE, self.client.export(request.clone())).await;
            match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
                Err(status) if tries < TRIES && passes(status.code()) => {
                    tries += 1;
                    sleep(pause).await;
                    pause *= 2;
                }
                answer => break answer,
            }
        };
        match answer {
            Ok(answer) => {
                let partly = answer.into_inner().partial_success;
                let rejected = partly.map_or(0, |partly| usize::try_from(partly.rejected_spans).unwrap_or(0));
                lost("rejected", rejected);
                let sent = u64::try_from(count.saturating_sub(rejected)).unwrap_or(u64::MAX);
                metrics::counter!("trace_spans_exported_total").increment(sent);
                self.failing = false;
            }
            Err(status) => {
                lost("export_failed", count);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        code = name(status.code()),
                        "traces cannot be sent: they are lost until they can"
                    );
                }
            }
        }
    }
}

/// Whether the collector may take the same a moment later, as the protocol has it.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
    )
}

/// Sends the last spans of a process before it ends.
#[derive(Debug)]
pub struct Flush {
    shutdown: CancellationToken,
    /// Until when that has to be done, from the shutdown on.
    until: JoinHandle<Instant>,
}

impl Flush {
    /// To be made when the process begins to serve: what `shutdown` leaves of `grace` is what the last spans have.
    #[must_use]
    pub fn within(shutdown: CancellationToken, grace: Duration) -> Self {
        let began = shutdown.clone();
        let until = tokio::spawn(async move {
            began.cancelled().await;
            Instant::now() + grace
        });
        Self { shutdown, until }
    }

    /// Sends them, or gives them up when the time is over.
    pub async fn finish(self) {
        // What ends without being asked to is not in a hurry, but is not kept waiting either.
        self.shutdown.cancel();
        let Some(Export { stop, mut task }) = EXPORT.lock().unwrap_or_else(PoisonError::into_inner).take()
        else {
            return;
        };
        stop.cancel();
        let least = Instant::now() + LEAST_FLUSH;
        let until = self.until.await.map_or(least, |until| until.max(least));
        tokio::select! {
            _ = &mut task => {}
            () = sleep_until(until) => {
                task.abort();
                tracing::warn!("the last traces could not be sent in time");
            }
        }
    }
}
