//! The probe behind the real server, and ways to call it.

use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use service_core::clock::SystemClock;
use service_core::config::{LogFormat, ServerConfig, TelemetryConfig};
use service_core::ids::UuidV7;
use service_core::lifecycle::Readiness;
use service_core::server::{GrpcServer, Listeners};
use service_core::telemetry;
use service_core::test_support::{TokenMint, server_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;
use tracing_subscriber::fmt::MakeWriter;

use crate::probe::{ACCESS, Probe};

pub(crate) const DOMAIN: &str = "test.rowlock";

/// A server for one test.
pub(crate) struct Bench {
    pub(crate) probe: Probe,
    pub(crate) mint: TokenMint,
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: JoinHandle<anyhow::Result<()>>,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(edit: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = server_config();
        edit(&mut config);
        let listeners = Listeners::bind(&config).await.unwrap();
        let (grpc, http) = (listeners.grpc.local_addr().unwrap(), listeners.http.local_addr().unwrap());
        let (probe, mint, readiness) = (Probe::new(), TokenMint::new(), Readiness::new());
        let shutdown = CancellationToken::new();
        let server = GrpcServer {
            config,
            domain: DOMAIN,
            access: ACCESS,
            streams: &["/test.Probe/Watch", "/test.Probe/WatchSignedIn"],
            verifier: mint.verifier(),
            ids: Arc::new(UuidV7::new(Arc::new(SystemClock))),
            descriptor_sets: vec![],
            service_names: vec!["test.Probe"],
            readiness: readiness.clone(),
            metrics: telemetry(),
        };
        let extra = axum::Router::new().route("/extra", axum::routing::get(async || "more"));
        let routes = Routes::new(probe.clone());
        let served = tokio::spawn(server.serve(routes, extra, listeners, shutdown.clone()));
        Self { probe, mint, readiness, shutdown, served, grpc, http }
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap().connect_lazy()
    }

    /// Of a client that opens a window of so many bytes for each answer, and no more until it is read.
    pub(crate) fn slow_channel(&self, window: u32) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        endpoint.initial_stream_window_size(window).connect_lazy()
    }

    /// Calls a method of the probe with a string.
    pub(crate) async fn call(
        &self,
        method: &str,
        request: Request<String>,
    ) -> Result<Response<String>, Status> {
        unary(self.channel(), &format!("/test.Probe/{method}"), request).await
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        get(self.http, path).await
    }
}

/// Calls with any message that prost can write.
pub(crate) async fn unary<M: prost::Message + Default + 'static>(
    channel: Channel,
    path: &str,
    request: Request<M>,
) -> Result<Response<String>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let path = PathAndQuery::try_from(path).unwrap();
    grpc.unary(request, path, ProstCodec::<M, String>::default()).await
}

/// Calls with messages that come when they come.
pub(crate) async fn saying(
    channel: Channel,
    path: &'static str,
    timeout: Duration,
    messages: impl futures_util::Stream<Item = String> + Send + 'static,
) -> Result<Response<String>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let mut request = Request::new(messages);
    request.set_timeout(timeout);
    let path = PathAndQuery::from_static(path);
    grpc.client_streaming(request, path, ProstCodec::<String, String>::default()).await
}

/// Calls with the beginning of a message of `size` bytes, `sent` of them, and never sends the rest.
pub(crate) async fn unended(mut channel: Channel, method: &str, size: u32, sent: usize) {
    let mut beginning = vec![0];
    beginning.extend(size.to_be_bytes());
    beginning.resize(beginning.len() + sent, 0);
    let body = Said { bytes: Some(beginning.into()), ends: false };
    let answer = answer_to(&mut channel, &format!("/test.Probe/{method}"), body).await;
    panic!("an answer to half a message: {answer:?}");
}

/// Calls, and leaves the answer where it is.
pub(crate) async fn unread<M: prost::Message>(
    mut channel: Channel,
    path: &str,
    message: &M,
) -> Result<http::Response<tonic::body::Body>, tonic::transport::Error> {
    let message = message.encode_to_vec();
    let mut whole = vec![0];
    whole.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    whole.extend(message);
    answer_to(&mut channel, path, Said { bytes: Some(whole.into()), ends: true }).await
}

async fn answer_to(
    channel: &mut Channel,
    path: &str,
    body: Said,
) -> Result<http::Response<tonic::body::Body>, tonic::transport::Error> {
    let request = http::Request::post(format!("http://test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body))
        .unwrap();
    tower::ServiceExt::ready(channel).await?;
    tower::Service::call(channel, request).await
}

/// The rest of an answer: how many bytes of data it has.
pub(crate) async fn rest(answer: http::Response<tonic::body::Body>) -> Result<usize, Status> {
    let (mut body, mut bytes) = (answer.into_body(), 0);
    while let Some(frame) =
        std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await
    {
        bytes += frame?.data_ref().map_or(0, bytes::Bytes::len);
    }
    Ok(bytes)
}

/// A body that begins, and ends or does not.
struct Said {
    bytes: Option<bytes::Bytes>,
    ends: bool,
}

impl http_body::Body for Said {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Status>>> {
        match self.bytes.take() {
            Some(bytes) => Poll::Ready(Some(Ok(http_body::Frame::data(bytes)))),
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

pub(crate) async fn streaming(channel: Channel, method: &str) -> Result<Streaming<String>, Status> {
    streaming_with(channel, method, Request::new(String::new())).await
}

pub(crate) async fn streaming_with(
    channel: Channel,
    method: &str,
    request: Request<String>,
) -> Result<Streaming<String>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let path = PathAndQuery::try_from(format!("/test.Probe/{method}")).unwrap();
    let codec = ProstCodec::<String, String>::default();
    Ok(grpc.server_streaming(request, path, codec).await?.into_inner())
}

/// The code, the reason and the message of an error of this server.
#[track_caller]
pub(crate) fn refusal<T>(result: Result<T, Status>) -> (Code, String, String) {
    let Err(status) = result else { panic!("the call succeeded") };
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, DOMAIN);
    (status.code(), info.reason, status.message().to_owned())
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    let body = response.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

/// How far this series has counted, at all servers of this process.
pub(crate) fn counted(series: &str) -> u64 {
    service_core::test_support::counted(&telemetry().render(), series)
}

/// How many connections were cut for this reason, at all servers of this process.
pub(crate) fn cut(reason: &str) -> u64 {
    counted(&format!("grpc_connections_cut_total{{reason=\"{reason}\"}}"))
}

/// Waits, in a process of its own, until whoever started it is gone or does not want it any more: then its standard input ends.
pub(crate) async fn until_left_alone() {
    let _ = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await;
}

/// Asks until the answer is yes.
pub(crate) async fn eventually(mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it came to be so");
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// What all servers of this process have logged.
pub(crate) fn log() -> String {
    String::from_utf8(LOG.lock().unwrap().clone()).unwrap()
}

struct ToLog;

impl Write for ToLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for ToLog {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

/// Metrics as in production; logs go to [`log`].
pub(crate) fn telemetry() -> telemetry::MetricsHandle {
    static HANDLE: OnceLock<telemetry::MetricsHandle> = OnceLock::new();
    let start = || {
        let filter = tracing_subscriber::EnvFilter::new("service_core=debug");
        tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(ToLog).init();
        telemetry::init(&TelemetryConfig { format: LogFormat::Json, filter: "info".to_owned(), traces: None })
            .unwrap()
    };
    HANDLE.get_or_init(start).clone()
}
