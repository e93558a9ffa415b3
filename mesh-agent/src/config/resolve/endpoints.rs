//! Joins a service with its endpoints: those of its slices where it has any, else the pods that it selects.
//!
//! Kubernetes' behaviour is the specification. From slices as kube-proxy: ports go together by name and protocol, and of
//! several endpoints with one address the one that is ready counts. From pods as the endpoint slice controller: a pod that
//! has ended has no endpoint, one that terminates or is not ready has one that is not ready, and a named port means the
//! container port of that name and protocol, and nothing in a pod that has none. Unlike there a pod without a `Ready` condition
//! counts as ready: nobody checks the process that it stands for. A pod's `hostname` is its endpoint's where `subdomain` names the
//! service.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::choice::Choice;
use super::index::{self, Index};
use super::{pod_key, service_key};
use crate::config::endpoint_slice::{EndpointSlice, SliceEndpoint};
use crate::config::machine::{REGION, ZONE};
use crate::config::mark::Share;
use crate::config::pod::Pod;
use crate::config::service::{Service as RawService, ServicePort, TargetPort};
use crate::model::service::{Endpoint, Port, Service, ServiceKind, ServiceName};
use crate::model::snapshot::Node;
use crate::model::workload::WorkloadName;

type Nodes = BTreeMap<String, Node>;

/// Returns a service with its endpoints, or `None` if it is not in force.
pub(super) fn join(
    name: &ServiceName,
    choice: &Choice,
    index: &Index,
    nodes: &Nodes,
) -> Option<Service> {
    let key = service_key(&name.namespace, &name.name);
    let version = choice.get(&key)?;
    let raw = version.service()?;
    let slices = index.slices(&key).filter_map(|key| choice.get(key));
    let slices = slices.filter_map(|version| version.slice());
    let slices: Vec<&EndpointSlice> = slices.collect();
    let join = Join {
        name,
        raw,
        choice,
        nodes,
    };
    let is_named_elsewhere = matches!(raw.kind, ServiceKind::ExternalName(_));
    let pods = match slices.is_empty() && !is_named_elsewhere {
        true => join.pods(index.candidates(&name.namespace, &raw.selector)),
        false => Vec::new(),
    };
    let endpoints = |port: &ServicePort| {
        let endpoints = if is_named_elsewhere {
            Vec::new()
        } else if slices.is_empty() {
            join.of_pods(&pods, |pod| target(port, pod))
        } else {
            join.of_slices(port, &slices)
        };
        in_order(endpoints)
    };
    let portless = match raw.kind == ServiceKind::Headless && raw.ports.is_empty() {
        true if slices.is_empty() => join.of_pods(&pods, |_| Some(0)),
        true => join.of_all(&slices),
        false => Vec::new(),
    };
    let ports = raw.ports.iter().map(|port| Port {
        name: (!port.name.is_empty()).then(|| port.name.clone()),
        number: port.number,
        protocol: port.protocol,
        node_port: port.node_port,
        app_protocol: port.app_protocol.clone(),
        endpoints: endpoints(port),
    });
    Some(Service {
        name: name.clone(),
        kind: raw.kind.clone(),
        addresses: raw.addresses.clone(),
        external_addresses: raw.external_addresses.clone(),
        ports: ports.collect(),
        portless: in_order(portless),
        affinity: raw.affinity,
        local_only: raw.local_only,
        distribution: raw.distribution,
        publish_not_ready: raw.publish_not_ready,
        balance: raw.balance.clone(),
        origin: version.place.to_string(),
    })
}

/// Orders endpoints and keeps one for each address and port: the one that can do most.
fn in_order(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    // Stable: of equals the first stays.
    endpoints.sort_by_key(|endpoint| {
        let rank = (!endpoint.ready, !endpoint.serving, endpoint.terminating);
        (endpoint.address, endpoint.port, rank)
    });
    endpoints.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
    endpoints.shrink_to_fit();
    endpoints
}

struct Join<'j> {
    name: &'j ServiceName,
    raw: &'j RawService,
    choice: &'j Choice,
    nodes: &'j Nodes,
}

impl<'j> Join<'j> {
    fn of_slices(&self, port: &ServicePort, slices: &[&EndpointSlice]) -> Vec<Endpoint> {
        let mut found = Vec::new();
        for slice in slices {
            let ports = slice.ports.iter().filter(|of_slice| {
                *of_slice.name == *port.name && of_slice.protocol == port.protocol
            });
            for of_slice in ports {
                let endpoints = slice.endpoints.iter();
                let endpoints = endpoints.filter(|one| self.raw.has_family(one.address));
                found.extend(endpoints.map(|one| self.of_slice(one, of_slice.number, slice.share)));
            }
        }
        found
    }

    /// Returns the endpoints of these slices, without regard to ports.
    fn of_all(&self, slices: &[&EndpointSlice]) -> Vec<Endpoint> {
        let mut found = Vec::new();
        for slice in slices {
            let endpoints = slice.endpoints.iter();
            let endpoints = endpoints.filter(|one| self.raw.has_family(one.address));
            found.extend(endpoints.map(|one| self.of_slice(one, 0, slice.share)));
        }
        found
    }

    fn of_slice(&self, from: &SliceEndpoint, port: u16, share: Share) -> Endpoint {
        let node = from.node.as_deref().and_then(|name| self.nodes.get(name));
        let name = from.pod.as_ref();
        let version = name.and_then(|name| self.choice.get(&pod_key(name)));
        let pod = version.and_then(|version| version.pod());
        let of_pod = pod.map(|pod| pod.share).unwrap_or_default();
        let shared = |text: &Option<String>| text.as_deref().map(Arc::<str>::from);
        Endpoint {
            address: from.address,
            port,
            ready: from.ready,
            serving: from.serving,
            terminating: from.terminating,
            node: from.node.clone(),
            zone: from.zone.clone().or_else(|| shared(&node?.zone)),
            region: node.and_then(|node| shared(&node.region)),
            hints: from.hints.clone(),
            weight: of_pod.weight.or(share.weight).unwrap_or(1),
            priority: of_pod.priority.or(share.priority).unwrap_or(0),
            // One in the node's own network is no workload.
            workload: name.filter(|_| pod.is_none_or(|pod| pod.live)).cloned(),
            hostname: from.hostname.clone(),
            // Who writes slices for pods takes their readiness from kubelet.
            checked_elsewhere: name.is_some(),
        }
    }

    /// Returns the pods that the service selects and that may answer.
    fn pods(&self, candidates: &'j [Arc<crate::config::key::Key>]) -> Vec<SelectedPod<'j>> {
        let mut found = Vec::new();
        for key in candidates {
            let version = self.choice.get(key);
            let Some(pod) = version.and_then(|version| version.pod()) else {
                continue;
            };
            let selected = key.namespace == self.name.namespace
                && !pod.ended
                && index::selects(&self.raw.selector, pod);
            if selected {
                let name = WorkloadName {
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                };
                found.push(SelectedPod { name, pod });
            }
        }
        found
    }

    /// Returns the endpoints that these pods are, each at the port that it answers at.
    fn of_pods(
        &self,
        pods: &[SelectedPod<'_>],
        port: impl Fn(&Pod) -> Option<u16>,
    ) -> Vec<Endpoint> {
        let mut found = Vec::new();
        for selected in pods {
            let Some(number) = port(selected.pod) else {
                continue;
            };
            for is_v6 in [false, true] {
                let mut addresses = selected.pod.addresses.iter().map(|address| address.ip);
                let first = addresses.find(|ip| ip.is_ipv6() == is_v6);
                if let Some(ip) = first.filter(|ip| self.raw.has_family(*ip)) {
                    found.push(self.of_pod(selected, ip, number));
                }
            }
        }
        found
    }

    fn of_pod(&self, selected: &SelectedPod<'_>, address: IpAddr, port: u16) -> Endpoint {
        let SelectedPod { name, pod } = selected;
        let node = pod.node.as_ref().and_then(|name| self.nodes.get(name));
        let is_ready = pod.ready.unwrap_or(true);
        let label = |name: &str| pod.labels.get(name);
        let shared = |text: Option<&str>| text.map(Arc::<str>::from);
        Endpoint {
            address,
            port,
            ready: self.raw.publish_not_ready || (is_ready && !pod.terminating),
            serving: is_ready,
            terminating: pod.terminating,
            node: shared(pod.node.as_deref()),
            zone: shared(node.map_or_else(|| label(ZONE), |node| node.zone.as_deref())),
            region: shared(node.map_or_else(|| label(REGION), |node| node.region.as_deref())),
            hints: None,
            weight: pod.share.weight.unwrap_or(1),
            priority: pod.share.priority.unwrap_or(0),
            workload: pod.live.then(|| Arc::new(name.clone())),
            hostname: pod.hostname_under(&self.name.name).cloned(),
            checked_elsewhere: pod.ready.is_some(),
        }
    }
}

struct SelectedPod<'p> {
    name: WorkloadName,
    pod: &'p Pod,
}

/// Returns the port that a pod answers at for a port of the service.
fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Named(name) => {
            let mut ports = pod.ports.iter();
            let named = ports.find(|one| one.name == *name && one.protocol == port.protocol);
            named.map(|one| one.number)
        }
    }
}
