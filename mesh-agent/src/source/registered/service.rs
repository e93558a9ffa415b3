//! A registered service as the rest of the agent sees it: the same type as one from manifests.

use std::collections::BTreeMap;

use crate::model::service::{
    Balance, Distribution, Endpoint, Port, Protocol, Service, ServiceKind, ServiceName,
};
use crate::source::registered::book::{Entry, Instance};

/// Returns the service of this name without anything.
pub(super) fn empty(name: &ServiceName) -> Service {
    Service {
        name: name.clone(),
        kind: ServiceKind::ClusterIp,
        addresses: Vec::new(),
        external_addresses: Vec::new(),
        ports: Vec::new(),
        portless: Vec::new(),
        affinity: None,
        local_only: false,
        distribution: Distribution::Any,
        publish_not_ready: false,
        balance: Balance::default(),
        origin: "registered".to_owned(),
    }
}

/// Returns the service that `entry` describes: a port for each that any instance has, with all that have it.
pub(super) fn build(name: &ServiceName, entry: &Entry) -> Service {
    let mut ports: BTreeMap<(u16, Protocol), Port> = BTreeMap::new();
    for instance in entry.instances.values() {
        for port in &instance.registration.ports {
            let (number, protocol) = port.dialled();
            let known = ports.entry((number, protocol)).or_insert_with(|| Port {
                name: port.name.clone(),
                number,
                protocol,
                node_port: None,
                app_protocol: None,
                endpoints: Vec::new(),
            });
            known.endpoints.push(endpoint(instance, port.number));
        }
    }
    let balance = Balance {
        health_check: entry.check.clone(),
        ..Balance::default()
    };
    Service {
        addresses: entry.addresses.clone(),
        ports: ports.into_values().collect(),
        balance,
        ..empty(name)
    }
}

fn endpoint(instance: &Instance, port: u16) -> Endpoint {
    let registration = &instance.registration;
    Endpoint {
        address: registration.address,
        port,
        ready: !instance.expired,
        serving: !instance.expired,
        terminating: false,
        node: None,
        zone: registration.zone.as_deref().map(Into::into),
        region: registration.region.as_deref().map(Into::into),
        hints: None,
        weight: registration.weight,
        priority: registration.priority,
        workload: None,
        hostname: None,
        checked_elsewhere: false,
    }
}
