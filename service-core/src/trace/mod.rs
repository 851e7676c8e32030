//! Traces: which calls, commands and statements took how long, sent to a collector by OTLP.
//!
//! Off unless a collector is configured: then every function here returns at once, and spans hold nothing. A span follows its
//! work through futures ([`Span::enclose`]), and what runs within it finds it ([`Span::current`]); statements become spans by
//! themselves. Names and attributes are those of OpenTelemetry's conventions for gRPC and databases. No attribute says who
//! calls or what a statement was given: only what this module and its callers set is sent, nothing of a log line.

mod channel;
mod export;
mod sampling;
mod sql;
mod w3c;

use std::borrow::Cow;
use std::sync::OnceLock;

use http::HeaderMap;
use opentelemetry::context::{FutureExt, WithContext};
use opentelemetry::trace::{Link, SpanContext, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, ContextGuard, KeyValue, Value};
use opentelemetry_sdk::trace::SdkTracer;

pub use channel::TracedChannel;
pub(crate) use export::start;
pub use export::{Flush, TracesConfig};
pub(crate) use sql::statements;

/// Set once, by [`start`], in a process that traces.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// A piece of work that is traced, or nothing. It ends when its last clone is dropped.
#[derive(Clone, Debug, Default)]
pub struct Span(Option<Context>);

impl Span {
    /// The span that this runs in.
    #[must_use]
    pub fn current() -> Self {
        if TRACER.get().is_none() {
            return Self(None);
        }
        Self(Context::map_current(|context| context.has_active_span().then(|| context.clone())))
    }

    /// A part of the current span; nothing if that is not recorded.
    #[must_use]
    pub fn child(name: &'static str) -> Self {
        Self::within(name, SpanKind::Internal, Vec::new())
    }

    /// A statement that is a part of the current span, for what the driver does not tell of, such as COMMIT.
    #[must_use]
    pub fn statement(operation: &'static str) -> Self {
        Self::within(operation, SpanKind::Client, sql::attributes(operation))
    }

    /// Work that is done for many at once: the first span of a trace of its own, with a link to each of them. Nothing if none of
    /// them is recorded.
    #[must_use]
    pub fn for_many<'a>(name: &'static str, askers: impl IntoIterator<Item = &'a Self>) -> Self {
        let Some(tracer) = TRACER.get() else { return Self(None) };
        let links: Vec<Link> =
            askers.into_iter().filter_map(Self::recorded).map(|of| Link::new(of, Vec::new(), 0)).collect();
        if links.is_empty() {
            return Self(None);
        }
        let builder = tracer.span_builder(name).with_kind(SpanKind::Internal).with_links(links);
        Self::start(tracer, builder, &Context::new())
    }

    /// This work, and for these too, who came after it had begun. If nobody of the first was recorded, it begins here.
    #[must_use]
    pub fn for_more<'a>(self, name: &'static str, askers: impl IntoIterator<Item = &'a Self>) -> Self {
        let Some(context) = &self.0 else { return Self::for_many(name, askers) };
        for of in askers.into_iter().filter_map(Self::recorded) {
            context.span().add_link(of, Vec::new());
        }
        self
    }

    /// Says that from now on `work` (of [`Span::for_many`]) is done for this span too: until here it has waited.
    pub fn joins(&self, work: &Self) {
        let (Some(context), Some(of)) = (&self.0, work.recorded()) else { return };
        let id = KeyValue::new("rowlock.batch.id", of.span_id().to_string());
        context.span().add_event("rowlock.batch.joined", vec![id]);
        context.span().add_link(of, Vec::new());
    }

    /// The span of a call that came in.
    pub(crate) fn server(rpc: &'static str, headers: &HeaderMap) -> Self {
        let Some(tracer) = TRACER.get() else { return Self(None) };
        let parent = w3c::caller(headers)
            .map_or_else(Context::new, |caller| Context::new().with_remote_span_context(caller));
        let builder = tracer
            .span_builder(rpc.trim_start_matches('/'))
            .with_kind(SpanKind::Server)
            .with_attributes(rpc_attributes(rpc));
        Self::start(tracer, builder, &parent)
    }

    /// The span of a call that goes out: a part of the current span, or else the first one of a trace.
    fn client(rpc: &str) -> Self {
        let Some(tracer) = TRACER.get() else { return Self(None) };
        let name = rpc.trim_start_matches('/').to_owned();
        let builder =
            tracer.span_builder(name).with_kind(SpanKind::Client).with_attributes(rpc_attributes(rpc));
        Self::start(tracer, builder, &Context::current())
    }

    fn within(name: &'static str, kind: SpanKind, attributes: Vec<KeyValue>) -> Self {
        let Some(tracer) = TRACER.get() else { return Self(None) };
        let parent = Context::current();
        if !parent.span().is_recording() {
            return Self(None);
        }
        let builder = tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        Self::start(tracer, builder, &parent)
    }

    fn start(tracer: &SdkTracer, builder: opentelemetry::trace::SpanBuilder, parent: &Context) -> Self {
        Self(Some(parent.with_span(builder.start_with_context(tracer, parent))))
    }

    /// Where it is, if it is recorded.
    fn recorded(&self) -> Option<SpanContext> {
        let context = self.0.as_ref()?;
        context.span().is_recording().then(|| context.span().span_context().clone())
    }

    /// Sets an attribute. Whoever does, does not name a person.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Says that it failed, and with what: a code, not a text.
    pub fn fail(&self, with: impl Into<Cow<'static, str>>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new("error.type", with.into()));
            context.span().set_status(Status::error(""));
        }
    }

    /// Ends it before its last clone is dropped.
    pub(crate) fn end(&self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }

    /// Whether there is anything, recorded or not.
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Has `work` run within it. Without a span, `work` stays within what it is in.
    pub fn enclose<W: Future>(&self, work: W) -> WithContext<W> {
        work.with_context(self.0.clone().unwrap_or_else(Context::current))
    }

    /// Has what follows in this function run within it.
    pub(crate) fn enter(&self) -> Option<ContextGuard> {
        self.0.clone().map(Context::attach)
    }
}

/// Where a call that came in with `headers` stands in a trace: our span if this process traces, else its caller's. For logs.
pub(crate) fn position(headers: &HeaderMap) -> Option<SpanContext> {
    match Span::current().0 {
        Some(context) => Some(context.span().span_context().clone()),
        None => w3c::caller(headers),
    }
}

fn rpc_attributes(path: &str) -> Vec<KeyValue> {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    vec![
        KeyValue::new("rpc.system", "grpc"),
        KeyValue::new("rpc.service", service.to_owned()),
        KeyValue::new("rpc.method", method.to_owned()),
    ]
}
