//! The server breaks down in every way that a real one does, and the configuration is the right one in the end.

use std::time::Duration;

use harness::apiserver::Chunks;
use harness::{wait_for, wait_for_some};
use mesh_agent::model::api::{ApiState, WatchState};

use crate::world::{DEADLINE, NODE, World, has, namespace, pod, service, slice, watching};

/// Fills a server with a little of everything.
fn fill(world: &World) {
    let server = &world.server;
    server.set(namespace("shop"));
    for n in 0..20 {
        let node = if n % 2 == 0 { NODE } else { "node-2" };
        server.set(pod(&format!("web-{n}"), node, &format!("10.0.0.{}", n + 1)));
    }
    server.set(service("web", "10.96.0.10"));
    server.set(slice(
        "web",
        &[("web-0", "10.0.0.1"), ("web-1", "10.0.0.2")],
    ));
}

#[test]
fn changes_are_followed_one_by_one() {
    let world = World::new();
    fill(&world);
    let watched = world.source();
    watched.until_synced().unwrap();
    watched.until_equal(&world).unwrap();
    world.server.set(pod("late", NODE, "10.0.9.9"));
    world.server.set(slice("web", &[("web-4", "10.0.0.5")]));
    world.server.delete("Pod", "shop", "web-3");
    watched.until_equal(&world).unwrap();
    assert!(watched.has("late") && !watched.has("web-3"));
}

#[test]
fn chunks_end_anywhere() {
    for size in [1, 7, 1000] {
        let world = World::new();
        world.server.change(|state| {
            let pause = Duration::from_micros(if size == 1 { 0 } else { 50 });
            state.faults.chunks = Chunks::Small(size, pause);
        });
        fill(&world);
        let watched = world.source();
        watched.until_synced().unwrap();
        world.server.set(pod("late", NODE, "10.0.9.9"));
        watched.until_equal(&world).unwrap();
    }
}

#[test]
fn a_connection_that_breaks_in_the_middle_of_an_object_loses_nothing() {
    let world = World::new();
    fill(&world);
    let watched = world.source();
    watched.until_synced().unwrap();
    // Each watch breaks after some more bytes, at another place each time.
    for round in 0..8_usize {
        world.server.change(|state| {
            state.faults.cut_after = Some(100 + 333 * round);
            state.end_watches();
        });
        for n in 0..5 {
            let name = format!("round-{round}-{n}");
            world
                .server
                .set(pod(&name, NODE, &format!("10.1.{round}.{n}")));
        }
        let last = format!("round-{round}-4");
        world.server.change(|state| {
            // The last ones come when the rest was broken often enough.
            if round % 2 == 1 {
                state.faults.cut_after = None;
            }
        });
        if round % 2 == 1 {
            watched
                .until("the last pod", |snapshot| has(snapshot, &last))
                .unwrap();
        }
    }
    watched.until_equal(&world).unwrap();
    // Whatever broke, nothing was listed anew.
    let lists = world.server.requests();
    let lists = lists
        .iter()
        .filter(|path| path.contains("/pods?") && path.contains("sendInitialEvents"));
    assert_eq!(lists.count(), 2, "{:#?}", world.server.requests());
}

#[test]
fn a_list_that_breaks_off_is_no_list_of_what_is_gone() {
    let world = World::new();
    fill(&world);
    let watched = world.source();
    watched.until_synced().unwrap();
    world.server.change(|state| {
        state.compact();
        state.faults.cut_after = Some(2000);
        state.end_watches();
    });
    let breaks = || {
        let status = watched.status();
        (watching(&status, "Pod") == Some(WatchState::Retrying)).then_some(())
    };
    wait_for_some("a list that breaks off", DEADLINE, breaks).unwrap();
    assert_eq!(watched.snapshot().workloads.len(), 20);
    world.server.delete("Pod", "shop", "web-7");
    world.server.change(|state| state.faults.cut_after = None);
    watched.until_equal(&world).unwrap();
}

#[test]
fn what_is_too_old_is_listed_anew_and_nothing_is_lost_meanwhile() {
    let world = World::new();
    fill(&world);
    let watched = world.source();
    watched.until_synced().unwrap();
    let generation = watched.snapshot().generation;
    // Away, changed and compacted: as after a restart of the server.
    world.server.go_away();
    world.server.delete("Pod", "shop", "web-5");
    world.server.set(pod("new", NODE, "10.0.5.5"));
    world.server.change(|state| state.compact());
    watched
        .until_status("the source to be behind", |status| {
            status.state == ApiState::Behind
        })
        .unwrap();
    assert_eq!(watched.snapshot().generation, generation);
    let why = watched.status().why.clone().unwrap_or_default();
    assert!(
        why.contains("failed to reach") || why.contains("the connection broke"),
        "{why}"
    );
    world.server.come_back().unwrap();
    watched.until_synced().unwrap();
    watched.until_equal(&world).unwrap();
    // One step from what was to what is: nothing came and went.
    let steps = watched.snapshot().generation - generation;
    assert!((1..=4).contains(&steps), "{steps} steps");
}

#[test]
fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
    for overlooks in [false, true] {
        let world = World::new();
        world.server.change(|state| {
            state.faults.no_streaming_lists = !overlooks;
            state.faults.overlooks_streaming_lists = overlooks;
        });
        fill(&world);
        for n in 0..600 {
            world.server.set(pod(
                &format!("many-{n}"),
                NODE,
                &format!("10.2.{}.{}", n / 200, n % 200),
            ));
        }
        let watched = world.source();
        watched.until_synced().unwrap();
        watched.until_equal(&world).unwrap();
        let pages = world.server.requests();
        let pages = pages
            .iter()
            .filter(|path| path.contains("continue=v."))
            .count();
        assert!(pages >= 1, "{:#?}", world.server.requests());
        world.server.set(pod("late", NODE, "10.0.9.9"));
        watched.until_equal(&world).unwrap();
    }
}

#[test]
fn overload_and_failures_are_waited_out() {
    let world = World::new();
    fill(&world);
    world.server.change(|state| {
        state.faults.fail(5, 500, None);
        state.faults.fail(5, 429, Some(1));
        state.faults.fail(3, 503, None);
    });
    let watched = world.source();
    watched.until_synced().unwrap();
    watched.until_equal(&world).unwrap();
}

#[test]
fn who_is_not_let_in_says_so_and_changes_nothing() {
    let world = World::new();
    fill(&world);
    world
        .server
        .change(|state| state.faults.unauthorized = true);
    let watched = world.source();
    watched
        .until_status("the credentials to be refused", |status| {
            let why = status.why.as_deref().unwrap_or_default();
            why.contains("does not accept the agent's credentials (401: Unauthorized)")
        })
        .unwrap();
    // Nothing is known: what an earlier agent left must stay.
    assert_eq!(watched.snapshot().generation, 0);
    world
        .server
        .change(|state| state.faults.unauthorized = false);
    watched.source.retry();
    watched.until_equal(&world).unwrap();
}

#[test]
fn policies_that_may_not_be_listed_hold_up_everything() {
    let world = World::new();
    fill(&world);
    world
        .server
        .change(|state| state.faults.forbidden.insert("networkpolicies".to_owned()));
    let watched = world.source();
    watched
        .until_status("the missing right to be told", |status| {
            let why = status.why.as_deref().unwrap_or_default();
            why.contains("cannot watch resource \"networkpolicies\"")
                && why.contains("verbs list and watch")
        })
        .unwrap();
    assert_eq!(watched.snapshot().generation, 0);
    world.server.change(|state| state.faults.forbidden.clear());
    watched.source.retry();
    watched.until_equal(&world).unwrap();
}

#[test]
fn an_object_that_is_not_valid_is_told_and_the_watch_lives_on() {
    let world = World::new();
    fill(&world);
    let watched = world.source();
    watched.until_synced().unwrap();
    let mut broken = pod("web-0", NODE, "10.0.0.1");
    broken["status"]["podIPs"] = "none".into();
    world.server.set(broken.clone());
    let mut fresh = pod("broken", NODE, "10.0.7.7");
    fresh["metadata"]["labels"] = 7.into();
    world.server.set(fresh);
    world.server.set(pod("after", NODE, "10.0.8.8"));
    watched
        .until("the pod after it", |snapshot| has(snapshot, "after"))
        .unwrap();
    let errors = watched.snapshot().errors.join("\n");
    assert!(
        errors.contains("kubernetes: Pod shop/web-0: status.podIPs: is a string, not a list")
            && errors.contains("its last valid version stays in force"),
        "{errors}"
    );
    assert!(
        errors.contains("kubernetes: Pod shop/broken: metadata.labels"),
        "{errors}"
    );
    assert!(watched.has("web-0") && !watched.has("broken"));
    world.server.delete("Pod", "shop", "web-0");
    world.server.delete("Pod", "shop", "broken");
    watched.until_equal(&world).unwrap();
    let errors = &watched.snapshot().errors;
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn what_is_no_event_is_passed_over() {
    let world = World::new();
    fill(&world);
    world.server.change(|state| {
        state.faults.noise = Some(
            "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":7}}}\nnonsense".to_owned(),
        );
    });
    let watched = world.source();
    watched.until_synced().unwrap();
    watched.until_equal(&world).unwrap();
    assert!(!watched.status().unreadable.is_empty());
}

#[test]
fn a_pod_that_is_bound_to_this_node_goes_from_one_watch_to_the_other() {
    let world = World::new();
    let watched = world.source();
    watched.until_synced().unwrap();
    for round in 0..100 {
        world.server.set(pod("web-0", "", ""));
        world
            .server
            .set(pod("web-0", NODE, &format!("10.0.1.{}", round + 1)));
        if round % 3 == 0 {
            world.server.set(pod("web-0", "node-2", "10.0.2.2"));
        }
        if round % 5 == 0 {
            world.server.delete("Pod", "shop", "web-0");
        }
    }
    world.server.set(pod("web-0", NODE, "10.0.3.3"));
    watched.until_equal(&world).unwrap();
    world.server.delete("Pod", "shop", "web-0");
    watched.until_equal(&world).unwrap();
}

#[test]
fn in_steady_state_nothing_is_asked() {
    let world = World::new();
    fill(&world);
    let watched = world.source();
    watched.until_synced().unwrap();
    let watches = || world.server.watches() == 8;
    wait_for(
        "seven watches, and that of the definitions",
        DEADLINE,
        watches,
    )
    .unwrap();
    let looked = || {
        world
            .server
            .requests()
            .iter()
            .filter(|path| path.starts_with("/apis?"))
            .count()
            >= 2
    };
    wait_for("the kinds to be looked at once more", DEADLINE, looked).unwrap();
    let before = world.server.requests();
    // Timestamps are no changes.
    let generation = watched.snapshot().generation;
    for n in 0..50 {
        let mut same = pod("web-0", NODE, "10.0.0.1");
        same["status"]["conditions"][0]["lastTransitionTime"] =
            format!("2026-11-21T08:00:{n:02}Z").into();
        world.server.set(same);
    }
    world.server.set(pod("late", NODE, "10.0.9.9"));
    watched
        .until("the last change", |snapshot| has(snapshot, "late"))
        .unwrap();
    assert_eq!(watched.snapshot().generation, generation + 1);
    let asked: Vec<_> = world.server.requests().split_off(before.len());
    // Kinds are looked for again for half a minute after the definitions were first seen.
    let others: Vec<_> = asked
        .iter()
        .filter(|path| !path.starts_with("/apis?"))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
}
