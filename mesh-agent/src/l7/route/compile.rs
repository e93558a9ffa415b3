//! From the configuration to tables. A pure function; tables of ports whose routes are the same pointers as before are taken from there.
//!
//! Grouping looks at every route once, some tens of nanoseconds each; compiling costs some microseconds for each match, of the ports
//! that changed alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::l7::route::opaque::{TlsTable, opaque};
use crate::l7::route::{AppProtocol, PortPolicy, PortTable, Routed, Table, Tables};
use crate::model::balanced::PortId;
use crate::model::route::{Route, RouteKind, Routes};
use crate::model::service::{Port, Protocol, Services};
use crate::model::traffic::{BackendTlsPolicies, TrafficPolicies};

/// What tables are made of: parts of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Generation of the snapshot.
    pub generation: u64,
    /// Services, registered ones too.
    pub services: &'a Services,
    /// Routes.
    pub routes: &'a Routes,
    /// Settings by port.
    pub traffic: &'a TrafficPolicies,
    /// TLS by port.
    pub tls: &'a BackendTlsPolicies,
}

/// Routes of one port: by group of clients (`None`: producer).
pub(super) type Groups = BTreeMap<Option<String>, Vec<Arc<Route>>>;

/// Returns the routes of each service port, in the order of their names, by group of clients.
pub(super) fn grouped(routes: &Routes) -> BTreeMap<PortId, Groups> {
    let mut ports: BTreeMap<PortId, Groups> = BTreeMap::new();
    for route in routes.values() {
        let protocol = match route.name.kind {
            RouteKind::Udp => Protocol::Udp,
            RouteKind::Grpc | RouteKind::Http | RouteKind::Tls | RouteKind::Tcp => Protocol::Tcp,
        };
        for parent in &route.parents {
            let namespace = &route.name.namespace;
            let is_producer = parent.service.namespace == *namespace;
            let group = (!is_producer).then(|| namespace.clone());
            for port in &parent.ports {
                let id = PortId {
                    service: parent.service.clone(),
                    port: *port,
                    protocol,
                };
                let routes = ports
                    .entry(id)
                    .or_default()
                    .entry(group.clone())
                    .or_default();
                // Two references of a route may lead to one port.
                if routes.last().is_none_or(|last| !Arc::ptr_eq(last, route)) {
                    routes.push(route.clone());
                }
            }
        }
    }
    ports
}

/// Returns every service port that has a route or a policy, also where its service is not there (yet).
pub fn concerned(input: &Input<'_>) -> BTreeSet<PortId> {
    with_policies(input, &grouped(input.routes))
}

fn with_policies(input: &Input<'_>, groups: &BTreeMap<PortId, Groups>) -> BTreeSet<PortId> {
    let ids = groups.keys();
    let ids = ids.chain(input.traffic.keys()).chain(input.tls.keys());
    ids.cloned().collect()
}

impl Tables {
    /// Compiles routes and policies; `before` is what was compiled last.
    pub fn compile(input: &Input<'_>, before: &Self) -> Self {
        let mut groups = grouped(input.routes);
        let ids = with_policies(input, &groups);
        let mut ports = HashMap::with_capacity(ids.len());
        for id in ids {
            let Some(port) = port_of(input.services, &id) else {
                continue;
            };
            let groups = groups.remove(&id).unwrap_or_default();
            let table = port_table(input, &id, port, groups, before.port(&id));
            ports.insert(id, table);
        }
        Self {
            generation: input.generation,
            ports,
        }
    }
}

/// Returns a port of a service.
pub(super) fn port_of<'s>(services: &'s Services, id: &PortId) -> Option<&'s Port> {
    let mut ports = services.get(&id.service)?.ports.iter();
    ports.find(|port| port.number == id.port && port.protocol == id.protocol)
}

fn port_table(
    input: &Input<'_>,
    id: &PortId,
    port: &Port,
    groups: Groups,
    before: Option<&Arc<PortTable>>,
) -> Arc<PortTable> {
    let policy = PortPolicy {
        traffic: input.traffic.get(id).cloned(),
        tls: input.tls.get(id).cloned(),
    };
    let policy = match before {
        Some(before) if *before.policy == policy => before.policy.clone(),
        _ => Arc::new(policy),
    };
    let mut table = PortTable {
        id: id.clone(),
        protocol: AppProtocol::of(port),
        producer: None,
        consumers: HashMap::new(),
        policy,
    };
    for (group, routes) in groups {
        let known = before.and_then(|before| match &group {
            None => before.producer.as_ref(),
            Some(namespace) => before.consumers.get(namespace),
        });
        let Some(routed) = routed(routes, known) else {
            continue;
        };
        match group {
            None => table.producer = Some(routed),
            Some(namespace) => drop(table.consumers.insert(namespace, routed)),
        }
    }
    match before {
        Some(before) if is_same(&table, before) => before.clone(),
        _ => Arc::new(table),
    }
}

/// Compiles the routes of one group, which are of one kind: of the one that wins, should there be several.
fn routed(mut routes: Vec<Arc<Route>>, known: Option<&Routed>) -> Option<Routed> {
    let kind = routes.iter().map(|route| route.name.kind).min()?;
    routes.retain(|route| route.name.kind == kind);
    Some(match (kind, known) {
        (RouteKind::Grpc | RouteKind::Http, Some(Routed::Http(table))) if table.is_of(&routes) => {
            Routed::Http(table.clone())
        }
        (RouteKind::Grpc | RouteKind::Http, _) => Routed::Http(Arc::new(Table::new(routes))),
        (RouteKind::Tls, Some(Routed::Tls(table))) if table.is_of(&routes) => {
            Routed::Tls(table.clone())
        }
        (RouteKind::Tls, _) => Routed::Tls(Arc::new(TlsTable::new(routes))),
        (RouteKind::Tcp | RouteKind::Udp, known) => {
            let rule = opaque(&routes)?;
            match known {
                Some(Routed::Opaque(known)) if **known == *rule => Routed::Opaque(known.clone()),
                _ => Routed::Opaque(rule),
            }
        }
    })
}

fn is_same(one: &PortTable, other: &PortTable) -> bool {
    let consumers = || {
        let mut all = one.consumers.iter();
        all.all(|(name, routed)| same_routes(Some(routed), other.consumers.get(name)))
    };
    one.protocol == other.protocol
        && Arc::ptr_eq(&one.policy, &other.policy)
        && one.consumers.len() == other.consumers.len()
        && same_routes(one.producer.as_ref(), other.producer.as_ref())
        && consumers()
}

fn same_routes(one: Option<&Routed>, other: Option<&Routed>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(Routed::Http(one)), Some(Routed::Http(other))) => Arc::ptr_eq(one, other),
        (Some(Routed::Tls(one)), Some(Routed::Tls(other))) => Arc::ptr_eq(one, other),
        (Some(Routed::Opaque(one)), Some(Routed::Opaque(other))) => Arc::ptr_eq(one, other),
        _ => false,
    }
}
