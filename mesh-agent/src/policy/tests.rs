//! The tables against the obvious model, over random worlds.

mod timing;
mod worlds;

use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::addr::Addr;
use mesh_common::policy::Direction;
use proptest::prelude::*;

use super::obvious::{self, Dial, World};
use super::{Compiler, Connection, Party, PolicyTables, Subject};
use crate::model::policy::Action;
use crate::model::service::Protocol;
use crate::model::snapshot::Snapshot;
use worlds::{ADDRESSES, HOST, PORTS};

/// Returns the workloads of this node: every other one, with handles in no order.
fn subjects(snapshot: &Snapshot) -> Vec<Subject> {
    let local = snapshot.workloads.iter().zip(1u32..).step_by(2);
    local
        .map(|(workload, number)| Subject {
            handle: number ^ 5,
            workload: Arc::clone(workload),
        })
        .collect()
}

/// Every connection between the addresses of the worlds.
fn dials() -> impl Iterator<Item = Dial> {
    let pairs = ADDRESSES
        .into_iter()
        .flat_map(|from| ADDRESSES.into_iter().map(move |to| (from, to)))
        .filter(|(from, to)| from.is_ipv4() == to.is_ipv4());
    pairs.flat_map(|(from, to)| {
        PORTS.into_iter().flat_map(move |port| {
            [Protocol::Tcp, Protocol::Udp].map(|protocol| Dial {
                from,
                to,
                port,
                protocol,
            })
        })
    })
}

fn connection(dial: Dial) -> Connection {
    Connection {
        source: Addr::from(dial.from),
        destination: Addr::from(dial.to),
        port: dial.port,
        protocol: dial.protocol.number(),
    }
}

fn check(snapshot: &Snapshot, tables: &PolicyTables) {
    let subjects = subjects(snapshot);
    let world = World {
        snapshot,
        local: subjects.iter().map(|s| s.workload.as_ref()).collect(),
        host: &HOST,
    };
    assert_eq!(tables.errors, Vec::<String>::new());
    for dial in dials() {
        let fate = world.fate(dial);
        let verdict = tables.judge(&connection(dial));
        assert_eq!(
            (verdict.allowed, verdict.would_deny),
            (fate.allowed, fate.would_deny),
            "{dial:?}: {:?}\n{snapshot:#?}",
            tables.rule(verdict.rule)
        );
        for direction in [Direction::Ingress, Direction::Egress] {
            check_rule(&world, tables, dial, direction);
        }
    }
}

/// The rule that is named matches, and does what is said.
fn check_rule(world: &World<'_>, tables: &PolicyTables, dial: Dial, direction: Direction) {
    let Some(verdict) = tables.directed(&connection(dial), direction) else {
        return;
    };
    let Some(name) = tables.rule(verdict.rule) else {
        assert_eq!(verdict.rule, 0);
        return;
    };
    assert_eq!(name.direction, direction.label());
    let policy = &world.snapshot.policies[&name.policy];
    let denies = !verdict.allowed || verdict.would_deny;
    assert_eq!(policy.dry_run, verdict.would_deny);
    if name.rule == "default" {
        assert!(denies && policy.action == Action::Allow);
        return;
    }
    assert_eq!(denies, policy.action == Action::Deny);
    let peer: IpAddr = match direction {
        Direction::Ingress => dial.from,
        Direction::Egress => dial.to,
    };
    let rules = obvious::rules(policy, direction).unwrap();
    let mut named = rules.iter().filter(|rule| rule.name == name.rule);
    assert!(named.any(|rule| world.matches(policy, rule, peer, dial)));
}

proptest! {
    // Each asks after some 800 connections.
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn tables_say_what_the_words_say(snapshot in worlds::snapshot()) {
        let tables = Compiler::default().compile(&snapshot, &subjects(&snapshot), &HOST);
        check(&snapshot, &tables);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One compiler, from one configuration to the next, with what did not change kept by pointer.
    #[test]
    fn what_is_kept_is_still_true(worlds in proptest::collection::vec(worlds::snapshot(), 2..5), keep in any::<[bool; 8]>()) {
        let mut compiler = Compiler::default();
        let mut before: Option<(Snapshot, PolicyTables)> = None;
        for (mut snapshot, keeps) in worlds.into_iter().zip(keep.chunks(2).cycle()) {
            if let Some((before, _)) = &before {
                if keeps[0] {
                    snapshot.policies = Arc::clone(&before.policies);
                }
                if keeps[1] {
                    snapshot.workloads = before.workloads.clone();
                    snapshot.namespaces = Arc::clone(&before.namespaces);
                }
            }
            let tables = compiler.compile(&snapshot, &subjects(&snapshot), &HOST);
            check(&snapshot, &tables);
            if let Some((_, before)) = &before
                && before.table != tables.table
            {
                let shared = before.rows.keys().find(|class| tables.rows.contains_key(class));
                prop_assert_eq!(shared, None, "a class belongs to one table");
            }
            before = Some((snapshot, tables));
        }
    }
}

#[test]
fn an_answer_names_the_rule_and_who_isolates() {
    let snapshot = worlds::fixed();
    let tables = Compiler::default().compile(&snapshot, &subjects(&snapshot), &HOST);
    let pod = |name: &str| {
        let found = snapshot.workloads.iter().find(|pod| pod.name.name == name);
        Party::Pod(found.unwrap().name.clone())
    };
    let ask = |from: &Party, port| {
        tables
            .test(&snapshot, (from, &pod("p0")), port, Protocol::Tcp)
            .unwrap()
    };
    let allowed = ask(&pod("p1"), 80);
    let ingress = allowed.ingress.unwrap();
    assert!(allowed.allowed && ingress.allowed);
    assert_eq!(ingress.isolated_by, ["NetworkPolicy a/web"]);
    assert_eq!(
        ingress.rule.unwrap().to_string(),
        "NetworkPolicy a/web ingress spec.ingress[0]"
    );
    assert_eq!(ingress.enforced_at, ["sk_lookup"]);
    let denied = ask(&pod("p2"), 81);
    assert!(!denied.allowed);
    let ingress = denied.ingress.unwrap();
    assert_eq!((ingress.allowed, ingress.rule), (false, None));
    assert_eq!(ingress.enforced_at, ["connect", "sk_lookup"]);
    assert!(denied.egress.unwrap().exempt.is_some());
    let host = ask(&Party::Address(HOST[0]), 81);
    assert!(host.allowed && host.ingress.unwrap().exempt.is_some());
    let own = ask(&pod("p0"), 81);
    assert!(own.allowed && own.ingress.unwrap().exempt.is_some());
    let nobody = Party::Pod(crate::model::workload::WorkloadName {
        namespace: "a".to_owned(),
        name: "nobody".to_owned(),
    });
    assert!(
        tables
            .test(&snapshot, (&nobody, &pod("p0")), 80, Protocol::Tcp)
            .is_err()
    );
}

#[test]
fn what_is_too_long_is_denied_and_named() {
    let snapshot = worlds::too_long(false);
    let tables = Compiler::default().compile(&snapshot, &subjects(&snapshot), &HOST);
    assert!(
        tables.errors[0].contains("NetworkPolicy a/web"),
        "{:?}",
        tables.errors
    );
    let dial = |from, port| {
        tables.judge(&connection(Dial {
            from,
            to: ADDRESSES[0],
            port,
            protocol: Protocol::Tcp,
        }))
    };
    assert!(!dial(ADDRESSES[1], 0).allowed);
    // Those that the policy does not concern are denied by it as before, and so are dry-run ones allowed.
    let snapshot = worlds::too_long(true);
    let tables = Compiler::default().compile(&snapshot, &subjects(&snapshot), &HOST);
    assert_eq!(tables.errors.len(), 1);
    assert_eq!(tables.subjects.values().map(|s| s.flags).max(), Some(0));
}
