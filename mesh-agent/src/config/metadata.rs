//! `metadata`: the part of an object that every kind shares.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::config::key::Kind;
use crate::config::known;
use crate::config::name;
use crate::config::reader::{Fields, Reader, Unknown};

/// `metadata`, as far as the agent reads it.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) uid: Option<String>,
    /// `creationTimestamp`, seconds since 1970.
    pub(crate) created: Option<i64>,
    /// `generation`, which statuses repeat.
    pub(crate) generation: Option<i64>,
    /// Whether it is being deleted.
    pub(crate) deleted: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) marks: Vec<Mark>,
    /// What kubelet calls a pod that it has from a file.
    pub(crate) mirror: Option<String>,
}

/// An annotation or label of this project.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) path: String,
    pub(crate) line: u64,
    pub(crate) is_label: bool,
}

/// Reads `metadata`. What is wrong in it is left out of the result.
pub(crate) fn read(reader: &mut Reader, fields: &Fields<'_>, kind: Kind) -> Metadata {
    let mut metadata = Metadata::default();
    if fields.entry("metadata").is_none() {
        let path = fields.path_of("metadata");
        let help = "give the object a name: `metadata: {name: ...}`";
        reader.error(fields.line, path, "is missing", help);
        return metadata;
    }
    let Some(meta) = reader.child(fields, "metadata") else {
        return metadata;
    };
    reader.only(&meta, known::METADATA, Unknown::Error);
    let has_name = meta.entry("name").is_some();
    if !has_name {
        reader.error(
            meta.line,
            meta.path_of("name"),
            "is missing",
            "give the object a name",
        );
    }
    let is_name = match kind {
        Kind::Namespace | Kind::Service => name::is_label,
        Kind::Node
        | Kind::Pod
        | Kind::EndpointSlice
        | Kind::NetworkPolicy
        | Kind::AuthorizationPolicy
        | Kind::HTTPRoute
        | Kind::GRPCRoute
        | Kind::TLSRoute
        | Kind::TCPRoute
        | Kind::UDPRoute
        | Kind::BackendTLSPolicy
        | Kind::ReferenceGrant
        | Kind::XBackendTrafficPolicy
        | Kind::TrafficPolicy
        | Kind::ConfigMap
        | Kind::XMesh => name::is_subdomain,
    };
    metadata.name = dns_name(reader, &meta, "name", is_name);
    metadata.namespace = match (kind.is_namespaced(), meta.entry("namespace")) {
        (false, _) => Some(String::new()),
        (true, None) => Some("default".to_owned()),
        (true, Some(_)) => dns_name(reader, &meta, "namespace", name::is_label),
    };
    metadata.deleted = meta.entry("deletionTimestamp").is_some();
    metadata.uid = reader.text(&meta, "uid").map(str::to_owned);
    let created = meta.entry("creationTimestamp");
    let created = created.and_then(|it| it.node.text()?.parse::<jiff::Timestamp>().ok());
    metadata.created = created.map(jiff::Timestamp::as_second);
    let generation = meta.entry("generation");
    metadata.generation = generation.and_then(|it| it.node.number()?.parse().ok());
    metadata.labels = strings(reader, &meta, "labels", &mut metadata.marks);
    let mut annotations = strings(reader, &meta, "annotations", &mut metadata.marks);
    metadata.mirror = annotations.remove(known::MIRROR);
    metadata
}

fn dns_name(
    reader: &mut Reader,
    meta: &Fields<'_>,
    field: &str,
    is_name: fn(&str) -> bool,
) -> Option<String> {
    let text = reader.text(meta, field)?;
    if is_name(text) {
        return Some(text.to_owned());
    }
    let line = meta.entry(field).map_or(meta.line, |entry| entry.line);
    let problem = format!("`{text}` is not a valid name");
    let help =
        "names are lower-case letters, digits and `-`, and begin and end with a letter or digit";
    reader.error(line, meta.path_of(field), problem, help);
    None
}

/// Returns labels or annotations and adds those of this project to `marks`.
fn strings(
    reader: &mut Reader,
    meta: &Fields<'_>,
    field: &str,
    marks: &mut Vec<Mark>,
) -> BTreeMap<String, String> {
    let mut strings = BTreeMap::new();
    let Some(fields) = reader.child(meta, field) else {
        return strings;
    };
    for entry in fields.entries {
        let path = fields.path_of(&entry.key);
        let value = if entry.node.is_null() {
            Some("")
        } else {
            reader.string(&entry.node, path.clone())
        };
        let Some(value) = value else { continue };
        if entry.key.starts_with(known::PREFIX) {
            marks.push(Mark {
                name: entry.key.clone(),
                value: value.to_owned(),
                path,
                line: entry.line,
                is_label: field == "labels",
            });
        }
        strings.insert(entry.key.clone(), value.to_owned());
    }
    strings
}
