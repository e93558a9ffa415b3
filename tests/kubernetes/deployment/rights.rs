//! What the accounts may do: of the agent, exactly what it asks for, and nothing that writes.

use std::collections::BTreeSet;

use harness::apiserver::Kind;
use serde_json::json;

use super::render::{Rendered, render};
use super::{FOLDERS, NAMESPACE, find, list, of, text};
use crate::world::{World, gateway, namespace, policies};

/// A verb on a resource of a group.
type Right = (String, String, String);

/// Verbs that change nothing.
const READING: [&str; 3] = ["get", "list", "watch"];

/// Returns the rights of an account, by all roles that it is bound to.
fn rights(rendered: &Rendered, account: &str) -> BTreeSet<Right> {
    let mut found = BTreeSet::new();
    let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE});
    for binding in of(rendered, "ClusterRoleBinding").chain(of(rendered, "RoleBinding")) {
        if !list(binding, "/subjects").contains(&subject) {
            continue;
        }
        let role = find(
            rendered,
            text(binding, "/roleRef/kind"),
            text(binding, "/roleRef/name"),
        );
        for rule in list(role, "/rules") {
            for group in list(rule, "/apiGroups") {
                for resource in list(rule, "/resources") {
                    for verb in list(rule, "/verbs") {
                        let words =
                            [verb, group, resource].map(|it| it.as_str().unwrap().to_owned());
                        let [verb, group, resource] = words;
                        found.insert((verb, group, resource));
                    }
                }
            }
        }
    }
    found
}

/// Returns the right that a request takes; `None` for what everybody may.
fn needed(request: &str) -> Option<Right> {
    let (path, query) = request.split_once('?').unwrap();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, resource) = match parts.as_slice() {
        ["api", _, resource] => ("", *resource),
        ["apis", group, _, resource] => (*group, *resource),
        ["apis"] | ["readyz"] => return None,
        other => panic!("{other:?}"),
    };
    let verb = match query.split('&').any(|it| it == "watch=true") {
        true => "watch",
        false => "list",
    };
    Some((verb.to_owned(), group.to_owned(), resource.to_owned()))
}

#[test]
fn no_agent_may_write_and_no_account_may_do_everything() {
    for folder in FOLDERS {
        let rendered = render(folder);
        for account in of(&rendered, "ServiceAccount") {
            let name = text(account, "/metadata/name");
            let rights = rights(&rendered, name);
            assert!(!rights.is_empty(), "{name} may do nothing");
            for (verb, group, resource) in rights {
                assert!(
                    ![&verb, &group, &resource].contains(&&"*".to_owned()),
                    "{name}"
                );
                let is_secret = resource.starts_with("secrets") || resource == "pods/exec";
                assert!(!is_secret, "{name}: {resource}");
                if name == "underpass-agent" {
                    assert!(READING.contains(&verb.as_str()), "{verb} {resource}");
                }
            }
        }
    }
}

#[test]
fn the_agent_may_do_exactly_what_it_does() {
    let world = World::new();
    let kinds = gateway().into_iter().chain([
        policies(),
        Kind::custom(
            "underpass.dev",
            "v1alpha1",
            "TrafficPolicy",
            "trafficpolicies",
        ),
        Kind::custom("gateway.networking.k8s.io", "v1", "UDPRoute", "udproutes"),
        Kind::custom(
            "gateway.networking.x-k8s.io",
            "v1alpha1",
            "XBackendTrafficPolicy",
            "xbackendtrafficpolicies",
        ),
    ]);
    let kinds: Vec<Kind> = kinds.collect();
    world.server.change(|state| state.define(&kinds));
    world.server.set(namespace("shop"));
    // Lists that do not stream take `list` too.
    world
        .server
        .change(|state| state.faults.no_streaming_lists = true);
    let source = world.source();
    source.until_synced().unwrap();
    let asked = || -> BTreeSet<Right> {
        let requests = world.server.requests();
        requests.iter().filter_map(|it| needed(it)).collect()
    };
    let may = rights(&render("base"), "underpass-agent");
    let all_asked = || asked().is_superset(&may);
    harness::wait_for(
        "everything that is allowed to be used",
        crate::world::DEADLINE,
        all_asked,
    )
    .unwrap_or_else(|error| {
        panic!(
            "{error:#}: unused: {:?}",
            may.difference(&asked()).collect::<Vec<_>>()
        )
    });
    let beyond: Vec<Right> = asked().difference(&may).cloned().collect();
    assert_eq!(beyond, Vec::<Right>::new());
}
