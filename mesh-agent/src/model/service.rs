//! A service as the configuration describes it, with its endpoints.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::balance::Algorithm;
use serde::{Deserialize, Serialize};

use crate::model::workload::WorkloadName;

/// Name of a service: unique in the mesh.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ServiceName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service name.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Returns it as Kubernetes writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// Returns its IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => mesh_common::service::TCP,
            Self::Udp => mesh_common::service::UDP,
        }
    }
}

/// All services of a configuration, by name. Shared by pointer: what did not change keeps its `Arc` from one snapshot to the next.
pub type Services = BTreeMap<ServiceName, Arc<Service>>;

/// One service: what is dialled, and who may answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// What it is dialled by.
    pub kind: ServiceKind,
    /// `spec.clusterIPs`; empty for headless and external names.
    pub addresses: Vec<IpAddr>,
    /// `spec.externalIPs` and the addresses in `status.loadBalancer`, which workloads may dial as well.
    pub external_addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Endpoints of a headless service without ports: they have names, and their port means nothing.
    pub portless: Vec<Endpoint>,
    /// How long a client sticks to a backend (`sessionAffinity: ClientIP`).
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`: endpoints of other nodes are left out.
    pub local_only: bool,
    /// `trafficDistribution`.
    pub distribution: Distribution,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// What Kubernetes has no field for.
    pub balance: Balance,
    /// The manifest it comes from, as `file: path in it`, or how it was registered; for messages.
    pub origin: String,
}

impl Service {
    /// Returns whether anything leads to one of its ports: a headless service has endpoints alone.
    pub fn is_dialled(&self, port: &Port) -> bool {
        !self.addresses.is_empty()
            || !self.external_addresses.is_empty()
            || port.node_port.is_some()
    }
}

/// What a service is dialled by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServiceKind {
    /// Its own address.
    ClusterIp,
    /// Names only; clients get the endpoints' addresses. Not balanced here.
    Headless,
    /// Another name (`spec.externalName`). Not balanced here.
    ExternalName(String),
}

/// Where `trafficDistribution` prefers endpoints to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Distribution {
    /// Anywhere.
    #[default]
    Any,
    /// The client's zone (`PreferSameZone`, `PreferClose`).
    SameZone,
    /// The client's node, else its zone (`PreferSameNode`).
    SameNode,
}

/// One port of a service.
#[derive(Clone, PartialEq, Debug)]
pub struct Port {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The port that is dialled.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// `nodePort`, dialled at a node's address.
    pub node_port: Option<u16>,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
    /// Who may answer, ready or not, in a fixed order without duplicates.
    pub endpoints: Vec<Endpoint>,
}

/// One address and port that answers for a service port.
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// `conditions.ready`, or the pod's readiness.
    pub ready: bool,
    /// `conditions.serving`: it answers, also while it terminates.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
    /// The region it is in.
    pub region: Option<Arc<str>>,
    /// Zones and nodes that it is for; none: for all.
    pub hints: Option<Arc<Hints>>,
    /// Weight among the others of its priority; 0 gets nothing. 1 unless said otherwise.
    pub weight: u32,
    /// Priority: 0 is used first, higher ones as lower ones fail.
    pub priority: u32,
    /// The pod behind it, where known.
    pub workload: Option<Arc<WorkloadName>>,
    /// Its own name among the endpoints of a headless service (`hostname`): a DNS label.
    pub hostname: Option<Arc<str>>,
    /// Whether somebody else looks after its health (kubelet): then only passive signs count.
    pub checked_elsewhere: bool,
}

/// `hints` of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// `forZones`; empty: for all.
    pub zones: Vec<String>,
    /// `forNodes`; empty: for all.
    pub nodes: Vec<String>,
}

impl Endpoint {
    /// Returns the zones that it is for; empty: for all.
    pub fn for_zones(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    /// Returns the nodes that it is for; empty: for all.
    pub fn for_nodes(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }
}

/// How a service is balanced, in what Kubernetes has no field for (annotations `underpass.dev/...` on the Service).
#[derive(Clone, PartialEq, Debug)]
pub struct Balance {
    /// `underpass.dev/algorithm`.
    pub algorithm: Algorithm,
    /// `underpass.dev/slow-start`: a new endpoint's share grows over this time.
    pub slow_start: Option<Duration>,
    /// `underpass.dev/drain`: what becomes of connections to an endpoint that was removed.
    pub drain: Drain,
    /// `underpass.dev/no-backend`: whether a connect without backend is refused or left unanswered.
    pub without_backend: WithoutBackend,
    /// `underpass.dev/health-check`: how endpoints are checked that nobody else checks.
    pub health_check: Option<HealthCheck>,
    /// `underpass.dev/outlier-detection`: whether passive signs eject endpoints.
    pub outlier_detection: bool,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Random,
            slow_start: None,
            drain: Drain::Keep,
            without_backend: WithoutBackend::Refuse,
            health_check: None,
            outlier_detection: true,
        }
    }
}

/// What becomes of TCP connections and connected UDP sockets to an endpoint that was removed. A socket that is closed gets
/// `ECONNABORTED` once; of UDP it is then one that is not connected (to send gets `EDESTADDRREQ`), and may connect anew. Datagrams of
/// unconnected sockets go to another endpoint at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drain {
    /// They go on.
    Keep,
    /// They are closed after this time.
    After(Duration),
    /// They are closed now.
    Now,
}

/// What a connect gets when there is no backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WithoutBackend {
    /// `ECONNREFUSED` at once.
    Refuse,
    /// No answer, as if a packet filter dropped it.
    Drop,
}

/// An active health check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Time between two checks of one endpoint.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Failures in a row until it counts as unhealthy.
    pub unhealthy: u32,
    /// Successes in a row until it counts as healthy.
    pub healthy: u32,
}

/// What an active check asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// That a connection is accepted.
    Tcp,
    /// `GET path` answered with a status from 200 to 399 (as kubelet's).
    Http {
        /// Path and query.
        path: String,
    },
    /// `grpc.health.v1.Health/Check` of this service answered with SERVING.
    Grpc {
        /// The service; empty for the server as a whole.
        service: String,
    },
}
