//! Services that programs registered with the agent, and routes of the API server that name them.

use std::sync::Arc;

use harness::wait_for;
use serde_json::json;

use crate::told::{WRITER, entries, route, start, until_entries};
use crate::world::{DEADLINE, World, gateway, of_manifests, service};

#[test]
fn a_route_takes_a_registered_service_for_its_parent_while_there_is_one() {
    let world = World::new();
    world.server.change(|state| state.define(&gateway()));
    world.server.set(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}}));
    let watched = world.source();
    watched.until_synced().unwrap();
    assert!(watched.snapshot().routes.is_empty());
    let registered = of_manifests(&[service("web", "10.96.0.1")]).services;
    watched.source.set_registered(registered);
    watched
        .until("the route", |snapshot| snapshot.routes.len() == 1)
        .unwrap();
    assert!(watched.snapshot().services.is_empty());
    watched.source.set_registered(Arc::default());
    watched
        .until("no route", |snapshot| snapshot.routes.is_empty())
        .unwrap();
}

#[test]
fn of_a_service_that_agents_may_know_the_controller_says_that_it_does_not() {
    let world = crate::told::world();
    world
        .server
        .set(route("HTTPRoute", "billing", &["billing"]));
    world.server.set(route("HTTPRoute", "port", &["web"]));
    let mut port = world.server.get("HTTPRoute", "shop", "port").unwrap();
    port["spec"]["parentRefs"][0]["port"] = 81.into();
    world.server.set(port);
    world.server.set(
        json!({"apiVersion": "underpass.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "billing", "namespace": "shop", "uid": "u", "generation": 1},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "billing"}]}}),
    );
    let agent = world.source();
    agent.until_synced().unwrap();
    let registered = of_manifests(&[service("billing", "10.96.0.9")]).services;
    agent.source.set_registered(registered);
    agent
        .until("the route", |snapshot| snapshot.routes.len() == 1)
        .unwrap();
    let _controller = start(&world, "controller", WRITER);
    let accepted = |kind: &str, name: &str| {
        until_entries(&world, kind, name, 1).unwrap();
        let entry = entries(&world.server.get(kind, "shop", name).unwrap()).remove(0);
        let conditions = entry["conditions"].as_array().unwrap().iter();
        let mut conditions = conditions.filter(|it| it["type"] == "Accepted");
        conditions.next().unwrap().clone()
    };
    for (kind, name) in [("HTTPRoute", "billing"), ("TrafficPolicy", "billing")] {
        let condition = accepted(kind, name);
        assert_eq!(condition["status"], "Unknown", "{condition}");
        assert_eq!(condition["reason"], "ServiceNotSeen");
        let message = condition["message"].as_str().unwrap();
        assert!(message.contains("`node-agent routes`"), "{message}");
    }
    // A service that is there and has no such port is known to be none.
    let condition = accepted("HTTPRoute", "port");
    assert_eq!(condition["status"], "False", "{condition}");
    assert_eq!(condition["reason"], "NoMatchingParent");
    // When it comes to be an object, all is known.
    world.server.set(service("billing", "10.96.0.9"));
    wait_for("the route to be accepted", DEADLINE, || {
        accepted("HTTPRoute", "billing")["status"] == "True"
    })
    .unwrap();
}
