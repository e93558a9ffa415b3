//! Connections that go through the agent when their pod is let go: they are carried on until they end.

use std::net::SocketAddr;

use harness::kubepod::Shape;
use harness::machine::workspace_program;
use harness::remote::Socket;
use harness::remote::protocol::Call;
use harness::wait::PATIENCE;
use harness::{Remote, wait_for};
use serde_json::{Value, json};

use super::scene::{Mesh, SHOP, Scene, VIP, namespace, refuse_services, service, wait_for_dial};

/// Returns a route that the kernel cannot carry out.
fn route() -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "server", "namespace": SHOP},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "server"}], "rules": [{
            "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-by", "value": "the-route"}]}}],
            "backendRefs": [{"name": "server", "port": 80}]}]}})
}

/// Makes a request on a connection that stays open, and returns the head of the response.
fn request(socket: &Socket) -> String {
    let bytes = b"GET /hello HTTP/1.1\r\nhost: server\r\n\r\n".to_vec();
    let send = Call::Send {
        bytes,
        flags: 0,
        to: None,
    };
    socket.call(send).unwrap();
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        let receive = Call::Receive {
            length: 65_536,
            flags: 0,
        };
        let bytes = socket.call(receive).unwrap().bytes;
        assert!(!bytes.is_empty(), "the connection ended: {text}");
        text += &String::from_utf8_lossy(&bytes);
    }
    text
}

#[test]
fn a_connection_through_the_agent_goes_on_when_its_pod_is_let_go() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let kind = harness::apiserver::Kind::custom(
        "gateway.networking.k8s.io",
        "v1",
        "HTTPRoute",
        "httproutes",
    );
    scene.api.change(|state| state.define(&[kind]));
    let (client, server) = (
        scene.pod("client", Shape::USUAL),
        scene.pod("server", Shape::USUAL),
    );
    refuse_services(&client);
    let backend = [(server.pod().v4().to_string(), Some("server"))];
    scene.serve(service(
        (SHOP, "server"),
        "10.96.0.30",
        (80, 8080, "TCP"),
        &backend,
    ));
    scene.serve([route(), namespace(Mesh::Enabled)]);
    let at = format!("{}:8080", server.pod().v4());
    let place = server.container(1).unwrap();
    let mut command = place.command(workspace_program("peer", "UNDERPASS_PEER").unwrap());
    command.args(["http", "echo", "--name", "server", "--listen", &at]);
    let mut echo = place.start("echo", &mut command).unwrap();
    echo.line("ready", PATIENCE).unwrap();
    scene.start_agent();
    let dialler = Remote::start(&client.container(1).unwrap()).unwrap();
    let vip: SocketAddr = VIP.parse().unwrap();
    let is_routed = |text: &str| text.contains("x-by: the-route");
    let routed = || {
        let socket = dialler.connect(vip).ok()?;
        let text = request(&socket);
        is_routed(&text).then_some(socket)
    };
    let socket = harness::wait_for_some("the route to be in force", PATIENCE, routed).unwrap();
    let listening = || {
        let status = scene.agent().status().unwrap();
        status["data_path"]["listening_workloads"].as_u64().unwrap()
    };
    assert_eq!(listening(), 2);

    scene.api.set(namespace(Mesh::Disabled));
    wait_for_dial(&dialler, vip, Some(libc::EHOSTUNREACH));
    for _ in 0..3 {
        assert!(is_routed(&request(&socket)));
    }
    // The server's pod has nothing to carry on.
    wait_for("the server's listeners to go", PATIENCE, || {
        listening() == 1
    })
    .unwrap();
    assert!(is_routed(&request(&socket)));
    socket.close().unwrap();
    wait_for("the client's listeners to go", PATIENCE, || {
        listening() == 0
    })
    .unwrap();

    // And again.
    scene.api.set(namespace(Mesh::Enabled));
    let socket = harness::wait_for_some("the route to be in force", PATIENCE, routed).unwrap();
    // A pod that ends takes its connections with it, in the mesh or not.
    scene.api.set(namespace(Mesh::Unsaid));
    wait_for_dial(&dialler, vip, Some(libc::EHOSTUNREACH));
    assert!(is_routed(&request(&socket)));
    drop(dialler);
    drop(client);
    wait_for("no listeners to be left", PATIENCE, || listening() == 0).unwrap();
}
