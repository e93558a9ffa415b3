//! The whole agent on a test API server: what is served becomes what is in the kernel, also while the server is away.

use harness::apiserver::{ApiServer, large};
use harness::kubepod::Shape;
use harness::memory::anonymous_bytes;
use harness::wait::PATIENCE;
use harness::{Agent, KubePod, Node, require_root, wait_for};
use serde_json::{Value, json};

fn object(pod: &KubePod) -> Value {
    let mut object = pod.object("default");
    object["metadata"]["annotations"] = json!({"underpass.dev/acceleration": "on"});
    object
}

/// Returns the names of the workloads that were found on this machine.
fn found(agent: &Agent) -> Vec<String> {
    let answer = agent
        .json(&["workloads", "--output", "json"])
        .unwrap_or_default();
    let all = answer["workloads"].as_array().cloned().unwrap_or_default();
    let is_found = |workload: &&Value| {
        !matches!(
            workload["state"].as_str(),
            Some("not-found" | "not-enrolled" | "elsewhere")
        )
    };
    let names = all
        .iter()
        .filter(is_found)
        .filter_map(|workload| workload["name"].as_str());
    names.map(str::to_owned).collect()
}

#[test]
fn what_the_server_says_is_in_force_also_while_it_is_away() {
    if !require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let pod = |name| KubePod::start(&node, name, Shape::USUAL).unwrap();
    let (client, server) = (pod("client"), pod("server"));
    // Where the agent can reach it.
    let api = node.enter(ApiServer::start).unwrap().unwrap();
    let labels = json!({"underpass.dev/mesh": "enabled"});
    api.set(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "labels": labels}}));
    api.set(object(&client));
    let kubeconfig = api.kubeconfig(node.files()).unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let arguments = [
        "--source",
        "kubernetes",
        "--kubeconfig",
        &kubeconfig,
        "--node-name",
        "node-1",
    ];
    let mut agent = Agent::start(&node, &arguments).unwrap();
    wait_for("the client", PATIENCE, || found(&agent) == ["client"]).unwrap();
    api.set(object(&server));
    wait_for("the server too", PATIENCE, || {
        found(&agent) == ["client", "server"]
    })
    .unwrap();
    let synced = || {
        agent
            .status_text()
            .is_ok_and(|text| text.contains("Kubernetes  synced with http://127.0.0.1:"))
    };
    wait_for("the status to say so", PATIENCE, synced).unwrap();

    // Stopped, so that all is on disk.
    agent.stop().unwrap();
    api.go_away();
    agent.start_again().unwrap();
    wait_for("both from the disk", PATIENCE, || {
        found(&agent) == ["client", "server"]
    })
    .unwrap();
    let told = || {
        agent
            .status_text()
            .is_ok_and(|text| text.contains("running what was kept"))
    };
    wait_for("the status to say where that is from", PATIENCE, told).unwrap();

    api.delete("Pod", "default", "client");
    node.enter(|| api.come_back()).unwrap().unwrap();
    wait_for("the client to be gone", PATIENCE, || {
        found(&agent) == ["server"]
    })
    .unwrap();
}

/// What the agent may have resident with a large cluster.
const MEMORY: u64 = 120 << 20;

#[test]
fn a_large_cluster_fits() {
    if !require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let api = node.enter(ApiServer::start).unwrap().unwrap();
    api.change(|state| large::fill(state, "node-1"));
    let kubeconfig = api.kubeconfig(node.files()).unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let arguments = [
        "--source",
        "kubernetes",
        "--kubeconfig",
        &kubeconfig,
        "--node-name",
        "node-1",
    ];
    let agent = Agent::start_within(&node, &arguments, 6 * PATIENCE).unwrap();
    let synced = || {
        agent
            .status()
            .is_ok_and(|status| status["kubernetes"]["state"] == "synced")
    };
    wait_for("the agent to know everything", 3 * PATIENCE, synced).unwrap();
    let status = agent.status().unwrap();
    assert_eq!(status["workloads"]["total"], large::PODS);
    let resident = anonymous_bytes(agent.pid().unwrap()).unwrap();
    let code = agent.resident_bytes().unwrap() - resident;
    println!("{} MB of code", code >> 20);
    let requests = &status["kubernetes"]["requests"];
    println!(
        "{} pods, {} services, {} routes: {} MB resident, {requests} requests",
        large::PODS,
        large::SERVICES,
        large::ROUTES,
        resident >> 20
    );
    assert!(resident < MEMORY, "{} MB resident", resident >> 20);
}
