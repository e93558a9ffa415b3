//! Fields of Gateway API's kinds (1.6), of `ConfigMap` and of `TrafficPolicy`, which is our own.
#![forbid(unsafe_code)]

/// Fields of the `spec` of any route.
pub(crate) const ROUTE_SPEC: &[&str] = &["hostnames", "parentRefs", "rules", "useDefaultGateways"];
/// `RouteStatus`.
pub(crate) const ROUTE_STATUS: &[&str] = &["parents"];
/// `PolicyStatus`.
pub(crate) const POLICY_STATUS: &[&str] = &["ancestors"];
/// `ParentReference`.
pub(crate) const PARENT: &[&str] = &["group", "kind", "name", "namespace", "port", "sectionName"];
/// `HTTPRouteRule`, `GRPCRouteRule`.
pub(crate) const RULE: &[&str] = &[
    "backendRefs",
    "filters",
    "matches",
    "name",
    "retry",
    "sessionPersistence",
    "timeouts",
];
/// Rule of a `GRPCRoute`.
pub(crate) const GRPC_RULE: &[&str] = &[
    "backendRefs",
    "filters",
    "matches",
    "name",
    "sessionPersistence",
];
/// Rule of a `TLSRoute`, `TCPRoute` or `UDPRoute`.
pub(crate) const OPAQUE_RULE: &[&str] = &["backendRefs", "name"];
/// `HTTPRouteMatch`.
pub(crate) const HTTP_MATCH: &[&str] = &["headers", "method", "path", "queryParams"];
/// `HTTPPathMatch`.
pub(crate) const PATH: &[&str] = &["type", "value"];
/// `HTTPHeaderMatch`, `HTTPQueryParamMatch`, `GRPCHeaderMatch`.
pub(crate) const VALUE: &[&str] = &["name", "type", "value"];
/// `GRPCRouteMatch`.
pub(crate) const GRPC_MATCH: &[&str] = &["headers", "method"];
/// `GRPCMethodMatch`.
pub(crate) const GRPC_METHOD: &[&str] = &["method", "service", "type"];
/// `HTTPRouteTimeouts`.
pub(crate) const TIMEOUTS: &[&str] = &["backendRequest", "request"];
/// `HTTPRouteRetry`.
pub(crate) const RETRY: &[&str] = &["attempts", "backoff", "codes"];
/// `SessionPersistence`.
pub(crate) const SESSION: &[&str] = &["absoluteTimeout", "cookieConfig", "sessionName", "type"];
/// `CookieConfig`.
pub(crate) const COOKIE: &[&str] = &["lifetimeType"];
/// `HTTPBackendRef`, `GRPCBackendRef`.
pub(crate) const BACKEND: &[&str] = &[
    "filters",
    "group",
    "kind",
    "name",
    "namespace",
    "port",
    "weight",
];
/// `BackendRef`.
pub(crate) const PLAIN_BACKEND: &[&str] = &["group", "kind", "name", "namespace", "port", "weight"];
/// `BackendObjectReference`.
pub(crate) const BACKEND_OBJECT: &[&str] = &["group", "kind", "name", "namespace", "port"];
/// `HTTPRouteFilter`, `GRPCRouteFilter`.
pub(crate) const FILTER: &[&str] = &[
    "cors",
    "extensionRef",
    "externalAuth",
    "requestHeaderModifier",
    "requestMirror",
    "requestRedirect",
    "responseHeaderModifier",
    "type",
    "urlRewrite",
];
/// `HTTPHeaderFilter`.
pub(crate) const HEADER_FILTER: &[&str] = &["add", "remove", "set"];
/// `HTTPHeader`.
pub(crate) const HEADER: &[&str] = &["name", "value"];
/// `HTTPRequestRedirectFilter`.
pub(crate) const REDIRECT: &[&str] = &["hostname", "path", "port", "scheme", "statusCode"];
/// `HTTPURLRewriteFilter`.
pub(crate) const REWRITE: &[&str] = &["hostname", "path"];
/// `HTTPPathModifier`.
pub(crate) const PATH_MODIFIER: &[&str] = &["replaceFullPath", "replacePrefixMatch", "type"];
/// `HTTPRequestMirrorFilter`.
pub(crate) const MIRROR: &[&str] = &["backendRef", "fraction", "percent"];
/// `Fraction`.
pub(crate) const FRACTION: &[&str] = &["denominator", "numerator"];
/// `HTTPCORSFilter`.
pub(crate) const CORS: &[&str] = &[
    "allowCredentials",
    "allowHeaders",
    "allowMethods",
    "allowOrigins",
    "exposeHeaders",
    "maxAge",
];
/// `BackendTLSPolicySpec`.
pub(crate) const TLS_SPEC: &[&str] = &["options", "targetRefs", "validation"];
/// `BackendTLSPolicyValidation`.
pub(crate) const VALIDATION: &[&str] = &[
    "caCertificateRefs",
    "hostname",
    "subjectAltNames",
    "wellKnownCACertificates",
];
/// `SubjectAltName`.
pub(crate) const ALT_NAME: &[&str] = &["hostname", "type", "uri"];
/// `LocalPolicyTargetReferenceWithSectionName`.
pub(crate) const TARGET: &[&str] = &["group", "kind", "name", "sectionName"];
/// `LocalObjectReference`.
pub(crate) const LOCAL: &[&str] = &["group", "kind", "name"];
/// `BackendTrafficPolicySpec`.
pub(crate) const BACKEND_TRAFFIC_SPEC: &[&str] =
    &["retryConstraint", "sessionPersistence", "targetRefs"];
/// `RetryConstraint`.
pub(crate) const RETRY_CONSTRAINT: &[&str] = &["budget", "minRetryRate"];
/// `BudgetDetails`.
pub(crate) const BUDGET: &[&str] = &["interval", "percent"];
/// `RequestRate`.
pub(crate) const RATE: &[&str] = &["count", "interval"];
/// `ReferenceGrantSpec`.
pub(crate) const GRANT_SPEC: &[&str] = &["from", "to"];
/// `ReferenceGrantFrom`, `ReferenceGrantTo`.
pub(crate) const GRANT: &[&str] = &["group", "kind", "name", "namespace"];
/// `ConfigMap`.
pub(crate) const CONFIG_MAP: &[&str] = &[
    "apiVersion",
    "binaryData",
    "data",
    "immutable",
    "kind",
    "metadata",
];

/// `spec` of a `TrafficPolicy`.
pub(crate) const TRAFFIC_SPEC: &[&str] = &[
    "adaptiveConcurrency",
    "balancing",
    "circuitBreaker",
    "fault",
    "outlierDetection",
    "rateLimits",
    "requestMetrics",
    "retry",
    "targetRefs",
    "whenAgentIsAway",
];
/// `balancing`.
pub(crate) const BALANCING: &[&str] = &["algorithm", "hash"];
/// `balancing.hash`.
pub(crate) const HASH: &[&str] = &["cookie", "header", "source"];
/// `outlierDetection`.
pub(crate) const OUTLIER: &[&str] = &[
    "baseEjection",
    "consecutiveErrors",
    "interval",
    "maxEjectionPercent",
    "successRate",
];
/// `circuitBreaker`.
pub(crate) const BREAKER: &[&str] = &["maxConnections", "maxPending", "maxRequests", "maxRetries"];
/// `rateLimits[]`.
pub(crate) const RATE_LIMIT: &[&str] = &[
    "algorithm",
    "burst",
    "key",
    "name",
    "per",
    "requests",
    "route",
];
/// `rateLimits[].key[]`.
pub(crate) const LIMIT_KEY: &[&str] = &["header", "workload"];
/// `fault`.
pub(crate) const FAULT: &[&str] = &["abort", "delay"];
/// `fault.delay`.
pub(crate) const DELAY: &[&str] = &["duration", "percent"];
/// `fault.abort`.
pub(crate) const ABORT: &[&str] = &["grpcStatus", "httpStatus", "percent"];
/// `adaptiveConcurrency`.
pub(crate) const ADAPTIVE: &[&str] = &["max", "min"];
