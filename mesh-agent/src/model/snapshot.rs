//! The whole configuration at one moment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::policy::Policies;
use crate::model::route::Routes;
use crate::model::service::Services;
use crate::model::status::Statuses;
use crate::model::traffic::{BackendTlsPolicies, TrafficPolicies};
use crate::model::workload::{Workload, WorkloadName};

/// A valid configuration. Immutable: a change makes another, with a higher generation.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts snapshots from 1 since the agent started; 0 is the empty one it starts with.
    pub generation: u64,
    /// Valid workloads of all nodes, ordered by name.
    pub workloads: Vec<Arc<Workload>>,
    /// Pods in the mesh that have their node's own network, and so are no workloads, with their nodes.
    pub host_pods: Arc<BTreeMap<WorkloadName, Option<String>>>,
    /// Pods of a cluster that are in the mesh, as far as can be read, and are no workloads, since no version of theirs is valid.
    pub rejected_pods: Arc<BTreeMap<WorkloadName, RejectedPod>>,
    /// Valid services with their endpoints.
    pub services: Arc<Services>,
    /// Valid policies.
    pub policies: Arc<Policies>,
    /// Labels of the namespaces, with `kubernetes.io/metadata.name` on each that has a workload or a manifest.
    pub namespaces: Arc<BTreeMap<String, BTreeMap<String, String>>>,
    /// The nodes.
    pub nodes: Arc<BTreeMap<String, Node>>,
    /// Routes that services took.
    pub routes: Arc<Routes>,
    /// What else holds for requests, by service port.
    pub traffic: Arc<TrafficPolicies>,
    /// TLS to backends, by service port.
    pub backend_tls: Arc<BackendTlsPolicies>,
    /// What became of each of Gateway API's objects.
    pub statuses: Arc<Statuses>,
    /// What was rejected on the way to this snapshot, one whole message each (file, path, problem, help).
    pub errors: Vec<String>,
    /// When it was made; `None` for the empty one that the agent starts with.
    pub made: Option<Made>,
}

/// A pod whose object is not valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RejectedPod {
    /// Its node, where that can be read.
    pub node: Option<String>,
    /// What is wrong with it first of all, in words.
    pub why: String,
}

/// When a snapshot was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// The moment.
    pub at: Instant,
    /// How long reading and resolving took until then.
    pub took: Duration,
}

/// A machine of the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Label `topology.kubernetes.io/region`.
    pub region: Option<String>,
    /// `status.addresses` that are IP addresses.
    pub addresses: Vec<IpAddr>,
}
