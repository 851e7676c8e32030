//! A collector of traces that keeps what it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
pub use opentelemetry_proto::tonic::trace::v1::Span as CollectedSpan;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A server that takes traces by OTLP. It ends with the test's runtime.
#[derive(Clone, Debug)]
pub struct TestCollector {
    /// Where it listens.
    pub address: SocketAddr,
    spans: Arc<Mutex<Vec<CollectedSpan>>>,
}

#[derive(Debug)]
struct Keep(Arc<Mutex<Vec<CollectedSpan>>>);

#[tonic::async_trait]
impl TraceService for Keep {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
        let spans = scopes.flat_map(|of| of.spans);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl TestCollector {
    /// Starts one.
    ///
    /// # Panics
    /// If there is no port for it.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let spans = Arc::default();
        let service = TraceServiceServer::new(Keep(Arc::clone(&spans)));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
        Self { address, spans }
    }

    /// What has come so far.
    #[must_use]
    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The text of an attribute of a span, or nothing.
#[must_use]
pub fn attribute(span: &CollectedSpan, key: &str) -> String {
    let value = span.attributes.iter().find(|attribute| attribute.key == key);
    match value.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// An id as `traceparent` has it.
#[must_use]
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request of a caller who traces: `flags` is `01` if the caller records, and `00` if not.
///
/// # Panics
/// If they make no metadata.
pub fn traced<T>(message: T, trace: &str, parent: &str, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("00-{trace}-{parent}-{flags}").parse().expect("it is ASCII");
    request.metadata_mut().insert("traceparent", value);
    request
}
