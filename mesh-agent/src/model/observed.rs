//! What the kernel tells: flows, counters, map fill, and the state of each workload.

use std::sync::Arc;

use mesh_common::flow::FlowRecord;
use mesh_common::handover::CaptureCounters;
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::path::Path;
use mesh_common::policy::RuleHits;
use mesh_common::reason::Reason;
use serde::{Deserialize, Serialize};

use crate::model::balanced::PortId;
use crate::model::enrolment::Absent;
use crate::model::policy::RuleName;
use crate::model::workload::{Acceleration, WorkloadName};

/// How far a kernel's socket redirect can be trusted, as the start-up probe found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Not at all.
    Off,
    /// Only sockets of the agent itself: an application could be broken without being noticed.
    OwnSockets,
    /// Sockets of applications that do nothing which a defect forbids.
    Applications,
}

/// A defect of the kernel's socket redirect that the probe saw.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Defect {
    /// Short fixed name, such as `fionread-zero`.
    pub name: String,
    /// What happens, in words.
    pub words: String,
    /// Labels of the behaviours (`mesh_common::behaviour`) that it forbids.
    pub forbids: Vec<String>,
}

/// Something this kernel lacks, and what is lost by it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Missing {
    /// What is missing, such as `tracepoint sock_recv_length (kernel 6.3)`.
    pub feature: String,
    /// What the agent does not do because of it.
    pub lost: String,
}

/// What the start-up probe found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProbeReport {
    /// `uname -r`.
    pub kernel: String,
    /// How far redirect can be trusted.
    pub level: Level,
    /// Why it is not higher; empty at the highest.
    pub why: Vec<String>,
    /// Defects seen.
    pub defects: Vec<Defect>,
    /// Features that are missing.
    pub missing: Vec<Missing>,
    /// How long the probe took.
    pub took_ms: u64,
}

/// A program and where it is attached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hook {
    /// Program name.
    pub program: String,
    /// Kind of hook and its place, such as `sock_ops /sys/fs/cgroup`.
    pub hook: String,
    /// Whether it is attached; `None` for one that is attached only when needed and now is not.
    pub attached: Option<bool>,
    /// Why it is not attached.
    pub error: Option<String>,
}

/// Fill of one map.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MapFill {
    /// Map name, lower case.
    pub map: String,
    /// Entries in use.
    pub used: u64,
    /// Limit.
    pub max: u64,
}

/// How a workload stands with the mesh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    /// Accelerated.
    Accelerated,
    /// In its observation window, or in mode `observe`.
    Observing,
    /// Not accelerated, for the reason given.
    NotAccelerated,
    /// Not found on this machine, for the reason given.
    NotFound,
    /// On another node, as its manifest says: it was not looked for.
    Elsewhere,
    /// On this node, but not in the mesh.
    NotEnrolled,
    /// In the mesh, but with the node's own network, which is not captured.
    HostNetwork,
    /// In the mesh, but its object is not valid and never was.
    Rejected,
}

/// A workload as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkloadStatus {
    /// Its name.
    pub name: WorkloadName,
    /// Its handle in the kernel; 0 while it is not found.
    pub id: u32,
    /// Cookie of its network namespace; 0 while it is not found.
    pub netns: u64,
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// Its configured mode.
    pub acceleration: Acceleration,
    /// How it stands.
    pub state: WorkloadState,
    /// Why, in words; empty when accelerated.
    pub why: String,
    /// What is odd about where it was found, in words; else empty.
    pub note: String,
    /// Why the kernel does not know it; `None` where it does.
    pub absent: Option<Absent>,
    /// Behaviours seen (`mesh_common::behaviour` bits).
    pub behaviours: u64,
}

/// Counters of the node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeCounters {
    /// Flow records that found no room.
    pub records_lost: u64,
    /// Pair counters that went to the overflow row.
    pub pairs_overflowed: u64,
    /// Sockets whose state could not be allocated.
    pub state_failed: u64,
    /// Messages redirected.
    pub messages_redirected: u64,
    /// Times a flow went from redirect to TCP because too much was in flight.
    pub demotions: u64,
    /// Flows that the stall guard reset.
    pub stalls: u64,
    /// Denials that no record was made of, since their workload had many.
    pub denials_unrecorded: u64,
    /// Blocking receive calls that failed with `EAGAIN` because their socket was in the socket map.
    pub spurious_eagain: u64,
    /// Connections that go through the agent, and those that could not.
    pub captured: CaptureCounters,
    /// Flows ended, by path and reason; zeros are left out.
    pub flows_ended: Vec<(Path, Reason, u64)>,
}

/// What telemetry and the admin API read from the kernel. Every call reads anew; none blocks for long.
///
/// Two implementations: `kernel`, and a small one in tests.
pub trait KernelView: Send + Sync + std::fmt::Debug {
    /// Returns what the probe found.
    fn probe(&self) -> Arc<ProbeReport>;
    /// Returns every program and where it is attached.
    fn hooks(&self) -> Vec<Hook>;
    /// Returns every live flow of this node's workloads, one record each (`end_ns` is 0). Brings `pairs` up to date first.
    fn live_flows(&self) -> anyhow::Result<Vec<FlowRecord>>;
    /// Returns the counters of every pair.
    fn pairs(&self) -> anyhow::Result<Vec<(PairKey, PairCounters)>>;
    /// Returns the counters of the node.
    fn counters(&self) -> anyhow::Result<NodeCounters>;
    /// Returns the fill of every map that has a limit.
    fn map_fill(&self) -> anyhow::Result<Vec<MapFill>>;
    /// Returns every configured workload as it stands, by name.
    fn workloads(&self) -> Vec<WorkloadStatus>;
    /// Returns the generation that the maps are in line with.
    fn generation(&self) -> u64;
    /// Returns the service port behind a number, also for a while after it is gone.
    fn service(&self, number: u32) -> Option<Arc<PortId>>;
    /// Returns the name of the policy rule with this number, also for a while after it is gone; `None` for 0, which is no rule's.
    fn rule(&self, number: u32) -> Option<RuleName>;
    /// Returns how often each rule decided; without a name, how often the want of one did.
    fn rule_hits(&self) -> anyhow::Result<Vec<(Option<RuleName>, RuleHits)>>;
    /// Returns what of the policies is not in force as configured, and closed by that.
    fn policy_errors(&self) -> Vec<String>;
    /// Returns the name of the workload with this handle, also for a while after it is gone.
    fn name(&self, id: u32) -> Option<WorkloadName>;
}
