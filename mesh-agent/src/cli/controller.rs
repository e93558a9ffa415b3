//! Arguments of `controller`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::{MetricsAddress, Output};
use crate::telemetry::filter::parse_duration;

/// Flags of `controller`. Each may come from the environment.
#[derive(Clone, Debug, Default, Args)]
pub struct ControllerArgs {
    /// How to reach the API server [default: the files of KUBECONFIG, else the service account of the pod].
    #[arg(long, env = "UNDERPASS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the agents' pods and of the lease [default: underpass-system].
    #[arg(long, env = "UNDERPASS_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// Address for /metrics, /healthz and /readyz, or `off` [default: 127.0.0.1:15021].
    #[arg(long, env = "UNDERPASS_METRICS_ADDRESS", value_name = "ADDRESS")]
    pub metrics_address: Option<MetricsAddress>,
    /// Log level, or a filter such as `info,mesh_agent::controller=debug` [default: info].
    #[arg(long, env = "UNDERPASS_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,
    /// Form of the log on standard error [default: text].
    #[arg(long, env = "UNDERPASS_LOG_FORMAT", value_enum, value_name = "FORM")]
    pub log_format: Option<Output>,
    /// How long other controllers wait for one that leads and says nothing, in whole seconds [default: 15s].
    #[arg(long, env = "UNDERPASS_LEASE_DURATION", value_name = "DURATION", value_parser = parse_duration)]
    pub lease_duration: Option<Duration>,
    /// How long the one that leads tries to say so before it gives up [default: 10s].
    #[arg(long, env = "UNDERPASS_LEASE_RENEW_DEADLINE", value_name = "DURATION", value_parser = parse_duration)]
    pub lease_renew_deadline: Option<Duration>,
    /// Time between two tries [default: 2s].
    #[arg(long, env = "UNDERPASS_LEASE_RETRY_PERIOD", value_name = "DURATION", value_parser = parse_duration)]
    pub lease_retry_period: Option<Duration>,
}
