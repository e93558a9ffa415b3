//! A large cluster, of objects as large as real ones.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::objects::gateway;
use super::state::State;

/// Pods of [`fill`].
pub const PODS: usize = 10_000;

/// Services of [`fill`], each with a slice of five endpoints.
pub const SERVICES: usize = 2_000;

/// Routes of [`fill`], each on a service of its own, with a rule that takes the agent for it.
pub const ROUTES: usize = 500;

/// Pods of [`fill`] on the given node.
pub const PODS_HERE: usize = 100;

/// Fills a server with a large cluster, of which `node` has a hundredth.
pub fn fill(state: &mut State, node: &str) {
    state.set(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    for n in 0..PODS {
        let other = format!("node-of-others-{}", n % 100);
        state.set(pod(n, if n < PODS_HERE { node } else { &other }));
    }
    for n in 0..SERVICES {
        let address = address_of(n).to_string();
        state.set(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("svc-{n}"), "namespace": "shop"},
            "spec": {"clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "selector": {"app": format!("app-{n}")},
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
            "status": {"loadBalancer": {}}}));
        state.set(slice(n, n * 5 % PODS));
    }
    state.define(&gateway());
    for n in 0..ROUTES {
        // Services in between have none.
        state.set(route(n, n * 4 + 1));
    }
}

/// Returns the address of a service.
pub fn address_of(service: usize) -> Ipv4Addr {
    let part = |n: usize| u8::try_from(n).unwrap_or(0);
    Ipv4Addr::new(10, 96, part(service / 250), part(1 + service % 250))
}

/// Puts another pod in the place of the first one behind a service.
pub fn change_endpoint(state: &mut State, service: usize, round: usize) {
    state.set(slice(service, (service * 5 + 101 + round) % PODS));
}

fn slice(service: usize, first: usize) -> Value {
    let others = (service * 5 + 1..service * 5 + 5).map(|pod| pod % PODS);
    let endpoints: Vec<Value> = std::iter::once(first).chain(others).map(endpoint).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("svc-{service}-x"), "namespace": "shop", "labels": {"kubernetes.io/service-name": format!("svc-{service}")}},
        "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

fn route(n: usize, service: usize) -> Value {
    let parent =
        json!({"group": "", "kind": "Service", "name": format!("svc-{service}"), "port": 80});
    let backend = |service: usize, weight: u32| json!({"name": format!("svc-{}", service % SERVICES), "port": 80, "weight": weight});
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": format!("route-{n}"), "namespace": "shop", "generation": 3, "creationTimestamp": "2026-11-21T08:00:00Z",
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:rules": {}}}}]},
        "spec": {"parentRefs": [parent.clone()], "rules": [
            {"matches": [{"path": {"type": "PathPrefix", "value": "/v2"}, "headers": [{"name": "x-canary", "value": "yes"}]}],
                "backendRefs": [backend(service + 1, 1)]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-route", "value": format!("{n}")}]}}],
                "timeouts": {"request": "10s"}, "backendRefs": [backend(service, 90), backend(service + 1, 10)]},
        ]},
        "status": {"parents": [{"parentRef": parent, "controllerName": "underpass.dev/mesh",
            "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": 3,
                "lastTransitionTime": "2026-11-21T08:00:00Z", "message": ""}]}]}})
}

/// Changes a label of one pod of another node.
pub fn change(state: &mut State, round: usize) {
    let n = PODS_HERE + round * 37 % (PODS - PODS_HERE);
    let mut changed = pod(n, &format!("node-of-others-{}", n % 100));
    changed["metadata"]["labels"]["round"] = round.to_string().into();
    state.set(changed);
}

fn address(n: usize) -> String {
    format!("10.{}.{}.{}", 1 + n / 62_500, n / 250 % 250, 1 + n % 250)
}

fn pod(n: usize, node: &str) -> Value {
    let env: Vec<Value> = (0..30)
        .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "x".repeat(60)}))
        .collect();
    let mut labels = json!({"app": format!("app-{}", n / 5), "pod-template-hash": "5d54de78"});
    for n in 0..5 {
        labels[format!("example.com/label-{n}")] = format!("value-{n}").into();
    }
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("web-{n}"), "namespace": "shop", "uid": format!("5d54de78-2134-49de-b3bf-{n:012}"),
            "labels": labels, "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:phase": {}}}}]},
        "spec": {"nodeName": node, "serviceAccountName": "web", "volumes": [{"name": "v"}],
            "containers": [{"name": "c", "image": "i", "env": env,
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": address(n), "podIPs": [{"ip": address(n)}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T08:00:00Z"}]}})
}

fn endpoint(pod: usize) -> Value {
    json!({"addresses": [address(pod)], "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": format!("node-of-others-{}", pod % 100),
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("web-{pod}")}})
}
