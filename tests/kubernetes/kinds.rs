//! Kinds come and go while the agent runs.

use harness::apiserver::Kind;
use mesh_agent::model::api::WatchState;

use crate::world::{World, gateway, namespace, policies, policy, watching};

#[test]
fn a_kind_that_is_defined_while_the_agent_runs_is_followed() {
    let world = World::new();
    let watched = world.source();
    watched.until_synced().unwrap();
    let absent = watching(&watched.status(), "AuthorizationPolicy");
    assert_eq!(absent, Some(WatchState::NotServed));
    world.server.set(namespace("shop"));
    world.server.change(|state| state.define(&[policies()]));
    world.server.set(policy("all", "web"));
    watched
        .until("the policy", |snapshot| snapshot.policies.len() == 1)
        .unwrap();
    watched.until_equal(&world).unwrap();
}

#[test]
fn a_kind_whose_definition_is_removed_is_gone_with_its_objects() {
    let world = World::new();
    world.server.change(|state| state.define(&[policies()]));
    world.server.set(policy("all", "web"));
    let watched = world.source();
    watched
        .until("the policy", |snapshot| snapshot.policies.len() == 1)
        .unwrap();
    world
        .server
        .change(|state| state.undefine("AuthorizationPolicy"));
    watched
        .until("no policy", |snapshot| snapshot.policies.is_empty())
        .unwrap();
    watched
        .until_status("the kind to be gone", |status| {
            watching(status, "AuthorizationPolicy") == Some(WatchState::NotServed)
        })
        .unwrap();
    watched.until_synced().unwrap();
}

#[test]
fn without_the_right_to_watch_definitions_kinds_are_found_at_the_start() {
    let world = World::new();
    world.server.change(|state| {
        state.define(&gateway());
        state
            .faults
            .forbidden
            .insert("customresourcedefinitions".to_owned());
    });
    let watched = world.source();
    watched.until_synced().unwrap();
    assert_eq!(
        watching(&watched.status(), "HTTPRoute"),
        Some(WatchState::Watching)
    );
}

#[test]
fn an_older_version_is_read_where_it_is_all_there_is() {
    let world = World::new();
    let old = Kind::custom(
        "gateway.networking.k8s.io",
        "v1beta1",
        "ReferenceGrant",
        "referencegrants",
    );
    let unknown = Kind::custom("gateway.networking.k8s.io", "v9", "HTTPRoute", "httproutes");
    world.server.change(|state| state.define(&[old, unknown]));
    let watched = world.source();
    watched.until_synced().unwrap();
    let status = watched.status();
    let kind = |word: &str| status.kinds.iter().find(|kind| kind.kind == word).unwrap();
    assert_eq!(
        kind("ReferenceGrant").version,
        "gateway.networking.k8s.io/v1beta1"
    );
    assert_eq!(kind("ReferenceGrant").state, WatchState::Watching);
    let route = kind("HTTPRoute");
    assert_eq!(route.state, WatchState::NotServed);
    let why = route.why.as_deref().unwrap();
    assert!(why.contains("gateway.networking.k8s.io/v9"), "{why}");
}
