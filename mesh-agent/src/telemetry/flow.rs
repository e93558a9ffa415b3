//! A flow with its names: what the admin API shows of a `FlowRecord`.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use mesh_common::close::CloseReason;
use mesh_common::flow::FlowRecord;
use mesh_common::histogram::quantile_us;
use mesh_common::path::Path;
use mesh_common::reason::Reason;
use serde::{Deserialize, Serialize};

use crate::model::balanced::PortId;
use crate::model::observed::KernelView;
use crate::model::service::Protocol;
use crate::model::workload::WorkloadName;
use crate::telemetry::clock::Now;

/// Label of a closed enum's number that this agent does not know: a newer kernel object wrote it.
pub const UNKNOWN: &str = "unknown";

/// A workload's name as JSON shows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
}

impl From<WorkloadName> for WorkloadRef {
    fn from(name: WorkloadName) -> Self {
        Self {
            namespace: name.namespace,
            name: name.name,
        }
    }
}

impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Text that is not `namespace/name`.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not of the form NAMESPACE/NAME")]
pub struct NotAWorkload(String);

impl FromStr for WorkloadRef {
    type Err = NotAWorkload;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err(NotAWorkload(text.to_owned())),
        }
    }
}

/// One end of a flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowEnd {
    /// The workload; `null` when it is not one of this node.
    pub workload: Option<WorkloadRef>,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// A service port as JSON shows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ServiceRef {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service name.
    pub name: String,
    /// The port that was dialled.
    pub port: u16,
}

impl From<&PortId> for ServiceRef {
    fn from(id: &PortId) -> Self {
        Self {
            namespace: id.service.namespace.clone(),
            name: id.service.name.clone(),
            port: id.port,
        }
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// Returns the service port with this number, if any.
pub fn service(kernel: &dyn KernelView, number: u32) -> Option<ServiceRef> {
    let known = (number != 0).then(|| kernel.service(number)).flatten();
    known.as_deref().map(ServiceRef::from)
}

/// Request turn-arounds of a flow: from a request's first byte to its answer's first byte.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Turnaround {
    /// How many were seen.
    pub count: u32,
    /// Mean in microseconds; `null` when none was seen, as are the others.
    pub mean_us: Option<f64>,
    /// Median in microseconds, within its power of two.
    pub p50_us: Option<f64>,
    /// 99th percentile in microseconds, within its power of two.
    pub p99_us: Option<f64>,
    /// Longest in microseconds.
    pub max_us: Option<u32>,
}

/// One flow, live or ended. `tx` is source to destination.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// Identifies the flow while the machine runs (the socket's cookie).
    pub id: u64,
    /// When `connect` began, or the connection was accepted where only the destination is on this node.
    pub start: Timestamp,
    /// When it ended; `null` while it lives.
    pub end: Option<Timestamp>,
    /// How long it lasted, or has lasted, in microseconds.
    pub duration_us: u64,
    /// Who dialled.
    pub source: FlowEnd,
    /// Who answers: with a service, its backend.
    pub destination: FlowEnd,
    /// The service that was dialled; `null` when it was none.
    pub service: Option<ServiceRef>,
    /// `TCP` or `UDP`.
    pub protocol: Protocol,
    /// `tcp`, `redirect` or `mixed`.
    pub path: String,
    /// Why it was not redirected, or not all of it; `none` when nothing stood against it.
    pub reason: String,
    /// The same in words.
    pub reason_text: String,
    /// Bytes from source to destination.
    pub tx_bytes: u64,
    /// Bytes from destination to source.
    pub rx_bytes: u64,
    /// The part of `tx_bytes` that was redirected.
    pub redirected_tx_bytes: u64,
    /// The part of `rx_bytes` that was redirected.
    pub redirected_rx_bytes: u64,
    /// Messages (send calls) from source to destination.
    pub tx_messages: u64,
    /// Messages from destination to source.
    pub rx_messages: u64,
    /// Duration of `connect` in microseconds; `null` where the source is not on this node.
    pub connect_us: Option<u32>,
    /// TCP's smoothed round-trip time in microseconds; `null` where it has none.
    pub rtt_us: Option<u32>,
    /// Segments that TCP sent again.
    pub retransmits: u32,
    /// Request turn-arounds.
    pub turnaround: Turnaround,
    /// How it ended; `open` while it lives.
    pub close: String,
    /// The same in words.
    pub close_text: String,
}

impl Flow {
    /// Returns the flow of `record`, with the names that `kernel` knows.
    pub fn of(record: &FlowRecord, now: &Now, kernel: &dyn KernelView) -> Self {
        let end_ns = if record.end_ns == 0 {
            now.monotonic_ns
        } else {
            record.end_ns
        };
        let end = |id, address: mesh_common::addr::Addr, port: mesh_common::addr::PortBe| FlowEnd {
            workload: if id == 0 {
                None
            } else {
                kernel.name(id).map(Into::into)
            },
            address: address.into(),
            port: port.number(),
        };
        let reason = Reason::from_number(record.reason);
        let close = CloseReason::from_number(record.close);
        Self {
            id: record.cookie,
            start: now.wall_at(record.start_ns),
            end: (record.end_ns != 0).then(|| now.wall_at(record.end_ns)),
            duration_us: end_ns.saturating_sub(record.start_ns) / 1000,
            source: end(record.source_id, record.source, record.source_port),
            destination: end(
                record.destination_id,
                record.destination,
                record.destination_port,
            ),
            service: service(kernel, record.service),
            protocol: match record.protocol {
                mesh_common::service::UDP => Protocol::Udp,
                _ => Protocol::Tcp,
            },
            path: path_label(record.path).to_owned(),
            reason: reason.map_or(UNKNOWN, Reason::label).to_owned(),
            reason_text: reason.map_or(UNKNOWN, Reason::words).to_owned(),
            tx_bytes: record.tx_bytes,
            rx_bytes: record.rx_bytes,
            redirected_tx_bytes: record.redirect_tx_bytes,
            redirected_rx_bytes: record.redirect_rx_bytes,
            tx_messages: record.tx_messages,
            rx_messages: record.rx_messages,
            connect_us: (record.from_source != 0).then_some(record.connect_us),
            rtt_us: (record.srtt_us != 0).then_some(record.srtt_us),
            retransmits: record.retransmits,
            turnaround: turnaround(record),
            close: close.map_or(UNKNOWN, CloseReason::label).to_owned(),
            close_text: close.map_or(UNKNOWN, CloseReason::words).to_owned(),
        }
    }
}

/// Returns the label of a `Path` number.
pub fn path_label(number: u8) -> &'static str {
    Path::from_number(number).map_or(UNKNOWN, Path::label)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a mean over fewer than 2^53 microseconds"
)]
fn turnaround(record: &FlowRecord) -> Turnaround {
    if record.turns == 0 {
        return Turnaround::default();
    }
    let counts = record.turn_histogram.map(u64::from);
    Turnaround {
        count: record.turns,
        mean_us: Some(record.turn_sum_us as f64 / f64::from(record.turns)),
        p50_us: quantile_us(&counts, 0.5),
        p99_us: quantile_us(&counts, 0.99),
        max_us: Some(record.turn_max_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::fake::{FakeKernel, NOW, record};

    #[test]
    fn a_record_becomes_a_flow_with_names_and_times() {
        let kernel = FakeKernel::default();
        let mut record = record(7);
        record.service = 1;
        let flow = Flow::of(&record, &NOW, &kernel);
        assert_eq!(flow.service.unwrap().to_string(), "shop/cart:80");
        assert_eq!(flow.protocol, Protocol::Tcp);
        assert_eq!(flow.source.workload.unwrap().to_string(), "shop/web");
        assert_eq!(flow.destination.workload.unwrap().to_string(), "shop/cart");
        assert_eq!(flow.destination.port, 8080);
        assert_eq!(flow.destination.address.to_string(), "10.0.0.2");
        assert_eq!(flow.duration_us, 1_500_000);
        assert_eq!(flow.path, "redirect");
        assert_eq!(flow.reason, "none");
        assert_eq!(flow.close, "source_closed");
        assert_eq!(flow.turnaround.count, 4);
    }

    #[test]
    fn numbers_of_a_newer_kernel_object_are_unknown_and_a_live_flow_has_no_end() {
        let mut newer = record(7);
        newer.path = 200;
        newer.reason = 200;
        newer.close = 200;
        newer.end_ns = 0;
        newer.from_source = 0;
        newer.source_id = 0;
        newer.service = 77;
        newer.protocol = mesh_common::service::UDP;
        let flow = Flow::of(&newer, &NOW, &FakeKernel::default());
        assert_eq!((flow.service, flow.protocol), (None, Protocol::Udp));
        assert_eq!(
            (flow.path.as_str(), flow.reason.as_str()),
            (UNKNOWN, UNKNOWN)
        );
        assert_eq!(flow.end, None);
        assert_eq!(flow.connect_us, None);
        assert_eq!(flow.source.workload, None);
    }

    #[test]
    fn a_workload_reference_is_namespace_and_name() {
        assert!("shop/cart".parse::<WorkloadRef>().is_ok());
        for bad in ["shop", "/cart", "shop/", "a/b/c", ""] {
            assert!(bad.parse::<WorkloadRef>().is_err(), "{bad}");
        }
    }
}
