//! Nodes that wait for their agent: their taint goes when the agent's pod is ready. Never put on by us. Pure.
//!
//! A node may be registered with the taint, so that no pod comes before the mesh. The whole list of taints is written, with the
//! version of the node that it was read in: whoever changes taints in between is not overwritten.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::config::key::Key;

/// Key of the taint.
const TAINT: &str = "underpass.dev/agent-not-ready";

/// The agents' pods.
#[derive(Debug, Default)]
pub(super) struct Agents {
    pods: HashMap<Key, Agent>,
}

#[derive(Debug)]
struct Agent {
    node: String,
    is_ready: bool,
}

impl Agents {
    /// Takes in what became of a pod; returns the nodes that it was and is on.
    pub(super) fn set(&mut self, key: Key, pod: Option<&Value>) -> BTreeSet<String> {
        let before = match pod {
            None => self.pods.remove(&key),
            Some(pod) => self.pods.insert(key.clone(), read(pod)),
        };
        let now = self.pods.get(&key);
        let nodes = before.iter().chain(now).map(|it| it.node.clone());
        nodes.filter(|node| !node.is_empty()).collect()
    }

    /// Returns whether a pod on this node is ready.
    pub(super) fn is_ready(&self, node: &str) -> bool {
        self.pods.values().any(|it| it.is_ready && it.node == node)
    }
}

fn read(pod: &Value) -> Agent {
    let conditions = pod["status"]["conditions"].as_array();
    let is_ready = |it: &Value| it["type"] == "Ready" && it["status"] == "True";
    let is_going = !pod["metadata"]["deletionTimestamp"].is_null();
    let node = pod["spec"]["nodeName"].as_str();
    Agent {
        node: node.unwrap_or_default().to_owned(),
        is_ready: !is_going && conditions.into_iter().flatten().any(is_ready),
    }
}

/// Returns the merge patch that takes the taint from a node, or `None` where it has none.
pub(super) fn without_taint(node: &Value) -> Option<Value> {
    let taints = node["spec"]["taints"].as_array()?;
    let others: Vec<&Value> = taints.iter().filter(|it| it["key"] != TAINT).collect();
    if others.len() == taints.len() {
        return None;
    }
    let left = match others.is_empty() {
        true => Value::Null,
        false => json!(others),
    };
    let version = &node["metadata"]["resourceVersion"];
    Some(json!({"metadata": {"resourceVersion": version}, "spec": {"taints": left}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::key::Kind;

    fn key(name: &str) -> Key {
        Key {
            kind: Kind::Pod,
            namespace: "underpass-system".to_owned(),
            name: name.to_owned(),
        }
    }

    fn pod(node: &str, ready: &str) -> Value {
        json!({"metadata": {}, "spec": {"nodeName": node}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn a_node_is_ready_while_a_pod_on_it_is_and_stays() {
        let mut agents = Agents::default();
        assert!(!agents.is_ready("n1"));
        let nodes = agents.set(key("a"), Some(&pod("n1", "False")));
        assert_eq!(nodes, BTreeSet::from(["n1".to_owned()]));
        assert!(!agents.is_ready("n1"));
        agents.set(key("a"), Some(&pod("n1", "True")));
        assert!(agents.is_ready("n1") && !agents.is_ready("n2"));
        let mut going = pod("n1", "True");
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        agents.set(key("a"), Some(&going));
        assert!(!agents.is_ready("n1"));
        assert_eq!(agents.set(key("a"), None).len(), 1);
        assert!(agents.set(key("b"), Some(&pod("", "False"))).is_empty());
    }

    #[test]
    fn other_taints_stay() {
        let ours = json!({"key": TAINT, "effect": "NoSchedule"});
        let other = json!({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
        let node = |taints: Value| json!({"metadata": {"resourceVersion": "5"}, "spec": {"taints": taints}});
        assert_eq!(without_taint(&node(json!([other]))), None);
        assert_eq!(without_taint(&node(Value::Null)), None);
        let patch = without_taint(&node(json!([other, ours]))).unwrap();
        assert_eq!(
            patch,
            json!({"metadata": {"resourceVersion": "5"}, "spec": {"taints": [other]}})
        );
        let patch = without_taint(&node(json!([ours]))).unwrap();
        assert_eq!(patch["spec"]["taints"], Value::Null);
    }
}
