//! Services that programs registered with the agent, and routes of the API server that name them.

use std::sync::Arc;

use serde_json::json;

use crate::world::{World, gateway, of_manifests, service};

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
