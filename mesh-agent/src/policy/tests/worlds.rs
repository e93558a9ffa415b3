//! Random configurations, so small that everything collides.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::model::labels::Labels;
use crate::model::policy::{
    Action, Block, LabelSelector, Peer, Policy, PolicyKind, PolicyName, Ports, Rule, Term,
    WhichPorts,
};
use crate::model::service::Protocol;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Acceleration, Location, NamedPort, Workload, WorkloadName};

const fn v4(low: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, low))
}

const fn v6(low: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, low))
}

/// The first three of each family may be pods', then come outsiders and the machine.
pub(super) const ADDRESSES: [IpAddr; 12] = [
    v4(0),
    v4(1),
    v4(2),
    v4(3),
    v4(9),
    IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1)),
    v6(0),
    v6(1),
    v6(2),
    v6(3),
    v6(9),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 1)),
];
pub(super) const HOST: [IpAddr; 2] = [v4(9), v6(9)];
pub(super) const PORTS: [u16; 6] = [0, 80, 81, 443, 65_534, u16::MAX];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("b".to_owned())]
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(word(), word(), 0..3)
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let term = prop_oneof![
        4 => (word(), vec(word(), 1..3)).prop_map(|(key, values)| Term::In(key, values)),
        1 => (word(), vec(word(), 1..3)).prop_map(|(key, values)| Term::NotIn(key, values)),
        1 => word().prop_map(Term::Exists),
        1 => word().prop_map(Term::DoesNotExist),
    ];
    vec(term, 0..3).prop_map(|terms| LabelSelector { terms })
}

fn block() -> impl Strategy<Value = Block> {
    let v4 = (0..4u8, prop_oneof![Just(0u8), Just(8), 28..=32u8]).prop_map(|(low, prefix)| {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        let bits = u32::from(Ipv4Addr::new(10, 0, 0, low)) & mask;
        Block {
            address: Ipv4Addr::from(bits).into(),
            prefix,
        }
    });
    let v6 = (0..4u16, prop_oneof![Just(0u8), Just(16), 124..=128u8]).prop_map(|(low, prefix)| {
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        let bits = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, low).to_bits() & mask;
        Block {
            address: Ipv6Addr::from_bits(bits).into(),
            prefix,
        }
    });
    prop_oneof![2 => v4, 1 => v6]
}

fn peer() -> impl Strategy<Value = Peer> {
    let account = prop_oneof![
        word(),
        (word(), word()).prop_map(|(of, name)| format!("{of}/{name}"))
    ];
    let pods = (
        option::of(selector()),
        selector(),
        option::weighted(0.3, vec(account, 0..3)),
    )
        .prop_map(|(namespaces, pods, service_accounts)| Peer::Pods {
            namespaces,
            pods,
            service_accounts,
        });
    let block =
        (block(), vec(block(), 0..3)).prop_map(|(block, except)| Peer::Block { block, except });
    prop_oneof![pods, block]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn ports() -> impl Strategy<Value = Ports> {
    let port = prop::sample::select(PORTS.to_vec());
    let which = prop_oneof![
        1 => Just(WhichPorts::All),
        4 => (port.clone(), port).prop_map(|(a, b)| WhichPorts::Range(a.min(b), a.max(b))),
        2 => word().prop_map(WhichPorts::Named),
    ];
    (option::of(protocol()), which).prop_map(|(protocol, which)| Ports { protocol, which })
}

fn rules(direction: &'static str) -> impl Strategy<Value = Vec<Rule>> {
    let rule = (
        option::weighted(0.8, vec(peer(), 0..3)),
        option::weighted(0.6, vec(ports(), 0..3)),
    );
    vec(rule, 0..3).prop_map(move |rules| {
        rules
            .into_iter()
            .enumerate()
            .map(|(at, (peers, ports))| Rule {
                name: format!("spec.{direction}[{at}]"),
                peers,
                ports,
            })
            .collect()
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let name = (any::<bool>(), word(), word()).prop_map(|(network, namespace, name)| PolicyName {
        kind: if network {
            PolicyKind::NetworkPolicy
        } else {
            PolicyKind::AuthorizationPolicy
        },
        namespace,
        name,
    });
    let modes = (prop::bool::weighted(0.3), prop::bool::weighted(0.3));
    let all = (
        name,
        selector(),
        modes,
        option::of(rules("ingress")),
        option::of(rules("egress")),
    );
    all.prop_map(
        |(name, subject, (denies, dry_run), ingress, egress)| Policy {
            action: if denies { Action::Deny } else { Action::Allow },
            name,
            subject,
            dry_run,
            ingress,
            egress,
            origin: "a test".to_owned(),
        },
    )
}

fn pod(number: u8) -> impl Strategy<Value = Workload> {
    let port = (word(), prop::sample::select(PORTS.to_vec()), protocol()).prop_map(
        |(name, number, protocol)| NamedPort {
            name,
            number,
            protocol,
        },
    );
    let all = (word(), labels(), word(), vec(port, 0..3), 1..4u8);
    all.prop_map(
        move |(namespace, labels, service_account, ports, families)| Workload {
            labels: labels.into(),
            service_account,
            ports,
            addresses: [v4(number), v6(number.into())]
                .into_iter()
                .zip([1, 2])
                .filter_map(|(address, family)| (families & family != 0).then_some(address))
                .collect(),
            ..bare(&namespace, &format!("p{number}"))
        },
    )
}

fn bare(namespace: &str, name: &str) -> Workload {
    Workload {
        name: WorkloadName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        uid: None,
        labels: Labels::default(),
        service_account: "default".to_owned(),
        addresses: Vec::new(),
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

/// Returns any configuration of up to four pods in two namespaces.
pub(super) fn snapshot() -> impl Strategy<Value = Snapshot> {
    let pods = (pod(0), pod(1), pod(2), pod(3), 1..5usize);
    (pods, vec(policy(), 0..5), labels(), labels()).prop_map(
        |((one, two, three, four, count), policies, of_a, of_b)| {
            let pods = [one, two, three, four].into_iter().take(count);
            assemble(pods.collect(), policies, [of_a, of_b])
        },
    )
}

fn assemble(
    pods: Vec<Workload>,
    policies: Vec<Policy>,
    [of_a, of_b]: [BTreeMap<String, String>; 2],
) -> Snapshot {
    let mut workloads: Vec<Arc<Workload>> = pods.into_iter().map(Arc::new).collect();
    workloads.sort_by(|a, b| a.name.cmp(&b.name));
    let policies = policies.into_iter();
    Snapshot {
        generation: 1,
        workloads,
        policies: Arc::new(policies.map(|p| (p.name.clone(), Arc::new(p))).collect()),
        namespaces: Arc::new([("a".to_owned(), of_a), ("b".to_owned(), of_b)].into()),
        ..Snapshot::default()
    }
}

fn web(ports: Vec<Ports>, dry_run: bool) -> Policy {
    Policy {
        name: PolicyName {
            kind: PolicyKind::NetworkPolicy,
            namespace: "a".to_owned(),
            name: "web".to_owned(),
        },
        subject: LabelSelector::default(),
        action: Action::Allow,
        dry_run,
        ingress: Some(vec![Rule {
            name: "spec.ingress[0]".to_owned(),
            peers: Some(vec![Peer::Pods {
                namespaces: None,
                pods: LabelSelector::default(),
                service_accounts: None,
            }]),
            ports: Some(ports),
        }]),
        egress: None,
        origin: "a test".to_owned(),
    }
}

fn three_pods(policy: Policy) -> Snapshot {
    let pods = (0..3u8).map(|number| Workload {
        addresses: vec![v4(number)],
        ..bare("a", &format!("p{number}"))
    });
    assemble(
        pods.collect(),
        vec![policy],
        [BTreeMap::new(), BTreeMap::new()],
    )
}

/// Returns three pods, of which the others may dial port 80 of each.
pub(super) fn fixed() -> Snapshot {
    let ports = Ports {
        protocol: Some(Protocol::Tcp),
        which: WhichPorts::Range(80, 80),
    };
    three_pods(web(vec![ports], false))
}

/// Returns three pods with a policy that names every other port.
pub(super) fn too_long(dry_run: bool) -> Snapshot {
    let ports = (0..5000).map(|n| Ports {
        protocol: Some(Protocol::Tcp),
        which: WhichPorts::Range(2 * n, 2 * n),
    });
    three_pods(web(ports.collect(), dry_run))
}
