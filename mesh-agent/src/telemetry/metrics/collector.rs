//! Reads the kernel's counters at each scrape.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use mesh_common::handover::CaptureCounters;
use mesh_common::pair::PairCounters;
use mesh_common::reason::Reason;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::l7::flag::Flag;
use crate::model::enrolment::{self, Enrolment};
use crate::model::observed::{Level, NodeCounters, WorkloadState};
use crate::model::service::ServiceName;
use crate::model::workload::WorkloadName;
use crate::telemetry::applied::Part;
use crate::telemetry::dns::DnsOutcome;
use crate::telemetry::flow::{UNKNOWN, path_label};
use crate::telemetry::metrics::MetricSources;
use crate::telemetry::metrics::istio::{Look, Names};
use crate::telemetry::metrics::page::{Page, desc};
use crate::telemetry::metrics::policies;
use crate::telemetry::metrics::series::{Book, Ends, Opaque, PairLabels, Sums};
use crate::telemetry::metrics::services::ServiceBook;
use crate::telemetry::metrics::table::{self, OTHER};

/// Everything but the process' own metrics.
pub(super) struct KernelCollector {
    sources: MetricSources,
    descs: Vec<Desc>,
    book: Mutex<Book>,
    services: Mutex<ServiceBook>,
    /// `None`: what Istio has a name for is not asked for.
    istio: Option<Names>,
    read_errors: AtomicU64,
}

impl KernelCollector {
    pub(super) fn new(sources: MetricSources) -> Result<Self, prometheus::Error> {
        let own =
            |metric: &&table::Metric| metric.name.starts_with("mesh_") && !table::is_http(metric);
        let domain = sources.http.istio_domain();
        let names = |domain: &str| Names::new(sources.snapshot.clone(), domain.to_owned());
        let all = table::ALL.iter().filter(own);
        let all = all.chain(table::ISTIO_TCP).map(desc);
        Ok(Self {
            istio: domain.map(names),
            descs: all.collect::<Result<_, _>>()?,
            sources,
            book: Mutex::default(),
            services: Mutex::default(),
            read_errors: AtomicU64::new(0),
        })
    }

    /// Returns what was read, or counts and logs why not: a scrape shows whatever can be had.
    fn read<T>(&self, result: anyhow::Result<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                self.read_errors.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("metrics are incomplete: {error:#}");
            })
            .ok()
    }

    fn pairs(&self, page: &mut Page) {
        let Some(rows) = self.read(self.sources.kernel.pairs()) else {
            return;
        };
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = &self.sources.kernel;
        book.update(&rows, &|id| kernel.name(id), &|number| {
            kernel.service(number)
        });
        page.add(&table::PAIRS_FOLDED, &[], small(book.folded()));
        book.each(|labels, sums| pair(page, labels, sums));
        if let Some(names) = &self.istio {
            let mut look = names.look();
            book.each_opaque(|ends, opaque| connections(page, ends, opaque, &mut look));
        }
    }

    fn live(&self, page: &mut Page) {
        let Some(flows) = self.read(self.sources.kernel.live_flows()) else {
            return;
        };
        let mut counts = BTreeMap::<_, usize>::new();
        for flow in &flows {
            let reason = Reason::from_number(flow.reason).map_or(UNKNOWN, Reason::label);
            *counts.entry((path_label(flow.path), reason)).or_default() += 1;
        }
        for ((path, reason), count) in counts {
            page.add(&table::FLOWS_OPEN, &[path, reason], small(count));
        }
    }

    fn agent(&self, page: &mut Page) {
        let MetricSources {
            kernel,
            snapshot,
            hub,
            times,
            dns,
            redirect_allowed,
            services,
            node,
            http: _,
        } = &self.sources;
        let snapshot = snapshot.load();
        page.count(&table::CONFIG_GENERATION, &[], snapshot.generation);
        page.add(&table::CONFIG_ERRORS, &[], small(snapshot.errors.len()));
        page.count(&table::KERNEL_GENERATION, &[], kernel.generation());
        if let Some(made) = snapshot.made {
            page.add(&table::CONFIG_READ, &[], made.took.as_secs_f64());
        }
        for (part, word) in Part::ALL {
            if let Some(after) = times.get(part) {
                page.add(&table::CONFIG_APPLY, &[word], after.as_secs_f64());
            }
        }
        page.count(&table::FOLLOWER_LOST, &[], hub.lost_by_followers());
        page.count(&table::REDIRECT_ALLOWED, &[], redirect_allowed().into());
        page.add(&table::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        let mut book = self.services.lock();
        let book = book.as_mut().unwrap_or_else(|broken| broken.get_mut());
        book.show(&services(), page);
        page.count(&table::DNS_LISTENING, &[], dns.listening());
        for (outcome, word) in DnsOutcome::ALL {
            page.count(&table::DNS_QUERIES, &[word], dns.get(outcome));
        }
        let mut workloads = kernel.workloads();
        workloads.extend(enrolment::beside(&snapshot, node));
        self.enrolled(&Enrolment::of(&workloads), page);
        for (state, word) in WORKLOAD_STATES {
            let count = workloads.iter().filter(|w| w.state == state).count();
            page.add(&table::WORKLOADS, &[word], small(count));
        }
        let errors = self.read_errors.load(Ordering::Relaxed);
        page.count(&table::KERNEL_READ_ERRORS, &[], errors);
    }

    fn enrolled(&self, enrolment: &Enrolment, page: &mut Page) {
        let missed = &enrolment.not_captured;
        let counts = [
            ("captured", enrolment.captured),
            ("not_captured", missed.len()),
        ];
        for (state, count) in counts {
            page.add(&table::ENROLLED, &[state], small(count));
        }
        for pod in missed.iter().take(NOT_CAPTURED) {
            let labels = [pod.namespace.as_str(), &pod.name, pod.reason.label()];
            page.add(&table::NOT_CAPTURED, &labels, 1.0);
        }
    }

    fn kernel(&self, page: &mut Page) {
        let kernel = &self.sources.kernel;
        let probe = kernel.probe();
        for (level, word) in LEVELS {
            page.count(&table::PROBE_LEVEL, &[word], (probe.level == level).into());
        }
        for defect in &probe.defects {
            page.add(&table::PROBE_DEFECT, &[&defect.name], 1.0);
        }
        // A program may be attached in several places: it counts as attached when it is in all of them.
        let mut programs = BTreeMap::new();
        for hook in kernel.hooks() {
            if let Some(attached) = hook.attached {
                *programs.entry(hook.program).or_insert(true) &= attached;
            }
        }
        for (program, attached) in programs {
            page.count(&table::HOOK_ATTACHED, &[&program], attached.into());
        }
        for fill in self.read(kernel.map_fill()).unwrap_or_default() {
            page.count(&table::MAP_ENTRIES, &[&fill.map], fill.used);
            page.count(&table::MAP_LIMIT, &[&fill.map], fill.max);
        }
        let errors = kernel.policy_errors();
        page.add(&table::POLICY_ERRORS, &[], small(errors.len()));
        policies::show(&self.read(kernel.rule_hits()).unwrap_or_default(), page);
        if let Some(counters) = self.read(kernel.counters()) {
            node(page, &counters);
        }
    }
}

impl Collector for KernelCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut page = Page::default();
        // Live flows first: reading them brings the pairs up to date.
        self.live(&mut page);
        self.pairs(&mut page);
        self.kernel(&mut page);
        self.agent(&mut page);
        page.into_families()
    }
}

const LEVELS: [(Level, &str); 3] = [
    (Level::Off, "off"),
    (Level::OwnSockets, "own_sockets"),
    (Level::Applications, "applications"),
];

/// Pods that are named one by one: about as many as a node runs (110 is kubelet's default).
const NOT_CAPTURED: usize = 100;

const WORKLOAD_STATES: [(WorkloadState, &str); 8] = [
    (WorkloadState::Accelerated, "accelerated"),
    (WorkloadState::Observing, "observing"),
    (WorkloadState::NotAccelerated, "not_accelerated"),
    (WorkloadState::NotFound, "not_found"),
    (WorkloadState::Elsewhere, "elsewhere"),
    (WorkloadState::NotEnrolled, "not_enrolled"),
    (WorkloadState::HostNetwork, "host_network"),
    (WorkloadState::Rejected, "rejected"),
];

fn small(count: usize) -> f64 {
    super::page::float(count as u64)
}

fn node(page: &mut Page, counters: &NodeCounters) {
    let NodeCounters {
        records_lost,
        pairs_overflowed,
        state_failed,
        messages_redirected,
        demotions,
        stalls,
        spurious_eagain,
        denials_unrecorded,
        captured,
        flows_ended,
    } = counters;
    let CaptureCounters {
        open,
        refused,
        lost,
        away,
    } = captured;
    page.count(&table::CAPTURED, &[], *open);
    for (reason, count) in [("busy", refused), ("lost", lost), ("away", away)] {
        page.count(&table::CAPTURE_FAILED, &[reason], *count);
    }
    page.count(&table::RECORDS_LOST, &[], *records_lost);
    page.count(&table::PAIRS_OVERFLOWED, &[], *pairs_overflowed);
    page.count(&table::STATE_FAILED, &[], *state_failed);
    page.count(&table::REDIRECTED_MESSAGES, &[], *messages_redirected);
    page.count(&table::DEMOTIONS, &[], *demotions);
    page.count(&table::STALLS, &[], *stalls);
    page.count(&table::SPURIOUS_EAGAIN, &[], *spurious_eagain);
    page.count(&table::POLICY_UNRECORDED, &[], *denials_unrecorded);
    for (path, reason, count) in flows_ended {
        page.count(&table::FLOWS_ENDED, &[path.label(), reason.label()], *count);
    }
}

/// Shows what carries no requests as Istio does. What was never established was opened and closed with a flag there.
fn connections(page: &mut Page, ends: Option<&Ends>, opaque: &Opaque, look: &mut Look<'_>) {
    let name = |(namespace, name): &(String, String)| WorkloadName {
        namespace: namespace.clone(),
        name: name.clone(),
    };
    let is_known = |(namespace, _): &&(String, String)| !matches!(namespace.as_str(), "" | UNKNOWN);
    let mut row = match ends {
        None => {
            let mut row = vec![OTHER.to_owned(); table::ISTIO_TCP_LABELS.len() - 3];
            "source".clone_into(&mut row[0]);
            row
        }
        Some(ends) => {
            let destination = Some(&ends.destination).filter(is_known).map(name);
            let service = Some(&ends.service).filter(is_known);
            let service = service.map(|(namespace, name)| ServiceName {
                namespace: namespace.clone(),
                name: name.clone(),
            });
            look.ends(&name(&ends.source), destination.as_ref(), service.as_ref())
        }
    };
    row.extend(["tcp", "-", UNKNOWN].map(str::to_owned));
    let mut labels: Vec<&str> = row.iter().map(String::as_str).collect();
    page.count(&table::ISTIO_TCP_RECEIVED, &labels, opaque.tx_bytes);
    page.count(&table::ISTIO_TCP_SENT, &labels, opaque.rx_bytes);
    page.count(&table::ISTIO_TCP_OPENED, &labels, opaque.opened);
    page.count(&table::ISTIO_TCP_CLOSED, &labels, opaque.closed);
    if opaque.failed > 0 {
        let flag = labels.len() - 2;
        labels[flag] = Flag::UpstreamConnectFailure.word();
        page.count(&table::ISTIO_TCP_OPENED, &labels, opaque.failed);
        page.count(&table::ISTIO_TCP_CLOSED, &labels, opaque.failed);
    }
}

fn pair(page: &mut Page, labels: &PairLabels, sums: &Sums) {
    let whose = [
        labels.source.0.as_str(),
        &labels.source.1,
        &labels.destination.0,
        &labels.destination.1,
        &labels.port,
        &labels.service.0,
        &labels.service.1,
    ];
    let mut all = PairCounters::ZERO;
    for (path, sum) in sums {
        all.add(sum);
        let [a, b, c, d, e, f, g] = whose;
        let on_path = [a, b, c, d, e, f, g, path];
        for (direction, bytes, messages) in [
            ("to_destination", sum.tx_bytes, sum.tx_messages),
            ("to_source", sum.rx_bytes, sum.rx_messages),
        ] {
            let labels = [a, b, c, d, e, f, g, path, direction];
            page.count(&table::FLOW_BYTES, &labels, bytes);
            page.count(&table::FLOW_MESSAGES, &labels, messages);
        }
        page.count(&table::FLOWS_CLOSED, &on_path, sum.closed);
        if sum.turn_histogram.iter().any(|count| *count > 0) {
            page.histogram(
                &table::TURNAROUND,
                &on_path,
                &sum.turn_histogram,
                sum.turn_sum_us,
            );
        }
    }
    page.count(&table::FLOWS_OPENED, &whose, all.opened);
    page.count(&table::FLOWS_FAILED, &whose, all.failed);
    page.count(&table::RETRANSMITS, &whose, all.retransmits);
    if all.rtt_samples > 0 {
        page.summary(&table::RTT, &whose, all.rtt_samples, all.rtt_sum_us);
    }
    if all.connect_histogram.iter().any(|count| *count > 0) {
        page.histogram(
            &table::CONNECT,
            &whose,
            &all.connect_histogram,
            all.connect_sum_us,
        );
    }
}
