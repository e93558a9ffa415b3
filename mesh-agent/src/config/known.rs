//! The names that the agent knows: fields of the kinds that it reads, kinds, and its own annotations; and what a name that
//! it does not know was probably meant to be.
//!
//! Lists are closed at the levels that the agent reads, so that a misspelt field is noticed, and free below those that it
//! does not, where Kubernetes may add what it likes.
#![forbid(unsafe_code)]

use crate::model::workload::Acceleration;

/// Annotation: PID of a process of the workload.
pub(crate) const PID: &str = "underpass.dev/pid";
/// Annotation: path of the workload's network namespace.
pub(crate) const NETNS: &str = "underpass.dev/netns";
/// Annotation: path of the workload's cgroup.
pub(crate) const CGROUP: &str = "underpass.dev/cgroup";
/// Annotation or label: whether connections are redirected.
pub(crate) const ACCELERATION: &str = "underpass.dev/acceleration";
/// What all names of this project begin with.
pub(crate) const PREFIX: &str = "underpass.dev/";

/// Annotations and labels that a `Pod` takes.
pub(crate) const POD_ANNOTATIONS: &[&str] = &[ACCELERATION, CGROUP, NETNS, PID];
/// Annotations and labels that a `Namespace` takes.
pub(crate) const NAMESPACE_ANNOTATIONS: &[&str] = &[ACCELERATION];

/// Fields of every object that the agent reads.
pub(crate) const OBJECT: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
/// Fields of a list.
pub(crate) const LIST: &[&str] = &["apiVersion", "kind", "metadata", "items"];
/// `ObjectMeta`.
pub(crate) const METADATA: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// `PodSpec` of Kubernetes 1.36, and `workloadRef`, which 1.35 had.
pub(crate) const POD_SPEC: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "schedulingGroup",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
    "workloadRef",
];
/// `PodStatus` of Kubernetes 1.36.
pub(crate) const POD_STATUS: &[&str] = &[
    "allocatedResources",
    "conditions",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "extendedResourceClaimStatus",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "nodeAllocatableResourceClaimStatuses",
    "nominatedNodeName",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "resize",
    "resourceClaimStatuses",
    "resources",
    "startTime",
];
/// `PodIP`.
pub(crate) const POD_IP: &[&str] = &["ip"];
/// `NamespaceSpec`.
pub(crate) const NAMESPACE_SPEC: &[&str] = &["finalizers"];
/// `NamespaceStatus`.
pub(crate) const NAMESPACE_STATUS: &[&str] = &["conditions", "phase"];
/// `PodPhase`.
pub(crate) const PHASES: &[&str] = &["Pending", "Running", "Succeeded", "Failed", "Unknown"];
/// Kinds that the agent reads.
pub(crate) const KINDS: &[&str] = &["Pod", "Namespace", "List", "PodList", "NamespaceList"];

/// Returns the modes of acceleration, as a message lists them.
pub(crate) fn accelerations() -> String {
    Acceleration::ALL
        .map(|(_, word)| format!("`{word}`"))
        .join(", ")
}

/// Returns the name of `known` that `name` was probably meant to be.
pub(crate) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = name.to_lowercase();
    // A mistake in every fourth letter is still a typing mistake; in every second one it is another word.
    let allowed = 1 + name.len() / 4;
    known
        .iter()
        .map(|known| (strsim::osa_distance(&lower, &known.to_lowercase()), *known))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, known)| known)
}

/// Returns the path of a field of `Pod` that has this name, only at another place.
pub(crate) fn elsewhere_in_pod(name: &str) -> Option<String> {
    let places = [
        ("metadata.", METADATA),
        ("status.", POD_STATUS),
        ("spec.", POD_SPEC),
        ("", OBJECT),
    ];
    places.iter().find_map(|(place, fields)| {
        let field = fields
            .iter()
            .find(|field| field.eq_ignore_ascii_case(name))?;
        Some(format!("{place}{field}"))
    })
}
