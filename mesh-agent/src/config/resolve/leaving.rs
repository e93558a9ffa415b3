//! Pods that are being deleted: their addresses may be another pod's before they are gone.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::choice::Change;
use crate::config::key::{Key, Kind};
use crate::config::pod::Pod;
use crate::model::workload::WorkloadName;

/// Pods in force that are being deleted, by address.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    by_address: HashMap<IpAddr, BTreeSet<WorkloadName>>,
    /// The addresses under which each is found.
    of: BTreeMap<WorkloadName, Vec<IpAddr>>,
}

impl Leaving {
    /// Notes a pod as it is now.
    pub(super) fn set(&mut self, key: &Key, pod: Option<&Pod>) {
        let name = WorkloadName {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        };
        for ip in self.of.remove(&name).unwrap_or_default() {
            if let Some(names) = self.by_address.get_mut(&ip) {
                names.remove(&name);
                if names.is_empty() {
                    self.by_address.remove(&ip);
                }
            }
        }
        let Some(pod) = pod.filter(|pod| pod.live && pod.terminating) else {
            return;
        };
        let addresses: Vec<IpAddr> = pod.addresses.iter().map(|address| address.ip).collect();
        for ip in &addresses {
            self.by_address.entry(*ip).or_default().insert(name.clone());
        }
        self.of.insert(name, addresses);
    }

    /// Returns whether of all that are being deleted this is the first with an address.
    pub(super) fn is_first(&self, ip: IpAddr, name: &WorkloadName) -> bool {
        let names = self.by_address.get(&ip);
        names.and_then(BTreeSet::first) == Some(name)
    }

    /// Returns the pods whose addresses these changes may have given away, or given back.
    pub(super) fn concerned(&self, changes: &[Change]) -> BTreeSet<Arc<Key>> {
        if self.of.is_empty() {
            return BTreeSet::new();
        }
        let pods = changes.iter().filter(|change| change.key.kind == Kind::Pod);
        let versions = pods.flat_map(|change| [&change.before, &change.now]);
        let pods = versions.into_iter().flatten().filter_map(|it| it.pod());
        let addresses = pods.flat_map(|pod| pod.addresses.iter());
        let names = addresses.filter_map(|address| self.by_address.get(&address.ip));
        let keys = names.flatten().map(super::pod_key).map(Arc::new);
        keys.collect()
    }
}
