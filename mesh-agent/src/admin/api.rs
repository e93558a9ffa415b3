//! The routes of both listeners.

#![forbid(unsafe_code)]

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::admin::error::ApiError;
use crate::admin::readiness::Readiness;
use crate::admin::types::{
    FlowsQuery, Pairs, REDIRECT_SCHEMA, Redirect, RedirectRequest, Status, WORKLOADS_SCHEMA,
    Workloads,
};
use crate::admin::{Admin, balancing, explain, flows, pairs, requests, routes, services, status};
use crate::telemetry::metrics::Metrics;

/// Bytes of a request's body at most, where no route says otherwise: the one of the kill switch is 17 bytes long.
const BODY_MAX: usize = 1024;

/// What every handler gets.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) admin: Arc<Admin>,
    pub(super) shutdown: watch::Receiver<bool>,
}

pub(super) type Answer<T> = Result<Json<T>, ApiError>;

/// Returns the routes of the admin socket: everything.
pub(super) fn admin(admin: Arc<Admin>, shutdown: watch::Receiver<bool>) -> Router {
    let routes = Router::new()
        .route("/v1/status", get(get_status))
        .route("/v1/workloads", get(get_workloads))
        .route("/v1/flows", get(get_flows))
        .route("/v1/pairs", get(get_pairs))
        .route("/v1/redirect", post(post_redirect));
    let routes = routes::routes(requests::routes(routes));
    let routes = explain::routes(balancing::routes(services::registry(services::lookup(
        routes,
    ))));
    finish(health(routes), admin, shutdown)
}

/// Returns the routes of the metrics listener: nothing that changes anything, and nothing that tells addresses to other machines.
pub(super) fn metrics(
    admin: Arc<Admin>,
    is_loopback: bool,
    shutdown: watch::Receiver<bool>,
) -> Router {
    let routes = health(Router::new());
    let routes = if is_loopback {
        services::lookup(routes)
    } else {
        routes
    };
    finish(routes, admin, shutdown)
}

fn health(routes: Router<Shared>) -> Router<Shared> {
    routes
        .route("/metrics", get(get_metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(get_readyz))
}

fn finish(routes: Router<Shared>, admin: Arc<Admin>, shutdown: watch::Receiver<bool>) -> Router {
    routes
        .fallback(nothing)
        .method_not_allowed_fallback(async || {
            let error = "this path has another method";
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, error)
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(Shared { admin, shutdown })
}

async fn get_status(State(shared): State<Shared>) -> Answer<Status> {
    Ok(Json(shared.admin.read(status::status).await?))
}

async fn get_workloads(State(shared): State<Shared>) -> Answer<Workloads> {
    let read = |admin: &Admin| status::workloads(admin);
    let workloads = shared.admin.read(read).await?;
    Ok(Json(Workloads {
        schema: WORKLOADS_SCHEMA.to_owned(),
        workloads: workloads.into_iter().map(status::workload).collect(),
    }))
}

async fn get_pairs(State(shared): State<Shared>) -> Answer<Pairs> {
    let read = |admin: &Admin| pairs::pairs(admin.sources.kernel.as_ref());
    Ok(Json(shared.admin.read(read).await??))
}

async fn get_flows(
    State(shared): State<Shared>,
    query: Result<Query<FlowsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let (filter, limit) = flows::parse(&query, Timestamp::now())?;
    if query.follow {
        let limit = query.limit.map(|_| limit);
        let body = flows::follow(&shared.admin, filter, limit, shared.shutdown)?;
        return Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response());
    }
    let read = move |admin: &Admin| flows::list(admin, &filter, limit);
    let list = shared.admin.read(read).await??;
    Ok(Json(list).into_response())
}

async fn post_redirect(
    State(shared): State<Shared>,
    request: Result<Json<RedirectRequest>, JsonRejection>,
) -> Answer<Redirect> {
    let Json(RedirectRequest { allowed }) = request?;
    let change = move |admin: &Admin| admin.sources.control.allow_redirect(allowed);
    shared.admin.read(change).await??;
    tracing::warn!(allowed, "redirect was switched over the admin socket");
    Ok(Json(Redirect {
        schema: REDIRECT_SCHEMA.to_owned(),
        allowed: shared.admin.sources.control.redirect_allowed(),
    }))
}

async fn get_metrics(State(shared): State<Shared>) -> Result<Response, ApiError> {
    let text = shared.admin.read(|admin| admin.metrics.render()).await??;
    Ok(([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response())
}

/// Answers for a path that is none.
pub(super) async fn nothing() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

async fn get_readyz(State(shared): State<Shared>) -> Response {
    readyz(&shared.admin.sources.readiness)
}

/// Says whether everything has happened that has to.
pub(super) fn readyz(readiness: &Readiness) -> Response {
    let pending = readiness.pending();
    if pending.is_empty() {
        return "ok\n".into_response();
    }
    let waits = format!("waiting for {}\n", pending.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, waits).into_response()
}
