//! Which kinds there are.

use serde_json::{Value, json};

use super::state::Kind;

/// Versions with their resources.
type Versions<'k> = Vec<(&'k str, Vec<Value>)>;

/// Kinds whose objects stand in no namespace.
pub const CLUSTER_WIDE: [&str; 10] = [
    "Namespace",
    "Node",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "XMesh",
    "GatewayClass",
];

/// Returns the core, or all other groups, as aggregated discovery has them.
pub(super) fn groups(kinds: &[Kind], is_core: bool) -> Value {
    let mut groups: Vec<(&str, Versions<'_>)> = Vec::new();
    for kind in kinds.iter().filter(|kind| kind.group.is_empty() == is_core) {
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
        // The core has no name.
        let metadata = if group.is_empty() {
            json!({})
        } else {
            json!({"name": group})
        };
        json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
    });
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items.collect::<Vec<_>>()})
}

fn resource(kind: &Kind) -> Value {
    let scope = match CLUSTER_WIDE.contains(&kind.word.as_str()) {
        true => "Cluster",
        false => "Namespaced",
    };
    json!({"resource": kind.resource, "scope": scope,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.word},
        "singularResource": kind.word.to_lowercase(),
        "verbs": ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]})
}
