//! What routes of all five kinds have in common: parents, hostnames, and rules each of which counts by itself.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::config::gateway::{RawRoute, backend, grpc, http};
use crate::config::known;
use crate::config::known::gateway as names;
use crate::config::limits;
use crate::config::metadata::Metadata;
use crate::config::reader::{Fields, Reader, Trouble, Unknown};
use crate::model::route::{Backend, RouteKind, RouteName, Rule, Rules};
use crate::model::status::ParentReference;

/// Group of Gateway API itself, which references mean that name none.
const GATEWAY: &str = "gateway.networking.k8s.io";

/// Reads a route. The result counts only if `reader` recorded no error.
pub(crate) fn read(
    reader: &mut Reader,
    object: &Fields<'_>,
    metadata: Metadata,
    kind: RouteKind,
) -> Option<RawRoute> {
    reader.only(object, known::OBJECT, Unknown::Error);
    if object.entry("spec").is_none() {
        let help = "write `spec: {parentRefs: [...], rules: [...]}`";
        reader.error(object.line, object.path_of("spec"), "is missing", help);
    }
    let spec = reader.child(object, "spec")?;
    let name = Arc::new(RouteName {
        kind,
        namespace: metadata.namespace?,
        name: metadata.name?,
    });
    let ((parents, hostnames), mut refused) = reader.softly(|reader| {
        reader.only(&spec, names::ROUTE_SPEC, Unknown::Error);
        let parents = parents(reader, &spec, &name);
        (parents, hostnames(reader, &spec, kind))
    });
    let mut dropped = Vec::new();
    let rules = rules(reader, &spec, &name, hostnames, &mut dropped, &mut refused);
    Some(RawRoute {
        name,
        created: metadata.created,
        generation: metadata.generation,
        parents,
        rules,
        refused,
        dropped,
    })
}

/// Returns the references to services.
fn parents(reader: &mut Reader, spec: &Fields<'_>, route: &RouteName) -> Vec<ParentReference> {
    let mut found: Vec<ParentReference> = Vec::new();
    let all = reader.mappings(spec, "parentRefs");
    if all.len() > limits::REFERENCES {
        let problem = format!("holds more than {} parents", limits::REFERENCES);
        let help = "make several routes of it";
        reader.error(
            spec.line_of("parentRefs"),
            spec.path_of("parentRefs"),
            problem,
            help,
        );
    }
    for fields in &all {
        reader.only(fields, names::PARENT, Unknown::Error);
        let group = reader.text(fields, "group").unwrap_or(GATEWAY);
        let kind = reader.text(fields, "kind").unwrap_or("Gateway");
        let namespace = reader.text(fields, "namespace").unwrap_or(&route.namespace);
        if fields.entry("name").is_none() {
            let help = "name the service";
            reader.error(fields.line, fields.path_of("name"), "is missing", help);
        }
        let Some(name) = reader.text(fields, "name") else {
            continue;
        };
        if kind == "Service" && group == GATEWAY {
            let problem = "is not a kind of Gateway API's group";
            let help = "write `group: \"\"` for a service";
            reader.warn(
                fields.line_of("kind"),
                fields.path_of("kind"),
                problem,
                help,
            );
        }
        let parent = ParentReference {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            section_name: reader.text(fields, "sectionName").map(str::to_owned),
            port: reader.port(fields, "port"),
        };
        let is_ours = group.is_empty() && kind == "Service";
        if is_ours && !found.contains(&parent) {
            found.push(parent);
        }
    }
    found
}

/// Returns the names of servers that a `TLSRoute` is for. In the mesh those of other routes say nothing.
fn hostnames(reader: &mut Reader, spec: &Fields<'_>, kind: RouteKind) -> Vec<String> {
    let mut found = Vec::new();
    let all = reader.strings(spec, "hostnames");
    if kind != RouteKind::Tls {
        if !all.is_empty() {
            let problem = "is not looked at: a mesh routes by the service that was dialled";
            let help = "match on the field `host` where that is meant";
            reader.note(
                spec.line_of("hostnames"),
                spec.path_of("hostnames"),
                problem,
                help,
            );
        }
        return found;
    }
    if all.is_empty() {
        let help = "name the servers, as clients do in ClientHello";
        reader.error(spec.line, spec.path_of("hostnames"), "is missing", help);
    }
    for (text, path, line) in all {
        let bare = text.strip_prefix("*.").unwrap_or(text);
        if bare.is_empty() || !bare.split('.').all(crate::config::name::is_label) {
            let problem = format!("`{text}` is not the name of a server");
            reader.error(line, path, problem, "write a DNS name, or `*.` and one");
        }
        found.push(text.to_owned());
    }
    found
}

/// Reads the rules, each by itself.
fn rules(
    reader: &mut Reader,
    spec: &Fields<'_>,
    route: &RouteName,
    hostnames: Vec<String>,
    dropped: &mut Vec<Trouble>,
    refused: &mut Option<Trouble>,
) -> Rules {
    let all = reader.mappings(spec, "rules");
    let most = match route.kind {
        RouteKind::Http | RouteKind::Grpc => limits::RULES_OF_ROUTE,
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => 1,
    };
    let (_, beyond) = reader.softly(|reader| {
        if all.len() > most {
            let problem = format!("holds {} rules, more than {most}", all.len());
            let help = "make several routes of it";
            reader.error(spec.line_of("rules"), spec.path_of("rules"), problem, help);
        }
    });
    if refused.is_none() {
        *refused = beyond;
    }
    let mut note = |trouble: Option<Trouble>| match trouble {
        None => true,
        Some(trouble) if trouble.unknown => {
            refused.get_or_insert(trouble);
            false
        }
        Some(trouble) => {
            dropped.push(trouble);
            false
        }
    };
    match route.kind {
        RouteKind::Http => {
            let mut rules: Vec<Rule<_>> = Vec::new();
            for (index, fields) in all.iter().enumerate() {
                let (rule, trouble) = reader.softly(|it| http::rule(it, fields, route, index));
                rules.extend(note(trouble).then_some(rule));
            }
            if spec.entry("rules").is_none() {
                rules.push(http::default_rule());
            }
            Rules::Http(rules)
        }
        RouteKind::Grpc => {
            let mut rules: Vec<Rule<_>> = Vec::new();
            for (index, fields) in all.iter().enumerate() {
                let (rule, trouble) = reader.softly(|it| grpc::rule(it, fields, route, index));
                rules.extend(note(trouble).then_some(rule));
            }
            Rules::Grpc(rules)
        }
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => {
            let mut backends = Vec::new();
            for fields in &all {
                let (rule, trouble) = reader.softly(|it| opaque(it, fields, route));
                if note(trouble) {
                    backends.extend(rule);
                }
            }
            if route.kind == RouteKind::Tls {
                return Rules::Tls(hostnames, backends);
            }
            Rules::Opaque(backends)
        }
    }
}

/// Reads the rule of a route that looks at no bytes.
fn opaque(reader: &mut Reader, fields: &Fields<'_>, route: &RouteName) -> Vec<Backend> {
    reader.only(fields, names::OPAQUE_RULE, Unknown::Error);
    let mut backends = Vec::new();
    for (one, weight) in backend::references(reader, fields, names::PLAIN_BACKEND) {
        backends.push(Backend {
            weight,
            to: backend::target(reader, &one, route),
            filters: Vec::new(),
        });
    }
    backends
}
