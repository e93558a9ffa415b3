//! Which kinds the server has, and in which versions.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::Deserialize;

use super::target::Target;
use crate::config::key::Kind;

/// What is asked for: everything in one answer, as servers since 1.26 have it.
pub(super) const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Where it is asked for.
pub(super) const PATH: &str = "/apis";

/// `APIGroupDiscoveryList`.
#[derive(Debug, Deserialize)]
struct List {
    items: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    metadata: Named,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource: String,
    #[serde(default)]
    response_kind: Option<ResponseKind>,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct ResponseKind {
    kind: String,
}

/// A kind that may be there or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// It is there, in a version that is read.
    Served(Target),
    /// It is there, but only in versions that are not read.
    OtherVersions(Vec<String>),
}

/// Returns which of the optional kinds a server has. Those that are not in the result it does not have.
///
/// # Errors
///
/// When the answer is not what it has to be.
pub(super) fn found(text: &[u8]) -> serde_json::Result<BTreeMap<Kind, Found>> {
    let list: List = serde_json::from_slice(text)?;
    let of_kind = |kind| Some((kind, look(&list, kind)?));
    Ok(Target::optional().filter_map(of_kind).collect())
}

fn look(list: &List, kind: Kind) -> Option<Found> {
    let wanted = [Some(kind.version()), kind.old_version()];
    let (group, _) = kind.version().split_once('/')?;
    let group = list.items.iter().find(|it| it.metadata.name == group)?;
    let mut others = Vec::new();
    let mut best: Option<(usize, Target)> = None;
    for version in &group.versions {
        let is_kind = |resource: &&Resource| {
            let of = resource.response_kind.as_ref();
            of.is_some_and(|of| of.kind == kind.word())
                && resource.verbs.iter().any(|verb| verb == "watch")
        };
        let Some(resource) = version.resources.iter().find(is_kind) else {
            continue;
        };
        let name = format!("{}/{}", group.metadata.name, version.version);
        let rank = wanted.iter().position(|it| *it == Some(name.as_str()));
        match (rank, &best) {
            (None, _) => others.push(name),
            (Some(rank), Some((least, _))) if *least <= rank => {}
            (Some(rank), _) => best = Some((rank, Target::all(kind, &name, &resource.resource))),
        }
    }
    match best {
        Some((_, target)) => Some(Found::Served(target)),
        None if others.is_empty() => None,
        None => Some(Found::OtherVersions(others)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, versions: &[(&str, &str, &str)]) -> String {
        let versions: Vec<String> = versions
            .iter()
            .map(|(version, resource, kind)| {
                format!(
                    r#"{{"version":"{version}","resources":[{{"resource":"{resource}","responseKind":{{"group":"","version":"","kind":"{kind}"}},"scope":"Namespaced","verbs":["list","watch"]}}],"freshness":"Current"}}"#
                )
            })
            .collect();
        format!(
            r#"{{"metadata":{{"name":"{name}"}},"versions":[{}]}}"#,
            versions.join(",")
        )
    }

    fn of(groups: &[String]) -> BTreeMap<Kind, Found> {
        let text = format!(
            r#"{{"kind":"APIGroupDiscoveryList","items":[{}]}}"#,
            groups.join(",")
        );
        found(text.as_bytes()).unwrap()
    }

    #[test]
    fn of_several_versions_the_best_that_is_read_is_taken() {
        let name = "gateway.networking.k8s.io";
        let both = [
            ("v1alpha2", "tcproutes", "TCPRoute"),
            ("v1", "tcproutes", "TCPRoute"),
        ];
        let expected = Found::Served(Target::all(
            Kind::TCPRoute,
            "gateway.networking.k8s.io/v1",
            "tcproutes",
        ));
        assert_eq!(of(&[group(name, &both)])[&Kind::TCPRoute], expected);
        let old = Found::Served(Target::all(
            Kind::TCPRoute,
            "gateway.networking.k8s.io/v1alpha2",
            "tcproutes",
        ));
        assert_eq!(of(&[group(name, &both[..1])])[&Kind::TCPRoute], old);
    }

    #[test]
    fn a_kind_that_is_there_only_in_a_version_of_the_future_is_told() {
        let future = [("v2", "httproutes", "HTTPRoute")];
        let found = of(&[group("gateway.networking.k8s.io", &future)]);
        let expected = Found::OtherVersions(vec!["gateway.networking.k8s.io/v2".to_owned()]);
        assert_eq!(found[&Kind::HTTPRoute], expected);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn another_group_s_kind_of_the_same_name_is_another_kind() {
        let others = [("v1", "httproutes", "HTTPRoute")];
        assert!(of(&[group("example.com", &others)]).is_empty());
    }
}
