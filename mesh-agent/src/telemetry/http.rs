//! What is seen of requests: metrics, the access log, traces and the requests that ended last.
//!
//! Each data thread has an [`Observer`] of its own ([`Http::observer`]). What every request pays is a look at the thread's table of
//! counters; what more is told of some is made for those alone, and goes on to bounded queues.

#![forbid(unsafe_code)]

pub mod log;
pub mod otlp;
pub mod record;
mod relay;
pub mod request;
pub mod trace;

mod cell;
mod collector;
mod counts;
mod labels;
mod refused;
mod rows;

#[cfg(test)]
pub(crate) mod fake;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::Timestamp;

use crate::chance::Chance;
use crate::l7::cluster::{Cluster, Now};
use crate::l7::message::RequestHead;
pub(super) use crate::telemetry::http::collector::HttpCollector;
use crate::telemetry::http::counts::{Counts, SETS_MAX, Table};
use crate::telemetry::http::log::{AccessLog, Line, LogFormat, LogTarget};
use crate::telemetry::http::otlp::{Endpoint, Exporter, Spans};
use crate::telemetry::http::record::{Client, Observer, RelayEnd, RelayRecord, RequestRecord};
use crate::telemetry::http::refused::Refusals;
use crate::telemetry::http::relay::{Relay, Relays, Shown};
use crate::telemetry::http::request::{Request, is_error};
use crate::telemetry::http::trace::{Ids, SpanContext, Tracing};
use crate::telemetry::hub::Ring;

/// Ended requests kept for `flows --requests`. About 700 bytes each: 3 MB.
pub const RECENT_REQUESTS: usize = 4096;

/// Requests of a data thread in a second that are kept, and as many failed ones: each costs the thread a microsecond or two, which is
/// less than a thousandth of its time.
const KEPT_A_SECOND: u32 = 100;

/// Under which names requests are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MetricNames {
    /// `mesh_http_...`.
    #[default]
    Mesh,
    /// Those of Istio, for dashboards that are there already.
    Istio,
}

/// What is seen of requests.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpSettings {
    /// Names of metrics.
    pub names: MetricNames,
    /// Domain that services' names end with, for those of Istio.
    pub domain: String,
    /// Where requests are logged; `None`: nowhere.
    pub log: Option<LogTarget>,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Share of the requests that are logged, 0 to 1; failed ones always are.
    pub log_sample: f64,
    /// Where spans go; `None`: the agent takes no part in traces.
    pub otlp_endpoint: Option<Endpoint>,
    /// Share of the traces that begin at the agent which are recorded, 0 to 1.
    pub trace_sample: f64,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            names: MetricNames::Mesh,
            domain: "cluster.local".to_owned(),
            log: None,
            log_format: LogFormat::Json,
            log_sample: 1.0,
            otlp_endpoint: None,
            trace_sample: TRACE_SAMPLE,
        }
    }
}

/// As Istio: enough to see how requests go, too few to be felt.
pub const TRACE_SAMPLE: f64 = 0.01;

/// What of the data path is shown besides requests.
pub struct View {
    /// Returns all clusters.
    pub clusters: Box<dyn Fn() -> Vec<Arc<Cluster>> + Send + Sync>,
    /// Returns the time as clusters count it.
    pub now: Box<dyn Fn() -> Now + Send + Sync>,
    /// Returns connections to endpoints, of all threads: those in use, and those that are idle.
    pub connections: Box<dyn Fn() -> (usize, usize) + Send + Sync>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

/// What is seen of requests, for all data threads.
#[derive(Debug)]
pub struct Http {
    names: MetricNames,
    domain: String,
    counts: Counts,
    log: Option<AccessLog>,
    log_sample: f64,
    tracing: Tracing,
    spans: Option<Spans>,
    recent: Arc<Ring<Request>>,
    threads: Mutex<Vec<Arc<Thread>>>,
    /// Services whose connections are counted by themselves.
    relayed: Shown,
    view: OnceLock<View>,
}

impl Http {
    /// Starts what the settings ask for. The exporter, if there is one, is to be run on a thread that carries no requests.
    ///
    /// # Errors
    ///
    /// Where the access log cannot be opened.
    pub fn start(settings: &HttpSettings, node: &str) -> io::Result<(Arc<Self>, Option<Exporter>)> {
        let log = settings.log.as_ref();
        let log = log.map(|target| AccessLog::start(target, settings.log_format));
        let log = log.transpose()?;
        let endpoint = settings.otlp_endpoint.clone();
        let (spans, exporter) = endpoint
            .map(|endpoint| Spans::new(endpoint, node.to_owned()))
            .unzip();
        let http = Self {
            names: settings.names,
            domain: settings.domain.clone(),
            counts: Counts::new(settings.names == MetricNames::Istio, SETS_MAX),
            tracing: Tracing {
                ratio: spans.is_some().then_some(settings.trace_sample),
                request_ids: log.is_some() || spans.is_some(),
            },
            log,
            log_sample: settings.log_sample,
            spans,
            recent: Arc::new(Ring::new(RECENT_REQUESTS, RECENT_REQUESTS / 4)),
            threads: Mutex::default(),
            relayed: Shown::default(),
            view: OnceLock::new(),
        };
        Ok((Arc::new(http), exporter))
    }

    /// Returns what one more data thread tells of its requests. One for each thread: several may share one, and wait for each
    /// other.
    pub fn observer(self: &Arc<Self>) -> Arc<dyn Observer> {
        let thread = Arc::new(Thread {
            table: self.counts.table(),
            own: Mutex::new(Own {
                ids: Ids::random(),
                chance: Chance::random(),
                kept: Window::default(),
                kept_failed: Window::default(),
                refused: Refusals::default(),
                relays: Relays::default(),
            }),
            left_out: AtomicU64::new(0),
        });
        lock(&self.threads).push(thread.clone());
        Arc::new(ThreadObserver {
            http: self.clone(),
            thread,
        })
    }

    /// Returns the domain that services' names end with where Istio's names are asked for.
    pub(in crate::telemetry) fn istio_domain(&self) -> Option<&str> {
        (self.names == MetricNames::Istio).then_some(&self.domain)
    }

    /// Takes what else is to be shown; the first one holds.
    pub fn show(&self, view: View) {
        self.view.get_or_init(|| view);
    }

    /// Returns the requests that ended last.
    pub fn recent(&self) -> &Arc<Ring<Request>> {
        &self.recent
    }

    /// Returns how many requests are not among them because too many came at a time.
    pub fn left_out(&self) -> u64 {
        let threads = lock(&self.threads);
        let counts = threads.iter().map(|it| it.left_out.load(Ordering::Relaxed));
        counts.sum()
    }
}

/// What one data thread has for itself.
#[derive(Debug)]
struct Thread {
    table: Arc<Table>,
    own: Mutex<Own>,
    left_out: AtomicU64,
}

#[derive(Debug)]
struct Own {
    ids: Ids,
    chance: Chance,
    kept: Window,
    kept_failed: Window,
    /// What was refused before it was a request.
    refused: Refusals,
    relays: Relays,
}

/// So many in each second.
#[derive(Debug, Default)]
struct Window {
    begun: Option<Instant>,
    taken: u32,
}

impl Window {
    fn take(&mut self, now: Instant) -> bool {
        let is_over =
            |begun: Instant| now.saturating_duration_since(begun) >= Duration::from_secs(1);
        if self.begun.is_none_or(is_over) {
            *self = Self {
                begun: Some(now),
                taken: 0,
            };
        }
        self.taken += 1;
        self.taken <= KEPT_A_SECOND
    }
}

#[derive(Debug)]
struct ThreadObserver {
    http: Arc<Http>,
    thread: Arc<Thread>,
}

impl Observer for ThreadObserver {
    fn begin(&self, request: &mut RequestHead) -> Option<SpanContext> {
        let tracing = &self.http.tracing;
        if *tracing == Tracing::default() {
            return None;
        }
        tracing.before(request, &mut lock(&self.thread.own).ids)
    }

    fn is_detailed(&self) -> bool {
        self.http.names == MetricNames::Istio
    }

    fn request(&self, record: &RequestRecord<'_>) {
        let Http {
            counts,
            log,
            log_sample,
            spans,
            recent,
            ..
        } = &*self.http;
        counts.count(&self.thread.table, record);
        let is_error = is_error(record);
        let (is_kept, is_logged) = {
            let own = &mut *lock(&self.thread.own);
            let window = if is_error {
                &mut own.kept_failed
            } else {
                &mut own.kept
            };
            let is_logged = log.is_some() && (is_error || own.chance.unit() < *log_sample);
            (window.take(Instant::now()), is_logged)
        };
        let is_exported = spans.is_some() && record.span.is_some_and(|span| span.is_sampled);
        if !is_kept {
            self.thread.left_out.fetch_add(1, Ordering::Relaxed);
        }
        if !(is_kept || is_logged || is_exported) {
            return;
        }
        let request = Arc::new(Request::of(record, Timestamp::now()));
        if let (Some(log), true) = (log, is_logged) {
            log.take(Line::Request(request.clone()));
        }
        if let (Some(spans), true) = (spans, is_exported) {
            spans.take(request.clone());
        }
        if is_kept {
            // A lock for all threads, and so few requests that none waits for another.
            recent.push(request);
        }
    }

    fn relayed(&self, record: &RelayRecord<'_>) {
        let Http {
            log,
            log_sample,
            relayed,
            ..
        } = &*self.http;
        let is_logged = {
            let own = &mut *lock(&self.thread.own);
            own.relays.count(record, relayed);
            // How it went is nobody's fault where both ends closed, or the agent had to.
            let is_fine = matches!(record.end, RelayEnd::Closed | RelayEnd::Agent);
            !is_fine || own.chance.unit() < *log_sample
        };
        if let (Some(log), true) = (log, is_logged) {
            let relay = Relay::of(record, Timestamp::now());
            log.take(Line::Relay(Box::new(relay)));
        }
    }

    fn refused(&self, client: &Client, status: StatusCode, why: &'static str) {
        let Http { log, recent, .. } = &*self.http;
        let is_kept = {
            let own = &mut *lock(&self.thread.own);
            own.refused.count(client, status);
            own.kept_failed.take(Instant::now())
        };
        if !is_kept {
            self.thread.left_out.fetch_add(1, Ordering::Relaxed);
        }
        let request = Arc::new(Request::refused(client, status, why, Timestamp::now()));
        if let Some(log) = log {
            log.take(Line::Request(request.clone()));
        }
        if is_kept {
            recent.push(request);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in between leaves all of this whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
