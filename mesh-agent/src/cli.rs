//! The command line: every command, flag and environment variable. What they do is elsewhere.

#![forbid(unsafe_code)]

pub mod balancing;
pub mod controller;
pub mod discovery;
pub mod http;
pub mod nodes;
pub mod routes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use mesh_common::path::Path;

use crate::cli::balancing::{ConnectionArgs, PolicyArgs, ServicesArgs};
use crate::cli::controller::ControllerArgs;
use crate::cli::discovery::{DeregisterArgs, DiscoveryArgs, LookupArgs, RegisterArgs};
use crate::cli::http::HttpArgs;
use crate::cli::nodes::{NodesArgs, WorkloadsArgs};
use crate::cli::routes::RoutesArgs;
use crate::l7::flag::Flag;
use crate::model::workload::Acceleration;
use crate::telemetry::filter::parse_duration;
use crate::telemetry::flow::WorkloadRef;

const EXIT_CODES: &str = "\
Exit codes:
  0  all is well
  1  the answer is bad: the agent is degraded, a manifest has errors, the command failed
  2  the command line is wrong
  3  the agent could not be reached, or went away; with --all-nodes, the API server

Colour is used on a terminal only, and not when NO_COLOR is set.";

/// Heading of the flags that every command has.
const GLOBAL: &str = "Global options";

/// The node agent of the Underpass service mesh: run it, and ask it.
#[derive(Clone, Debug, Parser)]
#[command(name = "node-agent", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Flags that every command has.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command has.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// The agent's admin socket [default: /run/underpass/agent.sock].
    #[arg(long, global = true, env = "UNDERPASS_SOCKET", value_name = "PATH", help_heading = GLOBAL)]
    pub socket: Option<PathBuf>,
    /// How to print: for a person, or everything as JSON with a fixed schema.
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM", help_heading = GLOBAL
    )]
    pub output: Output,
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = GLOBAL)]
    pub color: ColorWhen,
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Output {
    /// Text for a person.
    #[default]
    Text,
    /// JSON with a fixed schema.
    Json,
}

/// Where the configuration comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum SourceKind {
    /// A directory of manifests.
    #[default]
    Manifests,
    /// A Kubernetes API server.
    Kubernetes,
}

/// When to use colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the agent.
    Run(Box<RunArgs>),
    /// Run the controller of a Kubernetes cluster: it writes statuses and events, and decides nothing.
    Controller(ControllerArgs),
    /// Validate a directory of manifests and print every error.
    Check(CheckArgs),
    /// Show how the agent, the kernel side and the workloads stand. Exit code 1 when degraded.
    Status(StatusArgs),
    /// Show live and recent flows, or with --requests the requests of HTTP, or follow either as they end.
    Flows(FlowsArgs),
    /// Show the busiest pairs of workloads, live.
    Top(TopArgs),
    /// List the workloads with their state and why.
    Workloads(WorkloadsArgs),
    /// Show who answers for each service, with what share, and why others do not. Exit code 1 when one has no backend.
    Services(ServicesArgs),
    /// Show the whole way that a connection would go, and whether it would work. Exit code 1 when not.
    Explain(ConnectionArgs),
    /// Show every route and policy of Gateway API: what became of it, and whether kernel or agent carries it. Exit code 1 when
    /// something does not hold.
    Routes(RoutesArgs),
    /// Ask what policy says.
    Policy(PolicyArgs),
    /// Allow redirect on this node, or stop it at once for live flows too (the kill switch).
    #[command(alias = "accelerate")]
    Acceleration(AccelerationArgs),
    /// Register an instance of a service; with --keep, renew it until interrupted.
    Register(Box<RegisterArgs>),
    /// Take a registered instance out.
    Deregister(DeregisterArgs),
    /// Show services with their addresses and endpoints. Exit code 1 when there is no such service.
    Lookup(LookupArgs),
    /// Detach every kernel program and remove every pinned map. Connections go on by TCP.
    Uninstall(UninstallArgs),
    /// Print completions for a shell.
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command.
    Man(ManArgs),
}

/// Flags of `run`. Each may come from the environment or from the configuration file; a flag wins over the
/// environment, the environment over the file, the file over the default.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Configuration file (TOML; its keys are the names of these flags).
    #[arg(long, env = "UNDERPASS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the configuration comes from [default: manifests].
    #[arg(long, env = "UNDERPASS_SOURCE", value_enum, value_name = "SOURCE")]
    pub source: Option<SourceKind>,
    /// With --source kubernetes: how to reach the API server [default: the files of KUBECONFIG, else the service account of the
    /// pod that the agent runs in].
    #[arg(long, env = "UNDERPASS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Directory of manifests [default: /etc/underpass/manifests].
    #[arg(long, env = "UNDERPASS_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Cgroup whose processes are in the mesh [default: the root of the cgroup2 mount].
    #[arg(long, env = "UNDERPASS_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Directory in bpffs for programs and maps that outlive the agent [default: /sys/fs/bpf/underpass].
    #[arg(long, env = "UNDERPASS_BPF_DIR", value_name = "DIR")]
    pub bpf_dir: Option<PathBuf>,
    /// Address for /metrics, /healthz and /readyz, or `off` [default: 127.0.0.1:15020].
    #[arg(long, env = "UNDERPASS_METRICS_ADDRESS", value_name = "ADDRESS")]
    pub metrics_address: Option<MetricsAddress>,
    /// Log level, or a filter such as `info,mesh_agent::kernel=debug` [default: info].
    #[arg(long, env = "UNDERPASS_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,
    /// Form of the log on standard error [default: text].
    #[arg(long, env = "UNDERPASS_LOG_FORMAT", value_enum, value_name = "FORM")]
    pub log_format: Option<Output>,
    /// Acceleration of workloads that do not say [default: auto].
    #[arg(long, env = "UNDERPASS_ACCELERATION", value_name = "MODE", value_parser = acceleration())]
    pub acceleration: Option<Acceleration>,
    /// How long a workload is observed before it is accelerated [default: 30s].
    #[arg(long, env = "UNDERPASS_OBSERVATION_WINDOW", value_name = "DURATION", value_parser = parse_duration)]
    pub observation_window: Option<Duration>,
    /// How long redirected bytes may lie unread before the flow is reset [default: 60s].
    #[arg(long, env = "UNDERPASS_STALL_TIMEOUT", value_name = "DURATION", value_parser = parse_duration)]
    pub stall_timeout: Option<Duration>,
    /// Name of this node [default: the host name].
    #[arg(long, env = "UNDERPASS_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Zone of this node, where its Node manifest does not say; services may prefer endpoints of the client's zone.
    #[arg(long, env = "UNDERPASS_ZONE", value_name = "NAME")]
    pub zone: Option<String>,
    /// Region of this node, where its Node manifest does not say.
    #[arg(long, env = "UNDERPASS_REGION", value_name = "NAME")]
    pub region: Option<String>,
    /// Threads that serve connections which need more than the kernel can do [default: one for each core].
    #[arg(long, env = "UNDERPASS_DATA_THREADS", value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub data_threads: Option<u16>,
    /// How services are found.
    #[command(flatten)]
    pub discovery: DiscoveryArgs,
    /// What is seen of requests.
    #[command(flatten)]
    pub http: HttpArgs,
}

/// Where metrics are served; `None` is nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetricsAddress(pub Option<SocketAddr>);

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        let address = text.parse();
        address
            .map(|address| Self(Some(address)))
            .map_err(|_| format!("`{text}` is neither an address and port, such as 127.0.0.1:15020 or [::1]:15020, nor `off`"))
    }
}

fn acceleration() -> impl TypedValueParser<Value = Acceleration> {
    PossibleValuesParser::new(Acceleration::ALL.map(|(_, word)| word))
        .try_map(|word| word.parse::<Acceleration>())
}

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Directory of manifests, or one file.
    #[arg(value_name = "DIR")]
    pub manifests: PathBuf,
}

/// Arguments of `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Do not wait a second to measure rates.
    #[arg(long)]
    pub no_rates: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub nodes: NodesArgs,
}

/// Arguments of `flows`.
#[derive(Clone, Debug, Default, Args)]
pub struct FlowsArgs {
    /// Print each flow as it ends, until interrupted; with --since, those that ended since then first.
    #[arg(long, short)]
    pub follow: bool,
    /// Only flows that ended in the last while, such as 30s or 5m (and live ones).
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub since: Option<Duration>,
    /// Only flows of this workload, at either end.
    #[arg(long, short, value_name = "NAMESPACE/NAME")]
    pub workload: Option<WorkloadRef>,
    /// Only flows of workloads in this namespace, at either end.
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Only flows to this destination port.
    #[arg(long, short, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only flows that dialled this service.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service: Option<WorkloadRef>,
    /// Only flows that took this path.
    #[arg(long, value_name = "PATH", value_parser = path(), conflicts_with = "requests")]
    pub path: Option<String>,
    /// Show requests that went through the agent in the place of flows; --workload is then who asked, --port the service's.
    #[arg(long, short)]
    pub requests: bool,
    /// Only requests that were answered so, such as 404 or 5xx.
    #[arg(long, value_name = "STATUS", requires = "requests")]
    pub status: Option<String>,
    /// Only requests with this response flag, such as UT.
    #[arg(long, value_name = "FLAG", requires = "requests", value_parser = flag())]
    pub flag: Option<String>,
    /// Only requests that failed: without a status or with one from 500 on, with a status of gRPC that says so, or with a flag other than DI,
    /// also where that is the client's doing (DC, DPE).
    #[arg(long, requires = "requests")]
    pub failed: bool,
    /// At most this many, the newest.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    pub limit: usize,
}

fn path() -> PossibleValuesParser {
    PossibleValuesParser::new(Path::ALL.iter().map(|path| path.label()))
}

fn flag() -> PossibleValuesParser {
    PossibleValuesParser::new(
        Flag::ALL
            .iter()
            .map(|it| PossibleValue::new(it.word()).help(it.meaning())),
    )
}

/// Arguments of `top`.
#[derive(Clone, Copy, Debug, Args)]
pub struct TopArgs {
    /// Print one table and exit: rates of one --interval, the rest of all that was counted. So does --output json.
    #[arg(long)]
    pub once: bool,
    /// Time between two looks.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// What to sort by.
    #[arg(long, value_enum, default_value_t, value_name = "KEY")]
    pub sort: SortKey,
    /// At most this many pairs with --once and JSON.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub limit: usize,
}

/// Each look reads every live flow from the kernel; more often than this costs more than it tells.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < INTERVAL_MIN {
        return Err(format!("`{text}` is shorter than 200ms"));
    }
    Ok(interval)
}

/// What `top` sorts by, largest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum SortKey {
    /// Bytes per second.
    #[default]
    Bytes,
    /// Messages per second.
    Messages,
    /// Live flows.
    Flows,
    /// 99th percentile of the request turn-around.
    Latency,
    /// Names of source and destination.
    Name,
}

/// Arguments of `acceleration`.
#[derive(Clone, Copy, Debug, Args)]
pub struct AccelerationArgs {
    /// `off` sends every message by TCP from now on; `on` lets eligible flows be redirected again.
    #[arg(value_enum)]
    pub to: OnOff,
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OnOff {
    /// On.
    On,
    /// Off.
    Off,
}

/// Arguments of `uninstall`.
#[derive(Clone, Debug, Args)]
pub struct UninstallArgs {
    /// Directory in bpffs that the agent was run with [default: /sys/fs/bpf/underpass].
    #[arg(long, env = "UNDERPASS_BPF_DIR", value_name = "DIR")]
    pub bpf_dir: Option<PathBuf>,
    /// Then do nothing until ended by a signal: for a container, which would be started again and again.
    #[arg(long)]
    pub stay: bool,
}

/// Arguments of `completions`.
#[derive(Clone, Copy, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Write a page for every command into this directory.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests;
