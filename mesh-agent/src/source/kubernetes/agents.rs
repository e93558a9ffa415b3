//! The agents of a cluster, asked through its API server.
//!
//! A question is the agent's own command line, executed in the agent's container: so the admin socket stays the only door to an
//! agent, no port is opened on any node, and who may ask is who may execute in these pods.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::api::{Api, AttachParams, AttachedProcess, ListParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::client;
use crate::chain::chain;

/// What the pods of the agents bear, and nobody else's.
const SELECTOR: &str = "app.kubernetes.io/name=underpass-agent";

/// And those of the controller.
const CONTROLLER_SELECTOR: &str = "app.kubernetes.io/name=underpass-controller";

/// The agent's container in its pod, and its program there.
const CONTAINER: &str = "agent";
const PROGRAM: &str = "node-agent";

/// Where a node says which operating system it has.
const OS_LABEL: &str = "kubernetes.io/os";

/// Objects in one answer: some megabytes of pods.
const PAGE: u32 = 500;

/// Bytes of an answer on their way: what one message of the server holds.
const PIPE_BYTES: usize = 32 * 1024;

/// Bytes of one agent's answer: ten times what 10,000 workloads take.
const ANSWER_BYTES: u64 = 64 << 20;

/// Bytes of what an agent says on standard error.
const COMPLAINT_BYTES: u64 = 64 << 10;

/// A node, and its agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeAgent {
    /// Its name.
    pub node: String,
    /// The agent's pod, or why there is none that could be asked.
    pub pod: Result<String, String>,
}

/// A pod of the controller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ControllerPod {
    /// Its name.
    pub pod: String,
    /// Whether it is ready: one that lacks a right is not.
    pub ready: bool,
    /// Why it is not, as far as the API server knows.
    pub why: Option<String>,
}

/// The agents of a cluster.
pub struct Agents {
    client: Client,
    server: String,
    namespace: String,
}

impl std::fmt::Debug for Agents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agents").finish_non_exhaustive()
    }
}

impl Agents {
    /// Returns the agents of the cluster that a file names; without one, that of `KUBECONFIG`, or the one that this runs in.
    /// Connects to nothing.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be made sense of.
    pub async fn of(kubeconfig: Option<&Path>, namespace: &str) -> anyhow::Result<Self> {
        let config = client::config(kubeconfig).await?;
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/').to_owned();
        let client = Client::try_from(config);
        Ok(Self {
            client: client
                .with_context(|| format!("failed to prepare for the API server `{server}`"))?,
            server,
            namespace: namespace.to_owned(),
        })
    }

    /// Returns the nodes that an agent is to run on, in the order of their names.
    ///
    /// # Errors
    ///
    /// When the API server does not tell.
    pub async fn nodes(&self) -> anyhow::Result<Vec<NodeAgent>> {
        let pods = self.pods().await?;
        let api = Api::<Node>::all(self.client.clone());
        let mut page = ListParams::default().limit(PAGE);
        let mut found = Vec::new();
        loop {
            let list = api.list_metadata(&page).await;
            let list = list.with_context(|| self.refused("nodes"))?;
            for node in &list.items {
                let name = node.name_any();
                let is_linux = node.labels().get(OS_LABEL).is_none_or(|os| os == "linux");
                if is_linux {
                    let pod = match pods.get(&name) {
                        Some(pod) => askable(pod),
                        None => Err("no agent runs here".to_owned()),
                    };
                    found.push(NodeAgent { node: name, pod });
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        found.sort_unstable_by(|one, other| one.node.cmp(&other.node));
        Ok(found)
    }

    /// Returns the controller's pods that are to stay, in the order of their names.
    ///
    /// # Errors
    ///
    /// When the API server does not tell.
    pub async fn controllers(&self) -> anyhow::Result<Vec<ControllerPod>> {
        let pods = self.labelled(CONTROLLER_SELECTOR).await?;
        let stay = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut found: Vec<ControllerPod> = stay.map(controller).collect();
        found.sort_unstable_by(|one, other| one.pod.cmp(&other.pod));
        Ok(found)
    }

    /// Returns the agents' pods by node; where a node has two, the one that stays.
    async fn pods(&self) -> anyhow::Result<BTreeMap<String, Pod>> {
        let mut found = BTreeMap::new();
        for pod in self.labelled(SELECTOR).await? {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let Some(node) = node else { continue };
            let goes = pod.metadata.deletion_timestamp.is_some();
            if !goes || !found.contains_key(&node) {
                found.insert(node, pod);
            }
        }
        Ok(found)
    }

    async fn labelled(&self, selector: &str) -> anyhow::Result<Vec<Pod>> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let mut page = ListParams::default().labels(selector).limit(PAGE);
        let mut found = Vec::new();
        loop {
            let list = api.list(&page).await;
            let list = list.with_context(|| self.refused("the pods of the mesh"))?;
            found.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    fn refused(&self, what: &str) -> String {
        format!("failed to list {what} at the API server `{}`", self.server)
    }

    /// Returns what an agent's command line answers on standard output, whatever its exit code: a bad answer is an answer.
    ///
    /// # Errors
    ///
    /// When it cannot be run, or says nothing.
    pub async fn ask(&self, pod: &str, words: &[&str]) -> anyhow::Result<Vec<u8>> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let how = AttachParams::default()
            .container(CONTAINER)
            .max_stdout_buf_size(PIPE_BYTES);
        let command = std::iter::once(PROGRAM).chain(words.iter().copied());
        let command: Vec<&str> = command.collect();
        let process = api.exec(pod, command, &how).await;
        let process = process.map_err(|error| anyhow::anyhow!("{}", chain(&error)))?;
        answer(process).await
    }
}

/// Reads what a process says until it ends.
async fn answer(mut process: AttachedProcess) -> anyhow::Result<Vec<u8>> {
    let (out, complaints) = (process.stdout(), process.stderr());
    let status = process.take_status().context("no status")?;
    let (out, complaints, status) = tokio::join!(
        read(out, ANSWER_BYTES),
        read(complaints, COMPLAINT_BYTES),
        status
    );
    let (out, complaints) = (out?, complaints?);
    if !out.is_empty() {
        return Ok(out);
    }
    let complaints = String::from_utf8_lossy(&complaints).trim().to_owned();
    match status.and_then(|status| status.message) {
        _ if !complaints.is_empty() => bail!("{complaints}"),
        Some(message) => bail!("{message}"),
        None => bail!("the connection broke"),
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>, most: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // One more, to see that there is more.
        let mut from = from.take(most + 1);
        from.read_to_end(&mut bytes).await?;
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length > most) {
        bail!("the answer is longer than {} KiB", most >> 10);
    }
    Ok(bytes)
}

/// Returns the pod's name if its agent can be asked, or why not.
fn askable(pod: &Pod) -> Result<String, String> {
    let name = pod.name_any();
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let agent = containers
        .into_iter()
        .flatten()
        .find(|it| it.name == CONTAINER);
    if let Some(why) = agent.and_then(stopped) {
        return Err(format!("its agent's pod {name} is not running: {why}"));
    }
    match status.and_then(|status| status.phase.as_deref()) {
        Some("Running") => Ok(name),
        phase => Err(format!(
            "its agent's pod {name} is {}",
            phase.unwrap_or("new")
        )),
    }
}

/// Returns how a pod of the controller stands.
fn controller(pod: &Pod) -> ControllerPod {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    let condition = conditions.find(|it| it.type_ == "Ready");
    let ready = condition.is_some_and(|it| it.status == "True");
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let stopped = containers.into_iter().flatten().find_map(stopped);
    let told = || condition.and_then(|it| it.message.clone());
    let why = || stopped.or_else(told).unwrap_or_default();
    ControllerPod {
        pod: pod.name_any(),
        ready,
        why: (!ready).then(why),
    }
}

/// Returns why a container does not run, in kubelet's words.
fn stopped(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let (reason, message) = (waiting.reason.as_deref(), waiting.message.as_deref());
        let words: Vec<&str> = [reason, message].into_iter().flatten().collect();
        return Some(words.join(": "));
    }
    let ended = state.terminated.as_ref()?;
    let reason = ended.reason.as_deref().unwrap_or("ended");
    Some(format!("{reason}, exit code {}", ended.exit_code))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_does_not_run_says_why() {
        let pod = |status: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).unwrap()
        };
        let container = |state: serde_json::Value| {
            json!({"phase": "Running", "containerStatuses": [
                {"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 3, "state": state}]})
        };
        let running = container(json!({"running": {}}));
        assert_eq!(askable(&pod(running)), Ok("a".to_owned()));
        let waits = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}});
        let ended = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        for (status, why) in [
            (container(waits), "CrashLoopBackOff: back-off 5m0s"),
            (container(ended), "Error, exit code 1"),
            (json!({"phase": "Pending"}), "is Pending"),
        ] {
            let told = askable(&pod(status)).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
