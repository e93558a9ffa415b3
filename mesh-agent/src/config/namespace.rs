//! Kubernetes `Namespace`: only what it sets for its pods.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::config::known;
use crate::config::mark;
use crate::config::metadata::Metadata;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::workload::Acceleration;

/// A valid `Namespace`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Namespace {
    pub(crate) acceleration: Option<Acceleration>,
    /// Whether its pods are in the mesh, where they do not say.
    pub(crate) mesh: Option<bool>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// Reads a `Namespace`. The result counts only if `reader` recorded no error.
pub(crate) fn read(reader: &mut Reader, fields: &Fields<'_>, metadata: Metadata) -> Namespace {
    reader.only(fields, known::OBJECT, Unknown::Error);
    for (field, known) in [
        ("spec", known::NAMESPACE_SPEC),
        ("status", known::NAMESPACE_STATUS),
    ] {
        if let Some(part) = reader.child(fields, field) {
            reader.only(&part, known, Unknown::Newer);
        }
    }
    mark::only(reader, &metadata.marks, known::NAMESPACE_ANNOTATIONS);
    let acceleration = mark::acceleration(reader, &metadata.marks);
    let mesh = mark::mesh(reader, &metadata.marks);
    Namespace {
        acceleration,
        mesh,
        labels: metadata.labels,
    }
}
