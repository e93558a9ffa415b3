//! The objects of the server, and what became of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::exec::{self, Hook};
use super::faults::Faults;
use super::rights::Account;
use super::whole::Applied;

/// A kind in one of its versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kind {
    /// Group; empty for the core.
    pub group: String,
    /// Version.
    pub version: String,
    /// The word, such as `Pod`.
    pub word: String,
    /// The resource, such as `pods`.
    pub resource: String,
    /// Whether it is defined by a custom resource definition.
    pub is_custom: bool,
}

impl Kind {
    /// Returns a kind by definition.
    pub fn custom(group: &str, version: &str, word: &str, resource: &str) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            word: word.to_owned(),
            resource: resource.to_owned(),
            is_custom: true,
        }
    }

    /// Returns `apiVersion` of its objects.
    pub(super) fn api_version(&self) -> String {
        match self.group.is_empty() {
            true => self.version.clone(),
            false => format!("{}/{}", self.group, self.version),
        }
    }

    /// Returns what the paths of its objects begin with.
    pub(super) fn root(&self) -> String {
        let root = if self.group.is_empty() { "api" } else { "apis" };
        format!("/{root}/{}/", self.api_version())
    }
}

/// Returns the kinds that every server has, as far as anybody asks for them here.
pub fn builtin() -> Vec<Kind> {
    let kind = |group: &str, word: &str, resource: &str| Kind {
        is_custom: false,
        ..Kind::custom(group, "v1", word, resource)
    };
    vec![
        kind("", "Namespace", "namespaces"),
        kind("", "Node", "nodes"),
        kind("", "Pod", "pods"),
        kind("", "Service", "services"),
        kind("", "ConfigMap", "configmaps"),
        kind("discovery.k8s.io", "EndpointSlice", "endpointslices"),
        kind("networking.k8s.io", "NetworkPolicy", "networkpolicies"),
        kind("coordination.k8s.io", "Lease", "leases"),
        kind("events.k8s.io", "Event", "events"),
        kind(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        ),
    ]
}

/// A request, and what came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Its method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// Who asked; empty where nobody is known.
    pub user: String,
    /// The code of the answer.
    pub code: u16,
}

/// What became of an object.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) version: u64,
    pub(super) kind: String,
    pub(super) before: Option<Arc<Value>>,
    pub(super) now: Option<Arc<Value>>,
}

/// Namespace and name.
pub(super) type Name = (String, String);

/// Everything that the server knows.
#[derive(Debug)]
pub struct State {
    /// Version of the last change.
    pub version: u64,
    /// What is older is not known any more.
    pub compacted: u64,
    /// What is wrong.
    pub faults: Faults,
    /// What was asked for.
    pub requests: Vec<String>,
    /// Whether there are nodes: pods end before they are gone, and what is applied becomes an object.
    pub has_nodes: bool,
    /// What was applied last, by whom.
    pub(super) applied: BTreeMap<Applied, Value>,
    /// What containers wrote.
    pub(super) logs: exec::Logs,
    /// What is executed in pods.
    pub(super) exec: Hook,
    /// The same, with what came of it.
    pub asked: Vec<Asked>,
    /// Who may do what. At first one who may do anything.
    pub accounts: Vec<Account>,
    pub(super) kinds: Vec<Kind>,
    pub(super) objects: BTreeMap<String, BTreeMap<Name, Arc<Value>>>,
    pub(super) events: Vec<Event>,
    /// Counts up to let all watches tell how far they are.
    pub(super) bookmarks: u64,
    /// Counts up when all connections are to end.
    pub(super) epoch: u64,
    /// Counts up when all watches are to end as after their time.
    pub(super) ended: u64,
    pub(super) is_listening: bool,
    pub(super) watches: usize,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            // As in a cluster that is a few minutes old.
            version: 1000,
            compacted: 0,
            faults: Faults::default(),
            requests: Vec::new(),
            has_nodes: false,
            applied: BTreeMap::new(),
            logs: exec::Logs::default(),
            exec: Hook::default(),
            asked: Vec::new(),
            accounts: vec![Account::all()],
            kinds: builtin(),
            objects: BTreeMap::new(),
            events: Vec::new(),
            bookmarks: 0,
            epoch: 0,
            ended: 0,
            is_listening: false,
            watches: 0,
        }
    }

    /// Creates an object, or replaces it.
    pub fn set(&mut self, mut object: Value) {
        self.version += 1;
        let kind = text(&object["kind"]);
        let name = (
            text(&object["metadata"]["namespace"]),
            text(&object["metadata"]["name"]),
        );
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(object);
        let objects = self.objects.entry(kind.clone()).or_default();
        let before = objects.insert(name, object.clone());
        self.events.push(Event {
            version: self.version,
            kind,
            before,
            now: Some(object),
        });
    }

    /// Deletes an object, if it is there.
    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let objects = self.objects.entry(kind.to_owned()).or_default();
        let Some(before) = objects.remove(&(namespace.to_owned(), name.to_owned())) else {
            return;
        };
        self.version += 1;
        // The last word on an object bears the version of its end.
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.events.push(Event {
            version: self.version,
            kind: kind.to_owned(),
            before: Some(Arc::new(last)),
            now: None,
        });
    }

    /// Deletes every object of some kinds.
    pub fn clear(&mut self, kinds: &[&str]) {
        for kind in kinds {
            let objects = self.objects.get(*kind).into_iter().flatten();
            let names: Vec<Name> = objects.map(|(name, _)| name.clone()).collect();
            for (namespace, name) in names {
                self.delete(kind, &namespace, &name);
            }
        }
    }

    /// Forgets what was before now: watches and lists that go on from there are told to begin anew.
    pub fn compact(&mut self) {
        self.version += 1;
        // What watches that are open have still to tell stays.
        self.compacted = self.version;
    }

    /// Lets every watch tell how far it is.
    pub fn bookmark(&mut self) {
        self.bookmarks += 1;
    }

    /// Ends every watch as if its time were over.
    pub fn end_watches(&mut self) {
        self.ended += 1;
    }

    /// Adds kinds of one group by their definitions.
    pub fn define(&mut self, kinds: &[Kind]) {
        for kind in kinds {
            self.kinds.push(kind.clone());
            let name = format!("{}.{}", kind.resource, kind.group);
            self.set(serde_json::json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": name}, "spec": {"group": kind.group},
            }));
        }
    }

    /// Adds kinds that the server itself has.
    pub fn know(&mut self, kinds: &[Kind]) {
        self.kinds.extend_from_slice(kinds);
    }

    /// Replaces the kinds that have definitions; watches of those that are gone end.
    pub fn know_custom(&mut self, kinds: &[Kind]) {
        let gone = |it: &Kind| it.is_custom && !kinds.contains(it);
        if self.kinds.iter().any(gone) {
            let words: Vec<String> = self
                .kinds
                .iter()
                .filter(|it| gone(it))
                .map(|it| it.word.clone())
                .collect();
            for word in words {
                self.clear(&[&word]);
            }
            self.end_watches();
        }
        self.kinds.retain(|it| !gone(it));
        for kind in kinds {
            if !self.kinds.contains(kind) {
                self.kinds.push(kind.clone());
            }
        }
    }

    /// Returns the words of all kinds of which there are objects.
    pub fn words(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    /// Removes a kind with all its objects.
    pub fn undefine(&mut self, word: &str) {
        self.clear(&[word]);
        let Some(kind) = self.kinds.iter().find(|kind| kind.word == word).cloned() else {
            return;
        };
        self.kinds.retain(|kind| kind.word != word);
        let name = format!("{}.{}", kind.resource, kind.group);
        self.delete("CustomResourceDefinition", "", &name);
        self.end_watches();
    }

    /// Returns an object as it is now.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let name = (namespace.to_owned(), name.to_owned());
        self.objects
            .get(kind)?
            .get(&name)
            .map(|it| Value::clone(it))
    }

    /// Returns all objects of a kind.
    pub fn all(&self, kind: &str) -> Vec<Value> {
        let objects = self.objects.get(kind).into_iter().flatten();
        objects.map(|(_, object)| Value::clone(object)).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
