//! Everything that the DaemonSet gives to the agent is needed: with all of it the agent works, and without any one of it something
//! stops that `deploy/kubernetes/README.md` names.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Node, Remote, wait_for};
use serde_json::Value;
use tempfile::TempDir;

use crate::container::{Container, Given, given};
use crate::image;
use crate::pins::version_dir;
use crate::rounds::Rounds;
use crate::told::tell;

/// A node with two pods in which something runs, and the agent's container.
struct Scene {
    container: Container,
    client: Remote,
    server: Remote,
    node: Node,
}

impl Scene {
    fn new(root: &Path) -> Self {
        let node = Node::new().unwrap();
        let pods = ["client", "server"].map(|name| node.pod(name).unwrap());
        let [client, server] = pods.each_ref().map(|pod| Remote::start(pod).unwrap());
        for pod in &pods {
            // Where it runs is to be found out, as in Kubernetes.
            let text = manifest::pod(pod, Acceleration::On);
            let lines = text
                .lines()
                .filter(|line| !line.contains("underpass.dev/netns"));
            let text: Vec<&str> = lines.collect();
            fs::write(
                node.manifests().join(format!("{}.yaml", pod.name())),
                text.join("\n"),
            )
            .unwrap();
        }
        Self {
            container: Container::new(&node, root),
            client,
            server,
            node,
        }
    }

    fn states(&self) -> Vec<String> {
        let answer = self.container.json(&["workloads"]);
        let all = answer["workloads"].as_array().unwrap().iter();
        all.map(|it| it["state"].as_str().unwrap().to_owned())
            .collect()
    }

    fn wait_for_states(&self, state: &str) {
        let waited = wait_for(&format!("both to be {state}"), PATIENCE, || {
            self.states() == [state, state]
        });
        waited
            .unwrap_or_else(|error| panic!("{error:#}: {:#}", self.container.json(&["workloads"])));
    }

    fn status(&self) -> Value {
        self.container.json(&["status", "--no-rates"])
    }

    /// Returns whether kubelet would get an answer on the node's loopback address.
    fn is_probed(&self) -> bool {
        let mut curl = Command::new("nsenter");
        curl.arg(format!("--net=/run/netns/{}", self.node.netns()));
        curl.args([
            "--",
            "curl",
            "--silent",
            "--fail",
            "http://127.0.0.1:15020/healthz",
        ]);
        tell(&curl).code == Some(0)
    }

    /// Registers an instance, and returns whether a new agent still knows it.
    fn remembers(&mut self) -> bool {
        let words = [
            "register",
            "shop/kept",
            "--id",
            "a",
            "--address",
            "10.77.0.2",
            "--port",
            "80",
            "--ttl",
            "10m",
        ];
        let registered = tell(&self.container.question(&words));
        self.container.stop();
        self.container.start(None);
        registered.code == Some(0)
            && tell(&self.container.question(&["lookup", "shop/kept"])).code == Some(0)
    }

    fn is_pinned(&self) -> bool {
        version_dir(&self.node.bpf_directory().unwrap()).is_dir()
    }
}

fn unpacked() -> TempDir {
    let root = TempDir::new().unwrap();
    image::unpack(root.path());
    root
}

#[test]
fn with_all_of_it_everything_works() {
    if !harness::require_root() {
        return;
    }
    let root = unpacked();
    let mut scene = Scene::new(root.path());
    scene.container.start(None);
    assert_eq!(scene.container.ended(), None);
    scene.wait_for_states("accelerated");
    let status = scene.status();
    assert_eq!(status["degraded"], serde_json::json!([]), "{status:#}");
    assert_eq!(status["kernel"]["level"], "applications", "{status:#}");
    assert_eq!(
        status["kernel"]["missing"],
        serde_json::json!([]),
        "{status:#}"
    );
    assert!(scene.is_probed() && scene.is_pinned());
    let rounds = Rounds::between(scene.client.join(&scene.server.listen().unwrap()).unwrap());
    rounds.during(|| {
        rounds.wait_for_more(20);
        // As when kubelet replaces the pod: what is in the kernel goes on.
        scene.container.stop();
        rounds.wait_for_more(20);
        scene.container.start(None);
        rounds.wait_for_more(20);
    });
    scene.wait_for_states("accelerated");
    let flows = scene.container.json(&["flows", "--since", "1h"]);
    let all = flows["flows"].as_array().unwrap();
    let port = rounds.client.local.port();
    let flow = all.iter().find(|it| it["source"]["port"] == port).unwrap();
    assert_eq!(flow["path"], "redirect", "{flow:#}");
    rounds.finish();
    assert!(scene.remembers());
}

/// What stops, for each thing that is given.
fn stops(root: &Path, without: &Given) {
    let mut scene = Scene::new(root);
    scene.container.start(Some(without));
    let mut ends = |because: &str| {
        let log = scene.container.ended();
        let log = log.unwrap_or_else(|| panic!("it runs without {without:?}"));
        assert!(log.contains(because), "{log}");
    };
    match without {
        Given::Capability(name) if name == "SYS_ADMIN" => ends("CAP_SYS_ADMIN"),
        // What it keeps on the node is root's, even before capabilities are.
        Given::Root => ends("Permission denied"),
        Given::Capability(name) if name == "NET_ADMIN" => {
            assert_eq!(scene.status()["kernel"]["level"], "off");
        }
        Given::Capability(name) if name == "SYS_PTRACE" => scene.wait_for_states("not-found"),
        Given::HostPid => scene.wait_for_states("not-found"),
        Given::HostNetwork => assert!(!scene.is_probed()),
        Given::Mount(path) if path == "/sys/fs/cgroup" => ends("cgroup"),
        Given::Mount(path) if path == "/run/underpass" => ends("/run/underpass"),
        // It has a file system of its own there, which goes with the container.
        Given::Mount(path) if path == "/sys/fs/bpf" => assert!(!scene.is_pinned()),
        Given::Mount(path) if path == "/var/lib/underpass" => assert!(!scene.remembers()),
        Given::Capability(_) | Given::Mount(_) => panic!("nobody says what {without:?} is for"),
    }
}

#[test]
fn without_any_one_of_it_something_stops() {
    if !harness::require_root() {
        return;
    }
    let all = given();
    assert_eq!(all.len(), 10, "{all:?}");
    let root = unpacked();
    for given in &all {
        stops(root.path(), given);
    }
}

#[test]
fn the_table_says_what_each_is_for() {
    let path = "../deploy/kubernetes/README.md";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let begins = |word: &str| {
        text.lines()
            .any(|line| line.starts_with(&format!("| `{word}` |")))
    };
    for given in given() {
        let word = match &given {
            Given::Capability(name) => format!("CAP_{name}"),
            Given::Mount(path) => path.clone(),
            Given::HostNetwork => "hostNetwork".to_owned(),
            Given::HostPid => "hostPID".to_owned(),
            Given::Root => "runAsUser: 0".to_owned(),
        };
        assert!(begins(&word), "{word}");
    }
}
