//! Live and recent flows, and the stream of those that end.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use mesh_common::path::Path;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Interval, MissedTickBehavior};

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::types::{
    FLOW_STREAM_SCHEMA, FLOWS_SCHEMA, Flow, Flows, FlowsQuery, FollowLine, parse_duration,
};
use crate::telemetry::clock::Now;
use crate::telemetry::filter::FlowFilter;
use crate::telemetry::hub::{Follower, Next};

/// Flows in an answer where no limit is asked for.
pub(super) const LIMIT: usize = 100;

/// Flows in an answer at most. About 1 KB of JSON each: 10 MB, in memory on both sides.
pub(super) const LIMIT_MAX: usize = 10_000;

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
    let since = since(query.since.as_deref(), now)?;
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

/// Returns when a duration of a query began.
pub(super) fn since(text: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
    let since = text.map(parse_duration).transpose();
    let since =
        since.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("since: {error}")))?;
    Ok(since.and_then(|ago| {
        let ago = SignedDuration::try_from(ago).ok()?;
        now.saturating_sub(ago).ok()
    }))
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
    let has_since = filter.since.is_some();
    let follow = Follow {
        ring: admin.sources.hub.follow(),
        wanted: move |flow: &Flow| filter.matches(flow),
        line: |flow: &Flow| FollowLine::Flow(Box::new(flow.clone())),
        first: has_since.then(|| limit.unwrap_or(LIMIT_MAX)),
        left_out: None,
    };
    stream(admin, follow, shutdown)
}

/// What is followed, and how it is shown.
pub(super) struct Follow<T, W> {
    /// What ended before, and what is to come.
    pub(super) ring: (Vec<Arc<T>>, Follower<T>),
    /// Which are wanted.
    pub(super) wanted: W,
    /// The line of one.
    pub(super) line: fn(&T) -> FollowLine,
    /// How many of those that ended before are wanted at most; `None`: none.
    pub(super) first: Option<usize>,
    /// Returns how many are not in the ring, of any kind; `None`: all are.
    pub(super) left_out: Option<Box<dyn Fn() -> u64 + Send>>,
}

/// How often a reader is told of what is left out.
const LEFT_OUT: Duration = Duration::from_secs(1);

/// What is left out of a stream, and how much of it was told.
struct LeftOut {
    count: Box<dyn Fn() -> u64 + Send>,
    told: u64,
    tick: Interval,
}

impl LeftOut {
    fn new(count: Box<dyn Fn() -> u64 + Send>) -> Self {
        let mut tick = tokio::time::interval(LEFT_OUT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            told: count(),
            count,
            tick,
        }
    }

    /// Waits until there is more of it.
    async fn more(&mut self) -> u64 {
        loop {
            self.tick.tick().await;
            let more = (self.count)().saturating_sub(self.told);
            if more > 0 {
                self.told += more;
                return more;
            }
        }
    }
}

/// Returns the stream of lines.
pub(super) fn stream<T: Send + Sync + 'static>(
    admin: &Admin,
    follow: Follow<T, impl Fn(&T) -> bool + Send + 'static>,
    shutdown: watch::Receiver<bool>,
) -> Result<Body, ApiError> {
    let permit = admin.followers.clone().try_acquire_owned().map_err(|_| {
        let error = "too many readers follow the flows already";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error)
    })?;
    let Follow {
        ring: (recent, follower),
        wanted,
        line,
        first: most,
        left_out,
    } = follow;
    let mut first = VecDeque::from([FollowLine::Start {
        schema: FLOW_STREAM_SCHEMA.to_owned(),
    }]);
    if let Some(most) = most {
        let matching: Vec<_> = recent.iter().filter(|it| wanted(it)).collect();
        let omitted = matching.len().saturating_sub(most);
        first.extend(matching[omitted..].iter().map(|it| line(it)));
    }
    let lines = Lines {
        first,
        wanted,
        line,
        follower,
        left_out: left_out.map(LeftOut::new),
        shutdown,
        ended: false,
        _permit: permit,
    };
    let bytes = futures_util::stream::unfold(lines, |mut lines| async {
        let line = lines.next().await?;
        Some((Ok::<_, Infallible>(line), lines))
    });
    Ok(Body::from_stream(bytes))
}

/// The lines of one stream.
struct Lines<T, W> {
    first: VecDeque<FollowLine>,
    wanted: W,
    line: fn(&T) -> FollowLine,
    follower: Follower<T>,
    left_out: Option<LeftOut>,
    shutdown: watch::Receiver<bool>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl<T, W: Fn(&T) -> bool> Lines<T, W> {
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
            let left_out = async {
                match &mut self.left_out {
                    Some(left_out) => left_out.more().await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                // A sender that is gone is a shutdown too.
                _ = self.shutdown.wait_for(|down| *down) => None,
                // Before the others, of which there are many then.
                count = left_out => return FollowLine::LeftOut { count },
                next = self.follower.next() => next,
            };
            match next {
                Some(Next::Ended(it)) if (self.wanted)(&it) => return (self.line)(&it),
                Some(Next::Ended(_)) => {}
                Some(Next::Lost(count)) => return FollowLine::Lost { count },
                None => {
                    let why = "the agent is shutting down".to_owned();
                    return FollowLine::End { why };
                }
            }
        }
    }
}
