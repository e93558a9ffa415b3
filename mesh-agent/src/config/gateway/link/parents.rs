//! Which ports of which services take a route.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use super::{Named, Refusal};
use crate::config::gateway::RawRoute;
use crate::config::gateway::backend::protocol;
use crate::l7::route::AppProtocol;
use crate::model::route::{Parent, RouteKind, RouteName, Rules};
use crate::model::service::{Port, Service, ServiceKind, ServiceName};
use crate::model::status::ParentReference;

/// A parent with the ports that took the route.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub(super) parent: Parent,
    /// What of the reference does not hold, in words.
    pub(super) lost: Vec<String>,
}

/// A port as one group of clients sees it: those of all namespaces (`None`, producer), or of one (consumer).
type Claim = (u16, Option<String>);

/// What only one route of a kind can have: a port, where nothing of a connection is looked into, or the name of a server there.
type Only = (Claim, RouteKind, Option<String>);

/// Who has each port of one service.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Claims {
    /// The first in the order of kinds that wants it. UDP shares no traffic with the others.
    kinds: HashMap<Claim, RouteKind>,
    /// The oldest of those that want the same, then the first by name.
    oldest: HashMap<Only, (i64, Arc<RouteName>)>,
}

impl Claims {
    /// Notes that a route wants ports of a service.
    pub(super) fn add(&mut self, raw: &RawRoute, service: &ServiceName, services: Named<'_>) {
        let kind = raw.name.kind;
        for parent in &raw.parents {
            if (&parent.namespace, &parent.name) != (&service.namespace, &service.name) {
                continue;
            }
            let ports = services.get(service).map(|it| ports(raw, parent, it));
            let ports = ports.and_then(Result::ok).unwrap_or_default();
            for port in ports.taken {
                let claim = claim(raw, parent, port);
                for only in only(raw, &claim) {
                    let own = (raw.created.unwrap_or(i64::MAX), raw.name.clone());
                    let has = self.oldest.entry(only).or_insert_with(|| own.clone());
                    *has = own.min(has.clone());
                }
                if kind != RouteKind::Udp {
                    let has = self.kinds.entry(claim).or_insert(kind);
                    *has = kind.min(*has);
                }
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
        if claims.oldest.is_empty() && claims.kinds.is_empty() {
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
        let kind = claims.and_then(|claims| claims.kinds.get(&claim(raw, parent, port)));
        kind.copied().unwrap_or(own)
    }

    /// Returns the other route that has the port, or why the route has only some of what it wants there.
    fn older(&self, raw: &RawRoute, parent: &ParentReference, port: u16) -> (bool, Vec<String>) {
        let claims = self.0.get(&service_name(parent));
        let (mut has_any, mut lost) = (false, Vec::new());
        for only in only(raw, &claim(raw, parent, port)) {
            let oldest = claims.and_then(|claims| claims.oldest.get(&only));
            match (oldest, only.2) {
                (Some((_, other)), None) if *other != raw.name => {
                    lost.push(format!("port {port}, which {other} has"));
                }
                (Some((_, other)), Some(host)) if *other != raw.name => {
                    lost.push(format!("`{host}` on port {port}, which {other} has"));
                }
                _ => has_any = true,
            }
        }
        (has_any || lost.is_empty(), lost)
    }
}

/// Returns what of a port no other route of the kind can have as well.
fn only(raw: &RawRoute, claim: &Claim) -> Vec<Only> {
    let kind = raw.name.kind;
    match &raw.rules {
        Rules::Http(_) | Rules::Grpc(_) => Vec::new(),
        Rules::Opaque(_) => vec![(claim.clone(), kind, None)],
        Rules::Tls(names, _) => {
            let one = |name: &String| (claim.clone(), kind, Some(name.to_ascii_lowercase()));
            names.iter().map(one).collect()
        }
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
    if raw.name.kind == RouteKind::Udp && raw.name.namespace != parent.namespace {
        let why = "the kernel balances UDP alike for all clients: only routes of the service's own namespace hold";
        return Err(("UnsupportedValue", why.to_owned()));
    }
    let all = ports(raw, parent, service).map_err(|why| (NO_PARENT, why))?;
    let own = raw.name.kind;
    let (mut taken, mut lost) = (Vec::new(), Vec::new());
    for port in all.taken {
        let kind = winners.of(raw, parent, port);
        if kind != own {
            lost.push(format!("port {port}, which a {} has", kind.word()));
            continue;
        }
        let (has_any, others) = winners.older(raw, parent, port);
        lost.extend(others);
        if has_any {
            taken.push(port);
        }
    }
    if taken.is_empty() {
        return Err(("Conflicted", lost.join(", ")));
    }
    lost.extend(all.but_for);
    let service = service_name(parent);
    Ok(Binding {
        parent: Parent {
            service,
            ports: taken,
        },
        lost,
    })
}

/// What a reference leads to.
#[derive(Debug, Default)]
struct Ports {
    taken: Vec<u16>,
    /// What of it does not hold, or not as it may be meant, in words.
    but_for: Vec<String>,
}

/// Returns the ports that a reference names, or why there is none. One that names none means those that do not say that something
/// else is spoken there.
fn ports(raw: &RawRoute, parent: &ParentReference, service: &Service) -> Result<Ports, String> {
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
    let fits = |port: &&Port| {
        port.protocol == wanted
            && parent.port.is_none_or(|number| number == port.number)
            && parent
                .section_name
                .as_ref()
                .is_none_or(|it| port.name.as_ref() == Some(it))
    };
    let is_named = parent.port.is_some() || parent.section_name.is_some();
    let mut found = Ports::default();
    for port in service.ports.iter().filter(fits) {
        let said = AppProtocol::of(port);
        let speaks = format!("port {}, which speaks {}", port.number, said.word());
        match looks_into(raw.name.kind).filter(|it| !it.may_be_on(said)) {
            None => found.taken.push(port.number),
            Some(wanted) if is_named => {
                let what = wanted.word();
                found.taken.push(port.number);
                found.but_for.push(format!("what is no {what} on {speaks}"));
            }
            Some(_) => found.but_for.push(speaks),
        }
    }
    if found.taken.is_empty() && !found.but_for.is_empty() {
        let ports = found.but_for.join(", ");
        let kind = raw.name.kind.word();
        return Err(format!(
            "service {name} has no port for a {kind}, only {ports}: name one that is meant all the same"
        ));
    }
    if found.taken.is_empty() {
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
    Ok(found)
}

/// What a route can look into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Requests,
    Tls,
}

/// Returns what a route looks into; `None`: into nothing.
fn looks_into(kind: RouteKind) -> Option<Wanted> {
    match kind {
        RouteKind::Http | RouteKind::Grpc => Some(Wanted::Requests),
        RouteKind::Tls => Some(Wanted::Tls),
        RouteKind::Tcp | RouteKind::Udp => None,
    }
}

impl Wanted {
    fn word(self) -> &'static str {
        match self {
            Self::Requests => "request",
            Self::Tls => "TLS",
        }
    }

    /// Returns whether that may be spoken at a port that says this. Databases may speak TLS, but do not begin with it, mostly.
    fn may_be_on(self, said: AppProtocol) -> bool {
        match said {
            AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc => self == Self::Requests,
            AppProtocol::Tls => self == Self::Tls,
            AppProtocol::Tcp => false,
            AppProtocol::Detect | AppProtocol::Udp => true,
        }
    }
}
