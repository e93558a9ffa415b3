//! Which ports of which services take a route.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::{Named, Refusal};
use crate::config::gateway::RawRoute;
use crate::config::gateway::backend::protocol;
use crate::model::route::{Parent, RouteKind};
use crate::model::service::{Service, ServiceKind, ServiceName};
use crate::model::status::ParentReference;

/// A parent with the ports that took the route.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub(super) parent: Parent,
    /// Ports that a route of another kind has, in words.
    pub(super) lost: Vec<String>,
}

/// A port as one group of clients sees it: those of all namespaces (`None`, producer), or of one (consumer).
type Claim = (u16, Option<String>);

/// The kind that has each port of one service: the first in the order of kinds that wants it. UDP shares no traffic with the others.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Claims(HashMap<Claim, RouteKind>);

impl Claims {
    /// Notes that a route wants ports of a service.
    pub(super) fn add(&mut self, raw: &RawRoute, service: &ServiceName, services: Named<'_>) {
        let kind = raw.name.kind;
        if kind == RouteKind::Udp {
            return;
        }
        for parent in &raw.parents {
            if (&parent.namespace, &parent.name) != (&service.namespace, &service.name) {
                continue;
            }
            let ports = services.get(service).map(|it| ports(raw, parent, it));
            for port in ports.and_then(Result::ok).unwrap_or_default() {
                let has = self.0.entry(claim(raw, parent, port)).or_insert(kind);
                *has = kind.min(*has);
            }
        }
    }
}

/// The same for all services.
#[derive(Debug, Default)]
pub(super) struct Winners(HashMap<ServiceName, Claims>);

impl Winners {
    /// Takes over who has the ports of a service; returns whether that is different.
    pub(super) fn replace(&mut self, service: &ServiceName, claims: Claims) -> bool {
        if claims.0.is_empty() {
            return self.0.remove(service).is_some();
        }
        let changed = self.0.get(service) != Some(&claims);
        if changed {
            self.0.insert(service.clone(), claims);
        }
        changed
    }

    fn of(&self, raw: &RawRoute, parent: &ParentReference, port: u16) -> RouteKind {
        let own = raw.name.kind;
        if own == RouteKind::Udp {
            return own;
        }
        let claims = self.0.get(&service_name(parent));
        let kind = claims.and_then(|claims| claims.0.get(&claim(raw, parent, port)));
        kind.copied().unwrap_or(own)
    }
}

fn claim(raw: &RawRoute, parent: &ParentReference, port: u16) -> Claim {
    let is_consumer = raw.name.namespace != parent.namespace;
    (port, is_consumer.then(|| raw.name.namespace.clone()))
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

/// Reason of a route whose parent is not there, or has no such port.
const NO_PARENT: &str = "NoMatchingParent";

/// Binds a route to a parent.
pub(super) fn bind(
    raw: &RawRoute,
    parent: &ParentReference,
    services: Named<'_>,
    winners: &Winners,
) -> Result<Binding, Refusal> {
    let service = services.find(&service_name(parent), NO_PARENT)?;
    let all = ports(raw, parent, service).map_err(|why| (NO_PARENT, why))?;
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
fn ports(raw: &RawRoute, parent: &ParentReference, service: &Service) -> Result<Vec<u16>, String> {
    let name = &service.name;
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
