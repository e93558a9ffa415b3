//! `backendRefs`, and every other reference to somebody who answers.
#![forbid(unsafe_code)]

use crate::config::known::gateway as names;
use crate::config::limits;
use crate::config::name;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::balanced::PortId;
use crate::model::route::{BackendTarget, BadRef, RouteKind, RouteName};
use crate::model::service::{Protocol, ServiceName};

/// Returns the mappings of `backendRefs`, each with its weight.
pub(crate) fn references<'n>(
    reader: &mut Reader,
    rule: &Fields<'n>,
    known: &[&str],
) -> Vec<(Fields<'n>, u32)> {
    let all = reader.mappings(rule, "backendRefs");
    let mut found = Vec::with_capacity(all.len());
    for fields in all {
        reader.only(&fields, known, Unknown::Error);
        let weight = match fields.entry("weight") {
            None => Some(1),
            Some(_) => reader.number(&fields, "weight", 0..=limits::BACKEND_WEIGHT),
        };
        found.push((fields, weight.unwrap_or_default()));
    }
    found
}

/// Reads a reference to a port of a service, which may not be there.
pub(crate) fn target(reader: &mut Reader, fields: &Fields<'_>, route: &RouteName) -> BackendTarget {
    let group = reader.text(fields, "group").unwrap_or_default();
    let kind = reader.text(fields, "kind").unwrap_or("Service");
    let namespace = reader.text(fields, "namespace").unwrap_or(&route.namespace);
    if fields.entry("name").is_none() {
        let help = "name the service";
        reader.error(fields.line, fields.path_of("name"), "is missing", help);
    }
    let name = reader.text(fields, "name").unwrap_or_default();
    let port = reader.port(fields, "port");
    if !group.is_empty() || kind != "Service" {
        let what = match group.is_empty() {
            true => kind.to_owned(),
            false => format!("{kind}.{group}"),
        };
        let why = format!("{what} {namespace}/{name} is no Service");
        return BackendTarget::Invalid(BadRef::InvalidKind, why);
    }
    if !name.is_empty() && (!name::is_label(name) || !name::is_label(namespace)) {
        let problem = format!("`{namespace}/{name}` is not the name of a service");
        let help = "names are lower-case letters, digits and `-`";
        reader.error(fields.line, fields.path_of("name"), problem, help);
    }
    if fields.entry("port").is_none() {
        let help = "write `port: NUMBER`, the port of the service";
        reader.error(fields.line, fields.path_of("port"), "is missing", help);
    }
    BackendTarget::Port(PortId {
        service: ServiceName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        port: port.unwrap_or_default(),
        protocol: protocol(route.kind),
    })
}

/// Returns what the connections of a route are.
pub(crate) fn protocol(kind: RouteKind) -> Protocol {
    match kind {
        RouteKind::Udp => Protocol::Udp,
        RouteKind::Grpc | RouteKind::Http | RouteKind::Tls | RouteKind::Tcp => Protocol::Tcp,
    }
}

/// Reads `backendRef` of a mirror.
pub(crate) fn mirrored(
    reader: &mut Reader,
    mirror: &Fields<'_>,
    route: &RouteName,
) -> Option<BackendTarget> {
    if mirror.entry("backendRef").is_none() {
        let help = "say to whom requests are mirrored";
        reader.error(
            mirror.line,
            mirror.path_of("backendRef"),
            "is missing",
            help,
        );
    }
    let fields = reader.child(mirror, "backendRef")?;
    reader.only(&fields, names::BACKEND_OBJECT, Unknown::Error);
    Some(target(reader, &fields, route))
}
