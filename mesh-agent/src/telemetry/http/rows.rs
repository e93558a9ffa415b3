//! From what requests are counted by to the labels that are shown, in either family of names. Pure.

#![forbid(unsafe_code)]

use crate::model::balanced::PortId;
use crate::telemetry::http::cell::{BOUNDS_BYTES, BOUNDS_US, Durations, Sizes, Sums};
use crate::telemetry::http::labels::{How, Labels, NOT_GRPC, Whose};
use crate::telemetry::http::record::Flags;
use crate::telemetry::metrics::istio::Look;
use crate::telemetry::metrics::page::float;
use crate::telemetry::metrics::table::{ISTIO_REQUEST, OTHER, UNKNOWN};

/// Values of labels, in the order of the table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Row(Vec<String>);

impl Row {
    pub(super) fn refs(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

/// Longest duration of a bucket in the mesh's own names: beyond, there are time-outs.
const LONGEST_US: u64 = 60_000_000;

/// Bounds that Istio has not.
const NOT_ISTIO_US: [u64; 3] = [100, 250, 2_500];

/// Word for what is not.
const NONE: &str = "-";

/// Returns the labels of `table::HTTP_REQUEST`.
pub(super) fn mesh(labels: &Labels) -> Row {
    let How {
        status,
        grpc,
        flags,
        is_grpc: _,
    } = labels.how;
    let mut row = route(labels);
    if labels.whose.is_none() {
        row.0.extend([OTHER; 3].map(str::to_owned));
        return row;
    }
    let class = match status / 100 {
        0 => "none".to_owned(),
        class => format!("{class}xx"),
    };
    row.0.extend([class, grpc_text(grpc)]);
    row.0.push(flags_text(flags));
    row
}

/// Returns the labels of `table::HTTP_ROUTE`.
pub(super) fn route(labels: &Labels) -> Row {
    let Some(whose) = &labels.whose else {
        return Row(vec![OTHER.to_owned(); 8]);
    };
    let Whose {
        source,
        service,
        backend,
        workload: _,
        route,
    } = whose;
    let (backend_namespace, backend) = match backend {
        Some(backend) => (&*backend.service.namespace, &*backend.service.name),
        None => (NONE, NONE),
    };
    let port = service.port.to_string();
    let words = [
        source.namespace.as_str(),
        &source.name,
        &service.service.namespace,
        &service.service.name,
        &port,
        backend_namespace,
        backend,
        route.as_ref().map_or(NONE, |route| &route.0),
    ];
    Row(words.map(str::to_owned).to_vec())
}

/// Returns the labels of `table::ISTIO`.
pub(super) fn istio(labels: &Labels, look: &mut Look<'_>) -> Row {
    let How {
        status,
        grpc,
        flags,
        is_grpc,
    } = labels.how;
    let Some(whose) = &labels.whose else {
        let mut row = vec![OTHER.to_owned(); ISTIO_REQUEST.len()];
        "source".clone_into(&mut row[0]);
        return Row(row);
    };
    let to: &PortId = whose.backend.as_ref().unwrap_or(&whose.service);
    let workload = whose.workload.as_deref();
    let mut row = look.ends(&whose.source, workload, Some(&to.service));
    let protocol = match is_grpc || grpc != NOT_GRPC {
        true => "grpc",
        false => "http",
    };
    row.extend([protocol.to_owned(), status.to_string(), grpc_text(grpc)]);
    row.extend([flags_text(flags), UNKNOWN.to_owned()]);
    Row(row)
}

/// As Envoy has them.
fn flags_text(flags: Flags) -> String {
    let words: Vec<_> = flags.iter().map(|flag| flag.word()).collect();
    match words.is_empty() {
        true => NONE.to_owned(),
        false => words.join(","),
    }
}

/// Empty where there is none, which Prometheus takes for absent.
fn grpc_text(grpc: u8) -> String {
    if grpc == NOT_GRPC {
        String::new()
    } else {
        grpc.to_string()
    }
}

/// Returns bounds in seconds with what lies below.
pub(super) fn buckets_seconds(counts: &Durations<u64>) -> Vec<(f64, u64)> {
    let all = cumulative(&BOUNDS_US, counts);
    all.filter(|(bound, _)| *bound <= LONGEST_US)
        .map(|(bound, below)| (float(bound) / 1e6, below))
        .collect()
}

/// Returns Istio's bounds, in milliseconds, with what lies below.
pub(super) fn buckets_ms(counts: &Durations<u64>) -> Vec<(f64, u64)> {
    let all = cumulative(&BOUNDS_US, counts);
    all.filter(|(bound, _)| !NOT_ISTIO_US.contains(bound))
        .map(|(bound, below)| (float(bound) / 1e3, below))
        .collect()
}

/// Returns bounds in bytes with what lies below.
pub(super) fn buckets_bytes(counts: &Sizes<u64>) -> Vec<(f64, u64)> {
    let all = cumulative(&BOUNDS_BYTES, counts);
    all.map(|(bound, below)| (float(bound), below)).collect()
}

fn cumulative(bounds: &[u64], counts: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    let pairs = bounds.iter().zip(counts);
    pairs.scan(0, |below, (bound, count)| {
        *below += count;
        Some((*bound, *below))
    })
}

impl Sums {
    /// Adds others to these.
    pub(super) fn add(&mut self, others: &Self) {
        let pairs = [
            (&mut self.durations[..], &others.durations[..]),
            (&mut self.received_sizes[..], &others.received_sizes[..]),
            (&mut self.sent_sizes[..], &others.sent_sizes[..]),
        ];
        for (mine, its) in pairs {
            for (mine, its) in mine.iter_mut().zip(its) {
                *mine += its;
            }
        }
        self.received += others.received;
        self.sent += others.sent;
        self.retries += others.retries;
        self.messages.received += others.messages.received;
        self.messages.sent += others.messages.sent;
        self.times.agent_ns += others.times.agent_ns;
        self.times.connect_ns += others.times.connect_ns;
        self.times.upstream_ns += others.times.upstream_ns;
        self.times.transfer_ns += others.times.transfer_ns;
    }
}
