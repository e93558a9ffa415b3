//! Gateway API's kinds, as far as a mesh has a use for them, and the two that go with them: `ConfigMap`, for certificates, and our
//! own `TrafficPolicy`.
//!
//! Objects are read in two steps. Reading keeps what stands in an object by itself: a rule with an error is dropped and the others
//! hold, an unknown word or field makes the object "not accepted", and only what no API server would take rejects it as other
//! kinds are. `link` then puts objects and services together and says of each object what became of it, in Gateway API's
//! conditions.
#![forbid(unsafe_code)]

pub(crate) mod backend;
pub(crate) mod backend_traffic;
pub(crate) mod config_map;
pub(crate) mod filter;
pub(crate) mod grant;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod link;
pub(crate) mod matches;
pub(crate) mod route;
pub(crate) mod session;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
pub(crate) mod traffic;

use std::sync::Arc;

use crate::config::reader::Trouble;
use crate::model::route::{RouteName, Rules};
use crate::model::status::ParentReference;
use crate::model::traffic::{SubjectAltName, Traffic};

/// A route as its manifest has it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RawRoute {
    pub(crate) name: Arc<RouteName>,
    pub(crate) created: Option<i64>,
    pub(crate) generation: Option<i64>,
    /// References to services; those to anything else are somebody else's.
    pub(crate) parents: Vec<ParentReference>,
    /// Rules that are valid by themselves. Each backend is a port that may not be there.
    pub(crate) rules: Rules,
    /// Why it cannot be accepted as a whole.
    pub(crate) refused: Option<Trouble>,
    /// Rules that do not count, with the reason of each.
    pub(crate) dropped: Vec<Trouble>,
}

/// A service, or one port of it, that a policy is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TargetRef {
    pub(crate) name: String,
    /// The port's name.
    pub(crate) section: Option<String>,
}

/// What every policy has.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RawPolicy {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) created: Option<i64>,
    pub(crate) generation: Option<i64>,
    pub(crate) targets: Vec<TargetRef>,
    pub(crate) refused: Option<Trouble>,
}

/// A `TrafficPolicy` or `XBackendTrafficPolicy`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RawTraffic {
    pub(crate) policy: RawPolicy,
    pub(crate) traffic: Traffic,
}

/// A `BackendTLSPolicy`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RawBackendTls {
    pub(crate) policy: RawPolicy,
    pub(crate) hostname: String,
    pub(crate) names: Vec<SubjectAltName>,
    /// Whether the system's authorities are trusted; else those of the references.
    pub(crate) system: bool,
    /// Names of ConfigMaps, or what else a reference is to.
    pub(crate) authorities: Vec<Result<String, String>>,
}

/// A `ConfigMap`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ConfigMap {
    /// `data["ca.crt"]`.
    pub(crate) authorities: Option<Arc<str>>,
}
