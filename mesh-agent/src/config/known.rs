//! The names that the agent knows: fields of the kinds that it reads, kinds, and its own annotations; and what a name that
//! it does not know was probably meant to be.
//!
//! Lists are closed at the levels that the agent reads, so that a misspelt field is noticed, and free below those that it
//! does not, where Kubernetes may add what it likes.
#![forbid(unsafe_code)]

pub(crate) mod gateway;
pub(crate) mod policy;
pub(crate) mod service;

use crate::config::key::Kind;
use crate::model::workload::Acceleration;

/// Annotation: PID of a process of the workload.
pub(crate) const PID: &str = "underpass.dev/pid";
/// Annotation: path of the workload's network namespace.
pub(crate) const NETNS: &str = "underpass.dev/netns";
/// Annotation: path of the workload's cgroup.
pub(crate) const CGROUP: &str = "underpass.dev/cgroup";
/// Annotation or label: whether connections are redirected.
pub(crate) const ACCELERATION: &str = "underpass.dev/acceleration";
/// Label: whether pods are in the mesh.
pub(crate) const MESH: &str = "underpass.dev/mesh";
/// Annotation of kubelet's: the pod is one that it has from a file, and has this UID on its node. The API server lets nobody add or change it.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
/// What all names of this project begin with.
pub(crate) const PREFIX: &str = "underpass.dev/";

/// Annotation: an endpoint's share among the others of its priority.
pub(crate) const WEIGHT: &str = "underpass.dev/weight";
/// Annotation: which endpoints are used first.
pub(crate) const PRIORITY: &str = "underpass.dev/priority";
/// Annotation: how a service's backends are picked.
pub(crate) const ALGORITHM: &str = "underpass.dev/algorithm";
/// Annotation: over which time a new endpoint's share grows.
pub(crate) const SLOW_START: &str = "underpass.dev/slow-start";
/// Annotation: what becomes of connections to an endpoint that was removed.
pub(crate) const DRAIN: &str = "underpass.dev/drain";
/// Annotation: what a connect without backend gets.
pub(crate) const NO_BACKEND: &str = "underpass.dev/no-backend";
/// Annotation: how endpoints are checked.
pub(crate) const HEALTH_CHECK: &str = "underpass.dev/health-check";
/// Annotation: whether passive signs eject endpoints.
pub(crate) const OUTLIER_DETECTION: &str = "underpass.dev/outlier-detection";
/// Annotation: whether a policy only shows what it would deny.
pub(crate) const DRY_RUN: &str = "underpass.dev/dry-run";

/// Annotations and labels that a `Pod` takes.
pub(crate) const POD_ANNOTATIONS: &[&str] =
    &[ACCELERATION, CGROUP, MESH, NETNS, PID, PRIORITY, WEIGHT];
/// Annotations that a `Service` takes.
pub(crate) const SERVICE_ANNOTATIONS: &[&str] = &[
    ALGORITHM,
    DRAIN,
    HEALTH_CHECK,
    NO_BACKEND,
    OUTLIER_DETECTION,
    SLOW_START,
];
/// Annotations that an `EndpointSlice` takes.
pub(crate) const ENDPOINT_SLICE_ANNOTATIONS: &[&str] = &[PRIORITY, WEIGHT];
/// Annotations that a `NetworkPolicy` takes.
pub(crate) const NETWORK_POLICY_ANNOTATIONS: &[&str] = &[DRY_RUN];
/// Annotations and labels that a `Namespace` takes.
pub(crate) const NAMESPACE_ANNOTATIONS: &[&str] = &[ACCELERATION, MESH];

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
/// `PodCondition`.
pub(crate) const POD_CONDITION: &[&str] = &[
    "lastProbeTime",
    "lastTransitionTime",
    "message",
    "observedGeneration",
    "reason",
    "status",
    "type",
];
/// `ContainerPort`.
pub(crate) const CONTAINER_PORT: &[&str] =
    &["containerPort", "hostIP", "hostPort", "name", "protocol"];
/// `NamespaceSpec`.
pub(crate) const NAMESPACE_SPEC: &[&str] = &["finalizers"];
/// `NamespaceStatus`.
pub(crate) const NAMESPACE_STATUS: &[&str] = &["conditions", "phase"];
/// `PodPhase`.
pub(crate) const PHASES: &[&str] = &["Pending", "Running", "Succeeded", "Failed", "Unknown"];
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

/// Returns the path of a field of `kind` that has this name, only at another place.
pub(crate) fn elsewhere(kind: Option<Kind>, name: &str) -> Option<String> {
    let pod = (POD_STATUS, POD_SPEC, OBJECT);
    let (status, spec, object): (&[&str], &[&str], &[&str]) = match kind {
        None | Some(Kind::Pod | Kind::Namespace) => pod,
        Some(Kind::Node) => (service::NODE_STATUS, service::NODE_SPEC, OBJECT),
        Some(Kind::Service) => (service::STATUS, service::SPEC, OBJECT),
        Some(Kind::EndpointSlice) => (&[], &[], service::ENDPOINT_SLICE),
        Some(Kind::NetworkPolicy) => (&[], policy::NETWORK_SPEC, OBJECT),
        Some(Kind::AuthorizationPolicy) => (&[], policy::AUTHORIZATION_SPEC, OBJECT),
        Some(
            Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute | Kind::UDPRoute,
        ) => (gateway::ROUTE_STATUS, gateway::ROUTE_SPEC, OBJECT),
        Some(Kind::BackendTLSPolicy) => (gateway::POLICY_STATUS, gateway::TLS_SPEC, OBJECT),
        Some(Kind::XBackendTrafficPolicy) => (
            gateway::POLICY_STATUS,
            gateway::BACKEND_TRAFFIC_SPEC,
            OBJECT,
        ),
        Some(Kind::TrafficPolicy) => (gateway::POLICY_STATUS, gateway::TRAFFIC_SPEC, OBJECT),
        Some(Kind::ReferenceGrant) => (&[], gateway::GRANT_SPEC, OBJECT),
        Some(Kind::ConfigMap) => (&[], &[], gateway::CONFIG_MAP),
        Some(Kind::XMesh) => (&[], &[], OBJECT),
    };
    let places = [
        ("metadata.", METADATA),
        ("status.", status),
        ("spec.", spec),
        ("", object),
    ];
    places.iter().find_map(|(place, fields)| {
        let field = fields
            .iter()
            .find(|field| field.eq_ignore_ascii_case(name))?;
        Some(format!("{place}{field}"))
    })
}
