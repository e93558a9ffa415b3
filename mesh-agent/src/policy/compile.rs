//! The compiler: keeps what it can from one snapshot to the next.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::addr::Addr;
use mesh_common::policy::{Direction, MAX_RANGES, Range, VerdictKey};

use crate::model::policy::Policies;
use crate::model::service::Protocol;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Workload, WorkloadName};
use crate::policy::blocks::Blocks;
use crate::policy::book::{Book, Profile};
use crate::policy::classes::{self, Classes};
use crate::policy::peers::{Namespaces, Peers, PortNumbers, named};
use crate::policy::ranges::{self, Matched};
use crate::policy::rules::RuleNumbers;
use crate::policy::select;
use crate::policy::tables::{ClassRows, PolicyTables, SubjectTable};

/// A workload that was found on this node.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its handle.
    pub handle: u32,
    /// The workload.
    pub workload: Arc<Workload>,
}

/// Compiles the policies of one snapshot after another.
///
/// What did not change is not looked at again: a pod is asked after once for each set of peers, and a class's rows are made once
/// for each set of rules.
#[derive(Debug, Default)]
pub struct Compiler {
    numbers: RuleNumbers,
    classes: Classes,
    table: u32,
    book: Book,
    /// What the book was made of.
    sources: Option<Sources>,
    blocks: Blocks,
    ports: PortNumbers,
    pods: HashMap<WorkloadName, (Arc<Workload>, Vec<u32>)>,
    rows: BTreeMap<u32, ClassRows>,
    lists: Lists,
    errors: Vec<String>,
}

#[derive(Debug)]
struct Sources {
    policies: Arc<Policies>,
    namespaces: Arc<Namespaces>,
    subjects: Vec<Subject>,
}

impl Sources {
    fn are(&self, snapshot: &Snapshot, subjects: &[Subject]) -> bool {
        let same = |(one, other): (&Subject, &Subject)| {
            one.handle == other.handle && Arc::ptr_eq(&one.workload, &other.workload)
        };
        Arc::ptr_eq(&self.policies, &snapshot.policies)
            && Arc::ptr_eq(&self.namespaces, &snapshot.namespaces)
            && self.subjects.len() == subjects.len()
            && self.subjects.iter().zip(subjects).all(same)
    }
}

/// Distinct lists of ranges, each with a number.
#[derive(Clone, Debug, Default)]
struct Lists {
    all: Vec<Arc<[Range]>>,
    numbers: HashMap<Vec<[u32; 3]>, u32>,
}

impl Lists {
    fn number(&mut self, ranges: &[Range]) -> u32 {
        let words = |range: &Range| {
            let Range {
                from,
                action,
                flags,
                rule,
            } = *range;
            [
                u32::from(from),
                u32::from_be_bytes([0, 0, action, flags]),
                rule,
            ]
        };
        let key: Vec<[u32; 3]> = ranges.iter().map(words).collect();
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(ranges.into());
        self.numbers.insert(key, number);
        number
    }
}

/// What a profile's rules come to for a class: the numbers of their lists by protocol.
type Outcome = [Option<u32>; 2];
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

impl Compiler {
    /// Returns a compiler whose tables and classes have numbers beyond these, which an earlier agent gave.
    pub fn after(table: u32, class: u32) -> Self {
        Self {
            table,
            classes: Classes::after(class),
            ..Self::default()
        }
    }

    /// Compiles the policies that apply to `subjects`, in the order of their handles; `host` are this machine's own addresses.
    pub fn compile(
        &mut self,
        snapshot: &Snapshot,
        subjects: &[Subject],
        host: &[IpAddr],
    ) -> PolicyTables {
        let sources = self.sources.as_ref();
        if !sources.is_some_and(|sources| sources.are(snapshot, subjects)) {
            self.rewrite(snapshot, subjects);
        }
        self.ask_after_pods(snapshot);
        let pods = self.pods.values();
        let pods = pods.map(|(pod, matched)| (pod.as_ref(), matched.as_slice()));
        let prefixes = classes::prefixes(&self.blocks, pods, &mut self.classes);
        let used: HashSet<u32> = prefixes.values().copied().collect();
        let used = self.classes.keep(&used);
        self.make_rows(&used);
        let mut lengths: Vec<u32> = prefixes.keys().map(|(_, bits)| *bits).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        let owned = subjects.iter().flat_map(|subject| {
            let addresses = subject.workload.addresses.iter();
            addresses.map(|address| (Addr::from(*address), subject.handle))
        });
        PolicyTables {
            table: self.table,
            subjects: self.book.subjects.clone(),
            prefixes,
            rows: self.rows.clone(),
            lists: self.lists.all.clone(),
            fresh_rules: std::mem::take(&mut self.book.fresh),
            errors: self.errors.clone(),
            names: Arc::new(self.numbers.names().clone()),
            owners: owned.collect(),
            host: host.iter().map(|address| Addr::from(*address)).collect(),
            lengths,
        }
    }

    /// Makes the rules anew. Where that changes the peers that matter, another table begins.
    fn rewrite(&mut self, snapshot: &Snapshot, subjects: &[Subject]) {
        let policies = &snapshot.policies;
        let none = Peers::default();
        let mut book = Book::new(policies, subjects, &mut self.numbers, none);
        let before = self.sources.replace(Sources {
            policies: Arc::clone(policies),
            namespaces: Arc::clone(&snapshot.namespaces),
            subjects: subjects.to_vec(),
        });
        if self.table > 0 && before.is_some() && book.peers.are_those_of(&self.book.peers) {
            let fresh = book.fresh;
            let peers = std::mem::take(&mut self.book.peers);
            book = Book::new(policies, subjects, &mut self.numbers, peers);
            book.fresh = fresh;
            if !before.is_some_and(|b| Arc::ptr_eq(&b.namespaces, &snapshot.namespaces)) {
                self.pods.clear();
            }
        } else {
            self.table += 1;
            self.classes.clear();
            self.blocks = Blocks::new(&book.peers.blocks());
            self.ports = PortNumbers::default();
            self.pods.clear();
        }
        self.book = book;
        self.rows.clear();
        self.lists = Lists::default();
        self.errors.clear();
        if self.numbers.untold() > 0 {
            self.errors.push(format!(
                "{} policy rules share a number in counts and records: there is room for {}",
                self.numbers.untold(),
                mesh_common::limits::RULES
            ));
        }
    }

    /// Finds what peers match each pod, where that is not known yet.
    fn ask_after_pods(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.pods);
        let mut unknown = Vec::new();
        for pod in &snapshot.workloads {
            match before.remove(&pod.name) {
                Some((known, matched)) if Arc::ptr_eq(&known, pod) => {
                    self.pods.insert(pod.name.clone(), (known, matched));
                }
                Some(_) | None => unknown.push(Arc::clone(pod)),
            }
        }
        let (peers, namespaces) = (&self.book.peers, &snapshot.namespaces);
        let matched = match unknown.as_slice() {
            [only] => vec![peers.matching(namespaces, &mut self.ports, only)],
            all => peers.matching_all(namespaces, &mut self.ports, all),
        };
        for (pod, matched) in unknown.into_iter().zip(matched) {
            self.pods.insert(pod.name.clone(), (pod, matched));
        }
    }

    /// Makes the rows of classes that have none yet, and drops those of classes that are gone.
    fn make_rows(&mut self, used: &BTreeMap<u32, Arc<[u32]>>) {
        self.rows.retain(|class, _| used.contains_key(class));
        let mut known: HashMap<(usize, Vec<u32>), Outcome> = HashMap::new();
        for (class, matched) in used {
            if self.rows.contains_key(class) {
                continue;
            }
            let outcomes: Vec<Outcome> = (0..self.book.profiles.len())
                .map(|place| self.outcome(place, matched, &mut known))
                .collect();
            let rows = self.rows_of(*class, &outcomes);
            self.rows.insert(*class, Arc::new(rows));
        }
    }

    fn rows_of(&self, class: u32, outcomes: &[Outcome]) -> Vec<(VerdictKey, u32)> {
        let mut rows = Vec::with_capacity(2 * self.book.of.len());
        for (subject, places) in &self.book.of {
            for place in places {
                let (Some(profile), Some(outcome)) =
                    (self.book.profiles.get(*place), outcomes.get(*place))
                else {
                    continue;
                };
                for (protocol, list) in PROTOCOLS.into_iter().zip(outcome) {
                    let key = VerdictKey {
                        subject: *subject,
                        class,
                        direction: profile.direction as u8,
                        protocol: protocol.number(),
                        _pad: [0; 2],
                    };
                    rows.extend(list.map(|list| (key, list)));
                }
            }
        }
        rows.sort_unstable_by_key(|(key, _)| *key);
        rows
    }

    fn outcome(
        &mut self,
        place: usize,
        class: &[u32],
        known: &mut HashMap<(usize, Vec<u32>), Outcome>,
    ) -> Outcome {
        let Some(profile) = self.book.profiles.get(place) else {
            return [None, None];
        };
        // Which rules match, and the ports that names stand for, are all that the lists depend on.
        let rules = profile.applied.iter().flat_map(|policy| &policy.rules);
        let matching = (0u32..)
            .zip(rules)
            .filter_map(|(at, rule)| rule.matches(class).then_some(at));
        let mut key: Vec<u32> = matching.collect();
        if profile.direction == Direction::Egress {
            key.extend(named(class));
        }
        if let Some(outcome) = known.get(&(place, key.clone())) {
            return *outcome;
        }
        let outcome = PROTOCOLS.map(|protocol| {
            let matched: Matched<'_> = profile
                .applied
                .iter()
                .map(|policy| {
                    let rules = policy.rules.iter().filter(|rule| rule.matches(class));
                    let spans = |rule| {
                        (
                            rule,
                            ranges::CompiledRule::spans(rule, protocol, class, &self.ports),
                        )
                    };
                    (policy, rules.map(spans).collect())
                })
                .collect();
            let list = ranges::list(&matched);
            if list.len() <= MAX_RANGES as usize {
                return Some(self.lists.number(&list));
            }
            let error = too_long(profile, list.len());
            if !self.errors.contains(&error) {
                self.errors.push(error);
            }
            close(
                &mut self.book.subjects,
                &self.book.of,
                place,
                profile.direction,
            );
            None
        });
        known.insert((place, key), outcome);
        outcome
    }
}

/// Says which policies need more ranges than there is room for.
fn too_long(profile: &Profile, ranges: usize) -> String {
    let most = profile
        .policies
        .iter()
        .zip(&profile.applied)
        .max_by_key(|(_, applied)| {
            let ports = applied.rules.iter().filter_map(|rule| rule.ports.as_ref());
            ports.map(Vec::len).sum::<usize>()
        });
    let name = most.map(|(policy, _)| policy.name.to_string());
    format!(
        "{} and what else applies to the same pods for {} need {ranges} ranges of ports, more than {MAX_RANGES}: denied for the peers concerned",
        name.unwrap_or_default(),
        profile.direction.label()
    )
}

/// Does not judge by a profile that is nothing but dry-run policies; any other stays closed.
fn close(
    subjects: &mut BTreeMap<u32, SubjectTable>,
    of: &BTreeMap<u32, Vec<usize>>,
    place: usize,
    direction: Direction,
) {
    let flag = select::flag(direction);
    let having = of.iter().filter(|(_, places)| places.contains(&place));
    for (handle, _) in having {
        if let Some(subject) = subjects.get_mut(handle)
            && subject.enforced & flag == 0
        {
            subject.flags &= !flag;
        }
    }
}
