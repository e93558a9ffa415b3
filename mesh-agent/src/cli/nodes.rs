//! Flags of commands that can ask the agents of all nodes.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::telemetry::filter::parse_duration;

/// Heading of the flags below.
const HEADING: &str = "All nodes";

/// Flags of commands that can ask the agents of all nodes.
#[derive(Clone, Debug, Args)]
pub struct NodesArgs {
    /// Ask the agents of all nodes of a Kubernetes cluster, through its API server. Takes the rights to list nodes, to list the
    /// agents' pods, and to execute in them. Exit code 1 when a node has no agent, or one that does not answer.
    #[arg(long, help_heading = HEADING)]
    pub all_nodes: bool,
    /// How to reach the API server [default: the files of KUBECONFIG, else ~/.kube/config, else the service account of the pod].
    #[arg(long, value_name = "FILE", requires = "all_nodes", help_heading = HEADING)]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the agents' pods.
    #[arg(long, value_name = "NAMESPACE", requires = "all_nodes", default_value = "underpass-system", help_heading = HEADING)]
    pub agent_namespace: String,
    /// Time for the answer of one node.
    #[arg(long, value_name = "DURATION", requires = "all_nodes", default_value = "15s", value_parser = parse_duration, help_heading = HEADING)]
    pub node_timeout: Duration,
}

/// Arguments of `workloads`.
#[derive(Clone, Debug, Args)]
pub struct WorkloadsArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub nodes: NodesArgs,
}
