//! Live and recent flows, and the stream of those that end.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use mesh_common::path::Path;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::types::{
    FLOW_STREAM_SCHEMA, FLOWS_SCHEMA, Flow, Flows, FlowsQuery, FollowLine, parse_duration,
};
use crate::telemetry::clock::Now;
use crate::telemetry::filter::FlowFilter;
use crate::telemetry::hub::{Follower, Next};

/// Flows in an answer where no limit is asked for.
const LIMIT: usize = 100;

/// Flows in an answer at most. About 1 KB of JSON each: 10 MB, in memory on both sides.
const LIMIT_MAX: usize = 10_000;

/// Returns the filter that a query describes, and the limit.
pub(super) fn parse(query: &FlowsQuery, now: Timestamp) -> Result<(FlowFilter, usize), ApiError> {
    let bad = |error: String| ApiError::new(StatusCode::BAD_REQUEST, error);
    let workload = query.workload.as_deref().map(str::parse).transpose();
    let service = query.service.as_deref().map(str::parse).transpose();
    let known = |path: &String| Path::ALL.iter().any(|known| known.label() == path);
    if let Some(path) = query.path.as_ref().filter(|path| !known(path)) {
        return Err(bad(format!(
            "path: `{path}` is none of tcp, redirect, mixed"
        )));
    }
    let since = query.since.as_deref().map(parse_duration).transpose();
    let since = since.map_err(|error| bad(format!("since: {error}")))?;
    let since = since.and_then(|ago| {
        let ago = SignedDuration::try_from(ago).ok()?;
        now.saturating_sub(ago).ok()
    });
    let filter = FlowFilter {
        workload: workload.map_err(|error| bad(format!("workload: {error}")))?,
        namespace: query.namespace.clone(),
        port: query.port,
        path: query.path.clone(),
        service: service.map_err(|error| bad(format!("service: {error}")))?,
        since,
    };
    Ok((filter, query.limit.unwrap_or(LIMIT).min(LIMIT_MAX)))
}

/// Returns ended flows that match, oldest first, then live ones; the newest when there are more than `limit`.
pub(super) fn list(admin: &Admin, filter: &FlowFilter, limit: usize) -> anyhow::Result<Flows> {
    let kernel = &admin.sources.kernel;
    let now = Now::read();
    // Live ones first: a flow that ends in between is in both, and told apart below; it is never in neither.
    let mut live = Vec::new();
    for record in kernel.live_flows()? {
        live.push(Flow::of(&record, &now, kernel.as_ref()));
    }
    let recent = admin.sources.hub.recent();
    let ended: std::collections::HashSet<_> = recent.iter().map(|flow| flow.id).collect();
    live.retain(|flow| !ended.contains(&flow.id) && filter.matches(flow));
    live.sort_by_key(|flow| flow.start);
    let recent = recent.iter().filter(|flow| filter.matches(flow));
    let mut flows: Vec<Flow> = recent.map(|flow| Flow::clone(flow)).collect();
    flows.extend(live);
    let omitted = flows.len().saturating_sub(limit);
    flows.drain(..omitted);
    Ok(Flows {
        schema: FLOWS_SCHEMA.to_owned(),
        flows,
        omitted,
    })
}

/// Returns the stream of flows that end from now on; with `since`, those that ended since then first.
pub(super) fn follow(
    admin: &Arc<Admin>,
    filter: FlowFilter,
    limit: Option<usize>,
    shutdown: watch::Receiver<bool>,
) -> Result<Body, ApiError> {
    let permit = admin.followers.clone().try_acquire_owned().map_err(|_| {
        let error = "too many readers follow the flows already";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error)
    })?;
    let (recent, follower) = admin.sources.hub.follow();
    let mut first = VecDeque::from([FollowLine::Start {
        schema: FLOW_STREAM_SCHEMA.to_owned(),
    }]);
    if filter.since.is_some() {
        let wanted: Vec<_> = recent.iter().filter(|flow| filter.matches(flow)).collect();
        let omitted = wanted.len().saturating_sub(limit.unwrap_or(LIMIT_MAX));
        for flow in &wanted[omitted..] {
            first.push_back(FollowLine::Flow(Box::new(Flow::clone(flow))));
        }
    }
    let lines = Lines {
        first,
        // Whatever ends from now on ended since.
        filter: FlowFilter {
            since: None,
            ..filter
        },
        follower,
        shutdown,
        ended: false,
        _permit: permit,
    };
    let bytes = stream::unfold(lines, |mut lines| async {
        let line = lines.next().await?;
        Some((Ok::<_, Infallible>(line), lines))
    });
    Ok(Body::from_stream(bytes))
}

/// The lines of one flow stream.
struct Lines {
    first: VecDeque<FollowLine>,
    filter: FlowFilter,
    follower: Follower,
    shutdown: watch::Receiver<bool>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Lines {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let line = match self.first.pop_front() {
            Some(line) => line,
            None => self.wait().await,
        };
        self.ended = matches!(line, FollowLine::End { .. });
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Some(text.into())
    }

    async fn wait(&mut self) -> FollowLine {
        loop {
            let next = tokio::select! {
                biased;
                // A sender that is gone is a shutdown too.
                _ = self.shutdown.wait_for(|down| *down) => None,
                next = self.follower.next() => next,
            };
            match next {
                Some(Next::Flow(flow)) if self.filter.matches(&flow) => {
                    return FollowLine::Flow(Box::new(Flow::clone(&flow)));
                }
                Some(Next::Flow(_)) => {}
                Some(Next::Lost(count)) => return FollowLine::Lost { count },
                None => {
                    let why = "the agent is shutting down".to_owned();
                    return FollowLine::End { why };
                }
            }
        }
    }
}
