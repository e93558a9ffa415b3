//! Config maps that policies name: those are watched, one by one, and no others.

use harness::wait_for;
use mesh_agent::model::api::{ApiState, WatchState};
use mesh_agent::model::snapshot::Snapshot;
use mesh_agent::model::traffic::Roots;
use serde_json::{Value, json};

use crate::world::{DEADLINE, Watched, World, gateway, namespace, service};

fn map(name: &str, certificate: &str) -> Value {
    // What stands before a certificate is text for people (RFC 7468, section 5.2).
    let text = format!(
        "{certificate}\n-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n"
    );
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop"},
        "data": {"ca.crt": text, "settings": "somebody's own"}})
}

fn tls(maps: &[&str]) -> Value {
    let references: Vec<Value> = maps
        .iter()
        .map(|name| json!({"group": "", "kind": "ConfigMap", "name": name}))
        .collect();
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "tls", "namespace": "shop", "creationTimestamp": "2026-11-21T08:00:00Z"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "validation": {"hostname": "web.example", "caCertificateRefs": references}}})
}

fn world() -> World {
    let world = World::new();
    world.server.change(|state| state.define(&gateway()));
    world.server.set(namespace("shop"));
    world.server.set(service("web", "10.96.0.10"));
    world.server.set(map("ca", "ONE"));
    world.server.set(map("private", "TWO"));
    world
}

const NO_POLICY: &str = "no policy";

/// Returns whom backends of the only service are trusted by, or why nobody is.
fn trusted(snapshot: &Snapshot) -> Result<String, String> {
    let Some(policy) = snapshot.backend_tls.values().next() else {
        return Err(NO_POLICY.to_owned());
    };
    let name = policy.to.as_ref().map_err(Clone::clone)?;
    match &name.roots {
        Roots::System => Err("the system's".to_owned()),
        Roots::Pem(text) => Ok(text.to_string()),
    }
}

fn until_trusted(watched: &Watched, what: &str) {
    let is_so = |snapshot: &Snapshot| trusted(snapshot).is_ok_and(|text| text.contains(what));
    watched.until(what, is_so).unwrap();
}

/// Returns which config maps were asked for, each once.
fn asked(world: &World) -> Vec<String> {
    let all = world.server.requests();
    let mut asked: Vec<String> = all
        .iter()
        .filter(|path| path.contains("configmaps"))
        .map(|path| {
            let selector = path.split("fieldSelector=").nth(1).unwrap_or(path);
            selector.split('&').next().unwrap_or_default().to_owned()
        })
        .collect();
    asked.dedup();
    asked
}

#[test]
fn only_config_maps_that_policies_name_are_asked_for() {
    let world = world();
    world.server.set(tls(&["ca"]));
    let watched = world.source();
    watched.until_synced().unwrap();
    // The first configuration has it: nothing was refused for want of it.
    until_trusted(&watched, "ONE");
    watched.until_equal(&world).unwrap();
    assert_eq!(asked(&world), ["metadata.name=ca"]);
    let all = world.server.requests();
    let of_maps = all.iter().filter(|path| path.contains("configmaps"));
    for path in of_maps {
        assert!(
            path.starts_with("/api/v1/namespaces/shop/configmaps?"),
            "{path}"
        );
    }

    world.server.set(map("ca", "THREE"));
    until_trusted(&watched, "THREE");
    world.server.delete("ConfigMap", "shop", "ca");
    watched
        .until("a policy without authorities", |snapshot| {
            trusted(snapshot).is_err_and(|why| why != NO_POLICY)
        })
        .unwrap();
    world.server.set(map("ca", "FOUR"));
    until_trusted(&watched, "FOUR");
    watched.until_equal(&world).unwrap();
}

#[test]
fn what_is_named_anew_is_there_with_the_configuration_that_names_it() {
    let world = world();
    let watched = world.source();
    watched.until_synced().unwrap();
    assert!(asked(&world).is_empty(), "{:?}", asked(&world));
    let before = watched.snapshot().generation;
    world.server.set(tls(&["ca"]));
    until_trusted(&watched, "ONE");
    // There was none in between that had the policy and not its authorities.
    assert_eq!(watched.snapshot().generation, before + 1);
    world.server.set(tls(&["private"]));
    until_trusted(&watched, "TWO");
    watched
        .until_status("the one that is named now", |status| {
            let maps = status.kinds.iter().filter(|kind| kind.kind == "ConfigMap");
            maps.map(|kind| kind.scope.as_str()).eq(["shop/private"])
        })
        .unwrap();
    world.server.delete("BackendTLSPolicy", "shop", "tls");
    watched
        .until("no policy", |snapshot| snapshot.backend_tls.is_empty())
        .unwrap();
    // Seven kinds, the definitions, and what is defined.
    let others = gateway().len() + 8;
    let mut round = 0;
    wait_for("no watch of a config map", DEADLINE, || {
        // A server sees that a connection ended when it writes.
        round += 1;
        world.server.set(map("private", &round.to_string()));
        world.server.set(map("ca", &round.to_string()));
        world.server.watches() == others
    })
    .unwrap();
    watched
        .until_status("no config map", |status| {
            status.kinds.iter().all(|kind| kind.kind != "ConfigMap")
        })
        .unwrap();
}

#[test]
fn a_policy_that_is_not_valid_any_more_keeps_its_authorities() {
    let world = world();
    world.server.set(tls(&["ca"]));
    let watched = world.source();
    watched.until_synced().unwrap();
    until_trusted(&watched, "ONE");
    let mut broken = tls(&["private"]);
    broken["metadata"]["labels"] = 7.into();
    world.server.set(broken);
    watched
        .until("an error", |snapshot| !snapshot.errors.is_empty())
        .unwrap();
    until_trusted(&watched, "ONE");
    world.server.set(map("ca", "NINE"));
    until_trusted(&watched, "NINE");
    world.server.set(tls(&["private"]));
    until_trusted(&watched, "TWO");
    watched.until_equal(&world).unwrap();
}

#[test]
fn without_the_right_to_read_one_its_backends_get_nothing_and_all_else_runs() {
    let world = world();
    world.server.set(tls(&["ca"]));
    let forbidden = "configmaps in shop".to_owned();
    world
        .server
        .change(|state| state.faults.forbidden.insert(forbidden));
    let watched = world.source();
    watched
        .until_status("the missing right to be told", |status| {
            let is_map = |kind: &&mesh_agent::model::api::ApiKind| kind.scope == "shop/ca";
            let kind = status.kinds.iter().find(is_map);
            kind.is_some_and(|kind| {
                let why = kind.why.as_deref().unwrap_or_default();
                kind.state == WatchState::Retrying
                    && why.contains("cannot watch resource \"configmaps\"")
                    && why.contains("in the namespace \"shop\"")
            })
        })
        .unwrap();
    watched
        .until("all else", |snapshot| snapshot.services.len() == 1)
        .unwrap();
    watched
        .until_status("the source to be behind", |status| {
            status.state == ApiState::Behind
        })
        .unwrap();
    trusted(&watched.snapshot()).unwrap_err();
    world.server.change(|state| state.faults.forbidden.clear());
    watched.source.retry();
    until_trusted(&watched, "ONE");
}

#[test]
fn after_a_restart_without_the_server_authorities_are_what_they_were() {
    let world = world();
    world.server.set(tls(&["ca"]));
    let watched = world.source();
    watched.until_synced().unwrap();
    until_trusted(&watched, "ONE");
    drop(watched);
    world.server.go_away();
    let watched = world.source();
    assert!(trusted(&watched.snapshot()).is_ok_and(|text| text.contains("ONE")));
    // Nothing of it that is of no use here was written down.
    let kept = std::fs::read_to_string(world.dir.path().join("state/kubernetes")).unwrap();
    assert!(kept.contains("ONE") && !kept.contains("somebody's own") && !kept.contains("TWO"));
    world.server.set(map("ca", "SEVEN"));
    world.server.come_back().unwrap();
    watched.source.retry();
    until_trusted(&watched, "SEVEN");
    watched.until_synced().unwrap();
    watched.until_equal(&world).unwrap();
}
