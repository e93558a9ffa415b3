//! Kubernetes `Node`: where a machine is, and its addresses.
#![forbid(unsafe_code)]

use crate::config::known;
use crate::config::mark;
use crate::config::metadata::Metadata;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::snapshot::Node;

/// Label: the zone that a machine is in.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// Label: the region that a machine is in.
pub(crate) const REGION: &str = "topology.kubernetes.io/region";

/// Reads a `Node`. The result counts only if `reader` recorded no error.
pub(crate) fn read(reader: &mut Reader, fields: &Fields<'_>, metadata: &Metadata) -> Node {
    reader.only(fields, known::OBJECT, Unknown::Error);
    mark::only(reader, &metadata.marks, &[]);
    if let Some(spec) = reader.child(fields, "spec") {
        reader.only(&spec, known::service::NODE_SPEC, Unknown::Newer);
    }
    let label = |name: &str| {
        let value = metadata.labels.get(name)?;
        (!value.is_empty()).then(|| value.clone())
    };
    let mut node = Node {
        zone: label(ZONE),
        region: label(REGION),
        addresses: Vec::new(),
    };
    let Some(status) = reader.child(fields, "status") else {
        return node;
    };
    reader.only(&status, known::service::NODE_STATUS, Unknown::Newer);
    for address in reader.mappings(&status, "addresses") {
        reader.only(&address, known::service::NODE_ADDRESS, Unknown::Newer);
        // The others are names.
        let text = reader.text(&address, "address").unwrap_or_default();
        if let Ok(ip) = text.parse()
            && !node.addresses.contains(&ip)
        {
            node.addresses.push(ip);
        }
    }
    node
}
