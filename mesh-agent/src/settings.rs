//! The agent's own settings: flags, environment and configuration file merged into one valid value.

#![forbid(unsafe_code)]

mod cgroup;
pub mod controller;
pub mod discovery;
mod http;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::cli::discovery::{DiscoveryArgs, DnsAddress, DnsCapture, DnsDomain, DnsUpstream};
use crate::cli::http::{AccessLogTarget, HttpArgs, HttpMetricsNames, OtlpEndpoint, Share};
use crate::cli::{MetricsAddress, Output, RunArgs, SourceKind};
use crate::model::workload::Acceleration;
use crate::settings::discovery::DiscoverySettings;
use crate::source::registered::ServiceRange;
use crate::telemetry::filter::parse_duration;
use crate::telemetry::http::HttpSettings;

/// Where manifests are read from: beside other software's configuration.
pub const MANIFESTS: &str = "/etc/underpass/manifests";

/// Where programs and maps are pinned: bpffs is mounted there on every distribution with systemd.
pub const BPF_DIR: &str = "/sys/fs/bpf/underpass";

/// The admin socket. Under `/run`, so that it is gone after a reboot.
pub const SOCKET: &str = "/run/underpass/agent.sock";

/// Where metrics are served: on loopback, since workload names are nobody else's business, on the port that meshes
/// use for merged metrics.
pub const METRICS_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);

/// How long a workload is observed: longer than most health checks' and pollers' period, short enough to wait for.
pub const OBSERVATION_WINDOW: Duration = Duration::from_secs(30);

/// How long bytes may lie unread in a flow that takes part in redirect: longer than any garbage collector stops a program, shorter than the
/// patience of its user.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What is logged: what an operator acts on, not every connection.
pub const LOG_LEVEL: &str = "info";

/// Settings of a running agent, all valid.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Where the configuration comes from.
    pub source: SourceKind,
    /// How to reach the API server; `None` is as `kubectl` does, or a pod.
    pub kubeconfig: Option<PathBuf>,
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// Cgroup whose processes are in the mesh.
    pub cgroup: PathBuf,
    /// Directory in bpffs.
    pub bpf_dir: PathBuf,
    /// The admin socket.
    pub socket: PathBuf,
    /// Where metrics are served; `None` is nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Acceleration of workloads that do not say.
    pub acceleration: Acceleration,
    /// How long a workload is observed before it is accelerated.
    pub observation_window: Duration,
    /// How long redirected bytes may lie unread before the flow is reset.
    pub stall_timeout: Duration,
    /// Name of this node.
    pub node_name: String,
    /// Zone of this node, where its Node manifest does not say.
    pub zone: Option<String>,
    /// Region of this node, where its Node manifest does not say.
    pub region: Option<String>,
    /// Threads that serve connections which need more than the kernel can do.
    pub data_threads: usize,
    /// How services are found.
    pub discovery: DiscoverySettings,
    /// What is seen of requests.
    pub http: HttpSettings,
}

/// What is logged, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// A level, or a filter of `tracing`.
    pub filter: String,
    /// As text or as JSON.
    pub format: Output,
}

/// Settings that make no sense.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The configuration file could not be read.
    #[error("failed to read configuration file `{file}`")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not what it has to be.
    #[error("configuration file `{file}` is not valid")]
    Parse {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// There is no cgroup2 file system.
    #[error("found no cgroup2 file system in /proc/self/mountinfo; mount one, or give --cgroup")]
    NoCgroup,
    /// A duration of zero.
    #[error("`{0}` must be longer than zero")]
    Zero(&'static str),
}

/// The configuration file: every setting of `run`, by the name of its flag.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    #[serde(deserialize_with = "source")]
    source: Option<SourceKind>,
    kubeconfig: Option<PathBuf>,
    manifests: Option<PathBuf>,
    cgroup: Option<PathBuf>,
    bpf_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    #[serde(deserialize_with = "parsed")]
    metrics_address: Option<MetricsAddress>,
    log_level: Option<String>,
    #[serde(deserialize_with = "format")]
    log_format: Option<Output>,
    #[serde(deserialize_with = "parsed")]
    acceleration: Option<Acceleration>,
    #[serde(deserialize_with = "duration")]
    observation_window: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    stall_timeout: Option<Duration>,
    node_name: Option<String>,
    zone: Option<String>,
    region: Option<String>,
    data_threads: Option<std::num::NonZeroU8>,
    state_dir: Option<PathBuf>,
    #[serde(deserialize_with = "parsed")]
    service_range: Option<ServiceRange>,
    #[serde(deserialize_with = "dns_capture")]
    dns_capture: Option<DnsCapture>,
    #[serde(deserialize_with = "parsed")]
    dns_address: Option<DnsAddress>,
    dns_port: Option<std::num::NonZeroU16>,
    #[serde(deserialize_with = "parsed")]
    dns_domain: Option<DnsDomain>,
    #[serde(deserialize_with = "parsed")]
    dns_upstream: Option<DnsUpstream>,
    #[serde(deserialize_with = "names")]
    http_metrics_names: Option<HttpMetricsNames>,
    #[serde(deserialize_with = "parsed")]
    access_log: Option<AccessLogTarget>,
    #[serde(deserialize_with = "format")]
    access_log_format: Option<Output>,
    #[serde(deserialize_with = "share")]
    access_log_sample: Option<Share>,
    #[serde(deserialize_with = "parsed")]
    otlp_endpoint: Option<OtlpEndpoint>,
    #[serde(deserialize_with = "share")]
    trace_sample: Option<Share>,
}

impl File {
    fn discovery(&self) -> DiscoveryArgs {
        DiscoveryArgs {
            state_dir: self.state_dir.clone(),
            service_range: self.service_range,
            dns_capture: self.dns_capture,
            dns_address: self.dns_address,
            dns_port: self.dns_port.map(std::num::NonZeroU16::get),
            dns_domain: self.dns_domain.clone(),
            dns_upstream: self.dns_upstream.clone(),
        }
    }

    fn http(&self) -> HttpArgs {
        HttpArgs {
            http_metrics_names: self.http_metrics_names,
            access_log: self.access_log.clone(),
            access_log_format: self.access_log_format,
            access_log_sample: self.access_log_sample,
            otlp_endpoint: self.otlp_endpoint.clone(),
            trace_sample: self.trace_sample,
        }
    }
}

impl Settings {
    /// Returns the settings: a flag wins over the environment (`clap` saw to that), both win over the file, the file
    /// wins over the default. `socket` is the flag that every command has.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not valid, or a setting makes no sense.
    pub fn load(args: RunArgs, socket: Option<PathBuf>) -> Result<Self, SettingsError> {
        let file = match &args.config {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        Self::merge(args, socket, file, host(), cgroup::mount)
    }

    fn merge(
        args: RunArgs,
        socket: Option<PathBuf>,
        file: File,
        host: String,
        cgroup: impl FnOnce() -> Option<PathBuf>,
    ) -> Result<Self, SettingsError> {
        let discovery = DiscoverySettings::merge(args.discovery.clone(), file.discovery());
        let http = http::merge(args.http.clone(), file.http(), &discovery.dns_domain);
        let cgroup = args.cgroup.or(file.cgroup).or_else(cgroup);
        let metrics_address = args.metrics_address.or(file.metrics_address);
        let acceleration = args.acceleration.or(file.acceleration);
        let window = args.observation_window.or(file.observation_window);
        let stall = args.stall_timeout.or(file.stall_timeout);
        let log_level = args.log_level.or(file.log_level);
        Ok(Self {
            source: args.source.or(file.source).unwrap_or_default(),
            kubeconfig: args.kubeconfig.or(file.kubeconfig),
            manifests: path(args.manifests, file.manifests, MANIFESTS),
            cgroup: cgroup.ok_or(SettingsError::NoCgroup)?,
            bpf_dir: path(args.bpf_dir, file.bpf_dir, BPF_DIR),
            socket: path(socket, file.socket, SOCKET),
            metrics_address: metrics_address.map_or(Some(METRICS_ADDRESS), |address| address.0),
            log: LogSettings {
                filter: log_level.unwrap_or_else(|| LOG_LEVEL.to_owned()),
                format: args.log_format.or(file.log_format).unwrap_or_default(),
            },
            acceleration: acceleration.unwrap_or_default(),
            observation_window: nonzero(window, OBSERVATION_WINDOW, "observation-window")?,
            stall_timeout: nonzero(stall, STALL_TIMEOUT, "stall-timeout")?,
            node_name: args.node_name.or(file.node_name).unwrap_or(host),
            zone: args.zone.or(file.zone),
            region: args.region.or(file.region),
            data_threads: args
                .data_threads
                .or(file.data_threads.map(|threads| threads.get().into()))
                .map_or_else(cores, usize::from),
            discovery,
            http,
        })
    }
}

/// Returns the name of this machine: that of the node where nobody gives one.
pub fn host() -> String {
    let host = rustix::system::uname();
    host.nodename().to_string_lossy().into_owned()
}

impl File {
    fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
            file: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| SettingsError::Parse {
            file: path.to_owned(),
            source: Box::new(source),
        })
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn path(flag: Option<PathBuf>, file: Option<PathBuf>, default: &str) -> PathBuf {
    flag.or(file).unwrap_or_else(|| PathBuf::from(default))
}

fn nonzero(
    given: Option<Duration>,
    default: Duration,
    name: &'static str,
) -> Result<Duration, SettingsError> {
    match given {
        Some(Duration::ZERO) => Err(SettingsError::Zero(name)),
        given => Ok(given.unwrap_or(default)),
    }
}

fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(Some).map_err(de::Error::custom)
}

fn format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Output>, D::Error> {
    let text = String::deserialize(deserializer)?;
    clap::ValueEnum::from_str(&text, false)
        .map(Some)
        .map_err(|_| de::Error::custom(format!("`{text}` is neither text nor json")))
}

fn source<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SourceKind>, D::Error> {
    let text = String::deserialize(deserializer)?;
    clap::ValueEnum::from_str(&text, false)
        .map(Some)
        .map_err(|_| de::Error::custom(format!("`{text}` is neither manifests nor kubernetes")))
}

fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HttpMetricsNames>, D::Error> {
    let text = String::deserialize(deserializer)?;
    clap::ValueEnum::from_str(&text, false)
        .map(Some)
        .map_err(|_| de::Error::custom(format!("`{text}` is neither mesh nor istio")))
}

/// A number, as TOML has them.
fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Share>, D::Error> {
    let number = f64::deserialize(deserializer)?;
    let share = number.to_string().parse();
    share.map(Some).map_err(de::Error::custom)
}

fn dns_capture<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DnsCapture>, D::Error> {
    let text = String::deserialize(deserializer)?;
    clap::ValueEnum::from_str(&text, false)
        .map(Some)
        .map_err(|_| de::Error::custom(format!("`{text}` is none of auto, on, off")))
}

#[cfg(test)]
mod tests;
