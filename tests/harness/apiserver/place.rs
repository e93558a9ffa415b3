//! Which objects a path names.

use super::state::{Kind, Name};

/// The objects of a kind, those of them in one namespace, one of them, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Place {
    /// Returns what a path names, if there is such a kind.
    pub(super) fn of(kinds: &[Kind], path: &str) -> Option<Self> {
        kinds.iter().find_map(|kind| {
            let rest = path.strip_prefix(&kind.root())?;
            let parts: Vec<&str> = rest.trim_start_matches('/').split('/').collect();
            let (namespace, parts) = match parts.as_slice() {
                ["namespaces", namespace, parts @ ..] if !parts.is_empty() => {
                    (Some(*namespace), parts)
                }
                parts => (None, parts),
            };
            let (name, part) = match parts {
                [resource] if *resource == kind.resource => (None, None),
                [resource, name] if *resource == kind.resource => (Some(*name), None),
                [resource, name, part] if *resource == kind.resource => (Some(*name), Some(*part)),
                _ => return None,
            };
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Self {
                kind: kind.clone(),
                namespace: owned(namespace),
                name: owned(name),
                subresource: owned(part),
            })
        })
    }

    /// Returns what it is found by, where it is one object.
    pub(super) fn object(&self) -> Option<Name> {
        let name = self.name.clone()?;
        Some((self.namespace.clone().unwrap_or_default(), name))
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

#[cfg(test)]
mod tests {
    use super::super::state::builtin;
    use super::*;

    #[test]
    fn paths_name_kinds_namespaces_and_objects() {
        let mut kinds = builtin();
        kinds.push(Kind::custom("a.example", "v1", "Thing", "things"));
        let of = |path: &str| {
            let place = Place::of(&kinds, path)?;
            Some((place.kind.word, place.namespace, place.name))
        };
        let some = |text: &str| Some(text.to_owned());
        let place = |kind: &str, namespace, name| Some((kind.to_owned(), namespace, name));
        assert_eq!(of("/api/v1/pods"), place("Pod", None, None));
        assert_eq!(of("/api/v1/namespaces"), place("Namespace", None, None));
        assert_eq!(
            of("/api/v1/namespaces/a"),
            place("Namespace", None, some("a"))
        );
        assert_eq!(
            of("/api/v1/namespaces/a/pods"),
            place("Pod", some("a"), None)
        );
        assert_eq!(
            of("/api/v1/namespaces/a/pods/b"),
            place("Pod", some("a"), some("b"))
        );
        assert_eq!(of("/apis/a.example/v1/things"), place("Thing", None, None));
        assert_eq!(
            of("/apis/a.example/v1/namespaces/a/things/b"),
            place("Thing", some("a"), some("b"))
        );
        let part = Place::of(&kinds, "/apis/a.example/v1/namespaces/a/things/b/status").unwrap();
        assert_eq!(part.resource(), "things/status");
        for path in [
            "/api/v1/things",
            "/apis/a.example/v2/things",
            "/api/v1",
            "/apis/b.example/v1/things",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
