//! Service ports that routes spread over the ports of other services: groups of endpoints, each with the share that its backend has,
//! whatever the number of endpoints. Pure.
//!
//! Who of a group answers is decided where the backend's own port is: health, priorities, nearness and slow start are its own.
//! The share of a backend that does not exist, or for which nobody answers, is refused: a client is to see that a part of the
//! service is down, rather than overload the rest.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::balance::{CountedPort, Ports, weigh};
use crate::model::balanced::{BackendCounters, Balanced, PortId, Proxied, Split, Splits, Target};

/// Where a share goes that nobody answers: port 0, on which nobody can listen. TCP is refused at once; a datagram is an error or lost.
const NOBODY: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

/// Ports as routes spread them. Remembers what it made, so that what did not change stays the same pointer.
#[derive(Debug, Default)]
pub struct Splitter {
    made: BTreeMap<PortId, Arc<Balanced>>,
}

impl Splitter {
    /// Returns all ports, with those that are split, or whose connections go to the agent, in the place of what they would be by
    /// themselves.
    pub fn apply(
        &mut self,
        ports: &Arc<Ports>,
        splits: &Splits,
        proxied: &BTreeMap<PortId, Proxied>,
    ) -> Arc<Ports> {
        if splits.is_empty() && proxied.is_empty() {
            self.made.clear();
            return ports.clone();
        }
        let mut all = Ports::clone(ports);
        let wanted = |id: &PortId| splits.contains_key(id) || proxied.contains_key(id);
        self.made.retain(|id, _| wanted(id));
        let others = proxied.keys().filter(|id| !splits.contains_key(*id));
        for id in splits.keys().chain(others) {
            let Some(own) = ports.get(id) else {
                self.made.remove(id);
                continue;
            };
            let mut now = match splits.get(id) {
                Some(split) => split_port(own, split, ports),
                None => Balanced::clone(own),
            };
            now.proxied = proxied.get(id).cloned();
            let made = match self.made.get(id) {
                Some(made) if **made == now => made.clone(),
                _ => Arc::new(now),
            };
            self.made.insert(id.clone(), made.clone());
            all.insert(id.clone(), made);
        }
        Arc::new(all)
    }
}

fn split_port(own: &Balanced, split: &Split, ports: &Ports) -> Balanced {
    let mut targets = Vec::new();
    let mut resting: Vec<SocketAddr> = Vec::new();
    for v4 in [true, false] {
        targets.extend(family(split, ports, v4));
    }
    for (id, _) in &split.backends {
        resting.extend(ports.get(id).iter().flat_map(|backend| &backend.resting));
    }
    resting.retain(|address| targets.iter().all(|target| target.address != *address));
    resting.sort_unstable();
    resting.dedup();
    Balanced {
        targets,
        resting,
        ..own.clone()
    }
}

/// Returns the targets of one family. Empty where nobody at all answers.
fn family(split: &Split, ports: &Ports, v4: bool) -> Vec<Target> {
    let mut shares: BTreeMap<SocketAddr, f64> = BTreeMap::new();
    let mut refused = f64::from(split.refused);
    for (id, weight) in &split.backends {
        let backend = ports.get(id);
        let group: Vec<&Target> = backend
            .iter()
            .flat_map(|backend| &backend.targets)
            .filter(|target| target.address.is_ipv4() == v4)
            .collect();
        let sum: f64 = group.iter().map(|target| f64::from(target.weight)).sum();
        if group.is_empty() {
            refused += f64::from(*weight);
            continue;
        }
        for target in group {
            let share = f64::from(*weight) * f64::from(target.weight) / sum;
            *shares.entry(target.address).or_default() += share;
        }
    }
    if shares.is_empty() {
        return Vec::new();
    }
    if refused > 0.0 {
        shares.insert(NOBODY[usize::from(!v4)], refused);
    }
    let weights = weigh::integers(&shares.values().copied().collect::<Vec<f64>>());
    let pairs = shares.into_keys().zip(weights);
    pairs
        // What the kernel balances needs no names.
        .map(|(address, weight)| Target {
            address,
            workload: None,
            weight,
        })
        .collect()
}

/// Returns counters by the port whose endpoints they are: what was counted of a split port is its backends'.
pub fn attributed(counters: Vec<CountedPort>, splits: &Splits, ports: &Ports) -> Vec<CountedPort> {
    if splits.is_empty() {
        return counters;
    }
    let mut sums: HashMap<PortId, BTreeMap<SocketAddr, BackendCounters>> = HashMap::new();
    for (id, counted) in counters {
        let split = splits.get(&*id);
        for (address, counters) in counted {
            let mut add = |id: &PortId| {
                let of_port = sums.entry(id.clone()).or_default();
                sum(of_port.entry(address).or_default(), &counters);
            };
            let Some(split) = split else {
                add(&id);
                continue;
            };
            for (backend, _) in &split.backends {
                if ports.get(backend).is_some_and(|it| has(it, address)) {
                    add(backend);
                }
            }
        }
    }
    let sums = sums.into_iter();
    sums.map(|(id, of_port)| (Arc::new(id), of_port.into_iter().collect()))
        .collect()
}

fn has(port: &Balanced, address: SocketAddr) -> bool {
    port.targets.iter().any(|it| it.address == address) || port.resting.contains(&address)
}

fn sum(into: &mut BackendCounters, more: &BackendCounters) {
    into.open += more.open;
    into.picked += more.picked;
    into.failed = into.failed.wrapping_add(more.failed);
    into.reset = into.reset.wrapping_add(more.reset);
    into.retransmits += more.retransmits;
}

#[cfg(test)]
mod tests {
    use mesh_common::balance::Algorithm;

    use super::*;
    use crate::model::service::{Drain, Protocol, ServiceName};

    fn id(name: &str) -> PortId {
        PortId {
            service: ServiceName {
                namespace: "shop".to_owned(),
                name: name.to_owned(),
            },
            port: 80,
            protocol: Protocol::Tcp,
        }
    }

    fn port(name: &str, targets: &[(&str, u32)], resting: &[&str]) -> (PortId, Arc<Balanced>) {
        let target = |(address, weight): &(&str, u32)| Target {
            address: address.parse().unwrap(),
            workload: None,
            weight: *weight,
        };
        let balanced = Balanced {
            id: id(name),
            frontends: vec![format!("10.96.0.{}:80", name.len()).parse().unwrap()],
            node_port: None,
            algorithm: Algorithm::Random,
            affinity: None,
            drops: false,
            drain: Drain::Keep,
            targets: targets.iter().map(target).collect(),
            resting: resting.iter().map(|it| it.parse().unwrap()).collect(),
            candidates: Vec::new(),
            proxied: None,
        };
        (id(name), Arc::new(balanced))
    }

    fn split(backends: &[(&str, u32)], refused: u32) -> Splits {
        let backends = backends.iter().map(|(name, weight)| (id(name), *weight));
        let split = Split {
            backends: backends.collect(),
            refused,
        };
        [(id("a"), split)].into_iter().collect()
    }

    fn world() -> Arc<Ports> {
        let all = [
            port("a", &[("10.0.0.1:80", 1)], &[]),
            port(
                "bb",
                &[("10.0.1.1:80", 1), ("10.0.1.2:80", 3)],
                &["10.0.1.3:80"],
            ),
            port("ccc", &[("10.0.2.1:80", 5), ("[fd00::1]:80", 1)], &[]),
            port("dddd", &[], &["10.0.3.1:80"]),
        ];
        Arc::new(all.into_iter().collect())
    }

    fn shares(ports: &Ports) -> Vec<(String, f64)> {
        let targets = &ports[&id("a")].targets;
        let sum: f64 = targets.iter().map(|it| f64::from(it.weight)).sum();
        let share = |it: &Target| (it.address.to_string(), f64::from(it.weight) / sum);
        targets.iter().map(share).collect()
    }

    #[test]
    fn a_backend_has_its_share_whatever_the_number_of_its_endpoints() {
        let mut splitter = Splitter::default();
        let ports = splitter.apply(
            &world(),
            &split(&[("bb", 1), ("dddd", 1)], 2),
            &BTreeMap::new(),
        );
        let expected = [
            ("10.0.1.1:80", 0.0625),
            ("10.0.1.2:80", 0.1875),
            ("127.0.0.1:0", 0.75),
        ];
        let mut got = shares(&ports);
        got.sort_by(|one, other| one.0.cmp(&other.0));
        for ((address, share), (wanted, expected)) in got.iter().zip(expected) {
            assert_eq!(address, wanted);
            assert!((share - expected).abs() < 0.01, "{address} {share}");
        }
        assert_eq!(got.len(), 3);
        let resting: Vec<String> = ports[&id("a")]
            .resting
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(resting, ["10.0.1.3:80", "10.0.3.1:80"]);
        assert_eq!(ports[&id("a")].frontends, world()[&id("a")].frontends);
    }

    #[test]
    fn families_are_split_apart_and_nobody_at_all_is_no_target() {
        let mut splitter = Splitter::default();
        let ports = splitter.apply(
            &world(),
            &split(&[("bb", 1), ("ccc", 1)], 0),
            &BTreeMap::new(),
        );
        let v6: Vec<_> = ports[&id("a")]
            .targets
            .iter()
            .filter(|it| it.address.is_ipv6())
            .collect();
        assert_eq!(
            v6.len(),
            2,
            "the endpoint, and the share of the one that has none: {v6:?}"
        );
        assert!(
            v6.iter()
                .any(|it| it.address == NOBODY[1] && it.weight == v6[0].weight)
        );
        let none = splitter.apply(&world(), &split(&[("dddd", 1)], 1), &BTreeMap::new());
        assert!(none[&id("a")].targets.is_empty());
    }

    #[test]
    fn what_did_not_change_is_the_same() {
        let world = world();
        let mut splitter = Splitter::default();
        let splits = split(&[("bb", 1)], 0);
        let first = splitter.apply(&world, &splits, &BTreeMap::new());
        let second = splitter.apply(&world, &splits, &BTreeMap::new());
        assert!(Arc::ptr_eq(&first[&id("a")], &second[&id("a")]));
        assert!(Arc::ptr_eq(&first[&id("bb")], &world[&id("bb")]));
        assert!(Arc::ptr_eq(
            &splitter.apply(&world, &Splits::new(), &BTreeMap::new()),
            &world
        ));
    }

    #[test]
    fn what_is_counted_is_the_backends() {
        let counters = |picked| BackendCounters {
            picked,
            failed: u32::MAX,
            ..BackendCounters::default()
        };
        let of = |name: &str, all: &[(&str, u64)]| {
            let all = all
                .iter()
                .map(|(address, picked)| (address.parse().unwrap(), counters(*picked)));
            (Arc::new(id(name)), all.collect())
        };
        let counted = vec![
            of(
                "a",
                &[("10.0.1.1:80", 5), ("10.0.0.1:80", 1), ("127.0.0.1:0", 9)],
            ),
            of("bb", &[("10.0.1.1:80", 2)]),
            of("ccc", &[("10.0.2.1:80", 3)]),
        ];
        let mut found = attributed(counted, &split(&[("bb", 1)], 1), &world());
        found.sort_by(|one, other| one.0.cmp(&other.0));
        let picked: Vec<_> = found
            .iter()
            .map(|(id, all)| {
                (
                    id.service.name.as_str(),
                    all.iter().map(|it| it.1.picked).collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(picked, [("bb", vec![7]), ("ccc", vec![3])]);
        assert_eq!(found[0].1[0].1.failed, u32::MAX.wrapping_add(u32::MAX));
    }
}
