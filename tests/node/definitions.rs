//! Definitions of the Gateway API, as far as a server that validates nothing needs them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

const ROUTES: &str = "gateway.networking.k8s.io";
const TRIALS: &str = "gateway.networking.x-k8s.io";

/// Kind, resource, group, and versions that are served, as release 1.5 has them.
const KINDS: [(&str, &str, &str, &[&str]); 9] = [
    (
        "BackendTLSPolicy",
        "backendtlspolicies",
        ROUTES,
        &["v1", "v1alpha3"],
    ),
    ("GRPCRoute", "grpcroutes", ROUTES, &["v1"]),
    ("HTTPRoute", "httproutes", ROUTES, &["v1", "v1beta1"]),
    (
        "ReferenceGrant",
        "referencegrants",
        ROUTES,
        &["v1", "v1beta1"],
    ),
    ("TCPRoute", "tcproutes", ROUTES, &["v1", "v1alpha2"]),
    (
        "TLSRoute",
        "tlsroutes",
        ROUTES,
        &["v1", "v1alpha2", "v1alpha3"],
    ),
    ("UDPRoute", "udproutes", ROUTES, &["v1", "v1alpha2"]),
    (
        "XBackendTrafficPolicy",
        "xbackendtrafficpolicies",
        TRIALS,
        &["v1alpha1"],
    ),
    ("XMesh", "xmeshes", TRIALS, &["v1alpha1"]),
];

/// Writes them to a file, and returns it.
pub(crate) fn write(dir: &Path) -> PathBuf {
    let documents = KINDS.map(|(kind, plural, group, versions)| {
        let versions = versions.iter().enumerate().map(|(at, name)| {
            json!({"name": name, "served": true, "storage": at == 0, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
        });
        let versions: Vec<Value> = versions.collect();
        let scope = if kind == "XMesh" { "Cluster" } else { "Namespaced" };
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}"), "annotations": {"gateway.networking.k8s.io/channel": "experimental"}},
            "spec": {"group": group, "scope": scope, "versions": versions,
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()}}})
        .to_string()
    });
    let file = dir.join("gateway-api.yaml");
    fs::write(&file, documents.join("\n---\n")).unwrap();
    file
}
