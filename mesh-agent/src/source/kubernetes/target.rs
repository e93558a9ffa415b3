//! What is watched: kinds, and which of their objects.
//!
//! Pods come by two watches: those of this node, which the server finds by an index and which are what the agent acts on
//! first, and all others, of which labels and addresses are needed for policies.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::role::Role;
use crate::config::key::Kind;

/// Labels of the agents' pods.
const AGENTS: &str = "app.kubernetes.io/name=underpass-agent";

/// A set of objects that is watched as one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) scope: Scope,
    /// Group and version, as in `apiVersion`.
    pub(super) version: String,
    /// The resource, such as `pods`.
    pub(super) resource: String,
    /// The one namespace whose objects are watched, where it is not all of them.
    namespace: Option<String>,
    /// Selects among the kind's objects: parameter and value.
    selector: Option<(&'static str, String)>,
    /// Name of the only object, where it is one.
    name: Option<String>,
}

/// Which objects of a kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Scope {
    All,
    /// Those on the agent's node.
    Here,
    /// Those on no node or another.
    Elsewhere,
    /// One that others name, by the number of its watch.
    One(u32),
}

impl Target {
    /// Returns all objects of a kind.
    pub(super) fn all(kind: Kind, version: &str, resource: &str) -> Self {
        Self {
            kind,
            scope: Scope::All,
            version: version.to_owned(),
            resource: resource.to_owned(),
            namespace: None,
            selector: None,
            name: None,
        }
    }

    /// Returns one config map.
    pub(super) fn config_map(namespace: &str, name: &str, number: u32) -> Self {
        let kind = Kind::ConfigMap;
        Self {
            scope: Scope::One(number),
            namespace: Some(namespace.to_owned()),
            selector: Some(("fieldSelector", format!("metadata.name={name}"))),
            name: Some(name.to_owned()),
            ..Self::all(kind, kind.version(), "configmaps")
        }
    }

    /// Returns the words for which objects of the kind these are.
    pub(super) fn words(&self) -> Cow<'static, str> {
        match (self.scope, &self.namespace, &self.name) {
            (Scope::Here, ..) => "this node".into(),
            (Scope::Elsewhere, ..) => "other nodes".into(),
            (Scope::One(_), Some(namespace), Some(name)) => format!("{namespace}/{name}").into(),
            (Scope::All | Scope::One(_), ..) => "all".into(),
        }
    }

    /// Returns what every server has, in the order in which it is asked for.
    pub(super) fn built_in(role: &Role) -> Vec<Self> {
        let all = |kind: Kind, resource| Self::all(kind, kind.version(), resource);
        let node = match role {
            Role::Agent { node } => node,
            Role::Controller { namespace } => {
                return vec![
                    Self {
                        namespace: Some(namespace.clone()),
                        selector: Some(("labelSelector", AGENTS.to_owned())),
                        ..all(Kind::Pod, "pods")
                    },
                    all(Kind::Namespace, "namespaces"),
                    all(Kind::Node, "nodes"),
                    all(Kind::NetworkPolicy, "networkpolicies"),
                    all(Kind::Service, "services"),
                ];
            }
        };
        let pods = |scope, operator| Self {
            scope,
            selector: Some(("fieldSelector", format!("spec.nodeName{operator}{node}"))),
            ..all(Kind::Pod, "pods")
        };
        vec![
            pods(Scope::Here, "="),
            all(Kind::Namespace, "namespaces"),
            all(Kind::Node, "nodes"),
            all(Kind::NetworkPolicy, "networkpolicies"),
            all(Kind::Service, "services"),
            all(Kind::EndpointSlice, "endpointslices"),
            pods(Scope::Elsewhere, "!="),
        ]
    }

    /// Returns the kinds that a server may have or not, by definition.
    pub(super) fn optional() -> impl Iterator<Item = Kind> {
        // Config maps are watched one by one, as policies name them: see `references`.
        let is_optional = |kind: &Kind| !kind.is_built_in() && *kind != Kind::ConfigMap;
        Kind::ALL.into_iter().filter(is_optional)
    }

    /// Returns those of them that `role` has a use for.
    pub(super) fn optional_for(role: &Role) -> impl Iterator<Item = Kind> + use<> {
        let has_meshes = role.is_controller();
        Self::optional().filter(move |kind| has_meshes || *kind != Kind::XMesh)
    }

    /// Returns whether the agent must not run without it: then something would be allowed that is not.
    pub(super) fn is_essential(&self) -> bool {
        // A policy without its config map lets nothing through.
        let is_ours = self.kind == Kind::AuthorizationPolicy;
        is_ours || self.kind.is_built_in() && self.kind != Kind::ConfigMap
    }

    /// Returns path and query of a list or watch.
    pub(super) fn path(&self, parameters: &[(&str, &str)]) -> String {
        let root = match self.version.contains('/') {
            true => "/apis",
            false => "/api",
        };
        let mut query = form_urlencoded(parameters);
        if let Some((parameter, value)) = &self.selector {
            if !query.is_empty() {
                query.push('&');
            }
            query += &form_urlencoded(&[(parameter, value)]);
        }
        let (version, resource) = (&self.version, &self.resource);
        let path = match &self.namespace {
            None => format!("{root}/{version}/{resource}"),
            Some(namespace) => format!("{root}/{version}/namespaces/{namespace}/{resource}"),
        };
        match query.is_empty() {
            true => path,
            false => format!("{path}?{query}"),
        }
    }
}

fn form_urlencoded(parameters: &[(&str, &str)]) -> String {
    // Strings always can be encoded.
    serde_urlencoded::to_string(parameters).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_that_the_server_knows() {
        let node = "node-1".to_owned();
        let role = Role::Agent { node };
        let targets = Target::built_in(&role);
        let paths: Vec<String> = targets.iter().map(|target| target.path(&[])).collect();
        assert_eq!(
            paths,
            [
                "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1",
                "/api/v1/namespaces",
                "/api/v1/nodes",
                "/apis/networking.k8s.io/v1/networkpolicies",
                "/api/v1/services",
                "/apis/discovery.k8s.io/v1/endpointslices",
                "/api/v1/pods?fieldSelector=spec.nodeName%21%3Dnode-1",
            ]
        );
        assert_eq!(
            targets[1].path(&[("watch", "true"), ("limit", "2")]),
            "/api/v1/namespaces?watch=true&limit=2"
        );
        assert_eq!(
            Target::config_map("shop", "ca", 1).path(&[("watch", "true")]),
            "/api/v1/namespaces/shop/configmaps?watch=true&fieldSelector=metadata.name%3Dca"
        );
        let namespace = "system".to_owned();
        let targets = Target::built_in(&Role::Controller { namespace });
        assert_eq!(
            targets[0].path(&[]),
            "/api/v1/namespaces/system/pods?labelSelector=app.kubernetes.io%2Fname%3Dunderpass-agent"
        );
    }

    #[test]
    fn kinds_by_definition_are_the_gateway_s_and_our_own() {
        let words: Vec<&str> = Target::optional().map(Kind::word).collect();
        assert!(words.contains(&"HTTPRoute") && words.contains(&"AuthorizationPolicy"));
        assert!(!words.contains(&"NetworkPolicy") && !words.contains(&"ConfigMap"));
        let node = String::new();
        let role = Role::Agent { node };
        let mut of_agent = Target::optional_for(&role);
        assert!(of_agent.all(|kind| kind != Kind::XMesh));
    }
}
