//! What the agent wants of the kernel's balancing, and what the kernel counted of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::balance::Algorithm;

use crate::model::service::{Drain, Protocol, ServiceName};
use crate::model::workload::WorkloadName;

/// A service port: what tells it from all others.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortId {
    /// The service.
    pub service: ServiceName,
    /// The port that is dialled.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A service port as the kernel is to balance it, from now on. Plain result of configuration, health and time.
#[derive(Clone, PartialEq, Debug)]
pub struct Balanced {
    /// Which.
    pub id: PortId,
    /// What leads to it: addresses of the service with its port.
    pub frontends: Vec<SocketAddr>,
    /// The node port that leads to it.
    pub node_port: Option<u16>,
    /// How a backend is picked.
    pub algorithm: Algorithm,
    /// How long a client sticks to its backend.
    pub affinity: Option<Duration>,
    /// Whether and for whom connections to it go to the agent. TCP only.
    pub proxied: Option<Proxied>,
    /// Whether a connect without backend is left unanswered instead of refused.
    pub drops: bool,
    /// What becomes of connections to a target that is not listed any more.
    pub drain: Drain,
    /// Who answers: only those that are to get new connections, of either family. Empty: nobody.
    pub targets: Vec<Target>,
    /// Those that get no new connections but whose connections go on: ejected, unhealthy, terminating or of weight 0.
    pub resting: Vec<SocketAddr>,
    /// Everybody who may answer, where those of a family are of more than one level; `targets` are some of them. Requests go by this:
    /// the agent sees endpoints fail that only answer badly.
    pub candidates: Vec<Candidate>,
}

/// A service port whose connections go to the agent, which decides more than the kernel can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proxied {
    /// What becomes of them while the agent does not listen in the client's network namespace.
    pub when_agent_is_away: Fail,
    /// Whose connections.
    pub clients: Clients,
}

/// Service ports whose connections go to the agent.
pub type ProxiedPorts = BTreeMap<PortId, Proxied>;

/// What is done without the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fail {
    /// The connect fails.
    Closed,
    /// The kernel balances.
    Open,
}

/// Clients of a service port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Clients {
    /// All of them.
    All,
    /// Those in these Kubernetes namespaces: routes of consumers concern nobody else.
    Namespaces(BTreeSet<String>),
}

/// A connection that the agent makes for a client whose connection it has.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a> {
    /// The service port that the client dialled.
    pub service: &'a PortId,
    /// As which address.
    pub dialled: SocketAddr,
    /// The service port whose endpoint the connection goes to: another where a route says so.
    pub backend: &'a PortId,
    /// The endpoint.
    pub address: SocketAddr,
    /// What it is for.
    pub carries: Carries,
}

/// What a connection of the agent's carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carries {
    /// Requests, which are counted one by one.
    Requests,
    /// A client's connection, byte by byte.
    Bytes,
}

/// Who answers for a service port that a route spreads over the ports of several services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Split {
    /// Backends with their shares, by the sum of all and [`refused`](Self::refused). None of them is 0, and none is named twice.
    pub backends: Vec<(PortId, u32)>,
    /// Share of connections that nobody answers.
    pub refused: u32,
}

impl Split {
    /// Returns whether it is what the port does by itself.
    pub fn is_own(&self, id: &PortId) -> bool {
        self.refused == 0 && matches!(self.backends.as_slice(), [(only, _)] if only == id)
    }
}

/// Service ports that routes spread over the ports of other services, by port.
pub type Splits = BTreeMap<PortId, Split>;

/// One endpoint that gets new connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where it is.
    pub address: SocketAddr,
    /// The pod behind it, where known.
    pub workload: Option<Arc<WorkloadName>>,
    /// Its share is its weight by the sum of all of its family; at least 1.
    pub weight: u32,
}

/// One endpoint that may answer, as far as its level is needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Where it is; its share of what its level gets is its weight by the sum of all healthy ones there.
    pub target: Target,
    /// Which level of its family: 0 is used first.
    pub level: u16,
    /// Whether nothing is known against it.
    pub is_healthy: bool,
}

/// What the kernel counted of one endpoint of a service port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendCounters {
    /// Flows open now.
    pub open: u64,
    /// Connects and first datagrams sent to it.
    pub picked: u64,
    /// TCP connects to it that failed. Wraps around.
    pub failed: u32,
    /// Established connections that it reset, or that timed out. Wraps around.
    pub reset: u32,
    /// Segments sent again to it.
    pub retransmits: u64,
}

/// What the kernel counted of a service port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortCounters {
    /// Connects and first datagrams.
    pub picks: u64,
    /// Of those, the ones for which there was no backend.
    pub refused: u64,
}

/// A service port that is not balanced as it is wanted. It keeps what it had, and is tried again at each call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unbalanced {
    /// Which.
    pub id: Arc<PortId>,
    /// Why.
    pub why: String,
}

/// A client's connected socket that is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientFlow {
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Its own cookie.
    pub cookie: u64,
    /// Its address.
    pub local: SocketAddr,
    /// The backend's address.
    pub remote: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The interface that it is bound to; 0: none, or not known.
    pub interface: u32,
}
