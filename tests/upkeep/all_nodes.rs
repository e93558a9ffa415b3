//! `--all-nodes`: one question to the agents of a whole cluster, through its API server.

use std::fs;
use std::path::PathBuf;

use harness::apiserver::{ApiServer, Exec};
use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node};
use serde_json::{Value, json};

use crate::told::{Told, agent};

const NAMESPACE: &str = "underpass-system";

/// Another than the default, so that it is seen to be taken.
const TIMEOUT: &str = "3s";

/// A cluster whose first node has a real agent.
struct Cluster {
    api: ApiServer,
    kubeconfig: PathBuf,
    _agent: Agent,
    _node: Node,
}

fn node(name: &str, os: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/os": os}},
        "spec": {"taints": []}})
}

fn pod(name: &str, node: &str, state: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/name": "underpass-agent"}},
        "spec": {"nodeName": node, "containers": [{"name": "agent", "image": "i"}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "agent", "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": state}]}})
}

impl Cluster {
    /// `None`, loudly, without root.
    fn new() -> Option<Self> {
        if !harness::require_root() {
            return None;
        }
        let on = Node::new().unwrap();
        let web = on.pod("web").unwrap();
        manifest::write(&web, Acceleration::On).unwrap();
        let real = Agent::start(&on, &[]).unwrap();
        real.wait_for_state(&["web"], "accelerated", PATIENCE)
            .unwrap();
        let api = ApiServer::start().unwrap();
        let socket = real.socket().to_owned();
        api.on_exec(move |namespace, pod, words| {
            assert_eq!((namespace, words[0].as_str()), (NAMESPACE, "node-agent"));
            match pod {
                "agent-a" => {
                    let mut command = std::process::Command::new(harness::agent::program().ok()?);
                    command.args(&words[1..]).arg("--socket").arg(&socket);
                    Some(Exec::Run(command))
                }
                "agent-b" => Some(Exec::Hang),
                "agent-c" => {
                    let mut command = std::process::Command::new("sh");
                    command.args(["-c", "echo node-agent: no agent runs here >&2; exit 3"]);
                    Some(Exec::Run(command))
                }
                _ => None,
            }
        });
        let running = json!({"running": {"startedAt": "2026-11-21T08:00:00Z"}});
        api.set(node("node-a", "linux"));
        api.set(pod("agent-a", "node-a", &running));
        // Somebody else's pod on the same node.
        let mut other = pod("other", "node-a", &running);
        other["metadata"]["labels"] = json!({});
        api.set(other);
        let kubeconfig = api.kubeconfig(on.files()).unwrap();
        Some(Self {
            api,
            kubeconfig,
            _agent: real,
            _node: on,
        })
    }

    fn ask(&self, words: &[&str]) -> Told {
        let kubeconfig = self.kubeconfig.display().to_string();
        let flags = [
            "--all-nodes",
            "--kubeconfig",
            &kubeconfig,
            "--node-timeout",
            TIMEOUT,
        ];
        agent(&[words, &flags].concat())
    }
}

/// One that lacks a right is not ready.
#[test]
fn a_controller_that_is_not_ready_is_told_of() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let controller = |ready: &str| {
        let mut pod = pod("controller-1", "node-a", &json!({"running": {}}));
        pod["metadata"]["labels"] = json!({"app.kubernetes.io/name": "underpass-controller"});
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": ready, "message": "containers with unready status: [controller]"}]);
        pod
    };
    cluster.api.set(controller("False"));
    let told = cluster.ask(&["status"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(
        told.out
            .contains("controller controller-1 is not ready: containers with unready"),
        "{told:?}"
    );
    cluster.api.set(controller("True"));
    let told = cluster.ask(&["status", "--output", "json"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(
        told.json()["controllers"],
        json!([{"pod": "controller-1", "ready": true, "why": null}])
    );
}

#[test]
fn every_node_is_told_of() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let all_is_well = cluster.ask(&["status", "--output", "json"]);
    assert_eq!(all_is_well.code, Some(0), "{all_is_well:?}");
    let answer = all_is_well.json();
    assert_eq!(answer["schema"], "underpass.dev/all-nodes/v1");
    assert_eq!(answer["nodes"].as_array().unwrap().len(), 1);
    let status = &answer["nodes"][0]["answer"];
    assert_eq!(status["schema"], "underpass.dev/status/v1", "{answer:#}");
    assert_eq!(status["workloads"]["total"], 1);

    let running = json!({"running": {}});
    let waits = json!({"waiting": {"reason": "ImagePullBackOff"}});
    for (name, pods) in [
        ("node-b", Some(("agent-b", &running))),
        ("node-c", Some(("agent-c", &running))),
        ("node-d", Some(("agent-d", &waits))),
        ("node-e", None),
        ("node-f", Some(("agent-f", &running))),
    ] {
        cluster.api.set(node(name, "linux"));
        if let Some((agent, state)) = pods {
            cluster.api.set(pod(agent, name, state));
        }
    }
    // No agent is meant to run there.
    cluster.api.set(node("node-w", "windows"));
    let told = cluster.ask(&["status", "--output", "json"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    let answer = told.json();
    let nodes = answer["nodes"].as_array().unwrap();
    let names: Vec<&str> = nodes
        .iter()
        .map(|it| it["node"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["node-a", "node-b", "node-c", "node-d", "node-e", "node-f"]
    );
    assert_eq!(nodes[0]["answer"]["degraded"], json!([]));
    for (node, why) in nodes[1..].iter().zip([
        "no answer within 3s",
        "no agent runs here",
        "ImagePullBackOff",
        "no agent runs here",
        "error dialing backend",
    ]) {
        assert!(node["answer"].is_null(), "{node:#}");
        let error = node["error"].as_str().unwrap();
        assert!(error.contains(why), "{error}");
    }

    let told = cluster.ask(&["status"]);
    assert_eq!(told.code, Some(1));
    assert!(
        told.out.contains("6 nodes, 1 ok, 5 without an answer"),
        "{}",
        told.out
    );
    let told = cluster.ask(&["workloads"]);
    assert_eq!(told.code, Some(1));
    assert!(told.out.contains("\nnode-a  default/web"), "{}", told.out);
    assert!(
        told.out.contains("\nnode-e: no agent runs here\n"),
        "{}",
        told.out
    );
}

#[test]
fn what_the_server_refuses_is_told() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    cluster
        .api
        .change(|state| state.faults.forbidden.insert("pods/exec".to_owned()));
    let told = cluster.ask(&["status"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(
        told.out.contains("cannot create resource \"pods/exec\""),
        "{}",
        told.out
    );
    cluster
        .api
        .change(|state| state.faults.forbidden.insert("nodes".to_owned()));
    let told = cluster.ask(&["status"]);
    assert_eq!((told.code, told.out.as_str()), (Some(3), ""), "{told:?}");
    assert!(told.err.contains("nodes is forbidden"), "{}", told.err);
    cluster.api.go_away();
    let told = cluster.ask(&["status"]);
    assert_eq!(told.code, Some(3), "{told:?}");
    assert!(
        told.err.contains("failed to list the pods of the mesh"),
        "{}",
        told.err
    );
    fs::write(&cluster.kubeconfig, "nonsense: [").unwrap();
    let told = cluster.ask(&["status"]);
    assert_eq!(told.code, Some(3), "{told:?}");
    assert!(told.err.contains("as kubeconfig"), "{}", told.err);
}
