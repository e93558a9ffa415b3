//! The whole agent on a test API server, with pods whose cgroups are named as kubelet and container runtimes name them: who is in the
//! mesh, who is found, and who is not captured and why.

mod carried;
mod found;
mod node;
mod scene;

use std::net::SocketAddr;

use harness::kubepod::{Driver, Quality, Runtime, Shape};
use harness::remote::Socket;
use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use harness::{KubePod, Remote, wait_for};

use scene::{
    Living, Mesh, SHOP, Scene, VIP, labelled, namespace, refuse_services, service, wait_for_dial,
};

/// No route leads there.
const UNREACHABLE: Option<i32> = Some(libc::EHOSTUNREACH);

/// Two pods that are there before the agent, and a service of one of them.
struct Pair {
    dialler: Remote,
    _answerer: Remote,
    listener: Socket,
    /// Where the server listens.
    at: SocketAddr,
    vip: SocketAddr,
    client: KubePod,
    _server: KubePod,
    scene: Scene,
}

impl Pair {
    fn new() -> Option<Self> {
        let mut scene = Scene::new()?;
        let systemd = Shape {
            driver: Driver::Systemd,
            quality: Quality::Guaranteed,
            runtime: Runtime::Crio,
        };
        let client = scene.pod("client", Shape::USUAL);
        let server = scene.pod("server", systemd);
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
        scene.start_agent();
        Some(Self {
            dialler,
            _answerer: answerer,
            listener,
            at,
            vip: VIP.parse().unwrap(),
            client,
            _server: server,
            scene,
        })
    }

    fn wait_for_dial(&self, expected: Option<i32>) {
        wait_for_dial(&self.dialler, self.vip, expected);
        if expected.is_none() {
            drop(self.listener.accept().unwrap());
        }
    }

    /// Waits until both pods are in the mesh, or not.
    fn wait_until(&self, is_in: bool) {
        for pod in ["client", "server"] {
            match is_in {
                true => self.scene.wait_until_captured(pod),
                false => self.scene.wait_for_state(pod, &["not-enrolled"]),
            }
        }
    }

    fn connect(&self, to: SocketAddr) -> Living {
        Living::new(&self.dialler, to, &self.listener)
    }

    /// Returns how many messages went from socket to socket.
    fn redirected(&self) -> u64 {
        let metrics = self.scene.agent().metrics().unwrap();
        let mut lines = metrics.lines();
        let line = lines.find_map(|line| line.strip_prefix("mesh_redirected_messages_total "));
        line.unwrap().parse().unwrap()
    }
}

#[test]
fn running_pods_are_taken_in_and_let_go_and_what_lives_goes_on() {
    let Some(pair) = Pair::new() else {
        return;
    };
    pair.wait_until(false);
    assert!(pair.scene.not_captured().is_empty());
    pair.wait_for_dial(UNREACHABLE);
    let mut before = pair.connect(pair.at);

    // Taken in: what comes is balanced and redirected.
    pair.scene.api.set(namespace(Mesh::Enabled));
    pair.wait_for_dial(None);
    pair.wait_until(true);
    before.go_on();
    let mut balanced = pair.connect(pair.vip);
    let mut direct = pair.connect(pair.at);
    wait_for("messages to be redirected", PATIENCE, || {
        direct.go_on();
        pair.redirected() > 0
    })
    .unwrap();

    // Let go: all of it goes on by TCP.
    pair.scene.api.set(namespace(Mesh::Disabled));
    pair.wait_until(false);
    pair.wait_for_dial(UNREACHABLE);
    let count = pair.redirected();
    for living in [&mut before, &mut balanced, &mut direct] {
        living.go_on();
    }
    assert_eq!(pair.redirected(), count);

    // And in again.
    pair.scene.api.set(namespace(Mesh::Enabled));
    pair.wait_for_dial(None);
    for living in [&mut before, &mut balanced, &mut direct] {
        living.go_on();
    }
}

#[test]
fn a_pods_own_label_counts_for_more_than_its_namespaces() {
    let Some(pair) = Pair::new() else {
        return;
    };
    let (scene, object) = (&pair.scene, || pair.client.object(SHOP));
    scene.api.set(labelled(object(), Mesh::Enabled));
    pair.wait_for_dial(None);
    scene.wait_for_state("server", &["not-enrolled"]);
    scene.api.set(namespace(Mesh::Enabled));
    scene.wait_until_captured("server");
    scene.api.set(labelled(object(), Mesh::Disabled));
    scene.wait_for_state("client", &["not-enrolled"]);
    scene.wait_until_captured("server");
    pair.wait_for_dial(UNREACHABLE);
    // And its namespace's again.
    scene.api.set(labelled(object(), Mesh::Unsaid));
    scene.wait_until_captured("client");
    pair.wait_for_dial(None);
}
