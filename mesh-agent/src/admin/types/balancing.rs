//! The JSON of balancing: who answers for each service on this node, with what share, and why others do not.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::endpoint::{EndpointHealth, Why};
use crate::model::service::Protocol;

/// Schema of [`BalancedServices`].
pub const BALANCING_SCHEMA: &str = "underpass.dev/balancing/v1";

/// What a service is whose clients dial its own address; only those are balanced.
pub const CLUSTER_IP: &str = "ClusterIP";

/// [`BalancedPort::carried_by`]: the kernel, the agent, or the agent for clients of some namespaces, which consumers' routes concern.
pub const KERNEL: &str = "kernel";
/// See [`KERNEL`].
pub const AGENT: &str = "agent";
/// See [`KERNEL`].
pub const BOTH: &str = "both";

/// Services as they are balanced: `GET /v1/balancing`, `GET /v1/balancing/{namespace}/{name}`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BalancedServices {
    /// [`BALANCING_SCHEMA`].
    pub schema: String,
    /// The services, by name.
    pub services: Vec<BalancedService>,
}

/// One service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BalancedService {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service name.
    pub name: String,
    /// `ClusterIP`, `Headless` or `ExternalName`.
    pub kind: String,
    /// The manifest that it comes from, or `registered`.
    pub origin: String,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Further addresses that lead to it.
    pub external_addresses: Vec<IpAddr>,
    /// Whether every port is in force in the kernel, as configured.
    pub balanced: bool,
    /// Why not, in words.
    pub why_not: Option<String>,
    /// Its ports.
    pub ports: Vec<BalancedPort>,
}

/// One port of a service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BalancedPort {
    /// The port that is dialled.
    pub port: u16,
    /// Its name.
    pub name: Option<String>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The node port that leads to it.
    pub node_port: Option<u16>,
    /// Who carries its connections: `kernel`, `agent`, or `both`, by the client's namespace.
    pub carried_by: String,
    /// How the kernel picks a backend: `random`, `round-robin`, `least-connections` or `maglev`.
    pub algorithm: String,
    /// For how many seconds a client sticks to its backend.
    pub affinity_seconds: Option<u64>,
    /// Connects and first datagrams so far.
    pub picks: u64,
    /// Of those, the ones for which there was no backend.
    pub refused: u64,
    /// Whether backends get connections only because too few are healthy.
    pub panic: bool,
    /// Everybody who may answer, in no order that means anything.
    pub backends: Vec<Backend>,
}

/// One endpoint of a service port.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The pod behind it, as `namespace/name`, where known.
    pub workload: Option<String>,
    /// The node it is on, where known.
    pub node: Option<String>,
    /// The zone it is in, where known.
    pub zone: Option<String>,
    /// 0 is used first.
    pub priority: u32,
    /// Its health, and how that is known.
    pub health: EndpointHealth,
    /// Its weight in force, among the others of its family; 0: no new connections, unless all of them have closed.
    pub weight: u32,
    /// Its share of new connections of its family, from 0 to 1.
    pub share: f64,
    /// Whether its share still grows.
    pub slow_start: bool,
    /// Whether it gets connections only because too few are healthy.
    pub panic: bool,
    /// Why it gets none.
    pub why: Option<Why>,
    /// Flows open now, of this node's workloads.
    pub open: u64,
    /// Connects and first datagrams sent to it.
    pub picked: u64,
    /// TCP connects to it that failed.
    pub failed: u32,
    /// Established connections that it reset, or that timed out.
    pub reset: u32,
    /// Segments sent again to it.
    pub retransmits: u64,
}

impl BalancedService {
    /// Returns the ports at which a connect finds nobody. None where the service is not balanced: then nothing is known of them,
    /// and `why_not` says more.
    pub fn without_backend(&self) -> impl Iterator<Item = &BalancedPort> {
        let ports = self.ports.iter().filter(|_| self.balanced);
        ports.filter(|port| port.backends.iter().all(|backend| backend.weight == 0))
    }
}
