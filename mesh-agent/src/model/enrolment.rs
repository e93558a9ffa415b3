//! Which pods of this node are in the mesh and yet not captured, and why: none is left out silently.

use serde::{Deserialize, Serialize};

use crate::model::observed::{WorkloadState, WorkloadStatus};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Acceleration, WorkloadName};

/// Why the kernel does not know a workload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Absent {
    /// It runs on another node, whose agent has it.
    Elsewhere,
    /// It is not in the mesh: neither its label nor its namespace's says so.
    NotEnrolled,
    /// It has the node's own network, which is not its alone.
    HostNetwork,
    /// It waits for its first process, as far as the API server knows.
    NotStarted,
    /// Nothing on this machine is found to be it.
    NotFound,
    /// What was found to be it is another workload already.
    Taken,
    /// The kernel's table of workloads is full.
    TableFull,
    /// It is there, in a cgroup that the agent is not attached to.
    Outside,
    /// Its object is not valid, and no earlier version of it is known.
    Rejected,
}

impl Absent {
    /// Returns the word for it, as in labels of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Elsewhere => "elsewhere",
            Self::NotEnrolled => "not_enrolled",
            Self::HostNetwork => "host_network",
            Self::NotStarted => "not_started",
            Self::NotFound => "not_found",
            Self::Taken => "taken",
            Self::TableFull => "table_full",
            Self::Outside => "outside",
            Self::Rejected => "rejected",
        }
    }

    /// Returns whether it is the way things are meant to be.
    pub fn is_meant(self) -> bool {
        matches!(self, Self::Elsewhere | Self::NotEnrolled)
    }

    /// Returns whether somebody has to do something about it.
    pub fn is_fault(self) -> bool {
        matches!(
            self,
            Self::NotFound | Self::Taken | Self::TableFull | Self::Outside | Self::Rejected
        )
    }
}

/// Why the kernel does not know a workload, and how that shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Absence {
    /// Why.
    pub reason: Absent,
    /// In words.
    pub why: String,
}

impl Absence {
    /// Returns one.
    pub fn new(reason: Absent, why: impl Into<String>) -> Self {
        Self {
            reason,
            why: why.into(),
        }
    }
}

/// A pod of this node that is in the mesh and is not captured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NotCaptured {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: Absent,
    /// In words.
    pub why: String,
}

/// How many pods of this node are in the mesh, and who of them is not captured.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Enrolment {
    /// Pods of this node that are captured.
    pub captured: usize,
    /// Those that are to be and are not, by name.
    pub not_captured: Vec<NotCaptured>,
}

impl Enrolment {
    /// Returns how the pods of this node stand.
    pub fn of(workloads: &[WorkloadStatus]) -> Self {
        let mut enrolment = Self::default();
        for workload in workloads {
            match workload.absent {
                None => enrolment.captured += 1,
                Some(reason) if reason.is_meant() => {}
                Some(reason) => enrolment.not_captured.push(NotCaptured {
                    namespace: workload.name.namespace.clone(),
                    name: workload.name.name.clone(),
                    reason,
                    why: workload.why.clone(),
                }),
            }
        }
        enrolment
    }
}

/// Returns how the pods stand that the kernel of `node` is not asked about: those of other nodes, and of this one those that are in the
/// mesh and no workloads, since they have the node's own network or their objects are not valid.
pub fn beside(snapshot: &Snapshot, node: &str) -> Vec<WorkloadStatus> {
    let is_here = |of: Option<&str>| of.is_none_or(|of| of == node);
    let elsewhere = snapshot.workloads.iter().filter_map(|workload| {
        let of = workload.node.as_deref().filter(|of| *of != node)?;
        Some(WorkloadStatus {
            addresses: workload.addresses.clone(),
            acceleration: workload.acceleration,
            ..unknown(
                &workload.name,
                (WorkloadState::Elsewhere, Absent::Elsewhere),
                format!("runs on node {of}"),
            )
        })
    });
    let hosts = snapshot.host_pods.iter();
    let hosts = hosts.filter(|(_, of)| is_here(of.as_deref()));
    let rejected = snapshot.rejected_pods.iter();
    let rejected = rejected.filter(|(_, pod)| is_here(pod.node.as_deref()));
    let hosts = hosts.map(|(name, _)| on_host(name));
    let rejected = rejected.map(|(name, pod)| {
        let why = format!(
            "its object is not valid, and no earlier version is known: {}",
            pod.why
        );
        unknown(name, (WorkloadState::Rejected, Absent::Rejected), why)
    });
    elsewhere.chain(hosts).chain(rejected).collect()
}

fn on_host(name: &WorkloadName) -> WorkloadStatus {
    let why = "it has the node's own network (hostNetwork): its connections are the node's";
    let how = (WorkloadState::HostNetwork, Absent::HostNetwork);
    unknown(name, how, why.to_owned())
}

fn unknown(
    name: &WorkloadName,
    (state, absent): (WorkloadState, Absent),
    why: String,
) -> WorkloadStatus {
    WorkloadStatus {
        name: name.clone(),
        id: 0,
        netns: 0,
        addresses: Vec::new(),
        acceleration: Acceleration::Off,
        state,
        why,
        note: String::new(),
        behaviours: 0,
        absent: Some(absent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::RejectedPod;

    fn status(name: &str, absent: Option<Absent>) -> WorkloadStatus {
        let name = WorkloadName {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        };
        WorkloadStatus {
            absent,
            why: "so".to_owned(),
            ..on_host(&name)
        }
    }

    #[test]
    fn whoever_is_to_be_captured_and_is_not_is_named() {
        let all = [
            status("a", None),
            status("b", Some(Absent::Elsewhere)),
            status("c", Some(Absent::NotEnrolled)),
            status("d", Some(Absent::NotFound)),
            status("e", Some(Absent::HostNetwork)),
            status("f", Some(Absent::NotStarted)),
        ];
        let enrolment = Enrolment::of(&all);
        let named = enrolment.not_captured.iter();
        let named: Vec<_> = named.map(|it| (it.name.as_str(), it.reason)).collect();
        let expected = [
            ("d", Absent::NotFound),
            ("e", Absent::HostNetwork),
            ("f", Absent::NotStarted),
        ];
        assert_eq!((enrolment.captured, named), (1, expected.to_vec()));
    }

    #[test]
    fn pods_in_the_network_of_another_node_are_not_this_nodes() {
        let name = |name: &str| status(name, None).name;
        let hosts = [("a", Some("here")), ("b", Some("there")), ("c", None)];
        let hosts = hosts.map(|(pod, node)| (name(pod), node.map(str::to_owned)));
        let rejected = [("d", Some("here")), ("e", Some("there"))].map(|(pod, node)| {
            let (node, why) = (node.map(str::to_owned), "so".to_owned());
            (name(pod), RejectedPod { node, why })
        });
        let snapshot = Snapshot {
            host_pods: std::sync::Arc::new(hosts.into_iter().collect()),
            rejected_pods: std::sync::Arc::new(rejected.into_iter().collect()),
            ..Snapshot::default()
        };
        let found: Vec<_> = beside(&snapshot, "here")
            .into_iter()
            .map(|it| it.name)
            .collect();
        assert_eq!(found, [name("a"), name("c"), name("d")]);
    }
}
