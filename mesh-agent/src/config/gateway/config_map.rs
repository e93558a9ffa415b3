//! `ConfigMap`: the certificates that a `BackendTLSPolicy` trusts, and nothing else of it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::config::gateway::ConfigMap;
use crate::config::known::gateway as names;
use crate::config::limits;
use crate::config::reader::{Fields, Reader, Unknown};

/// Key of the certificates.
const KEY: &str = "ca.crt";

/// Reads a `ConfigMap`. The result counts only if `reader` recorded no error.
pub(crate) fn read(reader: &mut Reader, object: &Fields<'_>) -> ConfigMap {
    reader.only(object, names::CONFIG_MAP, Unknown::Error);
    let data = reader.child(object, "data");
    let entry = data.as_ref().and_then(|data| data.entry(KEY));
    let text = entry.and_then(|entry| entry.node.text());
    if let (Some(data), Some(text)) = (&data, text)
        && text.len() > limits::CERTIFICATES_BYTES
    {
        let most = limits::CERTIFICATES_BYTES / 1024;
        let problem = format!("is larger than {most} KiB");
        let help = "keep the authorities that are needed";
        reader.error(data.line_of(KEY), data.path_of(KEY), problem, help);
    }
    ConfigMap {
        authorities: text.map(Arc::from),
    }
}
