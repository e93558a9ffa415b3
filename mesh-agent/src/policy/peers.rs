//! Peers of rules, each with a number, and which pods they match.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::policy::{Block, LabelSelector, Peer, Term};
use crate::model::service::Protocol;
use crate::model::workload::Workload;

/// Labels of the namespaces.
pub(super) type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// Numbers from here on are not peers but named ports: what sets pods apart that a rule for egress names a port of.
const PORTS: u32 = 1 << 31;

/// Every distinct peer of the rules that matter, numbered in the order of their coming.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    numbers: HashMap<(String, Peer), u32>,
    all: Vec<(String, Peer)>,
    /// Names of ports in rules for egress, ascending.
    pub(super) port_names: Vec<String>,
}

impl Peers {
    /// Returns whether these are the same peers and port names, whatever their numbers.
    pub(super) fn are_those_of(&self, other: &Self) -> bool {
        let known = |key| other.numbers.contains_key(key);
        self.all.len() == other.all.len()
            && self.all.iter().all(known)
            && self.port_names == other.port_names
    }

    /// Returns the number of a peer in a policy of this namespace.
    pub(super) fn number(&mut self, namespace: &str, peer: &Peer) -> u32 {
        // Only this kind depends on it.
        let own = matches!(
            peer,
            Peer::Pods {
                namespaces: None,
                ..
            }
        );
        let key = (if own { namespace } else { "" }.to_owned(), peer.clone());
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = u32::try_from(self.all.len()).unwrap_or(PORTS - 1);
        self.all.push(key.clone());
        self.numbers.insert(key, number);
        number
    }

    /// Returns the peers that are blocks.
    pub(super) fn blocks(&self) -> Vec<(u32, &Block, &[Block])> {
        let numbered = (0u32..).zip(&self.all);
        numbered
            .filter_map(|(number, (_, peer))| match peer {
                Peer::Block { block, except } => Some((number, block, except.as_slice())),
                Peer::Pods { .. } => None,
            })
            .collect()
    }

    /// Returns the numbers that match one pod, ascending.
    pub(super) fn matching(
        &self,
        namespaces: &Namespaces,
        ports: &mut PortNumbers,
        pod: &Workload,
    ) -> Vec<u32> {
        let numbered = (0u32..).zip(&self.all);
        let matched = numbered.filter(|(_, (own, peer))| matches(own, peer, namespaces, pod));
        let mut matched: Vec<u32> = matched.map(|(number, _)| number).collect();
        matched.extend(self.ports_of(ports, pod));
        matched
    }

    /// As [`Self::matching`], for all pods at once: asks each peer only after pods that have a label which it wants.
    pub(super) fn matching_all(
        &self,
        namespaces: &Namespaces,
        ports: &mut PortNumbers,
        pods: &[Arc<Workload>],
    ) -> Vec<Vec<u32>> {
        let index = Index::new(self, pods);
        let mut matched = vec![Vec::new(); pods.len()];
        for (number, (own, peer)) in (0u32..).zip(&self.all) {
            for at in index.candidates(own, peer, pods.len()) {
                if let (Some(pod), Some(found)) = (pods.get(at), matched.get_mut(at))
                    && matches(own, peer, namespaces, pod)
                {
                    found.push(number);
                }
            }
        }
        for (found, pod) in matched.iter_mut().zip(pods) {
            found.extend(self.ports_of(ports, pod));
        }
        matched
    }

    fn ports_of(&self, ports: &mut PortNumbers, pod: &Workload) -> Vec<u32> {
        let named = pod.ports.iter();
        let named = named.filter(|port| self.port_names.binary_search(&port.name).is_ok());
        let mut numbers: Vec<u32> = named
            .map(|port| ports.number(&port.name, port.protocol, port.number))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

fn matches(own: &str, peer: &Peer, namespaces: &Namespaces, pod: &Workload) -> bool {
    let Peer::Pods {
        namespaces: selected,
        pods,
        service_accounts,
    } = peer
    else {
        return false;
    };
    let namespace = &pod.name.namespace;
    let in_namespace = match selected {
        None => namespace == own,
        Some(selector) => namespaces.get(namespace).map_or_else(
            || selector.matches(&BTreeMap::new()),
            |l| selector.matches(l),
        ),
    };
    let is_account = |account: &String| match account.split_once('/') {
        Some((of, name)) => of == namespace && name == pod.service_account,
        None => *account == pod.service_account,
    };
    in_namespace
        && pods.matches(&pod.labels)
        && service_accounts
            .as_ref()
            .is_none_or(|accounts| accounts.iter().any(is_account))
}

/// Numbers of named ports: name, protocol and port.
#[derive(Clone, Debug, Default)]
pub(super) struct PortNumbers {
    all: Vec<(String, Protocol, u16)>,
    numbers: HashMap<(String, Protocol, u16), u32>,
}

impl PortNumbers {
    fn number(&mut self, name: &str, protocol: Protocol, port: u16) -> u32 {
        let key = (name.to_owned(), protocol, port);
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = PORTS | u32::try_from(self.all.len()).unwrap_or(PORTS - 1);
        self.all.push(key.clone());
        self.numbers.insert(key, number);
        number
    }

    /// Returns the ports of this name and protocol among what a class is made of.
    pub(super) fn of<'a>(
        &'a self,
        class: &'a [u32],
        name: &'a str,
        protocol: Protocol,
    ) -> impl Iterator<Item = u16> + 'a {
        named(class).filter_map(move |number| {
            let at = usize::try_from(number & !PORTS).ok()?;
            let (own, of, port) = self.all.get(at)?;
            (own == name && *of == protocol).then_some(*port)
        })
    }
}

/// Returns what of a class are named ports.
pub(super) fn named(class: &[u32]) -> impl Iterator<Item = u32> + '_ {
    let from = class.partition_point(|number| *number < PORTS);
    class[from..].iter().copied()
}

/// Pods by namespace and by the labels that peers want.
struct Index<'a> {
    namespaces: HashMap<&'a str, Vec<usize>>,
    labels: HashMap<(&'a str, &'a str), Vec<usize>>,
}

impl<'a> Index<'a> {
    fn new(peers: &'a Peers, pods: &'a [Arc<Workload>]) -> Self {
        let mut labels: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
        for (_, peer) in &peers.all {
            if let Some((key, values)) = wanted(peer) {
                for value in values {
                    labels.entry((key, value)).or_default();
                }
            }
        }
        let mut namespaces: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, pod) in pods.iter().enumerate() {
            namespaces.entry(&pod.name.namespace).or_default().push(at);
            for label in pod.labels.iter() {
                if let Some(found) = labels.get_mut(&label) {
                    found.push(at);
                }
            }
        }
        Self { namespaces, labels }
    }

    /// Returns where the pods are that a peer may match.
    fn candidates(&self, own: &str, peer: &Peer, pods: usize) -> Vec<usize> {
        let Peer::Pods { namespaces, .. } = peer else {
            return Vec::new();
        };
        if let Some((key, values)) = wanted(peer) {
            let found = values
                .iter()
                .filter_map(|value| self.labels.get(&(key, value.as_str())));
            let mut found: Vec<usize> = found.flatten().copied().collect();
            found.sort_unstable();
            // A value may be named twice.
            found.dedup();
            return found;
        }
        match namespaces {
            None => self.namespaces.get(own).cloned().unwrap_or_default(),
            Some(_) => (0..pods).collect(),
        }
    }
}

/// Returns a label of which a pod has to have one of these values.
fn wanted(peer: &Peer) -> Option<(&str, &[String])> {
    let Peer::Pods {
        pods: LabelSelector { terms },
        ..
    } = peer
    else {
        return None;
    };
    terms.iter().find_map(|term| match term {
        Term::In(key, values) => Some((key.as_str(), values.as_slice())),
        Term::NotIn(..) | Term::Exists(_) | Term::DoesNotExist(_) => None,
    })
}
