//! The objects themselves, for the controller: what it writes to has to be known as the server has it.
//!
//! What a watch told is shown once the snapshot that it led to is there, so whoever looks at an object first and at the snapshot
//! then never sees a snapshot that is older than the object. Changes wait as names of what changed: many of one object are
//! one, and nobody who is slow makes them pile up.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::config::key::{Key, Kind};

/// The objects of an API server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mirror(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Told, and in no snapshot yet.
    staged: BTreeMap<Key, Option<Arc<str>>>,
    objects: BTreeMap<Key, Arc<str>>,
    /// What nobody has looked at since it changed.
    changed: BTreeSet<Key>,
    served: BTreeMap<Kind, Resource>,
}

/// Where the objects of a kind are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Resource {
    /// Group and version, as in `apiVersion`.
    pub(crate) version: String,
    /// Its name in paths, such as `httproutes`.
    pub(crate) name: String,
}

impl Resource {
    /// Returns the path of an object.
    pub(crate) fn path(&self, key: &Key) -> String {
        let root = match self.version.contains('/') {
            true => "/apis",
            false => "/api",
        };
        let Self { version, name } = self;
        match key.kind.is_namespaced() {
            true => format!(
                "{root}/{version}/namespaces/{}/{name}/{}",
                key.namespace, key.name
            ),
            false => format!("{root}/{version}/{name}/{}", key.name),
        }
    }

    /// Returns the group; empty for the core.
    pub(crate) fn group(&self) -> &str {
        self.version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl Mirror {
    /// Notes what became of an object.
    pub(super) fn stage(&self, key: Key, text: Option<Arc<str>>) {
        self.lock().staged.insert(key, text);
    }

    /// Notes where the objects of a kind are.
    pub(super) fn serve(&self, kind: Kind, version: &str, name: &str) {
        let resource = Resource {
            version: version.to_owned(),
            name: name.to_owned(),
        };
        self.lock().served.insert(kind, resource);
    }

    /// Shows what was staged.
    pub(super) fn publish(&self) {
        let mut state = self.lock();
        for (key, text) in std::mem::take(&mut state.staged) {
            match text {
                Some(text) => drop(state.objects.insert(key.clone(), text)),
                None => drop(state.objects.remove(&key)),
            }
            state.changed.insert(key);
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// Waits for the next change. Safe to cancel; for one waiter.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Returns what changed since the last call.
    pub(crate) fn take_changed(&self) -> BTreeSet<Key> {
        std::mem::take(&mut self.lock().changed)
    }

    /// Returns the JSON text of what is kept of an object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<str>> {
        self.lock().objects.get(key).cloned()
    }

    /// Returns the names of all objects.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Returns where the objects of a kind are.
    pub(crate) fn resource(&self, kind: Kind) -> Option<Resource> {
        self.lock().served.get(&kind).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in between leaves whole maps: every change is one call.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            kind: Kind::HTTPRoute,
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    #[tokio::test]
    async fn what_is_staged_is_seen_once_it_is_published_and_told_once() {
        let mirror = Mirror::default();
        mirror.stage(key("a"), Some("1".into()));
        mirror.stage(key("a"), Some("2".into()));
        assert_eq!(mirror.get(&key("a")), None);
        mirror.publish();
        mirror.changed().await;
        assert_eq!(mirror.get(&key("a")).as_deref(), Some("2"));
        assert_eq!(mirror.take_changed(), BTreeSet::from([key("a")]));
        assert!(mirror.take_changed().is_empty());
        mirror.stage(key("a"), None);
        mirror.publish();
        assert_eq!(mirror.get(&key("a")), None);
        assert_eq!(mirror.take_changed(), BTreeSet::from([key("a")]));
    }

    #[test]
    fn paths_are_those_that_the_server_knows() {
        let resource = |version: &str, name: &str| Resource {
            version: version.to_owned(),
            name: name.to_owned(),
        };
        let routes = resource("gateway.networking.k8s.io/v1", "httproutes");
        assert_eq!(
            routes.path(&key("a")),
            "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/a"
        );
        assert_eq!(routes.group(), "gateway.networking.k8s.io");
        let node = Key {
            kind: Kind::Node,
            namespace: String::new(),
            name: "n".to_owned(),
        };
        assert_eq!(resource("v1", "nodes").path(&node), "/api/v1/nodes/n");
    }
}
