//! Who is in the mesh, and who of these is no workload all the same.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Resolver, Version};
use crate::config::pod::Pod;
use crate::model::snapshot::RejectedPod;
use crate::model::workload::WorkloadName;

impl Resolver {
    /// Notes whether a pod is in the mesh and yet, with its node's own network, no workload; returns whether that is new.
    pub(super) fn set_host_pod(&mut self, name: &WorkloadName, version: Option<&Version>) -> bool {
        let pod = version.and_then(|version| Some((version, version.pod()?)));
        let pod = pod.filter(|(version, pod)| {
            let is_api = version.place.is_api();
            pod.host_network && !pod.ended && self.is_enrolled(&name.namespace, is_api, pod)
        });
        let now = pod.map(|(_, pod)| pod.node.clone());
        if self.now.host_pods.get(name) == now.as_ref() {
            return false;
        }
        let pods = Arc::make_mut(&mut self.now.host_pods);
        match now {
            Some(node) => pods.insert(name.clone(), node),
            None => pods.remove(name),
        };
        true
    }

    /// Notes the pods of a cluster that are in the mesh and of which no version is in force; returns whether they are others than before.
    pub(super) fn name_rejected(&mut self) -> bool {
        let mut rejected = BTreeMap::new();
        for (key, pod, why) in self.choice.rejected() {
            if !pod.ended && self.is_enrolled(&key.namespace, true, pod) {
                let name = WorkloadName {
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                };
                let (node, why) = (pod.node.clone(), why.to_owned());
                rejected.insert(name, RejectedPod { node, why });
            }
        }
        if *self.now.rejected_pods == rejected {
            return false;
        }
        self.now.rejected_pods = Arc::new(rejected);
        true
    }

    /// Returns whether a pod is in the mesh. Who writes a manifest wants it there; in a cluster most pods are somebody else's.
    pub(super) fn is_enrolled(&self, namespace: &str, is_api: bool, pod: &Pod) -> bool {
        let of_namespace = || self.namespaces.get(namespace)?.mesh;
        let said = pod.mesh.or_else(of_namespace);
        said.unwrap_or(!is_api)
    }
}
