//! Manifests and workloads that come and go under a running agent.

use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use harness::manifest::{self, Acceleration};
use harness::wait::{PATIENCE, pause};
use harness::{Agent, Node, Pod, Running};
use mesh_common::service::BackendEntry;
use serde_json::Value;

use crate::pins::version_dir;
use crate::world::World;

/// What takes at most a second on an idle machine; this one does other things too.
const SOON: Duration = Duration::from_secs(3);

fn state(agent: &Agent, name: &str) -> Value {
    agent.workload(name).unwrap()["state"].clone()
}

/// Waits for a workload's state, and says how long that took.
fn soon(agent: &Agent, name: &str, wanted: &Value) {
    let started = Instant::now();
    harness::wait_for(&format!("{name} to be {wanted}"), SOON, || {
        state(agent, name) == *wanted
    })
    .unwrap();
    println!("{name} was {wanted} after {:?}", started.elapsed());
}

#[test]
fn a_pod_is_added_changed_and_deleted() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let agent = world.agent();
    let pod = world.node.pod("third").unwrap();
    let draft = manifest::pod(&pod, Acceleration::On);
    manifest::write(&pod, Acceleration::On).unwrap();
    soon(agent, "third", &"accelerated".into());
    let id = agent.workload("third").unwrap()["id"].clone();
    manifest::write(&pod, Acceleration::Off).unwrap();
    soon(agent, "third", &"not-accelerated".into());
    assert_eq!(
        agent.workload("third").unwrap()["id"],
        id,
        "the same workload"
    );
    // As an editor writes, in place.
    let path = world.node.manifests().join("third.yaml");
    std::fs::write(&path, draft).unwrap();
    soon(agent, "third", &"accelerated".into());
    std::fs::remove_file(&path).unwrap();
    soon(agent, "third", &Value::Null);
    // The others were never touched.
    for name in ["client", "server"] {
        assert_eq!(state(agent, name), "accelerated");
    }
}

#[test]
fn a_broken_file_is_told_and_what_ran_goes_on() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let agent = world.agent();
    let rounds = crate::rounds::Rounds::new(&world);
    let path = world.node.manifests().join("server.yaml");
    let good = std::fs::read_to_string(&path).unwrap();
    let broken = good.replace("kind: Pod", "kind: Pod: [");
    let mistaken = good.replace("\"on\"", "\"sometimes\"");
    rounds.during(|| {
        for (text, culprit) in [(broken, "server.yaml"), (mistaken, "sometimes")] {
            std::fs::write(&path, text).unwrap();
            harness::wait_for("the error to show", SOON, || {
                let status = agent.status().unwrap();
                status["config"]["errors"].to_string().contains(culprit)
            })
            .unwrap();
            let text = agent.status_text().unwrap();
            assert!(
                text.contains("degraded") && text.contains("server.yaml"),
                "{text}"
            );
            let page = agent.metrics().unwrap();
            assert!(page.contains("\nmesh_config_errors 1\n"), "{page}");
            assert_eq!(state(agent, "server"), "accelerated");
            rounds.wait_for_more(10);
            std::fs::write(&path, &good).unwrap();
            harness::wait_for("the error to go", SOON, || {
                agent.status().unwrap()["config"]["errors"] == Value::Array(vec![])
            })
            .unwrap();
        }
    });
    let flow = world.flow(&rounds.client);
    assert_eq!(flow["tx_bytes"], flow["redirected_tx_bytes"], "{flow:#}");
    rounds.finish();
}

#[test]
fn a_directory_is_swapped_by_its_link() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let pods = [node.pod("first").unwrap(), node.pod("second").unwrap()];
    // As Kubernetes mounts a ConfigMap: `data` is a link to the current of several directories.
    let (files, link) = (node.files().to_owned(), node.files().join("data"));
    for pod in &pods {
        let dir = files.join(format!("data-{}", pod.name()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("pod.yaml"), manifest::pod(pod, Acceleration::On)).unwrap();
    }
    let point = |to: &str| {
        let draft = files.join("draft");
        std::os::unix::fs::symlink(format!("data-{to}"), &draft).unwrap();
        std::fs::rename(&draft, &link).unwrap();
    };
    // The directory that the harness gives the agent is such a link too.
    let manifests = node.manifests();
    std::fs::remove_dir(&manifests).unwrap();
    std::os::unix::fs::symlink(&link, &manifests).unwrap();
    point("first");
    let agent = Agent::start(&node, &[]).unwrap();
    soon(&agent, "first", &"accelerated".into());
    for (to, from) in [("second", "first"), ("first", "second")] {
        point(to);
        soon(&agent, to, &"accelerated".into());
        assert_eq!(state(&agent, from), Value::Null);
    }
}

/// The manifest of a pod that is found by what runs in its cgroup.
fn by_cgroup(pod: &Pod, address: &str) -> String {
    let annotation = format!("underpass.dev/netns: {}", pod.netns_path().display());
    let text = manifest::pod(pod, Acceleration::On);
    let found = format!("underpass.dev/cgroup: {}", pod.cgroup().display());
    let text = text.replace(&annotation, &found);
    let addresses = text.split("status:").next().unwrap().to_owned();
    format!("{addresses}status:\n  podIP: {address}\n")
}

/// Starts what holds a namespace of its own open.
fn holder(pod: &Pod, address: &str) -> Running {
    let script = format!(
        "ip link set lo up && ip addr add {address}/32 dev lo && echo ready && exec tail -f /dev/null"
    );
    let mut command = pod.command("unshare");
    command.args(["--net", "--", "sh", "-c", &script]);
    pod.start("holder", &mut command).unwrap()
}

#[test]
fn a_killed_workload_is_noticed_and_comes_back() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let pod = node.pod("holder").unwrap();
    let address = "10.77.99.1";
    let agent = Agent::start(&node, &[]).unwrap();
    std::fs::write(
        node.manifests().join("holder.yaml"),
        by_cgroup(&pod, address),
    )
    .unwrap();
    soon(&agent, "holder", &"not-found".into());
    let mut netns = Value::Null;
    for _ in 0..3 {
        let mut running = holder(&pod, address);
        soon(&agent, "holder", &"accelerated".into());
        let now = agent.workload("holder").unwrap()["netns"].clone();
        assert_ne!(now, netns, "a namespace is never taken for another");
        netns = now;
        running.kill().unwrap();
        soon(&agent, "holder", &"not-found".into());
        let why = agent.workload("holder").unwrap()["why"].clone();
        assert_ne!(why, "");
    }
}

/// What the agent and its maps hold.
#[derive(Debug)]
struct Held {
    maps: Value,
    descriptors: usize,
    resident_bytes: u64,
}

impl Held {
    fn by(agent: &Agent) -> Self {
        let fds = Path::new("/proc")
            .join(agent.pid().unwrap().to_string())
            .join("fd");
        Self {
            maps: agent.status().unwrap()["maps"].clone(),
            descriptors: std::fs::read_dir(fds).unwrap().count(),
            resident_bytes: agent.resident_bytes().unwrap(),
        }
    }
}

#[test]
fn two_hundred_comings_and_goings_leave_nothing() {
    const PODS: u16 = 20;
    const TIMES: usize = 10;
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let agent = Agent::start(&node, &[]).unwrap();
    let pods: Vec<_> = (0..PODS)
        .map(|number| {
            let pod = node.pod(&format!("p{number}")).unwrap();
            (pod, format!("10.77.99.{number}"))
        })
        .collect();
    for (pod, address) in &pods {
        let path = node.manifests().join(format!("{}.yaml", pod.name()));
        std::fs::write(path, by_cgroup(pod, address)).unwrap();
    }
    let count = |state: &str| {
        let status = agent.status().unwrap();
        let states = status["workloads"]["states"].as_array().unwrap().clone();
        let found = states.iter().find(|count| count["state"] == state);
        found.map_or(0, |count| count["count"].as_u64().unwrap())
    };
    let all = u64::from(PODS);
    let come_and_go = || {
        let running: Vec<_> = pods
            .iter()
            .map(|(pod, address)| holder(pod, address))
            .collect();
        harness::wait_for("all to come", PATIENCE, || count("accelerated") == all).unwrap();
        drop(running);
        harness::wait_for("all to go", PATIENCE, || count("not-found") == all).unwrap();
    };
    // Twice for warming up: what is allocated once is no leak.
    come_and_go();
    come_and_go();
    let before = Held::by(&agent);
    for _ in 0..TIMES {
        come_and_go();
    }
    let after = Held::by(&agent);
    println!("{before:?}\n{after:?}");
    assert_eq!(after.maps, before.maps);
    // A question may be under way at either look.
    assert!(
        after.descriptors <= before.descriptors + 2,
        "{before:?} {after:?}"
    );
    assert!(
        after.resident_bytes < before.resident_bytes + (2 << 20),
        "{before:?} {after:?}"
    );
}

/// How long an edit may take to reach the kernel's map. It takes a few milliseconds; this only has to be so long that a machine
/// that is busy with other tests never takes longer.
const EDIT: Duration = Duration::from_secs(1);

/// Returns the ports of the endpoints that tables may name, out of the kernel's map; the first numbers are all that it has.
fn usable(backends: &Array<MapData, [u8; size_of::<BackendEntry>()]>) -> Vec<u16> {
    let entries = (1..64).map(|number| backends.get(&number, 0).unwrap());
    let entries = entries.map(|bytes| bytemuck::pod_read_unaligned::<BackendEntry>(&bytes));
    let usable = entries.filter(|entry| entry.service != 0 && entry.usable == 1);
    usable.map(|entry| entry.port.number()).collect()
}

#[test]
fn an_edit_of_a_slice_reaches_the_kernel_in_milliseconds() {
    const EDITS: u16 = 40;
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let write = |port: u16| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop}}\nspec:\n  clusterIP: 10.96.0.9\n  \
             ports: [{{port: 80}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: cart\n  \
             namespace: shop\n  labels: {{kubernetes.io/service-name: cart}}\naddressType: IPv4\nendpoints:\n  \
             - addresses: [\"10.77.1.1\"]\n    conditions: {{ready: true}}\nports: [{{port: {port}}}]\n"
        );
        let draft = node.files().join("cart.draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, node.manifests().join("cart.yaml")).unwrap();
    };
    write(8000);
    let agent = Agent::start(&node, &[]).unwrap();
    let pin = version_dir(agent.bpf_dir()).join("maps/BACKENDS");
    let map = MapData::from_pin(pin).unwrap();
    let backends = Array::try_from(Map::Array(map)).unwrap();
    harness::wait_for("the first endpoint", PATIENCE, || {
        usable(&backends) == [8000]
    })
    .unwrap();
    let mut times: Vec<Duration> = (8001..=8000 + EDITS)
        .map(|port| {
            let started = Instant::now();
            write(port);
            // Finer than the usual steps, which are as long as what is measured.
            while usable(&backends) != [port] {
                assert!(started.elapsed() < EDIT, "port {port} is not in the map");
                pause(Duration::from_micros(200));
            }
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    let ms = |at: usize| times[at].as_secs_f64() * 1000.0;
    println!(
        "from the edit of an EndpointSlice to the kernel's map: median {:.2} ms, longest {:.2} ms of {EDITS}",
        ms(times.len() / 2),
        ms(times.len() - 1)
    );
}
