//! The slow and obvious model: each connection judged by itself, straight from the words of `crate::policy`.

use std::net::IpAddr;

use mesh_common::policy::Direction;

use crate::model::policy::{Action, Block, Peer, Policy, PolicyKind, Rule, WhichPorts};
use crate::model::service::Protocol;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

/// A connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

/// Everything there is.
pub(super) struct World<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) local: Vec<&'a Workload>,
    pub(super) host: &'a [IpAddr],
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fate {
    pub(super) allowed: bool,
    pub(super) would_deny: bool,
}

impl World<'_> {
    pub(super) fn fate(&self, dial: Dial) -> Fate {
        let denied = |dry_run| {
            self.denies(dial, Direction::Egress, dry_run)
                || self.denies(dial, Direction::Ingress, dry_run)
        };
        let one_would =
            |direction| !self.denies(dial, direction, false) && self.denies(dial, direction, true);
        Fate {
            allowed: !denied(false),
            would_deny: !denied(false)
                && (one_would(Direction::Egress) || one_would(Direction::Ingress)),
        }
    }

    fn pod(&self, address: IpAddr) -> Option<&Workload> {
        let mut all = self.snapshot.workloads.iter();
        all.find(|pod| pod.addresses.contains(&address))
            .map(AsRef::as_ref)
    }

    fn denies(&self, dial: Dial, direction: Direction, dry_run: bool) -> bool {
        let (own, peer) = match direction {
            Direction::Egress => (dial.from, dial.to),
            Direction::Ingress => (dial.to, dial.from),
        };
        let Some(subject) = self.local.iter().find(|pod| pod.addresses.contains(&own)) else {
            return false;
        };
        if subject.addresses.contains(&peer) || dial.to.is_loopback() {
            return false;
        }
        if direction == Direction::Ingress && self.host.contains(&peer) {
            return false;
        }
        let all = self.snapshot.policies.values();
        let applying: Vec<&Policy> = all
            .map(AsRef::as_ref)
            .filter(|policy| dry_run || !policy.dry_run)
            .filter(|policy| policy.name.namespace == subject.name.namespace)
            .filter(|policy| policy.subject.matches(&subject.labels))
            .filter(|policy| rules(policy, direction).is_some())
            .collect();
        let matched = |policy: &Policy| {
            let rules = rules(policy, direction).unwrap();
            rules
                .iter()
                .any(|rule| self.matches(policy, rule, peer, dial))
        };
        let denying = |policy: &&Policy| policy.action == Action::Deny;
        if applying.iter().copied().filter(denying).any(matched) {
            return true;
        }
        [PolicyKind::NetworkPolicy, PolicyKind::AuthorizationPolicy]
            .into_iter()
            .any(|kind| {
                let allowing: Vec<&Policy> = applying
                    .iter()
                    .copied()
                    .filter(|policy| policy.name.kind == kind && policy.action == Action::Allow)
                    .collect();
                !allowing.is_empty() && !allowing.into_iter().any(matched)
            })
    }

    /// Returns whether a rule matches, for the policy that it is of.
    pub(super) fn matches(&self, policy: &Policy, rule: &Rule, peer: IpAddr, dial: Dial) -> bool {
        let by_peer = match &rule.peers {
            None => true,
            Some(peers) => peers.iter().any(|one| self.is_peer(policy, one, peer)),
        };
        let by_port = match &rule.ports {
            None => true,
            Some(ports) => ports.iter().any(|ports| {
                ports
                    .protocol
                    .is_none_or(|protocol| protocol == dial.protocol)
                    && match &ports.which {
                        WhichPorts::All => true,
                        WhichPorts::Range(from, to) => (*from..=*to).contains(&dial.port),
                        WhichPorts::Named(name) => self.pod(dial.to).is_some_and(|pod| {
                            pod.ports.iter().any(|port| {
                                port.name == *name
                                    && port.protocol == dial.protocol
                                    && port.number == dial.port
                            })
                        }),
                    }
            }),
        };
        by_peer && by_port
    }

    fn is_peer(&self, policy: &Policy, peer: &Peer, address: IpAddr) -> bool {
        match peer {
            Peer::Block { block, except } => {
                within(block, address) && !except.iter().any(|block| within(block, address))
            }
            Peer::Pods {
                namespaces,
                pods,
                service_accounts,
            } => self.pod(address).is_some_and(|pod| {
                let of = &pod.name.namespace;
                let labels = &self.snapshot.namespaces[of];
                namespaces
                    .as_ref()
                    .map_or(*of == policy.name.namespace, |n| n.matches(labels))
                    && pods.matches(&pod.labels)
                    && service_accounts.as_ref().is_none_or(|accounts| {
                        let full = format!("{of}/{}", pod.service_account);
                        accounts.contains(&full) || accounts.contains(&pod.service_account)
                    })
            }),
        }
    }
}

pub(super) fn rules(policy: &Policy, direction: Direction) -> Option<&Vec<Rule>> {
    match direction {
        Direction::Ingress => policy.ingress.as_ref(),
        Direction::Egress => policy.egress.as_ref(),
    }
}

fn within(block: &Block, address: IpAddr) -> bool {
    let prefix = u32::from(block.prefix);
    match (block.address, address) {
        (IpAddr::V4(block), IpAddr::V4(address)) => {
            let shift = 32 - prefix;
            u64::from(block.to_bits()) >> shift == u64::from(address.to_bits()) >> shift
        }
        (IpAddr::V6(block), IpAddr::V6(address)) => (0..prefix).all(|bit| {
            let at = 127 - bit;
            (block.to_bits() >> at) & 1 == (address.to_bits() >> at) & 1
        }),
        _ => false,
    }
}
