//! How long compilation takes on a large node of a large cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Compiler, Subject};
use crate::model::labels::Labels;
use crate::model::policy::{
    Action, LabelSelector, Peer, Policy, PolicyKind, PolicyName, Ports, Rule, Term, WhichPorts,
};
use crate::model::service::Protocol;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Acceleration, Location, Workload, WorkloadName};

/// Unoptimized code takes some ten times as long; the bounds are those of a release, and for others ten times them.
const SLACK: u32 = if cfg!(debug_assertions) { 10 } else { 1 };

const PODS: u32 = 10_000;
const NAMESPACES: u32 = 100;
const APPS: u32 = 20;

fn selector(key: &str, value: String) -> LabelSelector {
    LabelSelector {
        terms: vec![Term::In(key.to_owned(), vec![value])],
    }
}

/// Returns labels with another `app`.
fn relabelled(labels: &Labels) -> Labels {
    let owned = labels
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut labels: BTreeMap<String, String> = owned.collect();
    labels.insert("app".to_owned(), "app7".to_owned());
    labels.into()
}

fn pod(number: u32) -> Workload {
    let labels = [
        (
            "app".to_owned(),
            format!("app{}", number / NAMESPACES % APPS),
        ),
        ("pod".to_owned(), format!("pod{number}")),
        ("tier".to_owned(), format!("tier{}", number % 3)),
    ];
    Workload {
        name: WorkloadName {
            namespace: format!("ns{}", number % NAMESPACES),
            name: format!("pod{number}"),
        },
        uid: None,
        labels: BTreeMap::from(labels).into(),
        service_account: "default".to_owned(),
        addresses: vec![IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))],
        node: None,
        ready: true,
        terminating: false,
        ports: Vec::new(),
        location: Location::Netns(PathBuf::from("/none")),
        enrolled: true,
        started: true,
        containers: Vec::new(),
        acceleration: Acceleration::Off,
        origin: "a test".to_owned(),
    }
}

/// 50 policies in each namespace: two or three for each app, each for another port, from another app here or next door.
fn policy(number: u32) -> Policy {
    let namespace = number % NAMESPACES;
    let app = number / NAMESPACES % APPS;
    let from = |namespaces| Peer::Pods {
        namespaces,
        pods: selector("app", format!("app{}", (app + number) % APPS)),
        service_accounts: None,
    };
    let next = selector(
        "kubernetes.io/metadata.name",
        format!("ns{}", (namespace + 1) % NAMESPACES),
    );
    let rule = |name: &str| Rule {
        name: name.to_owned(),
        peers: Some(vec![from(None), from(Some(next.clone()))]),
        ports: Some(vec![Ports {
            protocol: Some(Protocol::Tcp),
            which: WhichPorts::Range(80, 80 + u16::try_from(number % 50).unwrap()),
        }]),
    };
    Policy {
        name: PolicyName {
            kind: PolicyKind::NetworkPolicy,
            namespace: format!("ns{namespace}"),
            name: format!("policy{number}"),
        },
        subject: selector("app", format!("app{app}")),
        action: Action::Allow,
        dry_run: false,
        ingress: Some(vec![rule("spec.ingress[0]")]),
        egress: number
            .is_multiple_of(3)
            .then(|| vec![rule("spec.egress[0]")]),
        origin: "a test".to_owned(),
    }
}

#[test]
fn a_large_cluster_compiles_in_time() {
    let policies = (0..5000).map(policy);
    let name = |n: u32| format!("ns{n}");
    let labels = |n: u32| BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name(n))]);
    let mut snapshot = Snapshot {
        generation: 1,
        workloads: (0..PODS).map(pod).map(Arc::new).collect(),
        policies: Arc::new(policies.map(|p| (p.name.clone(), Arc::new(p))).collect()),
        namespaces: Arc::new((0..NAMESPACES).map(|n| (name(n), labels(n))).collect()),
        ..Snapshot::default()
    };
    let local = |snapshot: &Snapshot| -> Vec<Subject> {
        (1..=110u32)
            .map(|handle| Subject {
                handle,
                workload: Arc::clone(&snapshot.workloads[handle as usize * 90]),
            })
            .collect()
    };
    let mut compiler = Compiler::default();
    let begun = Instant::now();
    let tables = compiler.compile(&snapshot, &local(&snapshot), &[]);
    let all = begun.elapsed();
    let rows: usize = tables.rows.values().map(|rows| rows.len()).sum();
    println!(
        "all: {all:?}; {} prefixes, {} classes, {rows} rows, {} lists",
        tables.prefixes.len(),
        tables.rows.len(),
        tables.lists.len()
    );
    assert!(tables.errors.is_empty(), "{:?}", tables.errors);
    assert!(rows <= mesh_common::limits::VERDICTS / 2);
    assert!(all < SLACK * Duration::from_millis(500), "{all:?}");
    // A pod of another node changes a label that peers ask after.
    let mut changed = Workload::clone(&snapshot.workloads[1]);
    changed.labels = relabelled(&changed.labels);
    snapshot.workloads[1] = Arc::new(changed);
    let subjects = local(&snapshot);
    let begun = Instant::now();
    let after = compiler.compile(&snapshot, &subjects, &[]);
    let one = begun.elapsed();
    println!("one label: {one:?}");
    assert_eq!(after.table, tables.table);
    assert_ne!(after.prefixes, tables.prefixes);
    assert!(one < SLACK * Duration::from_millis(20), "{one:?}");
    // A pod of this node does.
    let mut changed = Workload::clone(&snapshot.workloads[90]);
    changed.labels = relabelled(&changed.labels);
    snapshot.workloads[90] = Arc::new(changed);
    let subjects = local(&snapshot);
    let begun = Instant::now();
    compiler.compile(&snapshot, &subjects, &[]);
    println!("one label of a local pod: {:?}", begun.elapsed());
}
