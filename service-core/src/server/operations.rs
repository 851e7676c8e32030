//! The port for operations: metrics, liveness, readiness.

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Readiness;
use crate::telemetry::MetricsHandle;

/// Serves `/metrics`, `/livez`, `/readyz` and `extra` until `end`.
pub(super) async fn serve(
    listener: TcpListener,
    extra: Router,
    readiness: Readiness,
    metrics: MetricsHandle,
    end: CancellationToken,
) -> anyhow::Result<()> {
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
    axum::serve(listener, router).with_graceful_shutdown(end.cancelled_owned()).await?;
    Ok(())
}
