//! Pods are found by their UIDs in every shape of the tree of cgroups, whatever state they are in; and whoever is not is named.

use harness::kubepod::{Driver, KubePod, Shape};
use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use harness::{Node, Remote, wait_for};
use serde_json::{Value, json};

use super::scene::{Mesh, SHOP, Scene, ip, labelled, namespace, wait_for_dial};

#[test]
fn an_agent_that_is_ready_has_found_all_pods_that_were_there() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.api.set(namespace(Mesh::Enabled));
    let pods: Vec<KubePod> = Shape::all()
        .into_iter()
        .enumerate()
        .map(|(index, shape)| {
            let pod = scene.pod(&format!("pod-{index}"), shape);
            // What the API server says of containers is so.
            let container = pod.container(1).unwrap();
            drop(container);
            pod
        })
        .collect();
    scene.start_agent();
    let status = scene.agent().status().unwrap();
    assert_eq!(status["enrolment"]["captured"], pods.len());
    assert_eq!(status["enrolment"]["not_captured"], json!([]));
    // Found by their UIDs, or it would be said.
    let all = scene
        .agent()
        .json(&["workloads", "--output", "json"])
        .unwrap();
    for workload in all["workloads"].as_array().unwrap() {
        assert!(workload["note"].is_null(), "{workload}");
    }
}

#[test]
fn a_pod_of_a_file_is_found_by_what_its_mirror_says_of_it() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.api.set(namespace(Mesh::Enabled));
    let systemd = Shape {
        driver: Driver::Systemd,
        ..Shape::USUAL
    };
    let pods = [("file", Shape::USUAL), ("slice", systemd)].map(|(name, shape)| {
        let mut pod = KubePod::of_file(&scene.node, name, shape).unwrap();
        pod.start_sandbox().unwrap();
        // Nobody could find it by an address.
        scene.api.set(pod.pending(SHOP));
        pod
    });
    scene.start_agent();
    for pod in ["file", "slice"] {
        scene.wait_until_captured(pod);
    }
    // Who says to be of that file and is no mirror, or of a pod that is none of a file, gets nothing by it.
    let mut liar = pods[0].object(SHOP);
    liar["metadata"]["name"] = "liar".into();
    liar["metadata"]["uid"] = "aaaaaaaa-0000-4000-8000-000000000001".into();
    let annotations = liar["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.remove("kubernetes.io/config.mirror");
    liar["status"] = json!({"phase": "Pending"});
    let victim = scene.pod("victim", Shape::USUAL);
    let mut thief = liar.clone();
    thief["metadata"]["name"] = "thief".into();
    thief["metadata"]["uid"] = "aaaaaaaa-0000-4000-8000-000000000002".into();
    thief["metadata"]["annotations"]["kubernetes.io/config.mirror"] = victim.uid().into();
    scene.api.delete("Pod", SHOP, "victim");
    scene.serve([liar, thief]);
    scene.wait_for_not_captured(&[("liar", "not-started"), ("thief", "not-started")]);
    for pod in ["file", "slice"] {
        scene.wait_until_captured(pod);
    }
}

#[test]
fn a_pod_is_taken_in_while_only_its_init_container_runs_and_gone_when_it_has_ended() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.api.set(namespace(Mesh::Enabled));
    let mut pod = KubePod::new(&scene.node, "job", Shape::USUAL).unwrap();
    scene.api.set(pod.pending(SHOP));
    scene.start_agent();
    scene.wait_for_not_captured(&[("job", "not-started")]);
    // Its sandbox fails, as far as anybody can see; then it comes.
    pod.start_sandbox().unwrap();
    scene.wait_until_captured("job");
    let handle = scene.agent().workload("job").unwrap()["id"].clone();
    pod.stop_sandbox();
    scene.wait_for_not_captured(&[("job", "not-started")]);
    pod.start_sandbox().unwrap();
    let _init = Remote::start(&pod.container(1).unwrap()).unwrap();
    scene.wait_until_captured("job");
    // The API server learns of its address, and that it runs.
    scene.api.set(pod.object(SHOP));
    wait_for("the address to be known", PATIENCE, || {
        let workload = scene.agent().workload("job").unwrap();
        workload["addresses"]
            .as_array()
            .is_some_and(|it| it.len() == 2)
    })
    .unwrap();
    assert_ne!(scene.agent().workload("job").unwrap()["id"], 0);
    assert_ne!(handle, 0);
    // A Job's pod keeps its address when it is done.
    let mut done = pod.object(SHOP);
    done["status"]["phase"] = "Succeeded".into();
    scene.api.set(done);
    wait_for("the pod to be no workload", PATIENCE, || {
        scene.agent().workload("job").unwrap().is_null()
    })
    .unwrap();
    assert!(scene.not_captured().is_empty());
}

/// Returns a pod's object like another one's, of a pod that is nowhere.
fn alike(pod: &Value, name: &str, number: u8, address: &str) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["uid"] = format!("aaaaaaaa-0000-4000-8000-{number:012}").into();
    pod["status"]["podIPs"] = json!([{"ip": address}]);
    pod["status"]["podIP"] = address.into();
    pod
}

#[test]
fn whoever_is_in_the_mesh_and_not_captured_is_named() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.api.set(namespace(Mesh::Enabled));
    let here = scene.pod("here", Shape::USUAL);
    let mut host = alike(&here.object(SHOP), "proxy", 1, "192.0.2.9");
    host["spec"]["hostNetwork"] = true.into();
    let lost = alike(&here.object(SHOP), "lost", 2, "192.0.2.10");
    let mut elsewhere = alike(&lost, "elsewhere", 3, "192.0.2.11");
    elsewhere["spec"]["nodeName"] = "node-2".into();
    let mut broken = alike(&lost, "broken", 4, "192.0.2.10");
    broken["status"]["podIPs"] = json!([{"ip": "192.0.2.300"}]);
    scene.serve([host.clone(), lost.clone(), elsewhere, broken.clone()]);
    scene.start_agent();
    let expected = [
        ("broken", "rejected"),
        ("lost", "not-found"),
        ("proxy", "host-network"),
    ];
    scene.wait_for_not_captured(&expected);
    let agent = scene.agent();
    let text = agent.status_text().unwrap();
    assert!(
        text.contains("in the mesh and not captured: 2 pods"),
        "{text}"
    );
    assert!(text.contains("shop/lost: "), "{text}");
    assert!(
        text.contains("shop/broken: its object is not valid"),
        "{text}"
    );
    assert!(
        text.contains("shop/proxy: it has the node's own network"),
        "{text}"
    );
    let text = agent.ask(&["workloads"]).unwrap();
    let line = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_default().to_owned()
    };
    assert!(line("shop/proxy").contains("host network"), "{text}");
    assert!(line("shop/broken").contains("rejected"), "{text}");
    assert!(line("shop/lost").contains("not found"), "{text}");
    assert!(line("shop/elsewhere").contains("elsewhere"), "{text}");
    let metrics = agent.metrics().unwrap();
    for sample in [
        "mesh_enrolled_workloads{state=\"captured\"} 1",
        "mesh_enrolled_workloads{state=\"not_captured\"} 3",
        "mesh_workloads_not_captured{namespace=\"shop\",pod=\"broken\",reason=\"rejected\"} 1",
        "mesh_workloads_not_captured{namespace=\"shop\",pod=\"lost\",reason=\"not_found\"} 1",
        "mesh_workloads_not_captured{namespace=\"shop\",pod=\"proxy\",reason=\"host_network\"} 1",
    ] {
        assert!(
            metrics.lines().any(|line| line == sample),
            "{sample}: {metrics}"
        );
    }
    // Who is taken out of the mesh is not missed.
    scene.serve([
        labelled(host, Mesh::Disabled),
        labelled(lost, Mesh::Disabled),
        labelled(broken, Mesh::Disabled),
    ]);
    scene.wait_for_not_captured(&[]);
}

#[test]
fn a_pod_beside_the_agents_cgroup_is_judged_from_outside_alone_and_said_to_be_not_captured() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.api.set(namespace(Mesh::Enabled));
    let beside = Node::new().unwrap();
    let away = KubePod::start_in_tree_of(&beside, &scene.node, "away", Shape::USUAL).unwrap();
    let deny = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny", "namespace": SHOP},
        "spec": {"podSelector": {"matchLabels": {"app": "away"}}, "policyTypes": ["Ingress"]}});
    scene.serve([away.object(SHOP), deny]);
    let peer = scene.pod("peer", Shape::USUAL);
    let answerer = Remote::start(&away.container(1).unwrap()).unwrap();
    let at = (away.pod().v4(), 8080).into();
    answerer.listen_on(at, Kind::Tcp).unwrap();
    scene.start_agent();
    scene.wait_for_not_captured(&[("away", "outside")]);
    let status = scene.agent().status().unwrap();
    assert_eq!(status["enrolment"]["captured"], 1);
    let named = &status["enrolment"]["not_captured"][0];
    let why = named["why"].as_str().unwrap();
    assert!(why.contains("(--cgroup)"), "{why}");
    let metric =
        "mesh_workloads_not_captured{namespace=\"shop\",pod=\"away\",reason=\"outside\"} 1";
    let metrics = scene.agent().metrics().unwrap();
    assert!(metrics.lines().any(|line| line == metric), "{metrics}");
    // Whoever comes in is judged all the same.
    let dialler = Remote::start(&peer.container(1).unwrap()).unwrap();
    wait_for_dial(&dialler, at, Some(libc::EPERM));
}

#[test]
fn the_uid_decides_whose_an_address_is() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.api.set(namespace(Mesh::Enabled));
    let old = scene.pod("old", Shape::USUAL);
    let mut new = KubePod::new(&scene.node, "new", Shape::USUAL).unwrap();
    let peer = scene.pod("peer", Shape::USUAL);
    scene.start_agent();
    scene.wait_until_captured("old");
    // The old pod's network is taken down while it ends; the new one gets its address at once.
    let (address, other) = (old.pod().v4(), new.pod().v4());
    ip(
        &old,
        &["addr", "del", &format!("{address}/16"), "dev", "eth0"],
    );
    ip(
        &new,
        &["addr", "del", &format!("{other}/16"), "dev", "eth0"],
    );
    ip(
        &new,
        &["addr", "add", &format!("{address}/16"), "dev", "eth0"],
    );
    new.start_sandbox().unwrap();
    let mut ending = old.object(SHOP);
    ending["metadata"]["deletionTimestamp"] = "2026-11-21T10:00:00Z".into();
    let mut started = new.object(SHOP);
    started["status"]["podIP"] = json!(address);
    started["status"]["podIPs"] = json!([{"ip": address}]);
    scene.serve([ending, started]);
    scene.wait_until_captured("new");
    let status = scene.agent().status().unwrap();
    assert_eq!(status["config"]["errors"], json!([]));
    // Flows to the address are the new pod's.
    let answerer = Remote::start(&new.container(1).unwrap()).unwrap();
    let dialler = Remote::start(&peer.container(1).unwrap()).unwrap();
    let at = (address, 8080).into();
    let listener = answerer.listen_on(at, Kind::Tcp).unwrap();
    let socket = wait_for_some_connection(&dialler, at);
    listener.accept().unwrap();
    let flows = scene.agent().flows().unwrap();
    let flows = flows["flows"].as_array().unwrap();
    let of_new = flows
        .iter()
        .any(|flow| flow["destination"]["workload"]["name"] == "new");
    assert!(of_new, "{flows:?}");
    socket.close().unwrap();
}

/// Connects; where an address has just moved, neighbours have to learn of it first.
fn wait_for_some_connection(dialler: &Remote, at: std::net::SocketAddr) -> harness::remote::Socket {
    harness::wait_for_some("a connection to the new pod", 3 * PATIENCE, || {
        dialler.connect(at).ok()
    })
    .unwrap()
}
