//! A workload as the configuration describes it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::model::enrolment::Absence;
use crate::model::labels::Labels;

/// Name of a workload: unique on the node.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct WorkloadName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where a workload runs on this machine; what leads to its network namespace.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Location {
    /// The namespace of this process (annotation `underpass.dev/pid`).
    Pid(u32),
    /// The namespace at this path, such as `/run/netns/a` (annotation `underpass.dev/netns`).
    Netns(PathBuf),
    /// The namespace of the processes in this cgroup (annotation `underpass.dev/cgroup`).
    Cgroup(PathBuf),
    /// The namespace of the processes in the cgroup that kubelet has made for the pod and named after its UID; where there is no such
    /// cgroup, as for [`Location::Addresses`].
    Kubelet,
    /// The one namespace on the machine that has the workload's addresses.
    Addresses,
}

/// Whether a workload's connections are redirected (label or annotation `underpass.dev/acceleration`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Acceleration {
    /// Never; only counted.
    Off,
    /// Never, but what would forbid it is recorded.
    Observe,
    /// Once observed for a window without doing what redirect breaks.
    #[default]
    Auto,
    /// Always, on the operator's word.
    On,
}

impl Acceleration {
    /// Every mode with the word for it.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Off, "off"),
        (Self::Observe, "observe"),
        (Self::Auto, "auto"),
        (Self::On, "on"),
    ];

    /// Returns the word for this mode, as in the annotation.
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Auto => "auto",
            Self::On => "on",
        }
    }
}

/// A word that is not a mode of acceleration.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is none of off, observe, auto, on")]
pub struct UnknownAcceleration(String);

impl FromStr for Acceleration {
    type Err = UnknownAcceleration;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(_, known)| *known == word);
        found
            .map(|(mode, _)| *mode)
            .ok_or_else(|| UnknownAcceleration(word.to_owned()))
    }
}

/// One valid workload. Two workloads of a snapshot never share a name or an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    /// Its name.
    pub name: WorkloadName,
    /// The UID that kubelet knows it by: `metadata.uid`, where given, or the hash of the file that it is from.
    pub uid: Option<String>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.serviceAccountName`, `default` where not given.
    pub service_account: String,
    /// `status.podIPs`, in their order, without duplicates.
    pub addresses: Vec<IpAddr>,
    /// `spec.nodeName`: the node it is on, where given.
    pub node: Option<String>,
    /// Whether it is ready (`status.conditions`, type `Ready`; `true` where none is given, as for a process that nobody checks).
    pub ready: bool,
    /// Whether it is being deleted (`metadata.deletionTimestamp`).
    pub terminating: bool,
    /// Named container ports.
    pub ports: Vec<NamedPort>,
    /// Where it runs.
    pub location: Location,
    /// Whether it is in the mesh (label `underpass.dev/mesh`): others are known as peers, and never captured.
    pub enrolled: bool,
    /// Whether the API server knows that it has started (`status.phase` is not `Pending`).
    pub started: bool,
    /// IDs of its containers, as far as they are known (`status.containerStatuses`).
    pub containers: Vec<String>,
    /// From its annotation or label, else its namespace's, else the agent's default.
    pub acceleration: Acceleration,
    /// The manifest it comes from, as `file: path in it`, for messages.
    pub origin: String,
}

/// A container port that has a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: crate::model::service::Protocol,
}

/// A workload, and where the machine has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The workload.
    pub workload: std::sync::Arc<Workload>,
    /// Cookie of its network namespace, or why the kernel is not to know it.
    pub netns: Result<u64, Absence>,
    /// What is odd about one that was found, in words; else empty.
    pub note: String,
    /// Why one that the kernel is to know is not captured all the same.
    pub uncaptured: Option<Absence>,
}
