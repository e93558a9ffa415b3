//! Objects as a server has them, in the namespace `shop`.

use serde_json::{Value, json};

use super::state::Kind;

/// Returns a pod that runs.
pub fn pod(name: &str, node: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": {"app": "web", "pod": name},
            "managedFields": [{"manager": "kubelet"}]},
        "spec": {"nodeName": node, "serviceAccountName": "web", "volumes": [{"name": "v"}],
            "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T08:00:00Z"}]}})
}

/// Returns a namespace.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, "underpass.dev/mesh": "enabled"}}})
}

/// Returns a service.
pub fn service(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "appProtocol": "http"}]},
        "status": {"loadBalancer": {}}})
}

/// Returns a slice of a service: pods with their addresses, on a node.
pub fn slice(of: &str, node: &str, pods: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = pods.iter().map(|(name, address)| {
        json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node, "targetRef": {"kind": "Pod", "namespace": "shop", "name": name, "uid": "u"}})
    }).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{of}-1"), "namespace": "shop", "labels": {"kubernetes.io/service-name": of}},
        "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"}]})
}

/// Returns a policy of ours that allows everything to some pods.
pub fn policy(name: &str, app: &str) -> Value {
    json!({"apiVersion": "underpass.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"action": "Allow", "targetSelector": {"matchLabels": {"app": app}}, "rules": [{"name": "all"}]}})
}

/// Returns a route on a service that leads to another one, and marks what comes back.
pub fn route(name: &str, of: &str, to: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop", "generation": 1, "creationTimestamp": "2026-11-21T08:00:00Z"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": of, "port": 80}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-route", "value": name}]}}],
                "backendRefs": [{"name": to, "port": 80}]}]}})
}

/// Returns the kind of our policies.
pub fn policies() -> Kind {
    Kind::custom(
        "underpass.dev",
        "v1alpha1",
        "AuthorizationPolicy",
        "authorizationpolicies",
    )
}

/// Returns the kinds of the Gateway API that were recorded.
pub fn gateway() -> Vec<Kind> {
    let group = "gateway.networking.k8s.io";
    [
        ("HTTPRoute", "httproutes"),
        ("GRPCRoute", "grpcroutes"),
        ("TCPRoute", "tcproutes"),
        ("TLSRoute", "tlsroutes"),
        ("ReferenceGrant", "referencegrants"),
        ("BackendTLSPolicy", "backendtlspolicies"),
    ]
    .map(|(word, resource)| Kind::custom(group, "v1", word, resource))
    .into()
}
