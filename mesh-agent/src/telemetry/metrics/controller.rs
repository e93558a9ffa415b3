//! Metrics of the controller, which is a process of its own and has none of the agent's.
//!
//! | Metric | Kind | Labels | Meaning |
//! |---|---|---|---|
//! | `mesh_controller_leads` | gauge | none | 1 while this controller is the one that writes. |
//! | `mesh_controller_writes_total` | counter | `sort`, `outcome` | Requests that wrote, or tried to. |
//! | `mesh_controller_pending` | gauge | none | Objects that may have to be written. |
//! | `mesh_controller_events_dropped_total` | counter | none | Events that were not sent, because there were too many. |
//! | `mesh_controller_rights_missing` | gauge | none | Rights that the API server refused and that are needed. |
//!
//! And those of the process, as the agent has them.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use crate::telemetry::metrics::page::{Page, desc};
use crate::telemetry::metrics::process::ProcessCollector;
use crate::telemetry::metrics::table::{Kind, Metric};

const LEADS: Metric = Metric {
    name: "mesh_controller_leads",
    kind: Kind::Gauge,
    labels: &[],
    help: "1 while this controller is the one that writes.",
};

const WRITES: Metric = Metric {
    name: "mesh_controller_writes_total",
    kind: Kind::Counter,
    labels: &["sort", "outcome"],
    help: "Requests that wrote, or tried to.",
};

const PENDING: Metric = Metric {
    name: "mesh_controller_pending",
    kind: Kind::Gauge,
    labels: &[],
    help: "Objects that may have to be written.",
};

const DROPPED: Metric = Metric {
    name: "mesh_controller_events_dropped_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Events that were not sent, because there were too many.",
};

const MISSING: Metric = Metric {
    name: "mesh_controller_rights_missing",
    kind: Kind::Gauge,
    labels: &[],
    help: "Rights that the API server refused and that are needed.",
};

const ALL: [Metric; 5] = [LEADS, WRITES, PENDING, DROPPED, MISSING];

/// What is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// The lease of the leader.
    Lease,
    /// Status of an object.
    Status,
    /// Taints of a node.
    Taint,
    /// An event.
    Event,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Lease, Self::Status, Self::Taint, Self::Event];

    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Status => "status",
            Self::Taint => "taint",
            Self::Event => "event",
        }
    }
}

/// What came of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was done.
    Done,
    /// Somebody else was faster.
    Conflict,
    /// The object is not there.
    Gone,
    /// A right is missing.
    Forbidden,
    /// The server does not take it.
    Refused,
    /// It failed, and is tried again.
    Failed,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Done,
        Self::Conflict,
        Self::Gone,
        Self::Forbidden,
        Self::Refused,
        Self::Failed,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Forbidden => "forbidden",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What a controller counts.
#[derive(Debug, Default)]
pub struct Counts {
    leads: AtomicBool,
    writes: [[AtomicU64; Outcome::ALL.len()]; Sort::ALL.len()],
    pending: AtomicU64,
    dropped: AtomicU64,
    missing: AtomicU64,
}

impl Counts {
    /// Notes whether this controller leads.
    pub fn lead(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// Counts a write.
    pub fn wrote(&self, sort: Sort, outcome: Outcome) {
        self.writes[sort as usize][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how many objects may have to be written.
    pub fn pend(&self, objects: usize) {
        self.pending.store(objects as u64, Ordering::Relaxed);
    }

    /// Counts an event that was not sent.
    pub fn drop_event(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how many rights are missing.
    pub fn miss(&self, rights: usize) {
        self.missing.store(rights as u64, Ordering::Relaxed);
    }
}

struct CountsCollector {
    counts: Arc<Counts>,
    descs: Vec<Desc>,
}

impl Collector for CountsCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let counts = &self.counts;
        let mut page = Page::default();
        let leads = counts.leads.load(Ordering::Relaxed);
        page.count(&LEADS, &[], leads.into());
        for sort in Sort::ALL {
            for outcome in Outcome::ALL {
                let labels = [sort.word(), outcome.word()];
                let count = &counts.writes[sort as usize][outcome as usize];
                page.count(&WRITES, &labels, count.load(Ordering::Relaxed));
            }
        }
        page.count(&PENDING, &[], counts.pending.load(Ordering::Relaxed));
        page.count(&DROPPED, &[], counts.dropped.load(Ordering::Relaxed));
        page.count(&MISSING, &[], counts.missing.load(Ordering::Relaxed));
        page.into_families()
    }
}

/// The controller's metrics.
#[derive(Clone, Debug)]
pub struct ControllerMetrics {
    registry: Registry,
}

impl ControllerMetrics {
    /// Returns metrics that read `counts` at each scrape.
    ///
    /// # Errors
    ///
    /// When the table of metrics contradicts itself, which its tests rule out.
    pub fn new(counts: Arc<Counts>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let descs = ALL.iter().map(desc).collect::<Result<_, _>>()?;
        registry.register(Box::new(CountsCollector { counts, descs }))?;
        registry.register(Box::new(ProcessCollector::new()?))?;
        Ok(Self { registry })
    }

    /// Returns every metric as text.
    ///
    /// # Errors
    ///
    /// When a metric has no name or no value, which the collectors rule out.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_shown_and_named_above() {
        let counts = Arc::new(Counts::default());
        counts.lead(true);
        counts.wrote(Sort::Status, Outcome::Done);
        counts.drop_event();
        let metrics = ControllerMetrics::new(counts).unwrap();
        let text = metrics.render().unwrap();
        for line in [
            "mesh_controller_leads 1",
            r#"mesh_controller_writes_total{sort="status",outcome="done"} 1"#,
            "mesh_controller_events_dropped_total 1",
            "mesh_controller_pending 0",
        ] {
            assert!(text.lines().any(|it| it == line), "no `{line}` in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"));
        let docs = include_str!("controller.rs");
        for metric in ALL {
            assert!(docs.contains(&format!("| `{}` | {} |", metric.name, metric.kind.word())));
        }
    }
}
