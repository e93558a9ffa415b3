//! The JSON of answers to "would this connection work, and how would it go".

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::admin::types::balancing::Backend;
use crate::admin::types::routes::Carrier;
use crate::model::observed::WorkloadState;
use crate::model::service::Protocol;
pub use crate::policy::{Judgement, PolicyAnswer};
use crate::telemetry::flow::{ServiceRef, WorkloadRef};

/// Schema of [`Explanation`].
pub const EXPLAIN_SCHEMA: &str = "underpass.dev/explain/v1";
/// Schema of [`PolicyTest`].
pub const POLICY_TEST_SCHEMA: &str = "underpass.dev/policy-test/v1";

/// Who is asked after: a name, which is a service's or a workload's, or an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// `NAMESPACE/NAME`.
    Name(WorkloadRef),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let name = text.parse().map(Self::Name);
        name.map_err(|_| format!("`{text}` is neither NAMESPACE/NAME nor an address"))
    }
}

/// Query of `GET /v1/explain` and of `GET /v1/policy/test`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionQuery {
    /// Who dials: `NAMESPACE/NAME` of a workload, or an address.
    pub from: String,
    /// Who is dialled: `NAMESPACE/NAME` of a service or a workload, or an address.
    pub to: String,
    /// The port that is dialled.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: Protocol,
}

/// What would become of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It works.
    Works,
    /// It fails, or may.
    Fails,
    /// It is none of the mesh's business: no workload of this node dials.
    Bypasses,
}

/// The whole way of a connection that is not made: `GET /v1/explain`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// [`EXPLAIN_SCHEMA`].
    pub schema: String,
    /// Who dials.
    pub from: Dialler,
    /// Who is dialled, as it was asked.
    pub to: String,
    /// The port that is dialled.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: Protocol,
    /// The service port that this leads to; `null` when it is none.
    pub service: Option<Dialled>,
    /// Everybody who may answer: of a service every backend, those that get nothing too.
    pub destinations: Vec<Destination>,
    /// What would become of it.
    pub verdict: Verdict,
    /// Why, and what else there is to say; one sentence each.
    pub why: Vec<String>,
}

/// Who dials.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dialler {
    /// The workload; `null` when it is none that is known.
    pub workload: Option<WorkloadRef>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How the workload stands.
    pub state: Option<WorkloadState>,
    /// Why, in words.
    pub why: String,
    /// Whether it is a workload of this node, so that its connections are the mesh's.
    pub captured: bool,
}

/// The service port that is dialled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dialled {
    /// Which.
    #[serde(flatten)]
    pub id: ServiceRef,
    /// `ClusterIP`, `Headless` or `ExternalName`.
    pub kind: String,
    /// Addresses that lead to it.
    pub addresses: Vec<IpAddr>,
    /// Whether it is in force in the kernel.
    pub balanced: bool,
    /// How a backend is picked; empty where none is.
    pub algorithm: String,
    /// For how many seconds a client sticks to its backend.
    pub affinity_seconds: Option<u64>,
    /// Who carries the connection, and why.
    pub carrier: Carrier,
}

/// Where a destination is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// On this node.
    Here,
    /// On another node.
    OtherNode,
    /// Nobody knows: its address is no workload's.
    Unknown,
}

/// Somebody who may answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Destination {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The workload, where known.
    pub workload: Option<WorkloadRef>,
    /// Where it is.
    pub place: Place,
    /// What it is to the service; `null` without one.
    pub backend: Option<Backend>,
    /// What policy says; `null` where nothing goes to it, and where nobody can say.
    pub policy: Option<PolicyAnswer>,
    /// Whether messages would go from socket to socket.
    pub redirected: bool,
    /// Why they would not.
    pub not_redirected_because: Vec<String>,
}

/// What policy says of a connection: `GET /v1/policy/test`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyTest {
    /// [`POLICY_TEST_SCHEMA`].
    pub schema: String,
    /// Whether every answer allows it.
    pub allowed: bool,
    /// One answer; for a service one for each backend that gets connections.
    pub answers: Vec<PolicyAnswer>,
}
