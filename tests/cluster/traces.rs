//! What is left on nodes.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::kubectl::{Kubectl, identity};
use crate::options::Options;

/// How long a pod may take that does one thing.
const DONE: Duration = Duration::from_secs(120);

/// Where pods look that have to see the node.
const NAMESPACE: &str = "underpass-system";

/// Returns the names of all nodes that pods may run on.
pub(crate) fn nodes(kubectl: &Kubectl) -> Result<Vec<String>> {
    let text = kubectl.run(&["get", "nodes", "-o", "json"], None)?;
    let list: Value = serde_json::from_str(&text)?;
    let names = list["items"].as_array().into_iter().flatten();
    let names = names.filter_map(|node| node["metadata"]["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Runs pods to their ends, removes them, and returns what they printed.
pub(crate) fn run_pods(kubectl: &Kubectl, namespace: &str, pods: &[Value]) -> Result<Vec<String>> {
    kubectl.apply(pods)?;
    let mut printed = Vec::new();
    for pod in pods {
        let (_, _, name) = identity(pod);
        let is_over = |pod: &Value| {
            matches!(
                pod["status"]["phase"].as_str(),
                Some("Succeeded" | "Failed")
            )
        };
        let ended = kubectl.wait(("pod", namespace, &name), DONE, is_over)?;
        let text = kubectl.run(&["logs", &name, "--namespace", namespace], None)?;
        if ended["status"]["phase"] == "Failed" {
            bail!("{name}: {text}{}", ended["status"]);
        }
        printed.push(text);
    }
    kubectl.delete(pods)?;
    Ok(printed)
}

/// A node, and the numbers of the maps of its agent.
pub(crate) type Held = (String, Vec<u64>);

/// Returns what the agents of all nodes have in the kernel.
pub(crate) fn held(kubectl: &Kubectl, options: &Options) -> Result<Vec<Held>> {
    let nodes = nodes(kubectl)?;
    let pods: Vec<Value> = nodes
        .iter()
        .map(|node| pod(options, node, &["--maps"]))
        .collect();
    let told = run_pods(kubectl, NAMESPACE, &pods)?;
    let all = nodes.into_iter().zip(told).map(|(node, text)| {
        let seen: Value = serde_json::from_str(text.trim()).with_context(|| text.clone())?;
        Ok((node, serde_json::from_value(seen["maps"].clone())?))
    });
    all.collect()
}

/// Returns what is left of the mesh in the nodes' kernels.
pub(crate) fn look(kubectl: &Kubectl, options: &Options, nodes: &[Held]) -> Result<Vec<String>> {
    let pods: Vec<Value> = nodes
        .iter()
        .map(|(node, maps)| {
            let maps: Vec<String> = maps.iter().map(u64::to_string).collect();
            match maps.is_empty() {
                true => pod(options, node, &[]),
                false => pod(options, node, &["--of", &maps.join(",")]),
            }
        })
        .collect();
    let mut all = Vec::new();
    for ((node, _), text) in nodes.iter().zip(run_pods(kubectl, NAMESPACE, &pods)?) {
        let seen: Value = serde_json::from_str(text.trim()).with_context(|| text.clone())?;
        let left = seen["left"].as_array().cloned().unwrap_or_default();
        all.extend(
            left.iter()
                .map(|it| format!("{node}: {}", it.as_str().unwrap_or_default())),
        );
    }
    Ok(all)
}

/// Returns a pod that looks at what a node's kernel holds, which takes all rights there are.
pub(crate) fn pod(options: &Options, node: &str, words: &[&str]) -> Value {
    let args = [&["left", "--bpf-dir", "/sys/fs/bpf/underpass"], words].concat();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("look-{node}"), "namespace": NAMESPACE},
    "spec": {
        "nodeName": node, "restartPolicy": "Never", "automountServiceAccountToken": false,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{
            "name": "look", "image": options.image(&options.peer_image), "imagePullPolicy": "IfNotPresent",
            "command": [options.peer_program], "args": args,
            // The image's own user is nobody, who may do nothing even so.
            "securityContext": {"privileged": true, "runAsUser": 0},
            "volumeMounts": [{"name": "bpf", "mountPath": "/sys/fs/bpf"}],
        }],
        "volumes": [{"name": "bpf", "hostPath": {"path": "/sys/fs/bpf", "type": "Directory"}}],
    }})
}
