//! The same question to the agents of all nodes.

#![forbid(unsafe_code)]

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::cli::nodes::NodesArgs;
use crate::ctl::exit::{CtlError, Exit};
use crate::source::kubernetes::agents::{Agents, ControllerPod, NodeAgent};

/// Agents that are asked at one time: enough for a thousand nodes in some seconds, few enough for one API server.
const TOGETHER: usize = 16;

/// Schema of [`Everywhere`].
const SCHEMA: &str = "underpass.dev/all-nodes/v1";

/// What the agents of all nodes said.
#[derive(Debug, Serialize)]
pub(super) struct Everywhere {
    /// [`SCHEMA`].
    schema: &'static str,
    /// One for each node, by name.
    pub(super) nodes: Vec<Answered>,
    /// The controller's pods, by name; none where it is not installed.
    pub(super) controllers: Vec<ControllerPod>,
}

/// What one node's agent said.
#[derive(Debug, Serialize)]
pub(super) struct Answered {
    /// The node.
    pub(super) node: String,
    /// The agent's pod, where one could be asked.
    pub(super) pod: Option<String>,
    /// Why there is no answer.
    pub(super) error: Option<String>,
    /// The answer, as the command prints it on the node itself with `--output json`.
    pub(super) answer: Option<Value>,
}

impl Everywhere {
    /// Returns `Fine` where every node answered, and every answer is `good`.
    pub(super) fn exit(&self, good: impl Fn(&Value) -> bool) -> Exit {
        let is_good = |node: &Answered| node.answer.as_ref().is_some_and(&good);
        match self.nodes.iter().all(is_good) {
            true => Exit::Fine,
            false => Exit::Bad,
        }
    }
}

/// Asks the agents of all nodes.
///
/// # Errors
///
/// When the API server does not say which they are.
pub(super) async fn ask(args: &NodesArgs, words: &[&str]) -> Result<Everywhere, CtlError> {
    let no_cluster = |error: anyhow::Error| CtlError::NoCluster(format!("{error:#}"));
    let agents = Agents::of(args.kubeconfig.as_deref(), &args.agent_namespace).await;
    let agents = agents.map_err(no_cluster)?;
    let nodes = agents.nodes().await.map_err(no_cluster)?;
    let controllers = agents.controllers().await.map_err(no_cluster)?;
    if nodes.is_empty() {
        return Err(CtlError::NoCluster("the cluster has no nodes".to_owned()));
    }
    let answers = nodes
        .into_iter()
        .map(|node| one(&agents, node, args, words));
    // In the order of the nodes, whoever answers first.
    let answers = stream::iter(answers).buffered(TOGETHER).collect().await;
    Ok(Everywhere {
        schema: SCHEMA,
        nodes: answers,
        controllers,
    })
}

async fn one(agents: &Agents, node: NodeAgent, args: &NodesArgs, words: &[&str]) -> Answered {
    let NodeAgent { node, pod } = node;
    let (pod, answer) = match pod {
        Err(why) => (None, Err(why)),
        Ok(pod) => {
            let answer = match timeout(args.node_timeout, agents.ask(&pod, words)).await {
                Err(_) => Err(format!("no answer within {:?}", args.node_timeout)),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Ok(Ok(text)) => serde_json::from_slice(&text)
                    .map_err(|error| format!("its answer is no JSON: {error}")),
            };
            (Some(pod), answer)
        }
    };
    let (answer, error) = match answer {
        Ok(answer) => (Some(answer), None),
        Err(error) => (None, Some(error)),
    };
    Answered {
        node,
        pod,
        error,
        answer,
    }
}

#[cfg(test)]
pub(super) fn everywhere(nodes: &[(&str, Result<Value, &str>)]) -> Everywhere {
    let answered = |(node, answer): &(&str, Result<Value, &str>)| Answered {
        node: (*node).to_owned(),
        pod: answer.is_ok().then(|| format!("underpass-agent-{node}")),
        error: answer.as_ref().err().map(|why| (*why).to_owned()),
        answer: answer.as_ref().ok().cloned(),
    };
    Everywhere {
        schema: SCHEMA,
        nodes: nodes.iter().map(answered).collect(),
        controllers: Vec::new(),
    }
}
