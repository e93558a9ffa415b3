//! The JSON of the admin API.
//!
//! Stable: a field is never removed or given another meaning without a new number in its schema's name. New fields may
//! come, so readers have to ignore those they do not know.

#![forbid(unsafe_code)]

pub mod balancing;
pub mod explain;
pub mod requests;
pub mod routes;
pub mod services;

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use mesh_common::histogram::BUCKETS;
use serde::{Deserialize, Serialize};

use crate::model::api::ApiStatus;
use crate::model::enrolment::{Absent, Enrolment};
use crate::model::observed::{Hook, MapFill, ProbeReport, WorkloadState};
pub use crate::telemetry::filter::parse_duration;
pub use crate::telemetry::flow::{Flow, FlowEnd, ServiceRef, Turnaround, WorkloadRef};

/// Schema of [`Status`].
pub const STATUS_SCHEMA: &str = "underpass.dev/status/v1";
/// Schema of [`Workloads`].
pub const WORKLOADS_SCHEMA: &str = "underpass.dev/workloads/v1";
/// Schema of [`Flows`].
pub const FLOWS_SCHEMA: &str = "underpass.dev/flows/v1";
/// Schema of the lines of a flow stream, [`FollowLine`].
pub const FLOW_STREAM_SCHEMA: &str = "underpass.dev/flow-stream/v1";
/// Schema of [`Pairs`].
pub const PAIRS_SCHEMA: &str = "underpass.dev/pairs/v1";
/// Schema of [`Redirect`].
pub const REDIRECT_SCHEMA: &str = "underpass.dev/redirect/v1";
/// Schema of [`Failure`].
pub const ERROR_SCHEMA: &str = "underpass.dev/error/v1";

/// How everything stands: `GET /v1/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// [`STATUS_SCHEMA`].
    pub schema: String,
    /// What is wrong, one phrase each; empty when all is well.
    pub degraded: Vec<String>,
    /// The agent's process.
    pub agent: Agent,
    /// What the start-up probe found.
    pub kernel: ProbeReport,
    /// Every kernel program and where it is attached.
    pub hooks: Vec<Hook>,
    /// Whether the kill switch lets messages be redirected.
    pub redirect_allowed: bool,
    /// The configuration.
    pub config: Config,
    /// The Kubernetes API server, where the configuration comes from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<ApiStatus>,
    /// Who is in the mesh on this node, and who of them is not captured.
    #[serde(default)]
    pub enrolment: Enrolment,
    /// How the workloads stand.
    pub workloads: WorkloadSummary,
    /// How the services stand.
    pub services: ServiceSummary,
    /// How name queries are answered.
    pub dns: DnsSummary,
    /// How connections that need the agent are carried.
    pub data_path: DataPathSummary,
    /// Live flows by path and reason, most first.
    pub live_flows: Vec<FlowCount>,
    /// What the node counted so far.
    pub totals: Totals,
    /// Fill of every kernel map that has a limit.
    pub maps: Vec<MapFill>,
    /// What was lost.
    pub losses: Losses,
}

/// The agent's process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Agent {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The node's name.
    pub node: String,
    /// When it started.
    pub started: Timestamp,
    /// For how many seconds it has been running.
    pub uptime_seconds: u64,
    /// What it still waits for before it is ready; empty when it is.
    pub pending: Vec<String>,
}

/// The configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Generation that was read last.
    pub generation: u64,
    /// Generation that the kernel maps are in line with.
    pub kernel_generation: u64,
    /// What was rejected, one whole message each.
    pub errors: Vec<String>,
}

/// How the workloads stand, in numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkloadSummary {
    /// How many are configured.
    pub total: usize,
    /// How many stand in each state; states without any are left out.
    pub states: Vec<StateCount>,
    /// Why those that are not accelerated, or not found, are not; most first.
    pub reasons: Vec<ReasonCount>,
    /// Those that are not accelerated, by name.
    pub not_accelerated: Vec<Workload>,
}

/// How the services stand, in numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceSummary {
    /// How many there are.
    pub total: usize,
    /// Those that are in force in the kernel as configured.
    pub balanced: usize,
    /// Those that are not, though they have an address of their own.
    pub not_in_force: usize,
    /// Those with a port that nobody answers.
    pub without_backend: usize,
    /// Those whose backends get connections only because too few are healthy.
    pub in_panic: usize,
    /// Endpoints that passive signs ejected.
    pub ejected_endpoints: usize,
    /// What the kernel refused, one phrase each; at most 20.
    pub problems: Vec<String>,
}

/// How connections that need the agent are carried.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DataPathSummary {
    /// Service ports that need the agent.
    pub ports: usize,
    /// Data threads.
    pub threads: usize,
    /// Workloads inside of which the agent listens.
    pub listening_workloads: usize,
    /// Connections of theirs that the agent has.
    pub connections: u64,
    /// Why no connection can be led to the agent; `null`: nothing prevents it.
    pub problem: Option<String>,
}

/// How name queries are answered.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DnsSummary {
    /// Workloads inside of which the agent answers.
    pub listening_workloads: u64,
    /// Queries by what became of them: `answered`, `forwarded`, `failed`, `refused`, `dropped`.
    pub queries: BTreeMap<String, u64>,
}

/// Number of workloads in a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StateCount {
    /// The state.
    pub state: WorkloadState,
    /// How many.
    pub count: usize,
}

/// Number of workloads that stand for the same reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReasonCount {
    /// Their state.
    pub state: WorkloadState,
    /// Why.
    pub why: String,
    /// How many.
    pub count: usize,
}

/// Number of live flows by path and reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowCount {
    /// `tcp`, `redirect` or `mixed`.
    pub path: String,
    /// Why they are not (wholly) redirected.
    pub reason: String,
    /// The same in words.
    pub reason_text: String,
    /// How many.
    pub count: usize,
}

/// What the node counted so far, over all pairs. Two of these make a rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// When it was read, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Bytes, both directions.
    pub bytes: u64,
    /// The part of them that was redirected.
    pub redirected_bytes: u64,
    /// Messages, both directions.
    pub messages: u64,
    /// Flows established.
    pub flows_opened: u64,
    /// Flows ended.
    pub flows_closed: u64,
    /// Flows that were never established.
    pub flows_failed: u64,
}

/// What was lost, since the maps were made and lately.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Losses {
    /// Over how many seconds `recent` counts; grows to 300 after the agent's start.
    pub recent_seconds: u64,
    /// Lost in the last `recent_seconds`.
    pub recent: LossCounts,
    /// Lost since the kernel maps were made.
    pub total: LossCounts,
    /// Flows that readers of the flow stream lost because they read too slowly; not a fault of the node.
    pub by_followers: u64,
}

/// Losses by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LossCounts {
    /// Flow records that found no room in the ring buffer.
    pub flow_records: u64,
    /// Pair counters that went to the overflow row.
    pub pairs_overflowed: u64,
    /// Sockets whose state could not be allocated.
    pub socket_state: u64,
    /// Flows that the stall guard reset.
    pub stalls: u64,
    /// Blocking receive calls that failed with `EAGAIN` because their socket was in the socket map.
    #[serde(default)]
    pub spurious_eagain: u64,
}

/// Every workload: `GET /v1/workloads`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Workloads {
    /// [`WORKLOADS_SCHEMA`].
    pub schema: String,
    /// The workloads, by name.
    pub workloads: Vec<Workload>,
}

/// One workload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Configured mode: `off`, `observe`, `auto` or `on`.
    pub mode: String,
    /// How it stands.
    pub state: WorkloadState,
    /// Why, in words; empty when accelerated.
    pub why: String,
    /// What is odd about where it was found, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Why the kernel does not know it, where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<Absent>,
    /// Labels of the behaviours that were seen.
    pub behaviours: Vec<String>,
    /// Its handle in the kernel; 0 while it is not found.
    pub id: u32,
    /// Cookie of its network namespace; 0 while it is not found.
    pub netns: u64,
}

/// Live and recent flows: `GET /v1/flows`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Flows {
    /// [`FLOWS_SCHEMA`].
    pub schema: String,
    /// Flows that match, oldest first; live ones come last.
    pub flows: Vec<Flow>,
    /// Flows that match too, but are older than the limit allows.
    pub omitted: usize,
}

/// A line of a stream: `GET /v1/flows?follow=true`, `GET /v1/requests?follow=true`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FollowLine {
    /// The first line: the stream stands, and every flow that ends from now on will be in it.
    Start {
        /// [`FLOW_STREAM_SCHEMA`].
        schema: String,
    },
    /// A flow that ended.
    Flow(Box<Flow>),
    /// A request that ended.
    Request(Box<requests::Request>),
    /// Flows were lost (of any kind, also such as do not match) because the stream was read too slowly.
    Lost {
        /// How many.
        count: u64,
    },
    /// Requests (of any kind) are missing because more ended at a time than are listed; said once a second at most. Metrics have them all.
    LeftOut {
        /// How many, since the line before of this kind, or since the start.
        count: u64,
    },
    /// The last line: nothing comes any more.
    End {
        /// Why.
        why: String,
    },
}

/// Counters of every pair: `GET /v1/pairs`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pairs {
    /// [`PAIRS_SCHEMA`].
    pub schema: String,
    /// When it was read, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The pairs, in no order.
    pub pairs: Vec<Pair>,
}

/// Counters of a pair on one path. `tx` is source to destination. All but `flows_open` grow only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pair {
    /// The source; `null` when it is not a workload of this node.
    pub source: Option<WorkloadRef>,
    /// The destination; `null` when it is not a workload of this node.
    pub destination: Option<WorkloadRef>,
    /// The service that was dialled; `null` when it was none.
    pub service: Option<ServiceRef>,
    /// The destination's port.
    pub destination_port: u16,
    /// `tcp`, `redirect` or `mixed`.
    pub path: String,
    /// Whether this is the sum of all that found no row of its own.
    pub overflow: bool,
    /// Bytes from source to destination.
    pub tx_bytes: u64,
    /// Bytes from destination to source.
    pub rx_bytes: u64,
    /// Messages from source to destination.
    pub tx_messages: u64,
    /// Messages from destination to source.
    pub rx_messages: u64,
    /// Live flows that have taken this path so far.
    pub flows_open: u64,
    /// Flows established.
    pub flows_opened: u64,
    /// Flows ended.
    pub flows_closed: u64,
    /// Flows that were never established.
    pub flows_failed: u64,
    /// Segments that TCP sent again.
    pub retransmits: u64,
    /// Sum of connect times in microseconds.
    pub connect_sum_us: u64,
    /// Connect times: number below 2^i microseconds, and not below 2^(i-1), at index i.
    pub connect_histogram: [u64; BUCKETS],
    /// Sum of request turn-arounds in microseconds.
    pub turn_sum_us: u64,
    /// Request turn-arounds, in the same buckets.
    pub turn_histogram: [u64; BUCKETS],
}

/// The kill switch: body and answer of `POST /v1/redirect`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Redirect {
    /// [`REDIRECT_SCHEMA`].
    pub schema: String,
    /// Whether messages may be redirected.
    pub allowed: bool,
}

/// Body of `POST /v1/redirect`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedirectRequest {
    /// Whether messages may be redirected from now on.
    pub allowed: bool,
}

/// Every answer that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// [`ERROR_SCHEMA`].
    pub schema: String,
    /// What went wrong, in words.
    pub error: String,
}

/// Query of `GET /v1/flows`. Everything is optional.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowsQuery {
    /// `NAMESPACE/NAME` of a workload at either end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Namespace of a workload at either end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The destination's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `NAMESPACE/NAME` of the service that was dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `tcp`, `redirect` or `mixed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A duration such as `5m`: only flows that ended since then, and live ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// At most this many flows, the newest; 100 where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// A stream of [`FollowLine`]s: with `since` the flows that ended since then first, then each as it ends.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}
