//! Fields of `Service`, `EndpointSlice` and `Node` (Kubernetes 1.36).
#![forbid(unsafe_code)]

/// `ServiceSpec`.
pub(crate) const SPEC: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "ports",
    "publishNotReadyAddresses",
    "selector",
    "sessionAffinity",
    "sessionAffinityConfig",
    "trafficDistribution",
    "type",
];
/// `ServiceStatus`.
pub(crate) const STATUS: &[&str] = &["conditions", "loadBalancer"];
/// `ServicePort`.
pub(crate) const PORT: &[&str] = &[
    "appProtocol",
    "name",
    "nodePort",
    "port",
    "protocol",
    "targetPort",
];
/// `SessionAffinityConfig`.
pub(crate) const AFFINITY: &[&str] = &["clientIP"];
/// `ClientIPConfig`.
pub(crate) const CLIENT_IP: &[&str] = &["timeoutSeconds"];
/// `LoadBalancerStatus`.
pub(crate) const LOAD_BALANCER: &[&str] = &["ingress"];
/// `LoadBalancerIngress`.
pub(crate) const INGRESS: &[&str] = &["hostname", "ip", "ipMode", "ports"];

/// `EndpointSlice`, which has no `spec`.
pub(crate) const ENDPOINT_SLICE: &[&str] = &[
    "addressType",
    "apiVersion",
    "endpoints",
    "kind",
    "metadata",
    "ports",
];
/// `Endpoint`.
pub(crate) const ENDPOINT: &[&str] = &[
    "addresses",
    "conditions",
    "deprecatedTopology",
    "hints",
    "hostname",
    "nodeName",
    "targetRef",
    "zone",
];
/// `EndpointConditions`.
pub(crate) const CONDITIONS: &[&str] = &["ready", "serving", "terminating"];
/// `EndpointHints`.
pub(crate) const HINTS: &[&str] = &["forNodes", "forZones"];
/// `ForZone`, `ForNode`.
pub(crate) const HINT: &[&str] = &["name"];
/// `ObjectReference`.
pub(crate) const REFERENCE: &[&str] = &[
    "apiVersion",
    "fieldPath",
    "kind",
    "name",
    "namespace",
    "resourceVersion",
    "uid",
];
/// `EndpointPort`.
pub(crate) const ENDPOINT_PORT: &[&str] = &["appProtocol", "name", "port", "protocol"];

/// `NodeSpec`.
pub(crate) const NODE_SPEC: &[&str] = &[
    "configSource",
    "externalID",
    "podCIDR",
    "podCIDRs",
    "providerID",
    "taints",
    "unschedulable",
];
/// `NodeStatus`.
pub(crate) const NODE_STATUS: &[&str] = &[
    "addresses",
    "allocatable",
    "capacity",
    "conditions",
    "config",
    "daemonEndpoints",
    "declaredFeatures",
    "features",
    "images",
    "nodeInfo",
    "phase",
    "runtimeHandlers",
    "volumesAttached",
    "volumesInUse",
];
/// `NodeAddress`.
pub(crate) const NODE_ADDRESS: &[&str] = &["address", "type"];
