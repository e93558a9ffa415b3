//! Whose connections go to the agent, in maps in plain memory.

use std::collections::BTreeSet;

use mesh_common::service::{
    CaptureKey, SERVICE_DROPS, SERVICE_FAILS_CLOSED, SERVICE_PROXIED, SERVICE_PROXIED_SOME,
};
use mesh_common::workload::namespace;

use super::fake::{Bench, balanced};
use super::{A, B, C, ONE, SIX, TWO};
use crate::model::balanced::{Balanced, Clients, Fail, Proxied};

fn proxied(mut balanced: Balanced, names: Option<&[&str]>, fail: Fail) -> Balanced {
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    balanced.proxied = Some(Proxied {
        when_agent_is_away: fail,
        clients: names.map_or(Clients::All, |names| Clients::Namespaces(of(names))),
    });
    balanced
}

fn flags(bench: &Bench, frontend: &str) -> u32 {
    let number = bench.fake.number(frontend).unwrap();
    bench.fake.services.get(number).unwrap().flags
}

/// Returns the namespaces that are captured for a frontend.
fn captured(bench: &Bench, frontend: &str) -> BTreeSet<u32> {
    let number = bench.fake.number(frontend).unwrap();
    let all = bench.fake.captures.borrow();
    let own = all.iter().filter(|key| key.service == number);
    own.map(|key| key.namespace).collect()
}

#[test]
fn flags_say_whose_connections_and_what_without_the_agent() {
    let mut bench = Bench::new();
    let web = || balanced("web", &[A, C], &[(ONE, 1), (SIX, 1)]);
    let mut drops = web();
    drops.drops = true;
    for (wanted, expected) in [
        (web(), 0),
        (proxied(web(), None, Fail::Open), SERVICE_PROXIED),
        (
            proxied(drops, None, Fail::Closed),
            SERVICE_PROXIED | SERVICE_FAILS_CLOSED | SERVICE_DROPS,
        ),
        (
            proxied(web(), Some(&["a"]), Fail::Closed),
            SERVICE_PROXIED_SOME | SERVICE_FAILS_CLOSED,
        ),
        (web(), 0),
    ] {
        bench.want(wanted);
        bench.balanced();
        assert_eq!((flags(&bench, A), flags(&bench, C)), (expected, expected));
    }
    assert_eq!(*bench.fake.captures.borrow(), BTreeSet::new());
}

#[test]
fn namespaces_come_and_go_with_their_service_port() {
    let mut bench = Bench::new();
    let web = |names: &[&str]| proxied(balanced("web", &[A], &[(ONE, 1)]), Some(names), Fail::Open);
    bench.want(web(&["a", "b"]));
    bench.want(proxied(
        balanced("db", &[B], &[(TWO, 1)]),
        Some(&["a"]),
        Fail::Open,
    ));
    bench.balanced();
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| namespace(name))
            .collect::<BTreeSet<u32>>()
    };
    assert_eq!(captured(&bench, A), names(&["a", "b"]));
    assert_eq!(captured(&bench, B), names(&["a"]));
    // Another agent goes on from there.
    bench.restart();
    bench.want(web(&["b", "c"]));
    bench.balanced();
    assert_eq!(captured(&bench, A), names(&["b", "c"]));
    bench.drop("web");
    bench.balanced();
    // A program that was led to it just before still finds what it was.
    assert_eq!(bench.fake.captures.borrow().len(), 3);
    bench.tick();
    assert_eq!(captured(&bench, B), names(&["a"]));
    assert_eq!(bench.fake.captures.borrow().len(), 1);
}

#[test]
fn without_room_for_all_namespaces_the_service_stays_as_it_was() {
    let mut bench = Bench::new();
    let web = |names: &[&str]| proxied(balanced("web", &[A], &[(ONE, 1)]), Some(names), Fail::Open);
    bench.want(web(&["a"]));
    bench.balanced();
    let before = bench.state.pool.free();
    let mut wanted = web(&["b", "c", "d", "e"]);
    wanted.targets = balanced("web", &[A], &[(TWO, 1)]).targets;
    bench.want(wanted);
    let why = "the table of captured namespaces is full".to_owned();
    assert_eq!(bench.balance(), [("web".to_owned(), why.clone())]);
    assert_eq!(captured(&bench, A), [namespace("a")].into());
    assert_eq!(bench.fake.dial(A), super::addresses(&[ONE]));
    assert_eq!(bench.state.pool.free(), before);
    // One that is new is not balanced at all, and leaves nothing.
    let new = proxied(
        balanced("db", &[B], &[(TWO, 1)]),
        Some(&["a", "b", "c", "d"]),
        Fail::Open,
    );
    bench.want(new);
    assert_eq!(bench.balance().len(), 2);
    assert_eq!(bench.fake.number(B), None);
    assert_eq!(bench.fake.captures.borrow().len(), 1);
    // With room it is tried again.
    bench.fake.captures_room.set(100);
    bench.balanced();
    assert_eq!(captured(&bench, B).len(), 4);
    let stray = CaptureKey::default();
    assert!(!bench.fake.captures.borrow().contains(&stray));
}
