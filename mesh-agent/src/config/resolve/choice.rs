//! Decides which version of each object counts. The rules are in the documentation of `resolve`.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Running, live_pod};
use crate::config::content::Content;
use crate::config::key::{Key, Place};
use crate::config::limits;
use crate::config::object::{Object, Outcome};
use crate::config::pod::{Pod, PodAddress};
use crate::config::problem::{Finding, Problem, Severity};

/// Which version of each object counts, while that is being decided.
pub(super) struct Choice<'a> {
    before: &'a Running,
    contents: &'a [Arc<Content>],
    pub(super) objects: BTreeMap<Key, Arc<(Place, Object)>>,
    /// Problems that follow only from all objects together, by the object that loses.
    conflicts: Vec<(Key, Problem)>,
    /// Objects whose last valid version stays in force because the present one is not valid.
    kept: BTreeSet<Key>,
    /// Files of which something stays in force though it was not found in them.
    kept_files: BTreeSet<Arc<str>>,
}

impl<'a> Choice<'a> {
    pub(super) fn new(contents: &'a [Arc<Content>], before: &'a Running) -> Self {
        let mut choice = Self {
            before,
            contents,
            objects: BTreeMap::new(),
            conflicts: Vec::new(),
            kept: BTreeSet::new(),
            kept_files: BTreeSet::new(),
        };
        for content in contents {
            for item in &content.items {
                if let Outcome::Valid(key, object) = &item.outcome {
                    choice.claim_name(key, Arc::new((item.place.clone(), object.clone())));
                }
            }
        }
        choice.keep();
        choice
    }

    /// Takes an object in, unless another one has its name.
    fn claim_name(&mut self, key: &Key, object: Arc<(Place, Object)>) {
        let Some(present) = self.objects.get(key) else {
            self.objects.insert(key.clone(), object);
            return;
        };
        let in_force = |object: &(Place, Object)| {
            let before = self.before.objects.get(key);
            before.is_some_and(|before| before.0.file == object.0.file)
        };
        let (winner, loser) = if in_force(&object) && !in_force(present) {
            (object, present.clone())
        } else {
            (present.clone(), object)
        };
        let finding = Finding::error(
            loser.0.line,
            "metadata.name",
            format!("a {key} stands in {} already", winner.0),
            "rename one of the two, or remove it",
        );
        let problem = loser.0.problem(Some(key), finding);
        self.conflicts.push((key.clone(), problem));
        self.objects.insert(key.clone(), winner);
    }

    /// Adds the last valid version of what is invalid now, and of what may be in a file that cannot be read.
    fn keep(&mut self) {
        for content in self.contents {
            for item in &content.items {
                if let Outcome::Invalid(Some(key)) = &item.outcome {
                    self.keep_one(key);
                }
            }
        }
        let unsure: BTreeSet<&str> = self
            .contents
            .iter()
            .filter(|content| !content.complete)
            .map(|content| &*content.file)
            .collect();
        for (key, object) in &self.before.objects {
            if unsure.contains(&*object.0.file) && self.keep_one(key) {
                self.kept_files.insert(object.0.file.clone());
            }
        }
    }

    /// Keeps the last valid version of an object, and returns whether there was a need to.
    fn keep_one(&mut self, key: &Key) -> bool {
        let Some(before) = self.before.objects.get(key) else {
            return false;
        };
        if self.objects.contains_key(key) {
            return false;
        }
        self.objects.insert(key.clone(), before.clone());
        self.kept.insert(key.clone());
        true
    }

    /// Falls back to the last valid version of each pod that claims the address of another, until no two claim the same.
    ///
    /// Ends because every round takes a version away, and a last valid version loses to nobody: versions that were in force
    /// together share no address, and who has an address in force wins it.
    pub(super) fn settle_addresses(&mut self) {
        loop {
            let clashes = self.address_clashes();
            let losers: BTreeSet<Key> = clashes.iter().map(|clash| clash.loser.clone()).collect();
            let (mut sure, open): (Vec<_>, Vec<_>) = clashes
                .into_iter()
                .partition(|clash| !losers.contains(&clash.winner));
            if sure.is_empty() {
                // Nothing left, or a ring in which each has what the next one wants: begin anywhere.
                sure.extend(open.into_iter().next());
            }
            if sure.is_empty() {
                return;
            }
            for clash in sure {
                self.give_way(clash);
            }
        }
    }

    fn give_way(&mut self, clash: Clash) {
        let Clash { loser, problem, .. } = clash;
        self.conflicts.push((loser.clone(), problem));
        let before = self.before.objects.get(&loser);
        match (self.objects.get(&loser), before) {
            // It gave way already, for another of its addresses.
            (None, _) => {}
            (Some(present), Some(before)) if present == before => {}
            (Some(_), Some(before)) => {
                self.objects.insert(loser.clone(), before.clone());
                self.kept.insert(loser);
            }
            (Some(_), None) => {
                self.objects.remove(&loser);
            }
        }
    }

    /// Returns every pod that must give way to another as things stand, and what to say.
    fn address_clashes(&self) -> Vec<Clash> {
        let mut clashes = Vec::new();
        let mut owners: HashMap<IpAddr, Claim<'_>> = HashMap::new();
        let mut pods: Vec<_> = self.objects.iter().filter_map(live_pod).collect();
        pods.sort_by_key(|(_, pod)| (&pod.place.file, pod.place.document, pod.place.line));
        for (key, pod) in pods {
            for address in &pod.addresses {
                let claim = Claim { key, pod, address };
                let Some(other) = owners.get(&address.ip) else {
                    owners.insert(address.ip, claim);
                    continue;
                };
                if self.had(key, address.ip) && !self.had(other.key, address.ip) {
                    clashes.push(claim.wins_over(other));
                    owners.insert(address.ip, claim);
                } else {
                    clashes.push(other.wins_over(&claim));
                }
            }
        }
        clashes
    }

    /// Returns whether a pod had this address in force before.
    fn had(&self, key: &Key, ip: IpAddr) -> bool {
        let before = self.before.objects.get_key_value(key);
        before
            .and_then(live_pod)
            .is_some_and(|(_, pod)| pod.addresses.iter().any(|address| address.ip == ip))
    }

    /// Rejects the pods beyond the number that the kernel's maps hold; those in force before stay.
    pub(super) fn limit(&mut self) {
        let mut live: Vec<(bool, Key)> = self
            .objects
            .iter()
            .filter_map(live_pod)
            .map(|(key, _)| (!self.before.objects.contains_key(key), key.clone()))
            .collect();
        live.sort();
        for (_, key) in live.into_iter().skip(limits::WORKLOADS) {
            let Some(object) = self.objects.remove(&key) else {
                continue;
            };
            let problem = format!("the node has more than {} workloads", limits::WORKLOADS);
            let finding = Finding::error(object.0.line, "", problem, "spread them over more nodes");
            let problem = object.0.problem(Some(&key), finding);
            self.conflicts.push((key, problem));
        }
    }

    /// Returns every problem, ordered by place, and says what stays in force in spite of it.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for content in self.contents {
            problems.extend(content.problems.iter().cloned());
            let of_items = content.items.iter().flat_map(|item| &item.problems);
            problems.extend(of_items.cloned());
        }
        problems.extend(self.conflicts.iter().map(|(_, problem)| problem.clone()));
        problems.sort();
        problems.dedup();
        let kept: BTreeSet<String> = self.kept.iter().map(Key::to_string).collect();
        let errors = problems
            .iter_mut()
            .filter(|problem| problem.severity == Severity::Error);
        for problem in errors {
            match &problem.object {
                Some(key) if kept.contains(key) => {
                    problem.help += "; its last valid version stays in force";
                }
                None if self.kept_files.contains(&*problem.file) => {
                    problem.help += "; what the file held before stays in force";
                }
                Some(_) | None => {}
            }
        }
        let beyond = problems.len().saturating_sub(limits::PROBLEMS);
        if beyond > 0 {
            problems.truncate(limits::PROBLEMS);
            let problem = format!("and {beyond} more problems, which are not shown");
            problems.push(Problem::of_file("...", problem, "solve the others first"));
        }
        problems
    }
}

/// A pod that claims an address.
struct Claim<'o> {
    key: &'o Key,
    pod: &'o Pod,
    address: &'o PodAddress,
}

/// Two pods that claim the same address.
struct Clash {
    winner: Key,
    loser: Key,
    problem: Problem,
}

impl Claim<'_> {
    fn wins_over(&self, loser: &Claim<'_>) -> Clash {
        let problem = format!(
            "`{}` is the address of {} in {}",
            loser.address.ip, self.key, self.pod.place
        );
        let help = "every pod needs an address of its own; correct one of the two";
        let finding = Finding::error(loser.address.line, &loser.address.path, problem, help);
        Clash {
            winner: self.key.clone(),
            loser: loser.key.clone(),
            problem: loser.pod.place.problem(Some(loser.key), finding),
        }
    }
}
