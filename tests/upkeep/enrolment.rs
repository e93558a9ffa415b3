//! The whole agent on a test API server, with pods whose cgroups are named as kubelet and container runtimes name them: who is in the
//! mesh, who is found, and who is not captured and why.

mod carried;
mod found;
mod node;
mod scene;

use harness::Remote;
use harness::kubepod::{Driver, Quality, Runtime, Shape};
use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use harness::wait_for;

use scene::{
    Living, Mesh, SHOP, Scene, VIP, labelled, namespace, refuse_services, service, wait_for_dial,
};

/// No route leads there.
const UNREACHABLE: Option<i32> = Some(libc::EHOSTUNREACH);

#[test]
fn running_pods_are_taken_in_and_let_go_by_label() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let systemd = Shape {
        driver: Driver::Systemd,
        quality: Quality::Guaranteed,
        runtime: Runtime::Crio,
    };
    let (client, server) = (
        scene.pod("client", Shape::USUAL),
        scene.pod("server", systemd),
    );
    refuse_services(&client);
    let backend = [(server.pod().v4().to_string(), Some("server"))];
    scene.serve(service(
        (SHOP, "server"),
        "10.96.0.30",
        (80, 8080, "TCP"),
        &backend,
    ));
    let dialler = Remote::start(&client.container(1).unwrap()).unwrap();
    let answerer = Remote::start(&server.container(1).unwrap()).unwrap();
    let at = (server.pod().v4(), 8080).into();
    let listener = answerer.listen_on(at, Kind::Tcp).unwrap();
    let vip = VIP.parse().unwrap();

    // The pods were there first, and are nobody's.
    scene.start_agent();
    for pod in ["client", "server"] {
        scene.wait_for_state(pod, &["not-enrolled"]);
    }
    assert!(scene.not_captured().is_empty());
    wait_for_dial(&dialler, vip, UNREACHABLE);
    let mut before = Living::new(&dialler, at, &listener);

    // Taken in: what lives goes on, and what comes is balanced.
    scene.api.set(namespace(Mesh::Enabled));
    wait_for_dial(&dialler, vip, None);
    drop(listener.accept().unwrap());
    before.go_on();
    for pod in ["client", "server"] {
        scene.wait_until_captured(pod);
    }
    let mut balanced = Living::new(&dialler, vip, &listener);
    let mut direct = Living::new(&dialler, at, &listener);
    let redirected = || {
        let counters = scene.agent().metrics().unwrap();
        let line = counters
            .lines()
            .find_map(|line| line.strip_prefix("mesh_redirected_messages_total "));
        line.and_then(|count| count.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let mut count = 0;
    wait_for("messages to be redirected", PATIENCE, || {
        direct.go_on();
        count = redirected();
        count > 0
    })
    .unwrap();

    // Let go: the same, by TCP.
    scene.api.set(namespace(Mesh::Disabled));
    for pod in ["client", "server"] {
        scene.wait_for_state(pod, &["not-enrolled"]);
    }
    wait_for_dial(&dialler, vip, UNREACHABLE);
    count = redirected();
    for living in [&mut before, &mut balanced, &mut direct] {
        living.go_on();
    }
    assert_eq!(redirected(), count);

    // A pod's own label counts for more.
    scene.api.set(labelled(client.object(SHOP), Mesh::Enabled));
    wait_for_dial(&dialler, vip, None);
    scene.wait_for_state("server", &["not-enrolled"]);
    scene.api.set(namespace(Mesh::Enabled));
    scene.wait_until_captured("server");
    scene.api.set(labelled(client.object(SHOP), Mesh::Disabled));
    scene.wait_for_state("client", &["not-enrolled"]);
    wait_for_dial(&dialler, vip, UNREACHABLE);
    for living in [&mut before, &mut balanced, &mut direct] {
        living.go_on();
    }
    // And its namespace's again.
    scene.api.set(labelled(client.object(SHOP), Mesh::Unsaid));
    scene.wait_until_captured("client");
    wait_for_dial(&dialler, vip, None);
}
