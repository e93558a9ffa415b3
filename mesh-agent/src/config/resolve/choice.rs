//! Decides which version of each object counts. The rules are in the documentation of `resolve`.
//!
//! Objects hang together where they claim the same thing. An update looks at the objects of the files that changed, at those
//! that hang together with them, and at nothing else.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Version;
use super::limit::Counts;
use super::settle::{self, Draft};
use super::token::{self, Token};
use crate::config::content::Content;
use crate::config::key::{Key, Kind};
use crate::config::limits;
use crate::config::object::{Object, Outcome};
use crate::config::pod::Pod;
use crate::config::problem::{Finding, Problem, Severity};

/// The objects in force, and what is needed to decide on them.
#[derive(Debug, Default)]
pub(super) struct Choice {
    files: BTreeMap<Arc<str>, Arc<Content>>,
    /// Where each object stands: file, and index of the item in it, in order.
    claims: HashMap<Arc<Key>, Vec<(Arc<str>, usize)>>,
    running: BTreeMap<Arc<Key>, Arc<Version>>,
    /// Who claims what, in the version that is in force or in the one that the files hold.
    holders: HashMap<Token, Vec<Arc<Key>>>,
    /// What each object stands in `holders` for.
    held: HashMap<Arc<Key>, Box<[Token]>>,
    /// Problems that follow only from several objects together, by the object that loses.
    conflicts: BTreeMap<Arc<Key>, Vec<Problem>>,
    /// Objects whose last valid version stays in force although the files do not hold it.
    kept: BTreeMap<Arc<Key>, Kept>,
    counts: Counts,
    /// Objects that are refused because there are too many.
    beyond: BTreeSet<Arc<Key>>,
    /// Pods of which no version is in force although the API server has one.
    rejected: BTreeSet<Arc<Key>>,
}

/// Why a version stays in force that the files do not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// The present one is not valid.
    Invalid,
    /// Nobody knows whether its file still holds it.
    Unsure,
}

/// An object whose version in force is another now.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) key: Arc<Key>,
    pub(super) before: Option<Arc<Version>>,
    pub(super) now: Option<Arc<Version>>,
}

impl Change {
    pub(super) fn now_object(&self) -> Option<&Object> {
        self.now.as_deref().map(|version| &*version.object)
    }
}

impl Choice {
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Returns an object in force.
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Version>> {
        self.running.get(key)
    }

    /// Returns an object in force with its own key.
    pub(super) fn entry(&self, key: &Key) -> Option<(&Arc<Key>, &Arc<Version>)> {
        self.running.get_key_value(key)
    }

    /// Returns whether a pod in force claims this.
    pub(super) fn is_claimed(&self, token: Token) -> bool {
        let holders = self.holders.get(&token).into_iter().flatten();
        let versions = holders.filter_map(|key| self.running.get(key));
        // A holder may have had it only in the version before.
        versions
            .into_iter()
            .any(|version| version.pod().is_some() && token::of(version).contains(&token))
    }

    /// Returns the objects in force of one kind in one namespace.
    pub(super) fn of_namespace(
        &self,
        kind: Kind,
        namespace: &str,
    ) -> impl Iterator<Item = (&Arc<Key>, &Arc<Version>)> {
        let first = Key {
            kind,
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        let end = first.clone();
        let of_namespace =
            move |key: &Arc<Key>| key.kind == end.kind && key.namespace == end.namespace;
        self.running
            .range(first..)
            .take_while(move |(key, _)| of_namespace(key))
    }

    /// Returns the objects in force of one kind.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&Arc<Key>, &Arc<Version>)> {
        let first = Key {
            kind,
            namespace: String::new(),
            name: String::new(),
        };
        let all = self.running.range(first..);
        all.take_while(move |(key, _)| key.kind == kind)
    }

    /// Returns the pods of an API server of which no version is in force, each with what can be read of it and what is wrong.
    pub(super) fn rejected(&self) -> impl Iterator<Item = (&Key, &Pod, &str)> {
        self.rejected.iter().filter_map(|key| {
            let (file, index) = self.claims.get(key)?.first()?;
            let item = self.files.get(file)?.items.get(*index)?;
            if !item.place.is_api() {
                return None;
            }
            let pod = match &item.outcome {
                Outcome::Valid(_, object) => {
                    let Object::Pod(pod) = &**object else {
                        return None;
                    };
                    Some(&**pod)
                }
                Outcome::Invalid(_) | Outcome::Ignored => item.rejected.as_deref(),
            };
            let conflicts = self.conflicts.get(key).into_iter().flatten();
            let mut problems = item.problems.iter().chain(conflicts);
            let first = problems.find(|it| it.severity == Severity::Error);
            let why = first.map_or("", |it| it.problem.as_str());
            Some((&**key, pod?, why))
        })
    }

    /// Takes over what the files hold now, and returns what that changes, ordered by key.
    pub(super) fn update(&mut self, contents: &[Arc<Content>]) -> Vec<Change> {
        let concerned = self.replace_files(contents);
        self.decide(concerned)
    }

    /// As [`update`](Self::update), where only these files are different: what each holds now, or that it is gone.
    pub(super) fn update_some(
        &mut self,
        files: impl IntoIterator<Item = (Arc<str>, Option<Arc<Content>>)>,
    ) -> Vec<Change> {
        let mut concerned = BTreeSet::new();
        for (file, content) in files {
            concerned.extend(self.replace_file(&file, content));
        }
        self.decide(concerned)
    }

    fn decide(&mut self, mut queue: BTreeSet<Arc<Key>>) -> Vec<Change> {
        queue.extend(self.beyond.iter().cloned());
        let mut drafts: BTreeMap<Arc<Key>, Draft> = BTreeMap::new();
        let mut queue: Vec<Arc<Key>> = queue.into_iter().collect();
        while let Some(key) = queue.pop() {
            if drafts.contains_key(&key) {
                continue;
            }
            let draft = self.draft(&key);
            for token in &draft.tokens {
                let others = self.holders.get(token).into_iter().flatten();
                let hangs = |other: &&Arc<Key>| {
                    !token.is_shared(key.kind, other.kind) && !drafts.contains_key(*other)
                };
                queue.extend(others.filter(hangs).cloned());
            }
            drafts.insert(key, draft);
        }
        settle::settle(&mut drafts);
        self.counts.limit(&mut drafts);
        let mut changes = Vec::new();
        for (key, draft) in drafts {
            changes.extend(self.install(key, draft));
        }
        changes
    }

    /// Puts in force what is in force there, and returns all of it as changes.
    #[cfg(test)]
    pub(super) fn adopt(&mut self, other: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, version) in &other.running {
            let mut draft = Draft {
                now: Some(version.clone()),
                ..Draft::of(None)
            };
            draft.claim();
            // What is kept must be found when its file changes.
            draft.kept = other.kept.get(key).copied();
            let mut one = BTreeMap::from([(key.clone(), draft)]);
            self.counts.limit(&mut one);
            changes.extend(
                one.into_iter()
                    .filter_map(|(key, draft)| self.install(key, draft)),
            );
        }
        changes
    }

    /// Takes over the files that are different, and returns the objects that they concern.
    fn replace_files(&mut self, contents: &[Arc<Content>]) -> BTreeSet<Arc<Key>> {
        let mut replaced: Vec<(Arc<str>, Option<Arc<Content>>)> = Vec::new();
        // Both are ordered by file.
        let mut files = self.files.iter().peekable();
        for content in contents {
            while let Some((gone, _)) = files.next_if(|(file, _)| **file < content.file) {
                replaced.push((gone.clone(), None));
            }
            let before = files.next_if(|(file, _)| **file == content.file);
            if before.is_none_or(|(_, before)| !Arc::ptr_eq(before, content)) {
                replaced.push((content.file.clone(), Some(content.clone())));
            }
        }
        replaced.extend(files.map(|(gone, _)| (gone.clone(), None)));
        let mut concerned = BTreeSet::new();
        for (file, content) in replaced {
            concerned.extend(self.replace_file(&file, content));
        }
        concerned
    }

    fn replace_file(&mut self, file: &Arc<str>, content: Option<Arc<Content>>) -> Vec<Arc<Key>> {
        let in_file = |key: &&Arc<Key>| {
            let running = self.running.get(*key);
            running.is_some_and(|running| running.place.file == *file)
        };
        let mut concerned: Vec<Arc<Key>> = self.kept.keys().filter(in_file).cloned().collect();
        if let Some(before) = self.files.remove(file) {
            for key in before.items.iter().filter_map(|item| item.outcome.key()) {
                if let Some(claims) = self.claims.get_mut(key) {
                    claims.retain(|(of, _)| of != file);
                    if claims.is_empty() {
                        self.claims.remove(key);
                    }
                }
                concerned.push(key.clone());
            }
        }
        if let Some(content) = content {
            for (index, item) in content.items.iter().enumerate() {
                if let Some(key) = item.outcome.key() {
                    let claims = self.claims.entry(key.clone()).or_default();
                    let claim = (file.clone(), index);
                    let at = claims.partition_point(|other| *other < claim);
                    claims.insert(at, claim);
                    concerned.push(key.clone());
                }
            }
            self.files.insert(file.clone(), content);
        }
        concerned
    }

    /// Returns the version of an object that counts as far as its name goes.
    fn draft(&self, key: &Arc<Key>) -> Draft {
        let before = self.running.get(key);
        let mut draft = Draft::of(before.cloned());
        let mut is_invalid = false;
        for (file, index) in self.claims.get(key).into_iter().flatten() {
            let item = &self.files[file].items[*index];
            match &item.outcome {
                Outcome::Valid(_, object) => {
                    let version = Version {
                        place: item.place.clone(),
                        object: object.clone(),
                    };
                    claim_name(&mut draft, key, version);
                }
                Outcome::Invalid(_) => is_invalid = true,
                Outcome::Ignored => {}
            }
        }
        if let (None, Some(before)) = (&draft.now, before) {
            let content = self.files.get(&before.place.file);
            if is_invalid {
                draft.keep(before.clone(), Kept::Invalid);
            } else if content.is_some_and(|content| !content.complete) {
                draft.keep(before.clone(), Kept::Unsure);
            }
        }
        draft.claim();
        draft
    }

    /// Puts the outcome for one object in force.
    fn install(&mut self, key: Arc<Key>, draft: Draft) -> Option<Change> {
        self.hold(&key, &draft.tokens);
        match draft.kept {
            Some(kept) => self.kept.insert(key.clone(), kept),
            None => self.kept.remove(&key),
        };
        match draft.beyond {
            true => self.beyond.insert(key.clone()),
            false => self.beyond.remove(&key),
        };
        let is_rejected = key.kind == Kind::Pod && draft.now.is_none();
        match is_rejected && self.claims.contains_key(&key) {
            true => self.rejected.insert(key.clone()),
            false => self.rejected.remove(&key),
        };
        if draft.problems.is_empty() {
            self.conflicts.remove(&key);
        } else {
            self.conflicts.insert(key.clone(), draft.problems);
        }
        if draft.before == draft.now {
            return None;
        }
        match &draft.now {
            Some(version) => self.running.insert(key.clone(), version.clone()),
            None => self.running.remove(&key),
        };
        Some(Change {
            key,
            before: draft.before,
            now: draft.now,
        })
    }

    fn hold(&mut self, key: &Arc<Key>, tokens: &[Token]) {
        let before = self.held.remove(key).unwrap_or_default();
        for token in before.iter().filter(|token| !tokens.contains(token)) {
            if let Some(holders) = self.holders.get_mut(token) {
                holders.retain(|other| other != key);
                if holders.is_empty() {
                    self.holders.remove(token);
                }
            }
        }
        for token in tokens.iter().filter(|token| !before.contains(token)) {
            self.holders.entry(*token).or_default().push(key.clone());
        }
        if !tokens.is_empty() {
            self.held.insert(key.clone(), tokens.into());
        }
    }

    /// Returns every problem, ordered by place, and says what stays in force in spite of it.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for content in self.files.values().filter(|content| content.has_problems) {
            problems.extend(content.problems.iter().cloned());
            let of_items = content.items.iter().flat_map(|item| &item.problems);
            problems.extend(of_items.cloned());
        }
        problems.extend(self.conflicts.values().flatten().cloned());
        problems.sort();
        problems.dedup();
        let kept: BTreeSet<String> = self.kept.keys().map(|key| key.to_string()).collect();
        let unsure = self.kept.iter().filter(|(_, kept)| **kept == Kept::Unsure);
        let unsure_files: BTreeSet<&str> = unsure
            .filter_map(|(key, _)| Some(&*self.running.get(key)?.place.file))
            .collect();
        let errors = problems
            .iter_mut()
            .filter(|problem| problem.severity == Severity::Error);
        for problem in errors {
            match &problem.object {
                Some(key) if kept.contains(key) => {
                    problem.help += "; its last valid version stays in force";
                }
                None if unsure_files.contains(&*problem.file) => {
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

/// Takes a version in, unless another one has its name.
fn claim_name(draft: &mut Draft, key: &Key, version: Version) {
    // The same as before stays the same pointer.
    let version = match &draft.before {
        Some(before) if **before == version => before.clone(),
        Some(_) | None => Arc::new(version),
    };
    let Some(present) = draft.now.take() else {
        draft.now = Some(version);
        return;
    };
    let in_force = |version: &Version| {
        let before = draft.before.as_ref();
        before.is_some_and(|before| before.place.file == version.place.file)
    };
    let (winner, loser) = if in_force(&version) && !in_force(&present) {
        (version, present)
    } else {
        (present, version)
    };
    let finding = Finding::error(
        loser.place.line,
        loser.place.path_of("metadata.name"),
        format!("a {key} stands in {} already", winner.place),
        "rename one of the two, or remove it",
    );
    draft.problems.push(loser.place.problem(Some(key), finding));
    draft.now = Some(winner);
}
