//! `BackendTLSPolicy`: TLS from the agent to the endpoints of a service.
#![forbid(unsafe_code)]

use crate::config::gateway::{RawBackendTls, RawPolicy, TargetRef};
use crate::config::known;
use crate::config::known::gateway as names;
use crate::config::limits;
use crate::config::metadata::Metadata;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::traffic::SubjectAltName;

/// Reads a `BackendTLSPolicy`. The result counts only if `reader` recorded no error.
pub(crate) fn read(
    reader: &mut Reader,
    object: &Fields<'_>,
    metadata: Metadata,
) -> Option<RawBackendTls> {
    let (spec, mut policy) = policy(reader, object, metadata)?;
    let (found, refused) = reader.softly(|reader| {
        reader.only(&spec, names::TLS_SPEC, Unknown::Error);
        policy.targets = targets(reader, &spec);
        validation(reader, &spec)
    });
    policy.refused = refused;
    let (hostname, names, system, authorities) = found.unwrap_or_default();
    Some(RawBackendTls {
        policy,
        hostname,
        names,
        system,
        authorities,
    })
}

type Validation = (
    String,
    Vec<SubjectAltName>,
    bool,
    Vec<Result<String, String>>,
);

fn validation(reader: &mut Reader, spec: &Fields<'_>) -> Option<Validation> {
    if spec.entry("validation").is_none() {
        let help = "write `validation: {hostname: ..., caCertificateRefs: [...]}`";
        reader.error(spec.line, spec.path_of("validation"), "is missing", help);
    }
    let fields = reader.child(spec, "validation")?;
    reader.only(&fields, names::VALIDATION, Unknown::Error);
    let hostname = reader.text(&fields, "hostname").unwrap_or_default();
    if hostname.is_empty() || hostname.contains('*') {
        let line = fields.line_of("hostname");
        let problem = "names no server";
        let help = "write the name that is in the certificate";
        reader.error(line, fields.path_of("hostname"), problem, help);
    }
    let mut alternatives = Vec::new();
    for name in reader.mappings(&fields, "subjectAltNames") {
        reader.only(&name, names::ALT_NAME, Unknown::Error);
        let Some(sort) = reader.word(&name, "type", &["Hostname", "URI"]) else {
            continue;
        };
        let field = if sort == "URI" { "uri" } else { "hostname" };
        let Some(text) = reader.text(&name, field).map(str::to_owned) else {
            let help = format!("a name of the type {sort} needs it");
            reader.error(name.line, name.path_of(field), "is missing", help);
            continue;
        };
        alternatives.push(match sort {
            "URI" => SubjectAltName::Uri(text),
            _ => SubjectAltName::Hostname(text),
        });
    }
    let system = match fields.entry("wellKnownCACertificates") {
        Some(_) => reader
            .word(&fields, "wellKnownCACertificates", &["System"])
            .is_some(),
        None => false,
    };
    let mut authorities = Vec::new();
    for reference in reader.mappings(&fields, "caCertificateRefs") {
        reader.only(&reference, names::LOCAL, Unknown::Error);
        let group = reader.text(&reference, "group").unwrap_or_default();
        let kind = reader.text(&reference, "kind").unwrap_or_default();
        let name = reader.text(&reference, "name").unwrap_or_default();
        authorities.push(match group.is_empty() && kind == "ConfigMap" {
            true => Ok(name.to_owned()),
            false => Err(format!("{kind} {name}")),
        });
    }
    if system != authorities.is_empty() {
        let help = "give `caCertificateRefs`, or `wellKnownCACertificates: System`";
        reader.error(
            fields.line,
            fields.path.clone(),
            "needs one kind of authorities",
            help,
        );
    }
    Some((hostname.to_owned(), alternatives, system, authorities))
}

/// Returns the `spec` of a policy, and what every policy has; its targets are still to be read.
pub(crate) fn policy<'n>(
    reader: &mut Reader,
    object: &Fields<'n>,
    metadata: Metadata,
) -> Option<(Fields<'n>, RawPolicy)> {
    reader.only(object, known::OBJECT, Unknown::Error);
    if object.entry("spec").is_none() {
        let help = "write `spec: {targetRefs: [...], ...}`";
        reader.error(object.line, object.path_of("spec"), "is missing", help);
    }
    let policy = RawPolicy {
        namespace: metadata.namespace?,
        name: metadata.name?,
        created: metadata.created,
        generation: metadata.generation,
        targets: Vec::new(),
        refused: None,
    };
    Some((reader.child(object, "spec")?, policy))
}

/// Reads `targetRefs`; those to anything but services are somebody else's.
pub(crate) fn targets(reader: &mut Reader, spec: &Fields<'_>) -> Vec<TargetRef> {
    let all = reader.mappings(spec, "targetRefs");
    if all.is_empty() {
        let help = "name a service: `targetRefs: [{group: \"\", kind: Service, name: ...}]`";
        reader.error(spec.line, spec.path_of("targetRefs"), "is missing", help);
    }
    if all.len() > limits::REFERENCES / 2 {
        let problem = format!("holds more than {} targets", limits::REFERENCES / 2);
        let help = "make several policies of it";
        reader.error(
            spec.line_of("targetRefs"),
            spec.path_of("targetRefs"),
            problem,
            help,
        );
    }
    let mut found = Vec::new();
    for fields in &all {
        reader.only(fields, names::TARGET, Unknown::Error);
        let group = reader.text(fields, "group").unwrap_or_default();
        let kind = reader.text(fields, "kind").unwrap_or("Service");
        if fields.entry("name").is_none() {
            let help = "name the service";
            reader.error(fields.line, fields.path_of("name"), "is missing", help);
        }
        let Some(name) = reader.text(fields, "name") else {
            continue;
        };
        if group.is_empty() && kind == "Service" {
            found.push(TargetRef {
                name: name.to_owned(),
                section: reader.text(fields, "sectionName").map(str::to_owned),
            });
        }
    }
    found
}
