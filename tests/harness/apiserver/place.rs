//! What a path names.

use super::state::Kind;

/// A kind's objects, or one of them, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Place {
    /// Returns what a path names, if there is such a kind.
    pub(super) fn find(kinds: &[Kind], path: &str) -> Option<Self> {
        kinds.iter().find_map(|kind| Self::of(kind, path))
    }

    fn of(kind: &Kind, path: &str) -> Option<Self> {
        let root = kind.path();
        let root = root.strip_suffix(&kind.resource)?;
        let parts: Vec<&str> = path.strip_prefix(root)?.split('/').collect();
        let (namespace, parts) = match parts.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
            all => (None, all),
        };
        let (name, subresource) = match parts {
            [resource] if *resource == kind.resource => (None, None),
            [resource, name] if *resource == kind.resource => (Some(*name), None),
            [resource, name, part] if *resource == kind.resource => (Some(*name), Some(*part)),
            _ => return None,
        };
        Some(Self {
            kind: kind.clone(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    }

    /// Returns the resource as rights name it: `httproutes/status`.
    pub(super) fn resource(&self) -> String {
        let resource = &self.kind.resource;
        match &self.subresource {
            None => resource.clone(),
            Some(part) => format!("{resource}/{part}"),
        }
    }
}
