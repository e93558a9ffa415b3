//! Recent requests, and the stream of those that end.

#![forbid(unsafe_code)]

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use crate::admin::Admin;
use crate::admin::api::Shared;
use crate::admin::error::ApiError;
use crate::admin::flows::{self, Follow, LIMIT, LIMIT_MAX};
use crate::admin::types::FollowLine;
use crate::admin::types::requests::{REQUESTS_SCHEMA, Requests, RequestsQuery};
use crate::telemetry::flow::WorkloadRef;
use crate::telemetry::http::request::Request;

/// Which requests are wanted; a field that is `None` asks for nothing.
#[derive(Debug, Default)]
struct Filter {
    workload: Option<WorkloadRef>,
    namespace: Option<String>,
    service: Option<WorkloadRef>,
    port: Option<u16>,
    status: Option<String>,
    flag: Option<String>,
    failed: bool,
    since: Option<Timestamp>,
}

/// Adds the routes of requests.
pub(super) fn routes(to: Router<Shared>) -> Router<Shared> {
    to.route("/v1/requests", get(get_requests))
}

async fn get_requests(
    State(shared): State<Shared>,
    query: Result<Query<RequestsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let filter = Filter::parse(&query, Timestamp::now())?;
    if query.follow {
        let body = follow(&shared.admin, filter, query.limit, shared.shutdown)?;
        return Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response());
    }
    let limit = query.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let list = shared.admin.read(move |admin| list(admin, &filter, limit));
    Ok(Json(list.await?).into_response())
}

impl Filter {
    fn parse(query: &RequestsQuery, now: Timestamp) -> Result<Self, ApiError> {
        let bad = |error: String| ApiError::new(StatusCode::BAD_REQUEST, error);
        let name = |what: &str, text: Option<&String>| {
            let parsed = text.map(|text| text.parse::<WorkloadRef>()).transpose();
            parsed.map_err(|error| bad(format!("{what}: {error}")))
        };
        let is_status = |text: &str| {
            let (first, rest) = text.split_at_checked(1).unwrap_or_default();
            let number = text.len() == 3 && text.bytes().all(|it| it.is_ascii_digit());
            number || (matches!(first, "1" | "2" | "3" | "4" | "5") && rest == "xx")
        };
        if let Some(status) = query.status.as_ref().filter(|it| !is_status(it)) {
            return Err(bad(format!("status: `{status}` is neither 404 nor 4xx")));
        }
        Ok(Self {
            workload: name("workload", query.workload.as_ref())?,
            namespace: query.namespace.clone(),
            service: name("service", query.service.as_ref())?,
            port: query.port,
            status: query.status.clone(),
            flag: query.flag.clone(),
            failed: query.failed,
            since: flows::since(query.since.as_deref(), now)?,
        })
    }

    fn matches(&self, request: &Request) -> bool {
        let service = &request.service;
        let namespaces = [&request.source.namespace, &service.namespace];
        let end = || {
            let took = i64::try_from(request.duration_us).unwrap_or(i64::MAX);
            let end = request
                .start
                .saturating_add(SignedDuration::from_micros(took));
            end.unwrap_or(Timestamp::MAX)
        };
        let has_status = |wanted: &String| match wanted.strip_suffix("xx") {
            Some(class) => request
                .status
                .is_some_and(|it| (it / 100).to_string() == class),
            None => request.status.is_some_and(|it| it.to_string() == *wanted),
        };
        self.workload
            .as_ref()
            .is_none_or(|it| *it == request.source)
            && self
                .namespace
                .as_ref()
                .is_none_or(|it| namespaces.contains(&it))
            && self
                .service
                .as_ref()
                .is_none_or(|it| it.namespace == service.namespace && it.name == service.name)
            && self.port.is_none_or(|it| it == service.port)
            && self.status.as_ref().is_none_or(has_status)
            && self
                .flag
                .as_ref()
                .is_none_or(|it| request.flags.contains(it))
            && (!self.failed || request.is_error())
            && self.since.is_none_or(|since| end() >= since)
    }
}

fn list(admin: &Admin, filter: &Filter, limit: usize) -> Requests {
    let recent = admin.sources.http.recent().recent();
    let wanted = recent.iter().filter(|it| filter.matches(it));
    let mut requests: Vec<Request> = wanted.map(|it| Request::clone(it)).collect();
    let omitted = requests.len().saturating_sub(limit);
    requests.drain(..omitted);
    Requests {
        schema: REQUESTS_SCHEMA.to_owned(),
        requests,
        omitted,
        left_out: admin.sources.http.left_out(),
    }
}

fn follow(
    admin: &Arc<Admin>,
    filter: Filter,
    limit: Option<usize>,
    shutdown: watch::Receiver<bool>,
) -> Result<Body, ApiError> {
    let has_since = filter.since.is_some();
    let follow = Follow {
        ring: admin.sources.http.recent().follow(),
        wanted: move |request: &Request| filter.matches(request),
        line: |request: &Request| FollowLine::Request(Box::new(request.clone())),
        first: has_since.then(|| limit.unwrap_or(LIMIT_MAX).min(LIMIT_MAX)),
        left_out: Some(Box::new({
            let http = admin.sources.http.clone();
            move || http.left_out()
        })),
    };
    flows::stream(admin, follow, shutdown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::flag::Flag;
    use crate::telemetry::http::fake::Sample;

    fn matches(query: &str) -> Result<bool, u16> {
        let query: RequestsQuery = serde_urlencoded::from_str(query).unwrap();
        // Just after the sample has ended.
        let now = Timestamp::from_second(1).unwrap();
        let filter = Filter::parse(&query, now);
        let filter = filter.map_err(|error| error.into_response().status().as_u16())?;
        let mut sample = Sample {
            status: 503,
            ..Sample::default()
        };
        sample.flags.raise(Flag::UpstreamTimeout);
        Ok(filter.matches(&sample.request()))
    }

    #[test]
    fn each_field_narrows() {
        for query in [
            "",
            "workload=shop/web",
            "namespace=shop",
            "service=shop/cart",
            "port=80",
            "status=503",
            "status=5xx",
            "flag=UT",
            "failed=true",
            "since=2s",
        ] {
            assert_eq!(matches(query), Ok(true), "{query}");
        }
        for query in [
            "workload=shop/cart",
            "namespace=sho",
            "service=shop/cart-v2",
            "port=81",
            "status=500",
            "status=2xx",
            "flag=UF",
            "since=500ms",
        ] {
            assert_eq!(matches(query), Ok(false), "{query}");
        }
        for query in [
            "workload=web",
            "service=cart",
            "status=fine",
            "status=9xx",
            "since=soon",
        ] {
            assert_eq!(matches(query), Err(400), "{query}");
        }
    }
}
