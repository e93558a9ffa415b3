//! A large cluster: what the source costs.

use std::time::{Duration, Instant};

use harness::memory::resident_bytes;
use serde_json::Value;

use crate::world::{NODE, World, namespace, pod, service, slice};

const PODS: usize = 10_000;
const SERVICES: usize = 2_000;

/// The source's own part of what the agent may have: the rest of it takes some 25 MB.
const MEMORY: u64 = 95 << 20;

/// From a change at the server to the snapshot that has it.
const CHANGE: Duration = Duration::from_millis(50);

/// Runs as a process of its own, so that the server's memory is not the source's: see `a_large_cluster`.
#[test]
fn a_large_cluster() {
    let Some(kubeconfig) = std::env::var_os(CHILD) else {
        parent();
        return;
    };
    child(&kubeconfig);
}

/// Names the kubeconfig to the child.
const CHILD: &str = "UNDERPASS_TEST_SCALE_KUBECONFIG";

fn address(n: usize) -> String {
    format!("10.{}.{}.{}", 1 + n / 62_500, n / 250 % 250, 1 + n % 250)
}

fn fill(world: &World) {
    world.server.change(|state| {
        state.set(namespace("shop"));
        for n in 0..PODS {
            let node = match n {
                0..100 => NODE.to_owned(),
                _ => format!("node-{}", n % 100 + 2),
            };
            state.set(large(pod(&format!("web-{n}"), &node, &address(n))));
        }
        for n in 0..SERVICES {
            let name = format!("svc-{n}");
            state.set(service(
                &name,
                &format!("10.96.{}.{}", n / 250, 1 + n % 250),
            ));
            let pods: Vec<(String, String)> = (0..5)
                .map(|k| (n * 5 + k) % PODS)
                .map(|pod| (format!("web-{pod}"), address(pod)))
                .collect();
            let pods: Vec<(&str, &str)> = pods
                .iter()
                .map(|(name, to)| (name.as_str(), to.as_str()))
                .collect();
            state.set(slice(&name, &pods));
        }
    });
}

/// Makes a pod as large as real ones are.
fn large(mut pod: Value) -> Value {
    let env: Vec<Value> = (0..30)
        .map(|n| serde_json::json!({"name": format!("VARIABLE_{n}"), "value": "x".repeat(60)}))
        .collect();
    pod["spec"]["containers"][0]["env"] = env.into();
    for n in 0..5 {
        pod["metadata"]["labels"][format!("example.com/label-{n}")] = format!("value-{n}").into();
    }
    pod
}

fn parent() {
    let world = World::new();
    fill(&world);
    let kubeconfig = world.server.kubeconfig(world.dir.path()).unwrap();
    let program = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(program)
        .args(["scale::a_large_cluster", "--exact", "--nocapture"])
        .env(CHILD, kubeconfig)
        .spawn()
        .unwrap();
    // Once the child has the whole, it is told of single changes.
    let mut changes = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if world.server.watches() >= 8 {
            changes += 1;
            let name = format!("web-{}", 100 + changes * 37 % 9000);
            let mut object = world.server.change(|state| {
                let pods = state.all("Pod");
                pods.into_iter()
                    .find(|pod| pod["metadata"]["name"] == name.as_str())
                    .unwrap()
            });
            object["metadata"]["labels"]["round"] = changes.to_string().into();
            world.server.set(object);
        }
        harness::wait::pause(Duration::from_millis(200));
    };
    assert!(status.success(), "{status}");
}

fn child(kubeconfig: &std::ffi::OsStr) {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let watched = crate::world::start(kubeconfig.into(), dir.path());
    watched.until_synced().unwrap();
    let synced = begun.elapsed();
    assert_eq!(watched.snapshot().workloads.len(), PODS);
    assert_eq!(watched.snapshot().services.len(), SERVICES);
    let requests = watched.status().requests;
    // Changes arrive one by one; each makes one snapshot.
    let first = watched.snapshot().generation;
    let mut took = Vec::new();
    let mut last = first;
    while last < first + 20 {
        watched
            .until("another change", |snapshot| snapshot.generation > last)
            .unwrap();
        let snapshot = watched.snapshot();
        last = snapshot.generation;
        took.extend(snapshot.made.map(|made| made.took));
    }
    took.sort();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    let resident = resident_bytes(std::process::id()).unwrap();
    println!(
        "{PODS} pods, {SERVICES} services: synced in {synced:?} with {requests} requests, {} MB resident, a change takes {median:?} (at most {most:?})",
        resident >> 20
    );
    assert!(median < CHANGE, "a change takes {median:?}");
    assert!(resident < MEMORY, "{} MB resident", resident >> 20);
    assert!(requests <= 20, "{requests} requests");
}
