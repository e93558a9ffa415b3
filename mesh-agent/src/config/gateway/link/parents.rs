//! Which ports of which services take a route.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::Refusal;
use crate::config::gateway::RawRoute;
use crate::config::gateway::backend::protocol;
use crate::model::route::{Parent, RouteKind};
use crate::model::service::{Service, ServiceKind, ServiceName, Services};
use crate::model::status::ParentReference;

/// A parent with the ports that took the route.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub(super) parent: Parent,
    /// Ports that a route of another kind has, in words.
    pub(super) lost: Vec<String>,
}

/// A port as one group of clients sees it: those of all namespaces (producer), or of one (consumer).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Claim {
    service: ServiceName,
    port: u16,
    consumer: Option<String>,
}

/// The kind that has each port: the first in the order of kinds. UDP shares no traffic with the others.
#[derive(Debug, Default)]
pub(super) struct Winners(HashMap<Claim, RouteKind>);

impl Winners {
    /// Notes that a route wants the ports of a parent.
    pub(super) fn claim(&mut self, raw: &RawRoute, parent: &ParentReference, services: &Services) {
        let Ok(ports) = ports(raw, parent, services) else {
            return;
        };
        let kind = raw.name.kind;
        if kind == RouteKind::Udp {
            return;
        }
        for port in ports {
            let has = self.0.entry(claim(raw, parent, port)).or_insert(kind);
            *has = kind.min(*has);
        }
    }

    fn of(&self, raw: &RawRoute, parent: &ParentReference, port: u16) -> RouteKind {
        let own = raw.name.kind;
        if own == RouteKind::Udp {
            return own;
        }
        let kind = self.0.get(&claim(raw, parent, port));
        kind.copied().unwrap_or(own)
    }
}

fn claim(raw: &RawRoute, parent: &ParentReference, port: u16) -> Claim {
    let is_consumer = raw.name.namespace != parent.namespace;
    Claim {
        service: service_name(parent),
        port,
        consumer: is_consumer.then(|| raw.name.namespace.clone()),
    }
}

fn service_name(parent: &ParentReference) -> ServiceName {
    ServiceName {
        namespace: parent.namespace.clone(),
        name: parent.name.clone(),
    }
}

/// Returns the parents of a route.
pub(super) fn services(raw: &RawRoute) -> impl Iterator<Item = ServiceName> + '_ {
    raw.parents.iter().map(service_name)
}

/// Binds a route to a parent.
pub(super) fn bind(
    raw: &RawRoute,
    parent: &ParentReference,
    services: &Services,
    winners: &Winners,
) -> Result<Binding, Refusal> {
    let all = ports(raw, parent, services).map_err(|why| ("NoMatchingParent", why))?;
    let own = raw.name.kind;
    let (ports, taken): (Vec<u16>, Vec<u16>) = all
        .into_iter()
        .partition(|port| winners.of(raw, parent, *port) == own);
    let words = taken.iter().map(|port| {
        let kind = winners.of(raw, parent, *port).word();
        format!("port {port}, which a {kind} has")
    });
    let lost: Vec<String> = words.collect();
    if ports.is_empty() {
        return Err(("Conflicted", lost.join(", ")));
    }
    let service = service_name(parent);
    Ok(Binding {
        parent: Parent { service, ports },
        lost,
    })
}

/// Returns the ports that a reference names, or why there is none.
fn ports(
    raw: &RawRoute,
    parent: &ParentReference,
    services: &Services,
) -> Result<Vec<u16>, String> {
    let name = service_name(parent);
    let service: &Service = services
        .get(&name)
        .ok_or_else(|| format!("there is no service {name}"))?;
    match &service.kind {
        ServiceKind::ClusterIp => {}
        ServiceKind::Headless => {
            return Err(format!(
                "service {name} is headless: nobody dials it, but its endpoints"
            ));
        }
        ServiceKind::ExternalName(_) => {
            return Err(format!(
                "service {name} is another name, and nobody dials it"
            ));
        }
    }
    let wanted = protocol(raw.name.kind);
    let fits = |port: &&crate::model::service::Port| {
        port.protocol == wanted
            && parent.port.is_none_or(|number| number == port.number)
            && parent
                .section_name
                .as_ref()
                .is_none_or(|it| port.name.as_ref() == Some(it))
    };
    let ports: Vec<u16> = service
        .ports
        .iter()
        .filter(fits)
        .map(|it| it.number)
        .collect();
    if ports.is_empty() {
        let which = match (parent.port, &parent.section_name) {
            (Some(number), _) => format!("port {number}"),
            (None, Some(section)) => format!("port `{section}`"),
            (None, None) => "port".to_owned(),
        };
        return Err(format!(
            "service {name} has no {which} of {}",
            wanted.word()
        ));
    }
    Ok(ports)
}
