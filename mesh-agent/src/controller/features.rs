//! What the mesh can do of Gateway API, as `XMesh.status.supportedFeatures` says it, with the test that shows each.
//!
//! Names are those of Gateway API v1.6. A feature stands here if a running agent was seen to do it, and never before.
#![forbid(unsafe_code)]

/// A feature with the file and name of a test that shows it.
pub(super) type Feature = (&'static str, &'static str, &'static str);

const BASICS: &str = "conformance/basics.rs";
const CLIENTS: &str = "conformance/clients.rs";
const FILTERS: &str = "conformance/filters.rs";
const GRPC: &str = "conformance/grpc.rs";
const MATCHING: &str = "conformance/matching.rs";
const OPAQUE: &str = "conformance/opaque.rs";
const PATIENCE: &str = "conformance/patience.rs";
const POLICIES: &str = "conformance/policies.rs";
const WEBSOCKET: &str = "l7/websocket.rs";

/// Every feature, ordered by name as the API asks for.
pub(super) const FEATURES: &[Feature] = &[
    ("BackendTLSPolicy", POLICIES, "tls_to_a_backend_or_nothing"),
    ("GRPCRoute", GRPC, "calls_go_by_service_method_and_fields"),
    ("HTTPRoute", MATCHING, "paths"),
    ("HTTPRoute303RedirectStatusCode", FILTERS, "redirects"),
    ("HTTPRoute307RedirectStatusCode", FILTERS, "redirects"),
    ("HTTPRoute308RedirectStatusCode", FILTERS, "redirects"),
    (
        "HTTPRouteBackendProtocolH2C",
        GRPC,
        "http_of_one_version_goes_on_in_the_other",
    ),
    (
        "HTTPRouteBackendProtocolWebSocket",
        WEBSOCKET,
        "messages_come_back_whatever_carries_them",
    ),
    (
        "HTTPRouteBackendRequestHeaderModification",
        FILTERS,
        "header_fields",
    ),
    ("HTTPRouteBackendTimeout", PATIENCE, "time_outs"),
    ("HTTPRouteCORS", FILTERS, "cors"),
    ("HTTPRouteHostRewrite", FILTERS, "rewrites"),
    (
        "HTTPRouteMethodMatching",
        MATCHING,
        "header_fields_methods_and_queries",
    ),
    (
        "HTTPRouteNamedRouteRule",
        CLIENTS,
        "rules_are_counted_by_their_names",
    ),
    (
        "HTTPRouteParentRefPort",
        BASICS,
        "a_route_is_for_what_is_dialled_whatever_the_host",
    ),
    ("HTTPRoutePathRedirect", FILTERS, "redirects"),
    ("HTTPRoutePathRewrite", FILTERS, "rewrites"),
    ("HTTPRoutePortRedirect", FILTERS, "redirects"),
    (
        "HTTPRouteQueryParamMatching",
        MATCHING,
        "header_fields_methods_and_queries",
    ),
    ("HTTPRouteRequestMirror", FILTERS, "mirrors"),
    ("HTTPRouteRequestMultipleMirrors", FILTERS, "mirrors"),
    ("HTTPRouteRequestPercentageMirror", FILTERS, "mirrors"),
    ("HTTPRouteRequestTimeout", PATIENCE, "time_outs"),
    (
        "HTTPRouteResponseHeaderModification",
        FILTERS,
        "header_fields",
    ),
    ("HTTPRouteRetry", PATIENCE, "retries"),
    ("HTTPRouteRetryBackendTimeout", PATIENCE, "retries"),
    ("HTTPRouteRetryConnectionError", PATIENCE, "retries"),
    ("HTTPRouteSchemeRedirect", FILTERS, "redirects"),
    ("Mesh", BASICS, "a_service_without_a_route_is_as_it_was"),
    (
        "MeshClusterIPMatching",
        BASICS,
        "a_route_is_for_what_is_dialled_whatever_the_host",
    ),
    (
        "MeshConsumerRoute",
        CLIENTS,
        "a_route_of_another_namespace_is_for_that_namespaces_clients",
    ),
    (
        "MeshHTTPRouteBackendRequestHeaderModification",
        FILTERS,
        "header_fields",
    ),
    (
        "MeshHTTPRouteNamedRouteRule",
        CLIENTS,
        "rules_are_counted_by_their_names",
    ),
    (
        "MeshHTTPRouteQueryParamMatching",
        MATCHING,
        "header_fields_methods_and_queries",
    ),
    ("MeshHTTPRouteRedirectPath", FILTERS, "redirects"),
    ("MeshHTTPRouteRedirectPort", FILTERS, "redirects"),
    ("MeshHTTPRouteRewritePath", FILTERS, "rewrites"),
    ("MeshHTTPRouteSchemeRedirect", FILTERS, "redirects"),
    ("TCPRoute", OPAQUE, "connections_by_weight_in_the_kernel"),
    (
        "TLSRoute",
        OPAQUE,
        "tls_goes_by_the_servers_name_and_is_not_opened",
    ),
    ("UDPRoute", OPAQUE, "datagrams_by_weight_in_the_kernel"),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_are_in_order_and_not_too_many() {
        assert!(FEATURES.is_sorted_by(|one, other| one.0 < other.0));
        // `maxItems` of the definition.
        assert!(FEATURES.len() <= 64);
    }

    #[test]
    fn each_is_shown_by_a_test_that_is_there() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e");
        for (feature, file, test) in FEATURES {
            let text = fs::read_to_string(tests.join(file)).unwrap();
            let head = format!("#[test]\nfn {test}()");
            assert!(
                text.contains(&head),
                "no test `{test}` in {file} for {feature}"
            );
        }
    }
}
