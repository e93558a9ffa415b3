//! Finds the services that a change concerns, and the objects that a service is joined from.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::choice::{Change, Choice};
use super::{Version, service_key};
use crate::config::endpoint_slice::EndpointSlice;
use crate::config::key::{Key, Kind};
use crate::config::mark::Share;
use crate::config::object::Object;
use crate::config::pod::Pod;
use crate::config::service::Service;

/// What leads from labels to pods and services, and from services to slices.
///
/// A label is known by a hash of namespace, key and value: two labels with one hash only make a search longer.
#[derive(Debug, Default)]
pub(super) struct Index {
    hasher: RandomState,
    /// Slices by their service.
    slices: HashMap<Key, BTreeSet<Arc<Key>>>,
    /// Pods by each of their labels.
    pods: HashMap<u64, Vec<Arc<Key>>>,
    /// Services by the first label that they select by.
    services: HashMap<u64, Vec<Arc<Key>>>,
}

impl Index {
    /// Returns the slices of a service.
    pub(super) fn slices(&self, service: &Key) -> impl Iterator<Item = &Arc<Key>> {
        self.slices.get(service).into_iter().flatten()
    }

    /// Returns pods among which are all that a selector selects; none for one that is empty.
    pub(super) fn candidates(&self, namespace: &str, selector: &[(String, String)]) -> &[Arc<Key>] {
        let groups = selector.iter().map(|(key, value)| {
            let group = self.pods.get(&self.label(namespace, key, value));
            group.map_or(&[][..], Vec::as_slice)
        });
        groups.min_by_key(|group| group.len()).unwrap_or_default()
    }

    fn label(&self, namespace: &str, key: &str, value: &str) -> u64 {
        self.hasher.hash_one((namespace, key, value))
    }

    /// Takes over a service or slice, and adds the services that are to be joined anew.
    pub(super) fn service_or_slice(&mut self, change: &Change, touched: &mut BTreeSet<Arc<Key>>) {
        let key = &change.key;
        for (version, is_now) in [(&change.before, false), (&change.now, true)] {
            match version.as_deref().map(|version| &*version.object) {
                Some(Object::EndpointSlice(EndpointSlice {
                    service: Some(name),
                    ..
                })) => {
                    let service = service_key(&key.namespace, name);
                    self.slice(&service, key, is_now);
                    touched.insert(Arc::new(service));
                }
                Some(Object::Service(service)) => {
                    self.service(key, service, is_now);
                    touched.insert(key.clone());
                }
                _ => {}
            }
        }
    }

    fn slice(&mut self, service: &Key, slice: &Arc<Key>, is_now: bool) {
        if is_now {
            let slices = self.slices.entry(service.clone()).or_default();
            slices.insert(slice.clone());
        } else if let Some(slices) = self.slices.get_mut(service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices.remove(service);
            }
        }
    }

    fn service(&mut self, key: &Arc<Key>, service: &Service, is_now: bool) {
        if let Some((name, value)) = service.selector.first() {
            let label = self.label(&key.namespace, name, value);
            set(&mut self.services, label, key, is_now);
        }
    }

    /// Takes over pods, and adds the services that are to be joined anew. The services are those in force now.
    pub(super) fn pods(
        &mut self,
        changes: &[Change],
        choice: &Choice,
        touched: &mut BTreeSet<Arc<Key>>,
    ) {
        let pods = changes.iter().filter(|change| change.key.kind == Kind::Pod);
        // Namespaces with the pods whose slices' endpoints are different because of them.
        let mut targets: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        for change in pods {
            let before = change.before.as_deref().and_then(Version::pod);
            let now = change.now.as_deref().and_then(Version::pod);
            if seen_by_slices(before) != seen_by_slices(now) {
                let of_namespace = targets.entry(&change.key.namespace).or_default();
                of_namespace.insert(&change.key.name);
            }
            for (pod, is_now) in [(before, false), (now, true)] {
                let Some(pod) = pod else { continue };
                self.touch_selecting(&change.key.namespace, pod, choice, touched);
                if before.map(|pod| &pod.labels) == now.map(|pod| &pod.labels) {
                    continue;
                }
                for (name, value) in pod.labels.iter() {
                    let label = self.label(&change.key.namespace, name, value);
                    set(&mut self.pods, label, &change.key, is_now);
                }
            }
        }
        for (namespace, names) in targets {
            touch_targeting(namespace, &names, choice, touched);
        }
    }

    fn touch_selecting(
        &self,
        namespace: &str,
        pod: &Pod,
        choice: &Choice,
        touched: &mut BTreeSet<Arc<Key>>,
    ) {
        for (name, value) in pod.labels.iter() {
            let services = self.services.get(&self.label(namespace, name, value));
            for key in services.into_iter().flatten() {
                if touched.contains(key) || self.slices.contains_key(&**key) {
                    continue;
                }
                let version = choice.get(key).map(|version| &*version.object);
                if let Some(Object::Service(service)) = version
                    && key.namespace == namespace
                    && selects(&service.selector, pod)
                {
                    touched.insert(key.clone());
                }
            }
        }
    }
}

/// Returns whether every label of a selector is a pod's.
pub(super) fn selects(selector: &[(String, String)], pod: &Pod) -> bool {
    selector
        .iter()
        .all(|(name, value)| pod.labels.get(name) == Some(value.as_str()))
}

/// Returns what an endpoint of a slice takes from the pod behind it.
fn seen_by_slices(pod: Option<&Pod>) -> Option<(bool, Share)> {
    pod.map(|pod| (pod.live, pod.share))
}

/// Adds the services with slices that have endpoints of these pods.
fn touch_targeting(
    namespace: &str,
    names: &HashSet<&str>,
    choice: &Choice,
    touched: &mut BTreeSet<Arc<Key>>,
) {
    for (key, version) in choice.of_namespace(Kind::EndpointSlice, namespace) {
        let Object::EndpointSlice(slice) = &*version.object else {
            continue;
        };
        let Some(service) = &slice.service else {
            continue;
        };
        let mut pods = slice.endpoints.iter().filter_map(|one| one.pod.as_deref());
        if pods.any(|pod| pod.namespace == namespace && names.contains(pod.name.as_str())) {
            touched.insert(Arc::new(service_key(&key.namespace, service)));
        }
    }
}

fn set(index: &mut HashMap<u64, Vec<Arc<Key>>>, label: u64, key: &Arc<Key>, is_now: bool) {
    if is_now {
        index.entry(label).or_default().push(key.clone());
    } else if let Some(keys) = index.get_mut(&label) {
        if let Some(at) = keys.iter().position(|other| other == key) {
            keys.swap_remove(at);
        }
        if keys.is_empty() {
            index.remove(&label);
        }
    }
}
