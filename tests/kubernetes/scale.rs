//! A large cluster: what the source costs.

use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::apiserver::large::{self, PODS, ROUTES, SERVICES};
use harness::memory::{anonymous_bytes, resident_bytes};

use crate::world::{NODE, World};

/// What the source may have of the 120 MB of the whole agent, which `tests/upkeep/kubernetes.rs` holds it to.
const MEMORY: u64 = 100 << 20;

/// From a change at the server to the snapshot that has it.
const CHANGE: Duration = Duration::from_millis(50);

/// Names the kubeconfig to the child.
const CHILD: &str = "UNDERPASS_TEST_SCALE_KUBECONFIG";

/// Runs the source in a process of its own, so that the server's memory is not the source's.
#[test]
fn a_large_cluster() {
    match std::env::var_os(CHILD) {
        Some(kubeconfig) => child(&kubeconfig),
        None => parent(),
    }
}

fn parent() {
    let world = World::new();
    world.server.change(|state| large::fill(state, NODE));
    let kubeconfig = world.server.kubeconfig(world.dir.path()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["scale::a_large_cluster", "--exact", "--nocapture"])
        .env(CHILD, kubeconfig)
        .spawn()
        .unwrap();
    let mut round = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        // One change after the other, far enough apart for each to be taken in by itself.
        round += 1;
        world.server.change(|state| large::change(state, round));
        harness::wait::pause(Duration::from_millis(200));
    };
    assert!(status.success(), "{status}");
}

fn child(kubeconfig: &OsStr) {
    mesh_agent::heap::share();
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let watched = crate::world::start(kubeconfig.into(), dir.path());
    watched.until_synced().unwrap();
    let synced = begun.elapsed();
    assert_eq!(watched.snapshot().workloads.len(), PODS);
    assert_eq!(watched.snapshot().services.len(), SERVICES);
    assert_eq!(watched.snapshot().routes.len(), ROUTES);
    let requests = watched.status().requests;
    let mut took = Vec::new();
    let mut last = watched.snapshot().generation;
    while took.len() < 20 {
        watched
            .until("another change", |snapshot| snapshot.generation > last)
            .unwrap();
        let snapshot = watched.snapshot();
        last = snapshot.generation;
        took.extend(snapshot.made.map(|made| made.took));
    }
    took.sort();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    let (resident, own) = (
        resident_bytes(std::process::id()).unwrap(),
        anonymous_bytes(std::process::id()).unwrap(),
    );
    let more = watched.status().requests - requests;
    println!(
        "{PODS} pods, {SERVICES} services, {ROUTES} routes: synced in {synced:?} with {requests} requests, then {more}; {} MB resident, {} of them its own, a change takes {:?} (median {median:?}, at most {most:?})",
        resident >> 20,
        own >> 20,
        took[0],
    );
    // Others run beside this one, and not optimized either: the least is what it takes.
    assert!(took[0] < CHANGE, "a change takes {:?}", took[0]);
    // The code of a build for tests is several times as large.
    assert!(own < MEMORY, "{} MB", own >> 20);
    // A watch for each kind, two of pods, one of definitions, and looks which kinds there are.
    assert!(requests <= 30, "{requests} requests");
}
