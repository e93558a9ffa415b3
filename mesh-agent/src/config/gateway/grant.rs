//! `ReferenceGrant`: read so that mistakes in it are found. In the mesh no reference needs one (GEP-1294): routes to services
//! reach what their clients could dial by themselves.
#![forbid(unsafe_code)]

use crate::config::known;
use crate::config::known::gateway as names;
use crate::config::reader::{Fields, Reader, Unknown};

/// Reads a `ReferenceGrant`.
pub(crate) fn read(reader: &mut Reader, object: &Fields<'_>) -> Option<()> {
    reader.only(object, known::OBJECT, Unknown::Error);
    if object.entry("spec").is_none() {
        let help = "write `spec: {from: [...], to: [...]}`";
        reader.error(object.line, object.path_of("spec"), "is missing", help);
    }
    let spec = reader.child(object, "spec")?;
    reader.only(&spec, names::GRANT_SPEC, Unknown::Error);
    for (list, required) in [("from", &["kind", "namespace"][..]), ("to", &["kind"][..])] {
        for fields in reader.mappings(&spec, list) {
            reader.only(&fields, names::GRANT, Unknown::Error);
            for field in required {
                if reader.text(&fields, field).is_none() && fields.entry(field).is_none() {
                    let path = fields.path_of(field);
                    reader.error(fields.line, path, "is missing", "every reference needs it");
                }
            }
        }
    }
    Some(())
}
