//! The agent starts again, with the server there or away.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use harness::wait_for;
use mesh_agent::model::api::ApiState;

use crate::world::{DEADLINE, NODE, World, namespace, pod, policies, policy, shape};

fn world() -> World {
    let world = World::new();
    world.server.change(|state| state.define(&[policies()]));
    world.server.set(namespace("shop"));
    world.server.set(pod("web-0", NODE, "10.0.0.1"));
    world.server.set(pod("web-1", "node-2", "10.0.0.2"));
    world.server.set(policy("all", "web"));
    world
}

#[test]
fn an_agent_that_starts_while_the_server_is_away_runs_what_ran() {
    let world = world();
    let watched = world.source();
    watched.until_synced().unwrap();
    world.server.set(pod("last", NODE, "10.0.0.3"));
    watched.until_equal(&world).unwrap();
    let before = shape(&watched.snapshot());
    // Whatever was not written yet is written at the end.
    drop(watched);
    world.server.go_away();
    let file = world.dir.path().join("state/kubernetes");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let watched = world.source();
    assert_eq!(watched.snapshot().generation, 1, "it is there at once");
    assert_eq!(shape(&watched.snapshot()), before);
    watched
        .until_status("the server to be away", |status| {
            let why = status.why.as_deref().unwrap_or_default();
            status.state == ApiState::Starting
                && status.from_disk.is_some()
                && why.contains("failed to reach")
        })
        .unwrap();

    // What changed meanwhile: one is gone, one is new, one kind has no object left.
    world.server.delete("Pod", "shop", "web-0");
    world.server.set(pod("new", NODE, "10.0.0.4"));
    world.server.delete("AuthorizationPolicy", "shop", "all");
    world.server.come_back().unwrap();
    watched.source.retry();
    watched.until_equal(&world).unwrap();
    watched.until_synced().unwrap();
    assert_eq!(watched.status().from_disk, None);
    assert!(watched.snapshot().policies.is_empty());
}

#[test]
fn a_kind_that_was_removed_meanwhile_leaves_nothing_behind() {
    let world = world();
    let watched = world.source();
    watched.until_synced().unwrap();
    drop(watched);
    world
        .server
        .change(|state| state.undefine("AuthorizationPolicy"));
    let watched = world.source();
    assert_eq!(watched.snapshot().policies.len(), 1);
    watched
        .until("no policy", |snapshot| snapshot.policies.is_empty())
        .unwrap();
    watched.until_equal(&world).unwrap();
}

#[test]
fn what_is_damaged_or_another_server_s_is_not_run() {
    let world = world();
    let watched = world.source();
    watched.until_synced().unwrap();
    let file = world.dir.path().join("state/kubernetes");
    wait_for("it to be written", DEADLINE, || file.exists()).unwrap();
    drop(watched);
    let good = fs::read(&file).unwrap();
    world.server.go_away();

    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&file, damaged).unwrap();
    let watched = world.source();
    assert_eq!(watched.snapshot().generation, 0);
    assert!(world.dir.path().join("state/kubernetes.broken").exists());
    drop(watched);

    let other = World::new();
    other.server.go_away();
    fs::create_dir(other.dir.path().join("state")).unwrap();
    fs::write(other.dir.path().join("state/kubernetes"), good).unwrap();
    let watched = other.source();
    assert_eq!(watched.snapshot().generation, 0);
}

#[test]
fn an_agent_without_anything_waits_for_the_server_and_changes_nothing() {
    let world = world();
    world.server.go_away();
    let watched = world.source();
    watched
        .until_status("the server to be away", |status| status.why.is_some())
        .unwrap();
    assert_eq!(watched.snapshot().generation, 0);
    world.server.come_back().unwrap();
    watched.source.retry();
    watched.until_equal(&world).unwrap();
}
