//! What a process without admin socket serves: metrics and health.

#![forbid(unsafe_code)]

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin::error::ApiError;
use crate::admin::readiness::Readiness;
use crate::admin::{api, server};
use crate::telemetry::metrics::Metrics;

/// What the pages are made from.
pub struct Pages {
    /// Returns all metrics as text.
    pub metrics: Box<dyn Fn() -> anyhow::Result<String> + Send + Sync>,
    /// What still has to happen before the process is ready.
    pub readiness: Readiness,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// Serves `/metrics`, `/healthz` and `/readyz` until `shutdown` is true.
pub async fn serve(listener: TcpListener, pages: Pages, shutdown: watch::Receiver<bool>) {
    let routes = Router::new()
        .route("/metrics", get(get_metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(get_readyz))
        .fallback(api::nothing)
        .with_state(Arc::new(pages));
    server::serve_anybody(listener, routes, shutdown).await;
}

async fn get_metrics(State(pages): State<Arc<Pages>>) -> Result<Response, ApiError> {
    let text = (pages.metrics)()?;
    Ok(([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response())
}

async fn get_readyz(State(pages): State<Arc<Pages>>) -> Response {
    api::readyz(&pages.readiness)
}
