//! Names of Kubernetes objects.
#![forbid(unsafe_code)]

/// Longest name of an object: a DNS name (RFC 1123).
const NAME_BYTES: usize = 253;
/// Longest name of a namespace: one label of a DNS name (RFC 1123).
const LABEL_BYTES: usize = 63;

/// Returns whether `name` may be the name of a Pod and of most other objects: a DNS subdomain in lower case.
pub(crate) fn is_subdomain(name: &str) -> bool {
    name.len() <= NAME_BYTES && name.split('.').all(is_label_of_any_length)
}

/// Returns whether `name` may be the name of a Namespace or Service: a DNS label in lower case.
pub(crate) fn is_label(name: &str) -> bool {
    name.len() <= LABEL_BYTES && is_label_of_any_length(name)
}

fn is_label_of_any_length(label: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty()
        && label.bytes().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}
