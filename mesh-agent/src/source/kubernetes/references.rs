//! Which objects others name: the config maps whose certificates a `BackendTLSPolicy` trusts.
//!
//! A cluster's config maps are many and somebody's own, and hardly any of them is of use here. So each one that is named is watched by
//! itself, as kubelets watch what pods mount: a server finds it by its name, and the right to list and watch it can be given for that one
//! name. What no policy names any more is watched no longer and forgotten.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::limits;
use super::store::Store;
use super::target::Target;
use crate::config::key::Kind;
use crate::config::resolve::Resolver;

/// Namespace and name.
pub(super) type Name = (String, String);

/// The config maps that are watched because policies name them.
#[derive(Debug, Default)]
pub(super) struct References {
    /// Those that policies name as the server has them, valid or not.
    told: BTreeSet<Name>,
    /// Those that are watched, each with the number of its watch.
    watched: BTreeMap<Name, u32>,
    /// Numbers given so far; none is given twice.
    numbers: u32,
    /// Whether what the server has may name others now.
    is_told_anew: bool,
    /// Whether what is in force may name others now.
    is_decided_anew: bool,
}

/// What is to be watched from now on, and what no longer.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) begin: Vec<Target>,
    pub(super) end: Vec<Target>,
}

impl References {
    /// Notes that the server told of policies.
    pub(super) fn told(&mut self, kind: Kind) {
        self.is_told_anew |= kind == Kind::BackendTLSPolicy;
    }

    /// Notes that another configuration is in force.
    pub(super) fn decided(&mut self) {
        self.is_decided_anew = true;
    }

    /// Returns what changed since the last time. A policy that is not valid stays in force as it was, so what that version names counts
    /// too.
    pub(super) fn update(&mut self, store: &Store, resolver: &Resolver) -> Option<Difference> {
        let is_told = std::mem::take(&mut self.is_told_anew);
        let is_decided = std::mem::take(&mut self.is_decided_anew);
        if !is_told && !is_decided {
            return None;
        }
        if is_told {
            let texts = store.of_kind(Kind::BackendTLSPolicy);
            self.told = texts.flat_map(named).collect();
        }
        let decided = resolver.authorities();
        let decided = decided.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
        let all = decided.chain(self.told.iter().cloned());
        let mut wanted: BTreeSet<Name> = all.filter(|(_, name)| is_name(name)).collect();
        let beyond = wanted.len().saturating_sub(limits::REFERENCES);
        if beyond > 0 {
            // Those that are watched already stay, whatever others are called.
            wanted = self.first_of(wanted);
            tracing::warn!(
                beyond,
                most = limits::REFERENCES,
                "policies name more config maps than are watched; their backends get no requests"
            );
        }
        Some(self.watch(&wanted))
    }

    /// Returns whether a config map is watched.
    pub(super) fn has(&self, namespace: &str, name: &str) -> bool {
        let of = (namespace.to_owned(), name.to_owned());
        self.watched.contains_key(&of)
    }

    fn first_of(&self, wanted: BTreeSet<Name>) -> BTreeSet<Name> {
        let (old, new): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|name| self.watched.contains_key(name));
        old.into_iter()
            .chain(new)
            .take(limits::REFERENCES)
            .collect()
    }

    fn watch(&mut self, wanted: &BTreeSet<Name>) -> Difference {
        let mut difference = Difference::default();
        let gone = self
            .watched
            .extract_if(.., |name, _| !wanted.contains(name));
        let gone = gone.map(|(name, number)| Target::config_map(&name.0, &name.1, number));
        difference.end.extend(gone);
        for name in wanted {
            if !self.watched.contains_key(name) {
                self.numbers += 1;
                self.watched.insert(name.clone(), self.numbers);
                let target = Target::config_map(&name.0, &name.1, self.numbers);
                difference.begin.push(target);
            }
        }
        difference
    }
}

#[derive(Deserialize)]
struct Policy {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    namespace: String,
}

#[derive(Deserialize)]
struct Spec {
    validation: Validation,
}

#[derive(Deserialize)]
struct Validation {
    #[serde(default, rename = "caCertificateRefs")]
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
}

/// Returns the config maps that a policy names. One that is not a policy at all names none.
fn named(text: &str) -> Vec<Name> {
    let Ok(policy) = serde_json::from_str::<Policy>(text) else {
        return Vec::new();
    };
    let references = policy.spec.validation.references.into_iter();
    let references = references.filter(|it| it.group.is_empty() && it.kind == "ConfigMap");
    references
        .map(|it| (policy.metadata.namespace.clone(), it.name))
        .collect()
}

/// Returns whether it can be an object's name: it becomes a part of a selector.
fn is_name(text: &str) -> bool {
    let is_of_name = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || "-.".contains(it);
    !text.is_empty() && text.len() <= 253 && text.chars().all(is_of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> BTreeSet<Name> {
        all.iter()
            .map(|name| ("shop".to_owned(), (*name).to_owned()))
            .collect()
    }

    #[test]
    fn only_config_maps_that_are_named_count() {
        let text = |references: &str| {
            format!(
                r#"{{"metadata":{{"name":"a","namespace":"shop"}},"spec":{{"targetRefs":[],"validation":{{"hostname":"x","caCertificateRefs":{references}}}}}}}"#
            )
        };
        let some = r#"[{"group":"","kind":"ConfigMap","name":"ca"},{"group":"","kind":"Secret","name":"key"},{"group":"x","kind":"ConfigMap","name":"other"}]"#;
        assert_eq!(named(&text(some)), [("shop".to_owned(), "ca".to_owned())]);
        assert!(named(&text("7")).is_empty());
        assert!(named(r#"{"metadata":{},"spec":3}"#).is_empty());
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        assert!(is_name("ca-1.example"));
        for other in ["", "a,metadata.name=b", "A", "a/b", &"a".repeat(254)] {
            assert!(!is_name(other), "{other}");
        }
    }

    #[test]
    fn each_is_watched_once_and_no_number_comes_again() {
        let mut references = References::default();
        let first = references.watch(&names(&["a", "b"]));
        assert_eq!((first.begin.len(), first.end.len()), (2, 0));
        let second = references.watch(&names(&["b", "c"]));
        assert_eq!(second.end, [Target::config_map("shop", "a", 1)]);
        assert_eq!(second.begin, [Target::config_map("shop", "c", 3)]);
        let third = references.watch(&names(&["a", "b", "c"]));
        assert_eq!(third.begin, [Target::config_map("shop", "a", 4)]);
        assert!(third.end.is_empty());
    }

    #[test]
    fn beyond_the_limit_those_that_are_watched_stay() {
        let mut references = References::default();
        references.watch(&names(&["z"]));
        let many: Vec<String> = (0..limits::REFERENCES).map(|n| format!("a{n}")).collect();
        let mut wanted: BTreeSet<Name> = names(&["z"]);
        wanted.extend(many.iter().map(|name| ("shop".to_owned(), name.clone())));
        let kept = references.first_of(wanted);
        assert_eq!(kept.len(), limits::REFERENCES);
        assert!(kept.contains(&("shop".to_owned(), "z".to_owned())));
    }
}
