//! Whether an object has only fields that Kubernetes knows, with values that it takes there.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Fields of the Prometheus operator's ServiceMonitor (0.83) that are used here, as its definition has them.
const SERVICE_MONITOR: [&str; 9] = [
    "/spec/jobLabel",
    "/spec/selector/matchLabels/app.kubernetes.io~1part-of",
    "/spec/endpoints/0/port",
    "/spec/endpoints/0/path",
    "/spec/endpoints/0/interval",
    "/spec/endpoints/0/relabelings/0/sourceLabels/0",
    "/spec/endpoints/0/relabelings/0/targetLabel",
    "/metadata/name",
    "/metadata/namespace",
];

/// Returns why not.
pub(super) fn check(object: &Value) -> Result<(), String> {
    let api = (object["apiVersion"].as_str(), object["kind"].as_str());
    let (Some(version), Some(kind)) = api else {
        return Err("has no kind".to_owned());
    };
    match (version, kind) {
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            as_type::<ValidatingAdmissionPolicy>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            as_type::<ValidatingAdmissionPolicyBinding>(object)
        }
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            as_type::<CustomResourceDefinition>(object)
        }
        ("apps/v1", "DaemonSet") => as_type::<DaemonSet>(object),
        ("apps/v1", "Deployment") => as_type::<Deployment>(object),
        ("monitoring.coreos.com/v1", "ServiceMonitor") => service_monitor(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => as_type::<NetworkPolicy>(object),
        ("policy/v1", "PodDisruptionBudget") => as_type::<PodDisruptionBudget>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => as_type::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            as_type::<ClusterRoleBinding>(object)
        }
        ("rbac.authorization.k8s.io/v1", "Role") => as_type::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => as_type::<RoleBinding>(object),
        ("scheduling.k8s.io/v1", "PriorityClass") => as_type::<PriorityClass>(object),
        ("v1", "Namespace") => as_type::<Namespace>(object),
        ("v1", "Service") => as_type::<Service>(object),
        ("v1", "ServiceAccount") => as_type::<ServiceAccount>(object),
        _ => Err("is of a kind that is not known here".to_owned()),
    }
}

/// Reads an object as its type, and looks for what got lost on the way: the type does not know it.
fn as_type<T: DeserializeOwned + Serialize>(object: &Value) -> Result<(), String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    let known = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    for (path, value) in leaves(object) {
        let found = known.pointer(&path);
        let is_same = found.is_some_and(|found| match (found.as_f64(), value.as_f64()) {
            (Some(found), Some(value)) => (found - value).abs() < f64::EPSILON,
            _ => *found == value,
        });
        if !is_same {
            return Err(format!("`{path}` is {value}, and known as {found:?}"));
        }
    }
    Ok(())
}

fn service_monitor(object: &Value) -> Result<(), String> {
    for (path, _) in leaves(object) {
        let is_meta = ["/apiVersion", "/kind"].contains(&path.as_str())
            || path.starts_with("/metadata/labels/");
        if !is_meta && !SERVICE_MONITOR.contains(&path.as_str()) {
            return Err(format!("`{path}` is not known here"));
        }
    }
    Ok(())
}

/// Returns what has no parts, by path. An empty mapping or list is one.
fn leaves(value: &Value) -> Vec<(String, Value)> {
    let parts: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
            fields
                .iter()
                .map(|(name, value)| (escaped(name), value))
                .collect()
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(at, value)| (at.to_string(), value))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    if parts.is_empty() {
        return vec![(String::new(), value.clone())];
    }
    let below = parts.into_iter().flat_map(|(name, value)| {
        leaves(value)
            .into_iter()
            .map(move |(path, leaf)| (format!("/{name}{path}"), leaf))
    });
    below.collect()
}

#[test]
fn a_field_that_nobody_knows_is_seen() {
    let mut object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"b/c": "d"}}});
    assert_eq!(check(&object), Ok(()));
    object["metadata"]["label"] = "x".into();
    assert!(check(&object).unwrap_err().contains("/metadata/label"));
    object["metadata"] = serde_json::json!({"name": 3});
    assert!(check(&object).is_err());
}
