//! Spans to a collector: OTLP over HTTP with protobuf, plain text only.
//!
//! Data threads hand requests to a bounded queue and never wait. A task sends what is there once a second, in batches, over one
//! connection that is kept; while the collector cannot be reached it tries at growing intervals, and what finds no room in the queue
//! meanwhile is counted as dropped.

#![forbid(unsafe_code)]

mod message;
mod post;
mod span;

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use http::Uri;
use tokio::sync::watch;

use crate::chance::Chance;
use crate::telemetry::http::otlp::post::{Outcome, Poster};
use crate::telemetry::http::request::Request;

/// Spans that wait to be sent: as OpenTelemetry's own batch processor.
const QUEUE: usize = 2048;

/// Spans of one message; likewise.
const BATCH: usize = 512;

/// Time between two looks at the queue. At its bound, 2,048 spans a second are exported.
const PERIOD: Duration = Duration::from_secs(1);

/// The first pause after a failure, which doubles up to the longest.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Attempts for one batch; then others are to have their turn.
const ATTEMPTS: u32 = 5;

/// Port of collectors for OTLP over HTTP.
const PORT: u16 = 4318;

/// Path for traces, where the endpoint names none.
const PATH: &str = "/v1/traces";

/// Where spans go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Name or address.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text
            .parse()
            .map_err(|_| format!("`{text}` is no URL such as http://collector:4318"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(format!(
                    "`{text}`: https is not supported; name a collector on this node or in this network by http"
                ));
            }
            Some(_) | None => return Err(format!("`{text}` does not begin with http://")),
        }
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| format!("`{text}` names no host"))?;
        let path = match uri.path() {
            "" | "/" => PATH,
            path => path,
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(PORT),
            path: path.to_owned(),
        })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

impl Endpoint {
    fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => format!("[{}]:{}", self.host, self.port),
            Ok(IpAddr::V4(_)) | Err(_) => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct SpanCounters {
    pub(super) exported: AtomicU64,
    /// For want of room, or because the collector could not be reached for long.
    pub(super) dropped: AtomicU64,
    /// By the collector.
    pub(super) rejected: AtomicU64,
}

/// The data threads' end.
#[derive(Debug)]
pub(super) struct Spans {
    queue: SyncSender<Arc<Request>>,
    pub(super) counters: Arc<SpanCounters>,
}

impl Spans {
    /// Returns both ends.
    pub(super) fn new(endpoint: Endpoint, node: String) -> (Self, Exporter) {
        let (queue, requests) = mpsc::sync_channel(QUEUE);
        let counters = Arc::<SpanCounters>::default();
        let exporter = Exporter {
            requests,
            poster: Poster::new(endpoint),
            node,
            counters: counters.clone(),
            chance: Chance::random(),
            period: PERIOD,
            backoff: BACKOFF,
            is_failing: false,
        };
        (Self { queue, counters }, exporter)
    }

    /// Takes a request whose trace is recorded. Never waits.
    pub(super) fn take(&self, request: Arc<Request>) {
        if self.queue.try_send(request).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends spans to the collector.
#[derive(Debug)]
pub struct Exporter {
    requests: Receiver<Arc<Request>>,
    poster: Poster,
    node: String,
    counters: Arc<SpanCounters>,
    chance: Chance,
    period: Duration,
    backoff: Duration,
    is_failing: bool,
}

impl Exporter {
    /// Runs until it has to stop; then what waits is tried once more.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let pause = tokio::time::sleep(self.period);
            tokio::select! {
                biased;
                // A sender that is gone is the end too.
                _ = stop.wait_for(|stop| *stop) => break,
                () = pause => {}
            }
            while let Some(batch) = self.batch() {
                self.deliver(&batch, ATTEMPTS, &mut stop).await;
            }
        }
        while let Some(batch) = self.batch() {
            self.deliver(&batch, 1, &mut stop).await;
        }
    }

    fn batch(&self) -> Option<Vec<Arc<Request>>> {
        let batch: Vec<_> = self.requests.try_iter().take(BATCH).collect();
        (!batch.is_empty()).then_some(batch)
    }

    /// Sends a batch, with pauses in between where that fails, and counts what became of it.
    async fn deliver(
        &mut self,
        batch: &[Arc<Request>],
        attempts: u32,
        stop: &mut watch::Receiver<bool>,
    ) {
        let body = span::message(batch, &self.node, env!("CARGO_PKG_VERSION"));
        let count = batch.len() as u64;
        for attempt in 1..=attempts {
            let outcome = self.poster.post(body.clone()).await;
            let wait = match outcome {
                Outcome::Taken { rejected } => {
                    let rejected = rejected.min(count);
                    add(&self.counters.rejected, rejected);
                    add(&self.counters.exported, count - rejected);
                    self.is_failing = false;
                    return;
                }
                Outcome::Refused(why) => {
                    self.fail(&why);
                    return add(&self.counters.rejected, count);
                }
                Outcome::Failed { why, wait } => {
                    self.fail(&why);
                    wait
                }
            };
            let pause = wait.unwrap_or_else(|| self.pause(attempt)).min(BACKOFF_MAX);
            if attempt < attempts && !*stop.borrow() {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
        add(&self.counters.dropped, count);
    }

    /// Returns the pause after so many failures in a row, up to half of it by chance.
    fn pause(&mut self, failures: u32) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << (failures - 1).min(16));
        doubled
            .min(BACKOFF_MAX)
            .mul_f64(1.0 - self.chance.unit() / 2.0)
    }

    /// Says so once for each row of failures.
    fn fail(&mut self, why: &str) {
        if !self.is_failing {
            let endpoint = self.poster.endpoint();
            tracing::warn!(%endpoint, why, "failed to export spans; trying again, and counting what is dropped");
        }
        self.is_failing = true;
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
