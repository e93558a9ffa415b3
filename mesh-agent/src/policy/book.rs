//! The rules that matter on this node, by subject.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use mesh_common::policy::Direction;

use crate::model::policy::{Action, Policies, Policy, Ports, RuleName, WhichPorts};
use crate::model::service::Protocol;
use crate::model::workload::{NamedPort, Workload};
use crate::policy::compile::Subject;
use crate::policy::peers::Peers;
use crate::policy::ranges::{Applied, CompiledRule};
use crate::policy::rules::{RuleNumbers, rule_name};
use crate::policy::select::{self, DIRECTIONS};
use crate::policy::tables::SubjectTable;

/// What applies to a subject in one direction. Subjects to which the same applies share it.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) direction: Direction,
    pub(super) policies: Vec<Arc<Policy>>,
    pub(super) applied: Vec<Applied>,
}

/// The rules that matter on this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) peers: Peers,
    pub(super) profiles: Vec<Profile>,
    /// Handle to subject.
    pub(super) subjects: BTreeMap<u32, SubjectTable>,
    /// Handle to its profiles, by their place.
    pub(super) of: BTreeMap<u32, Vec<usize>>,
    /// Numbers of rules that were not theirs before.
    pub(super) fresh: Vec<u32>,
}

/// What subjects share, before it is compiled: the named ports are the subject's own, where they matter.
type Shared = (Direction, Vec<Arc<Policy>>, Vec<NamedPort>);

/// Which policies, which way, and what their named ports are.
type ProfileKey = (Direction, Vec<usize>, Vec<(String, Protocol, u16)>);

impl Book {
    /// Collects what applies to the subjects. `peers` are those of before, so that they keep their numbers, or none.
    pub(super) fn new(
        policies: &Policies,
        subjects: &[Subject],
        numbers: &mut RuleNumbers,
        mut peers: Peers,
    ) -> Self {
        let mut book = Self::default();
        let mut known: HashMap<ProfileKey, usize> = HashMap::new();
        let mut shared: Vec<Shared> = Vec::new();
        for subject in subjects {
            let workload = subject.workload.as_ref();
            let applying: Vec<&Arc<Policy>> = select::applying(policies, workload).collect();
            let mut places = Vec::new();
            for direction in DIRECTIONS {
                let mine: Vec<Arc<Policy>> = applying
                    .iter()
                    .filter(|policy| select::rules(policy, direction).is_some())
                    .map(|policy| Arc::clone(policy))
                    .collect();
                if mine.is_empty() {
                    continue;
                }
                // Names in rules for ingress are the subject's own ports.
                let ports = match direction {
                    Direction::Ingress if mine.iter().any(|policy| names_ports(policy)) => {
                        workload.ports.clone()
                    }
                    Direction::Ingress | Direction::Egress => Vec::new(),
                };
                let key = (
                    direction,
                    mine.iter()
                        .map(|policy| Arc::as_ptr(policy).addr())
                        .collect(),
                    ports
                        .iter()
                        .map(|port| (port.name.clone(), port.protocol, port.number))
                        .collect(),
                );
                let place = *known.entry(key).or_insert_with(|| {
                    shared.push((direction, mine.clone(), ports));
                    shared.len() - 1
                });
                places.push(place);
            }
            book.subjects
                .insert(subject.handle, subject_table(workload, &places, &shared));
            book.of.insert(subject.handle, places);
        }
        let names: HashSet<RuleName> = shared
            .iter()
            .flat_map(|(direction, policies, _)| {
                policies.iter().flat_map(|policy| names(policy, *direction))
            })
            .collect();
        book.fresh = numbers.set(&names);
        let mut port_names = HashSet::new();
        for (direction, policies, ports) in shared {
            let applied = policies
                .iter()
                .map(|policy| {
                    if direction == Direction::Egress {
                        port_names.extend(named_ports(policy).cloned());
                    }
                    apply(policy, direction, &ports, numbers, &mut peers)
                })
                .collect();
            book.profiles.push(Profile {
                direction,
                policies,
                applied,
            });
        }
        peers.port_names = port_names.into_iter().collect();
        peers.port_names.sort_unstable();
        book.peers = peers;
        book
    }
}

fn subject_table(workload: &Workload, places: &[usize], shared: &[Shared]) -> SubjectTable {
    let mut table = SubjectTable {
        name: workload.name.clone(),
        ..SubjectTable::default()
    };
    for (direction, policies, _) in places.iter().filter_map(|place| shared.get(*place)) {
        table.flags |= select::flag(*direction);
        for policy in policies.iter().filter(|policy| !policy.dry_run) {
            table.enforced |= select::flag(*direction);
            if policy.action == Action::Allow {
                match direction {
                    Direction::Ingress => table.isolated_ingress.push(policy.name.clone()),
                    Direction::Egress => table.isolated_egress.push(policy.name.clone()),
                }
            }
        }
    }
    table
}

/// The rule that a dry-run policy has when none of its own matches.
const DEFAULT: &str = "default";

fn has_default(policy: &Policy) -> bool {
    policy.dry_run && policy.action == Action::Allow
}

fn names(policy: &Policy, direction: Direction) -> impl Iterator<Item = RuleName> + '_ {
    let rules = select::rules(policy, direction).unwrap_or_default().iter();
    let own = rules.map(|rule| rule.name.as_str());
    own.chain(has_default(policy).then_some(DEFAULT))
        .map(move |rule| rule_name(&policy.name, direction, rule))
}

fn apply(
    policy: &Policy,
    direction: Direction,
    ports: &[NamedPort],
    numbers: &RuleNumbers,
    peers: &mut Peers,
) -> Applied {
    let number = |rule: &str| numbers.number(&rule_name(&policy.name, direction, rule));
    let rules = select::rules(policy, direction).unwrap_or_default();
    let rules = rules.iter().map(|rule| CompiledRule {
        number: number(&rule.name),
        peers: rule.peers.as_ref().map(|all| {
            all.iter()
                .map(|peer| peers.number(&policy.name.namespace, peer))
                .collect()
        }),
        ports: rule.ports.as_ref().map(|all| {
            all.iter()
                .flat_map(|one| compiled_ports(one, direction, ports))
                .collect()
        }),
    });
    Applied {
        rules: rules.collect(),
        kind: policy.name.kind,
        action: policy.action,
        dry_run: policy.dry_run,
        default: if has_default(policy) {
            number(DEFAULT)
        } else {
            0
        },
    }
}

/// Returns the ports of a rule; for ingress, numbers in the place of names.
fn compiled_ports(
    ports: &Ports,
    direction: Direction,
    own: &[NamedPort],
) -> Vec<(Option<Protocol>, WhichPorts)> {
    match (&ports.which, direction) {
        (WhichPorts::Named(name), Direction::Ingress) => own
            .iter()
            .filter(|port| port.name == *name)
            .filter(|port| ports.protocol.is_none_or(|of| of == port.protocol))
            .map(|port| {
                let which = WhichPorts::Range(port.number, port.number);
                (Some(port.protocol), which)
            })
            .collect(),
        (which, _) => vec![(ports.protocol, which.clone())],
    }
}

fn names_ports(policy: &Policy) -> bool {
    named_ports(policy).next().is_some()
}

fn named_ports(policy: &Policy) -> impl Iterator<Item = &String> {
    let rules = [&policy.ingress, &policy.egress].into_iter().flatten();
    let ports = rules.flatten().filter_map(|rule| rule.ports.as_ref());
    ports.flatten().filter_map(|ports| match &ports.which {
        WhichPorts::Named(name) => Some(name),
        WhichPorts::All | WhichPorts::Range(..) => None,
    })
}
