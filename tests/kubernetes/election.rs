//! Who of several controllers writes.

use std::time::{Duration, Instant};

use harness::wait::pause;
use harness::wait_for;
use serde_json::json;

use crate::told::{
    READER, SYSTEM, WRITER, holder, route, start, until_entries, while_renewed, world, writes,
};
use crate::world::DEADLINE;

/// What the lease is to say no longer than this after its holder was killed: its three seconds, the longest pause between two
/// looks, and what a busy machine takes.
const TAKEN_OVER: Duration = Duration::from_secs(3 + 1 + 6);

#[test]
fn one_of_two_writes_and_the_other_takes_over_when_it_is_killed() {
    let world = world();
    let mut both = [
        start(&world, "first", WRITER),
        start(&world, "second", WRITER),
    ];
    wait_for("a leader", DEADLINE, || !holder(&world).is_empty()).unwrap();
    let leader = both.iter().position(|it| it.identity() == holder(&world));
    let leader = leader.unwrap();
    world.server.set(route("HTTPRoute", "one", &["web"]));
    until_entries(&world, "HTTPRoute", "one", 1).unwrap();
    let leads = |index: usize| both[index].metric("mesh_controller_leads").unwrap();
    assert_eq!((leads(leader), leads(1 - leader)), (Some(1.0), Some(0.0)));
    assert_eq!(writes(&world).len(), 1);
    both[leader].kill().unwrap();
    let killed = Instant::now();
    let other = both[1 - leader].identity();
    wait_for("the other", TAKEN_OVER, || holder(&world) == other).unwrap();
    // Not before the lease is over.
    assert!(
        killed.elapsed() > Duration::from_secs(2),
        "{:?}",
        killed.elapsed()
    );
    world.server.set(route("HTTPRoute", "two", &["web"]));
    until_entries(&world, "HTTPRoute", "two", 1).unwrap();
    // What the first one wrote was not written again.
    assert_eq!(writes(&world).len(), 2);
}

#[test]
fn a_leader_that_slept_writes_nothing_when_it_wakes() {
    let world = world();
    let first = start(&world, "first", WRITER);
    wait_for("a leader", DEADLINE, || holder(&world) == first.identity()).unwrap();
    world.server.set(route("HTTPRoute", "one", &["web"]));
    until_entries(&world, "HTTPRoute", "one", 1).unwrap();
    first.freeze(true).unwrap();
    let second = start(&world, "second", WRITER);
    wait_for("the second", DEADLINE, || {
        holder(&world) == second.identity()
    })
    .unwrap();
    world.server.set(route("HTTPRoute", "two", &["web"]));
    until_entries(&world, "HTTPRoute", "two", 1).unwrap();
    first.freeze(false).unwrap();
    wait_for("the first to know", DEADLINE, || {
        first.log().contains("another controller leads now")
    })
    .unwrap();
    while_renewed(&world, 3).unwrap();
    assert_eq!(holder(&world), second.identity());
    assert_eq!(writes(&world).len(), 2);
}

#[test]
fn who_is_asked_to_stop_lets_the_lease_go() {
    let world = world();
    let mut first = start(&world, "first", WRITER);
    wait_for("a leader", DEADLINE, || holder(&world) == first.identity()).unwrap();
    let second = start(&world, "second", WRITER);
    wait_for("the second to be ready", DEADLINE, || {
        second
            .page("/readyz")
            .is_ok_and(|(head, _)| head.contains("200"))
    })
    .unwrap();
    assert!(first.terminate().unwrap().success());
    assert!(first.log().contains("let the lease go"), "{}", first.log());
    let released = Instant::now();
    wait_for("the second", DEADLINE, || {
        holder(&world) == second.identity()
    })
    .unwrap();
    assert!(
        released.elapsed() < Duration::from_secs(3),
        "{:?}",
        released.elapsed()
    );
}

#[test]
fn a_leader_whose_clock_is_wrong_is_believed_as_long_as_it_renews() {
    for skew in ["2026-11-21T00:00:00", "2036-01-01T00:00:00"] {
        let world = world();
        let renew = |count: u32| {
            world.server.set(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "underpass-controller", "namespace": SYSTEM},
                "spec": {"holderIdentity": "another", "leaseDurationSeconds": 3, "leaseTransitions": 4,
                    "acquireTime": format!("{skew}.000000Z"), "renewTime": format!("{skew}.{count:06}Z")}}));
        };
        renew(0);
        world.server.set(route("HTTPRoute", "one", &["web"]));
        let controller = start(&world, "first", WRITER);
        // Twice the lease's time.
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < Duration::from_secs(6) {
            count += 1;
            renew(count);
            pause(Duration::from_millis(200));
        }
        assert_eq!(holder(&world), "another", "{skew}");
        assert_eq!(writes(&world), []);
        let silent = Instant::now();
        wait_for("the lease", TAKEN_OVER, || {
            holder(&world) == controller.identity()
        })
        .unwrap();
        assert!(
            silent.elapsed() > Duration::from_secs(2),
            "{:?}",
            silent.elapsed()
        );
        let lease = world
            .server
            .get("Lease", SYSTEM, "underpass-controller")
            .unwrap();
        assert_eq!(lease["spec"]["leaseTransitions"], 5);
        until_entries(&world, "HTTPRoute", "one", 1).unwrap();
    }
}

#[test]
fn a_leader_that_cannot_renew_writes_no_more() {
    let world = world();
    let controller = start(&world, "first", WRITER);
    wait_for("a leader", DEADLINE, || {
        holder(&world) == controller.identity()
    })
    .unwrap();
    while_renewed(&world, 1).unwrap();
    // It goes on hearing of changes, but may not touch the lease.
    world
        .server
        .change(|state| state.faults.forbidden.insert("leases".to_owned()));
    wait_for("it to give up", DEADLINE, || {
        controller.metric("mesh_controller_leads").unwrap() == Some(0.0)
    })
    .unwrap();
    world.server.set(route("HTTPRoute", "one", &["web"]));
    let tries = || {
        let asked = world.server.asked().into_iter();
        asked
            .filter(|it| it.path.contains("/leases") && it.code == 403)
            .count()
    };
    let before = tries();
    wait_for("it to try again", DEADLINE, || tries() >= before + 3).unwrap();
    assert_eq!(writes(&world), []);
    let told = controller
        .log()
        .lines()
        .filter(|it| it.contains("cannot be had"))
        .count();
    assert_eq!(told, 1, "{}", controller.log());
    world.server.change(|state| state.faults.forbidden.clear());
    until_entries(&world, "HTTPRoute", "one", 1).unwrap();
}

#[test]
fn another_that_was_faster_is_no_trouble() {
    let world = world();
    // As when both replicas begin: there is no lease, and then there is.
    world
        .server
        .change(|state| state.faults.fail_writes(1, 409, None));
    let controller = start(&world, "first", WRITER);
    wait_for("it to lead", DEADLINE, || {
        holder(&world) == controller.identity()
    })
    .unwrap();
    assert!(!controller.log().contains("cannot be had"));
}

#[test]
fn without_rights_nothing_is_written_nor_tried() {
    let world = world();
    world.server.set(route("HTTPRoute", "one", &["web"]));
    let controller = start(&world, "first", READER);
    wait_for("the refusal", DEADLINE, || {
        controller.log().contains("cannot get resource")
    })
    .unwrap();
    // An agent with the same rights never tries.
    let kubeconfig = world
        .server
        .kubeconfig_of(world.dir.path(), READER)
        .unwrap();
    drop(controller);
    let before = world.server.asked().len();
    let agent = crate::world::start(kubeconfig, &world.dir.path().join("state"));
    agent.until_synced().unwrap();
    agent
        .until("the route", |snapshot| snapshot.statuses.len() == 1)
        .unwrap();
    let asked = world.server.asked();
    let refused: Vec<_> = asked[before..]
        .iter()
        .filter(|it| it.method != "GET" || it.code >= 400)
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(writes(&world), []);
}
