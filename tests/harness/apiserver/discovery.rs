//! Which kinds there are.

use serde_json::{Value, json};

use super::state::Kind;

/// Versions with their resources.
type Versions<'k> = Vec<(&'k str, Vec<Value>)>;

/// Returns all groups but the core, as aggregated discovery has them.
pub(super) fn groups(kinds: &[Kind]) -> Value {
    let mut groups: Vec<(&str, Versions<'_>)> = Vec::new();
    for kind in kinds.iter().filter(|kind| !kind.group.is_empty()) {
        let at = match groups.iter().position(|(group, _)| *group == kind.group) {
            Some(at) => at,
            None => {
                groups.push((&kind.group, Vec::new()));
                groups.len() - 1
            }
        };
        let versions = &mut groups[at].1;
        let resource = resource(kind);
        match versions
            .iter_mut()
            .find(|(version, _)| *version == kind.version)
        {
            Some((_, resources)) => resources.push(resource),
            None => versions.push((&kind.version, vec![resource])),
        }
    }
    let items = groups.into_iter().map(|(group, versions)| {
        let versions = versions.into_iter().map(|(version, resources)| {
            json!({"version": version, "resources": resources, "freshness": "Current"})
        });
        json!({"metadata": {"name": group}, "versions": versions.collect::<Vec<_>>()})
    });
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items.collect::<Vec<_>>()})
}

fn resource(kind: &Kind) -> Value {
    json!({"resource": kind.resource, "scope": "Namespaced",
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.word},
        "singularResource": kind.word.to_lowercase(),
        "verbs": ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]})
}
