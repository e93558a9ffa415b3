//! From what requests are counted by to the labels that are shown, in either family of names. Pure.

#![forbid(unsafe_code)]

use crate::model::balanced::PortId;
use crate::telemetry::http::cell::{BOUNDS_BYTES, BOUNDS_US, Durations, Sizes, Sums};
use crate::telemetry::http::labels::{How, Labels, NOT_GRPC, Whose};
use crate::telemetry::http::record::Flags;
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

/// Returns the labels of `table::ISTIO`. Istio's workload is what made the pod, which the agent does not know: it is the pod.
pub(super) fn istio(labels: &Labels, domain: &str) -> Row {
    let How {
        status,
        grpc,
        flags,
    } = labels.how;
    let Some(whose) = &labels.whose else {
        let mut row = vec![OTHER.to_owned(); ISTIO_REQUEST.len()];
        "source".clone_into(&mut row[0]);
        return Row(row);
    };
    let source = &whose.source;
    let to: &PortId = whose.backend.as_ref().unwrap_or(&whose.service);
    let (namespace, name) = (&*to.service.namespace, &*to.service.name);
    let host = format!("{name}.{namespace}.svc.{domain}");
    let code = status.to_string();
    let grpc_code = grpc_text(grpc);
    let protocol = if grpc == NOT_GRPC { "http" } else { "grpc" };
    let words = [
        "source",
        &source.name,
        &source.namespace,
        UNKNOWN,
        &source.name,
        UNKNOWN,
        &source.name,
        "latest",
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
        name,
        "latest",
        &host,
        name,
        namespace,
        UNKNOWN,
        protocol,
        &code,
        &grpc_code,
        &flags_text(flags),
        UNKNOWN,
    ];
    Row(words.map(str::to_owned).to_vec())
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
        self.times.agent_ns += others.times.agent_ns;
        self.times.connect_ns += others.times.connect_ns;
        self.times.upstream_ns += others.times.upstream_ns;
        self.times.transfer_ns += others.times.transfer_ns;
    }
}
