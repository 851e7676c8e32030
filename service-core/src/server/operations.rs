//! The port for operations: metrics, liveness, readiness.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::ServerConfig;
use crate::lifecycle::Readiness;
use crate::telemetry::MetricsHandle;

/// How long to wait when the system gives no more connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `/metrics`, `/livez`, `/readyz` and `extra` until `end`.
pub(super) fn serve(
    listener: TcpListener,
    config: &ServerConfig,
    extra: Router,
    readiness: Readiness,
    metrics: MetricsHandle,
    end: CancellationToken,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let door = Door {
        listener,
        places: Arc::new(Semaphore::new(config.max_http_connections)),
        idle_timeout: config.http_idle_timeout,
    };
    let ready = move || {
        let snapshot = readiness.snapshot();
        let status = if snapshot.all_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        async move { (status, [(CONTENT_TYPE, "application/json")], snapshot.to_json()) }
    };
    let render = move || {
        let text = metrics.render();
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    let router = Router::new()
        // Alive is whoever can answer. What is missing shows in /readyz; a restart would not bring it.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .merge(extra);
    for reason in ["limit", "idle"] {
        metrics::counter!("http_connections_cut_total", "reason" => reason).increment(0);
    }
    async {
        axum::serve(door, router).with_graceful_shutdown(end.cancelled_owned()).await?;
        Ok(())
    }
}

/// Lets a number of connections in. Further ones are closed, and those that get no answer for long are cut: they idle, or
/// never finish to ask.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle_timeout: Duration,
}

impl Listener for Door {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        loop {
            let (stream, from) = match self.listener.accept().await {
                Ok(arrived) => arrived,
                Err(error) => {
                    tracing::debug!(%error, "a connection for operations cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                cut("limit");
                continue;
            };
            let end = Box::pin(sleep(self.idle_timeout));
            let visit = Visit { stream, _place: place, end, idle_timeout: self.idle_timeout, is_cut: false };
            return (visit, from);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn cut(reason: &'static str) {
    metrics::counter!("http_connections_cut_total", "reason" => reason).increment(1);
}

/// A connection that ends when it was not answered for long.
struct Visit {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    end: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    is_cut: bool,
}

impl Visit {
    /// Ends the connection if it is time.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.end.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        if !std::mem::replace(&mut self.is_cut, true) {
            cut("idle");
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/1 is always about to read, unless it waits for the client to read.
        self.poll_end(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_end(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if written.is_ready() {
            let end = Instant::now() + self.idle_timeout;
            self.end.as_mut().reset(end);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
