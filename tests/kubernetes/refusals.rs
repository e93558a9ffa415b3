//! A server that refuses while the agent runs: what was told last holds, and what changed meanwhile is there afterwards.

use harness::apiserver::Chunks;
use harness::wait_for;
use mesh_agent::model::api::{ApiState, WatchState};
use std::time::Duration;

use crate::world::{DEADLINE, NODE, Watched, World, has, namespace, pod, service, watching};

fn world() -> (World, Watched) {
    let world = World::new();
    world.server.set(namespace("shop"));
    world.server.set(pod("web-0", NODE, "10.0.0.1"));
    world.server.set(service("web", "10.96.0.10"));
    let watched = world.source();
    watched.until_synced().unwrap();
    watched.until_equal(&world).unwrap();
    (world, watched)
}

/// Ends all watches after a change of the server, waits until the agent is behind, changes objects, mends the server, and expects that
/// all is as the server says.
fn broken_for_a_while(change: impl FnOnce(&mut harness::apiserver::State), why: &str) {
    let (world, watched) = world();
    let generation = watched.snapshot().generation;
    world.server.change(|state| {
        change(state);
        state.end_watches();
    });
    watched
        .until_status("the source to be behind", |status| {
            let told = status.why.as_deref().unwrap_or_default();
            status.state == ApiState::Behind && told.contains(why)
        })
        .unwrap();
    world.server.set(pod("web-1", NODE, "10.0.0.2"));
    world.server.delete("Pod", "shop", "web-0");
    assert_eq!(
        watched.snapshot().generation,
        generation,
        "what ran runs on"
    );
    world
        .server
        .change(|state| state.faults = Default::default());
    watched.source.retry();
    watched.until_equal(&world).unwrap();
    watched.until_synced().unwrap();
}

#[test]
fn credentials_that_are_not_accepted_any_more() {
    broken_for_a_while(|state| state.faults.unauthorized = true, "401");
}

#[test]
fn rights_that_are_taken_away() {
    broken_for_a_while(
        |state| {
            state.faults.forbidden.insert("pods".to_owned());
        },
        "cannot watch resource \"pods\"",
    );
}

#[test]
fn every_code_that_a_server_may_answer_with() {
    for (code, retry_after) in [
        (409, None),
        (429, Some(1)),
        (500, None),
        (502, None),
        (503, Some(1)),
        (504, None),
    ] {
        // For longer than all of it takes.
        broken_for_a_while(
            |state| state.faults.fail(100_000, code, retry_after),
            &code.to_string(),
        );
    }
}

#[test]
fn a_list_that_is_gone_before_it_was_read_is_begun_anew() {
    let (world, watched) = world();
    // By HTTP, which real servers do for pages only.
    world.server.change(|state| {
        state.compact();
        state.faults.fail(20, 410, None);
        state.end_watches();
    });
    world.server.set(pod("web-1", NODE, "10.0.0.2"));
    watched.until_equal(&world).unwrap();
    watched.until_synced().unwrap();
}

#[test]
fn what_is_compacted_between_two_pages_is_listed_anew() {
    let world = World::new();
    world.server.set(namespace("shop"));
    for n in 0..1200 {
        let address = format!("10.3.{}.{}", n / 200, n % 200);
        world.server.set(pod(&format!("many-{n}"), NODE, &address));
    }
    world.server.change(|state| {
        state.faults.no_streaming_lists = true;
        state.faults.compacts_after_pages = 3;
    });
    let watched = world.source();
    watched.until_synced().unwrap();
    watched.until_equal(&world).unwrap();
    let left = world
        .server
        .change(|state| state.faults.compacts_after_pages);
    assert_eq!(left, 0, "{:#?}", world.server.requests());
}

#[test]
fn the_servers_clock_is_nobodys_business() {
    for hours in [-5, 5] {
        let world = World::new();
        world
            .server
            .change(|state| state.faults.clock = hours * 3600);
        world.server.set(namespace("shop"));
        let mut young = pod("web-0", NODE, "10.0.0.1");
        young["metadata"]["creationTimestamp"] = "2099-01-01T00:00:00Z".into();
        world.server.set(young);
        let watched = world.source();
        watched.until_synced().unwrap();
        watched.until_equal(&world).unwrap();
        let status = watched.status();
        assert!(status.last_sync >= Some(status.since), "{status:?}");
    }
}

#[test]
fn a_server_that_sends_a_byte_at_a_time_is_waited_for() {
    let (world, watched) = world();
    world.server.change(|state| {
        state.faults.chunks = Chunks::Small(3, Duration::from_millis(1));
        state.end_watches();
    });
    let is_open = || watching(&watched.status(), "Pod") == Some(WatchState::Watching);
    wait_for("the watches to be open again", DEADLINE, is_open).unwrap();
    for n in 1..20 {
        world
            .server
            .set(pod(&format!("web-{n}"), NODE, &format!("10.0.0.{}", n + 1)));
    }
    watched
        .until("the last one", |snapshot| has(snapshot, "web-19"))
        .unwrap();
    watched.until_equal(&world).unwrap();
}
