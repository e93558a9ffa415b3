//! What the node itself does with pods goes on as it was: probes, scrapes, ports of the host, the API server, name servers.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use harness::kubepod::{KubePod, Shape};
use harness::machine::require_programs;
use harness::remote::errno;
use harness::remote::protocol::{Call, Kind};
use harness::wait::PATIENCE;
use harness::{Remote, wait_for};
use serde_json::json;

use super::scene::{Living, Mesh, SHOP, Scene, namespace, refuse_services, service, wait_for_dial};

/// Nobody may come in.
fn default_deny() -> serde_json::Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny", "namespace": SHOP},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}})
}

#[test]
fn kubelets_probes_pass_under_default_deny() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.api.set(namespace(Mesh::Enabled));
    let (client, server) = (
        scene.pod("client", Shape::USUAL),
        scene.pod("server", Shape::USUAL),
    );
    // Not of the cluster, as far as the agent knows.
    let outside = scene.node.pod("outside").unwrap();
    let outsider = Remote::start(&outside).unwrap();
    let dialler = Remote::start(&client.container(1).unwrap()).unwrap();
    let answerer = Remote::start(&server.container(1).unwrap()).unwrap();
    let places = server.pod().addresses().map(|ip| SocketAddr::new(ip, 8080));
    for at in places {
        answerer.listen_on(at, Kind::Tcp).unwrap();
    }
    scene.start_agent();
    // kubelet is a process of the host; a scraper of metrics on the host is another.
    let probe = || {
        for at in places {
            let probed = scene
                .node
                .enter(|| TcpStream::connect(at).map(drop))
                .unwrap();
            probed.unwrap();
        }
    };
    probe();
    for at in places {
        wait_for_dial(&dialler, at, None);
        wait_for_dial(&outsider, at, None);
    }
    scene.api.set(default_deny());
    for at in places {
        wait_for_dial(&dialler, at, Some(libc::EPERM));
        wait_for_dial(&outsider, at, Some(libc::ECONNREFUSED));
    }
    probe();
    // Policies concern those in the mesh.
    scene.api.set(namespace(Mesh::Disabled));
    for at in places {
        wait_for_dial(&dialler, at, None);
        wait_for_dial(&outsider, at, None);
    }
    probe();
}

#[test]
fn peers_that_are_not_in_the_mesh_are_known_to_policies() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let pods = ["server", "friend", "stranger"].map(|name| scene.pod(name, Shape::USUAL));
    let [server, friend, stranger] = &pods;
    let allow = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "allow", "namespace": SHOP},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]}});
    let enrolled = super::scene::labelled(server.object(SHOP), Mesh::Enabled);
    scene.serve([allow, enrolled]);
    let remote = |pod: &KubePod| Remote::start(&pod.container(1).unwrap()).unwrap();
    let (answerer, friend, stranger) = (remote(server), remote(friend), remote(stranger));
    let at = (server.pod().v4(), 8080).into();
    answerer.listen_on(at, Kind::Tcp).unwrap();
    scene.start_agent();
    wait_for_dial(&friend, at, None);
    wait_for_dial(&stranger, at, Some(libc::ECONNREFUSED));
    for pod in ["friend", "stranger"] {
        scene.wait_for_state(pod, &["not-enrolled"]);
    }
}

#[test]
fn a_pod_in_the_mesh_reaches_the_api_server_and_the_name_server() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.api.set(namespace(Mesh::Enabled));
    let client = scene.pod("client", Shape::USUAL);
    refuse_services(&client);
    // The API server is at an address of the host, the name server in a pod of a namespace that is not in the mesh.
    let host = std::net::Ipv4Addr::new(10, 77, 0, 1);
    let listen = || std::net::TcpListener::bind((host, 6443));
    let api = scene.node.enter(listen).unwrap().unwrap();
    let names = KubePod::start(&scene.node, "coredns", Shape::USUAL).unwrap();
    let mut object = names.object("kube-system");
    object["metadata"]["labels"] = json!({"k8s-app": "kube-dns"});
    let system =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}});
    scene.serve([system, object]);
    let at_host = [(host.to_string(), None)];
    let kubernetes = service(
        ("default", "kubernetes"),
        "10.96.0.1",
        (443, 6443, "TCP"),
        &at_host,
    );
    let in_pod = [(names.pod().v4().to_string(), Some("coredns"))];
    let dns = service(
        ("kube-system", "kube-dns"),
        "10.96.0.10",
        (53, 5353, "UDP"),
        &in_pod,
    );
    scene.serve(kubernetes.into_iter().chain(dns));
    scene.start_agent();
    let dialler = Remote::start(&client.container(1).unwrap()).unwrap();
    wait_for_dial(&dialler, "10.96.0.1:443".parse().unwrap(), None);
    drop(api.accept().unwrap());
    let server = Remote::start(&names.container(1).unwrap()).unwrap();
    let at = (names.pod().v4(), 5353).into();
    let server = server
        .listen_on(at, Kind::Udp)
        .map(|socket| (server, socket));
    let (_server, socket) = server.unwrap();
    let query = dialler.bare(Kind::Udp, false).unwrap();
    let send = Call::Send {
        bytes: b"query".to_vec(),
        flags: 0,
        to: Some("10.96.0.10:53".parse().unwrap()),
    };
    wait_for("a query to be sent", PATIENCE, || {
        errno(&query.call(send.clone())).is_none()
    })
    .unwrap();
    let receive = Call::Receive {
        length: 100,
        flags: 0,
    };
    assert_eq!(socket.call(receive).unwrap().bytes, b"query");
}

/// What kube-proxy and a plug-in for ports of the host write, in short: a port of the node leads to a pod.
const NODE_PORT: &str = "table ip uptest {
    chain out { type nat hook output priority -100; ip daddr 10.77.0.1 tcp dport 30080 dnat to BACKEND; }
    chain in { type nat hook prerouting priority -100; ip daddr 10.77.0.1 tcp dport 30080 dnat to BACKEND; }
    chain post { type nat hook postrouting priority 100; ct status dnat masquerade; }
}";

#[test]
fn ports_of_the_node_lead_to_pods_in_the_mesh() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    if !require_programs(&["nft"]) {
        return;
    }
    let server = scene.pod("server", Shape::USUAL);
    let outside = scene.node.pod("outside").unwrap();
    let outsider = Remote::start(&outside).unwrap();
    let answerer = Remote::start(&server.container(1).unwrap()).unwrap();
    let at: SocketAddr = (server.pod().v4(), 8080).into();
    let listener = answerer.listen_on(at, Kind::Tcp).unwrap();
    let rules = NODE_PORT.replace("BACKEND", &at.to_string());
    let mut nft = Command::new("ip");
    nft.args(["netns", "exec", &scene.node.netns(), "nft", &rules]);
    let done = nft.status().unwrap();
    assert!(done.success(), "{done}");
    let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    scene.node.enter(forward).unwrap().unwrap();
    let port: SocketAddr = "10.77.0.1:30080".parse().unwrap();
    let node = scene.node.clone();
    let from_host = || {
        let connect = || TcpStream::connect(port).map(drop);
        node.enter(connect).unwrap().unwrap();
        listener.accept().unwrap().close().unwrap();
    };
    // Without the mesh, so that it is known what the rules do.
    from_host();
    let mut before = Living::new(&outsider, port, &listener);
    scene.api.set(namespace(Mesh::Enabled));
    scene.api.set(default_deny());
    scene.start_agent();
    scene.wait_until_captured("server");
    from_host();
    before.go_on();
    // Masqueraded, so it comes from the node, as far as anybody can see.
    let mut after = Living::new(&outsider, port, &listener);
    after.go_on();
    // By itself it may not.
    wait_for_dial(&outsider, at, Some(libc::ECONNREFUSED));
}
