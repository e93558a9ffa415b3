//! How endpoints stand: what active checks found, and what each endpoint gets and why.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::service::{Protocol, ServiceName};

/// What active checks found, by service and address. Shared by pointer: what did not change keeps its `Arc`.
///
/// An endpoint that is not listed has not been checked yet, or never will be.
pub type Health = BTreeMap<ServiceName, Arc<BTreeMap<SocketAddr, Checked>>>;

/// What active checks found of one endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    /// Whether it counts as healthy, by the thresholds.
    pub healthy: bool,
    /// Why the last check that failed did; kept while the endpoint counts as unhealthy.
    pub error: Option<Arc<str>>,
}

/// How the health of an endpoint is known, and what it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointHealth {
    /// Healthy by active checks.
    Healthy,
    /// Ready as the configuration says; nobody here checks it, or not yet.
    Ready,
    /// Unhealthy by active checks.
    Unhealthy,
    /// Ejected by passive signs.
    Ejected,
    /// Not ready as the configuration says.
    NotReady,
    /// Terminating.
    Terminating,
    /// Ready or healthy by all of that, and nobody on this node listens there any more.
    Closed,
}

/// The passive sign that an endpoint was ejected for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// Connects failed one after the other.
    ConnectFailures,
    /// More of its connections failed or were reset than of the others'.
    Resets,
    /// Many more segments had to be sent again to it than to the others.
    Retransmits,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectFailures => "connects to it failed one after the other",
            Self::Resets => "more of its connections fail or are reset than of the others",
            Self::Retransmits => "many more segments are sent again to it than to the others",
        })
    }
}

/// Why an endpoint gets no new connections.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Why {
    /// It is not ready.
    NotReady,
    /// It terminates, and others are ready; or it does not answer any more.
    Terminating,
    /// Active checks fail.
    Unhealthy {
        /// Why the last one did.
        error: String,
    },
    /// Passive signs ejected it.
    Ejected {
        /// The sign.
        sign: Sign,
        /// Seconds until it comes back.
        for_s: u64,
    },
    /// `internalTrafficPolicy: Local`, and it is on another node.
    OtherNode,
    /// Endpoints that are nearer, or meant for this place, are preferred.
    OtherZone,
    /// Endpoints of a lower priority number answer.
    LowerPriority,
    /// Its weight is 0.
    WeightZero,
    /// The service has no address of its family.
    OtherFamily,
    /// It is on this node, and its last listener has closed.
    Closed,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("not ready"),
            Self::Terminating => f.write_str("terminating"),
            Self::Unhealthy { error } => write!(f, "unhealthy by its check: {error}"),
            Self::Ejected { sign, for_s } => write!(f, "ejected for {for_s} s more: {sign}"),
            Self::OtherNode => f.write_str("on another node, and internalTrafficPolicy is Local"),
            Self::OtherZone => f.write_str("endpoints nearer to this node are preferred"),
            Self::LowerPriority => f.write_str("endpoints of a higher priority answer"),
            Self::WeightZero => f.write_str("its weight is 0"),
            Self::OtherFamily => f.write_str("the service has no address of its family"),
            Self::Closed => f.write_str("nobody listens there any more"),
        }
    }
}

/// One endpoint of a service port, as it stands on this node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EndpointState {
    /// The service.
    pub service: ServiceName,
    /// The port that is dialled.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it is.
    pub address: SocketAddr,
    /// The pod behind it, as `namespace/name`, where known.
    pub workload: Option<String>,
    /// The node it is on, where known.
    pub node: Option<String>,
    /// The zone it is in, where known.
    pub zone: Option<String>,
    /// Its priority.
    pub priority: u32,
    /// Its health.
    pub health: EndpointHealth,
    /// Its weight in force, among the others of its family; 0: no new connections.
    pub weight: u32,
    /// Its share of new connections of its family, from 0 to 1.
    pub share: f64,
    /// Whether its share still grows (slow start).
    pub slow_start: bool,
    /// Whether it gets connections only because too few are healthy (panic).
    pub panic: bool,
    /// Why it gets none.
    pub why: Option<Why>,
}
