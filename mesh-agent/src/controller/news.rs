//! What is different since the last look: names of objects whose status, or whatever is wrong with them, may be another.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::key::{Key, Kind};
use crate::config::problem::{Problem, Severity};
use crate::controller::events::{self, Finding};
use crate::model::status::{ObjectName, ObjectStatus, Statuses};
use crate::source::Loaded;

/// Reason of an event on an object that is not valid.
const INVALID: &str = "Invalid";

/// What was seen last.
#[derive(Debug)]
pub(super) struct News {
    problems: Arc<[Problem]>,
    /// Errors, by the object that they are of.
    errors: BTreeMap<Key, BTreeSet<Finding>>,
    statuses: Arc<Statuses>,
}

impl Default for News {
    fn default() -> Self {
        Self {
            problems: Arc::new([]),
            errors: BTreeMap::new(),
            statuses: Arc::default(),
        }
    }
}

impl News {
    /// Takes in the latest configuration; returns what is different.
    pub(super) fn take(&mut self, loaded: &Loaded) -> BTreeSet<Key> {
        let mut changed = BTreeSet::new();
        if !Arc::ptr_eq(&self.problems, &loaded.problems) {
            changed.extend(self.errors.keys().cloned());
            self.problems = loaded.problems.clone();
            self.errors = errors(&self.problems);
            changed.extend(self.errors.keys().cloned());
        }
        let now = &loaded.snapshot.statuses;
        if !Arc::ptr_eq(&self.statuses, now) {
            let is_other = |one: &Arc<ObjectStatus>, other: Option<&Arc<ObjectStatus>>| {
                other.is_none_or(|other| !Arc::ptr_eq(one, other))
            };
            let gone = self.statuses.keys().filter(|name| !now.contains_key(name));
            let new = now
                .iter()
                .filter(|(name, it)| is_other(it, self.statuses.get(name)));
            let names = gone.chain(new.map(|(name, _)| name));
            changed.extend(names.filter_map(key));
            self.statuses = now.clone();
        }
        changed
    }

    /// Returns the status that an object is to have.
    pub(super) fn status(&self, key: &Key) -> Option<&Arc<ObjectStatus>> {
        self.statuses.get(&ObjectName {
            kind: key.kind.word().to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        })
    }

    /// Returns everything that is wrong with an object.
    pub(super) fn findings(&self, key: &Key) -> BTreeSet<Finding> {
        let errors = self.errors.get(key).into_iter().flatten().cloned();
        let status = self.status(key).into_iter();
        errors
            .chain(status.flat_map(|it| events::of_status(it)))
            .collect()
    }
}

fn errors(problems: &[Problem]) -> BTreeMap<Key, BTreeSet<Finding>> {
    let mut errors: BTreeMap<Key, BTreeSet<Finding>> = BTreeMap::new();
    for problem in problems.iter().filter(|it| it.severity == Severity::Error) {
        let Some(key) = problem.object.as_deref().and_then(parse) else {
            continue;
        };
        let place = match problem.path.is_empty() {
            true => String::new(),
            false => format!("{}: ", problem.path),
        };
        let finding = Finding {
            reason: INVALID.to_owned(),
            note: format!("{place}{}; {}", problem.problem, problem.help),
        };
        errors.entry(key).or_default().insert(finding);
    }
    errors
}

fn key(name: &ObjectName) -> Option<Key> {
    Some(Key {
        kind: Kind::of_word(&name.kind)?,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    })
}

/// Reads a key as it is shown: `HTTPRoute shop/cart`, `Node n1`.
fn parse(text: &str) -> Option<Key> {
    let (kind, name) = text.split_once(' ')?;
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let key = Key {
        kind: Kind::of_word(kind)?,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    (key.to_string() == text).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::Snapshot;

    #[test]
    fn keys_are_read_as_they_are_shown() {
        for text in ["HTTPRoute shop/cart", "Node n1", "Namespace shop"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        for text in ["Node a/b", "HTTPRoute cart", "Widget a/b", ""] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    fn loaded(names: &[(&str, i64)], before: &Statuses, problems: Vec<Problem>) -> Loaded {
        let statuses = names.iter().map(|(name, generation)| {
            let object = ObjectName {
                kind: "HTTPRoute".to_owned(),
                namespace: "shop".to_owned(),
                name: (*name).to_owned(),
            };
            let status = ObjectStatus {
                object: object.clone(),
                generation: Some(*generation),
                parents: Vec::new(),
                problems: Vec::new(),
            };
            let same = before.get(&object).filter(|it| ***it == status);
            let status = same.cloned().unwrap_or_else(|| Arc::new(status));
            (object, status)
        });
        let snapshot = Snapshot {
            statuses: Arc::new(statuses.collect()),
            ..Snapshot::default()
        };
        Loaded {
            snapshot: Arc::new(snapshot),
            problems: problems.into(),
        }
    }

    #[test]
    fn only_what_is_different_is_named() {
        let mut news = News::default();
        let names =
            |keys: BTreeSet<Key>| -> Vec<String> { keys.into_iter().map(|it| it.name).collect() };
        let first = loaded(&[("a", 1), ("b", 1)], &Statuses::new(), Vec::new());
        assert_eq!(names(news.take(&first)), ["a", "b"]);
        assert!(news.take(&first).is_empty());
        let mut problem = Problem::of_file("kubernetes", "is odd", "make it even");
        problem.object = Some("Service shop/s".to_owned());
        let second = loaded(
            &[("a", 1), ("c", 1)],
            &first.snapshot.statuses,
            vec![problem],
        );
        let changed = news.take(&second);
        assert_eq!(names(changed.clone()), ["s", "b", "c"]);
        let service = changed.first().unwrap();
        assert_eq!(news.findings(service).len(), 1);
        let third = loaded(&[("a", 2), ("c", 1)], &second.snapshot.statuses, Vec::new());
        assert_eq!(names(news.take(&third)), ["s", "a"]);
        assert!(news.findings(service).is_empty());
    }
}
