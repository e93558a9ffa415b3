//! What the mesh can do of Gateway API, as `XMesh.status.supportedFeatures` says it, with the test that shows each.
//!
//! Names are those of Gateway API v1.6. A feature stands here if a running agent was seen to do it, and never before.
#![forbid(unsafe_code)]

/// A feature with the file and name of a test that shows it.
pub(super) type Feature = (&'static str, &'static str, &'static str);

const CLIENTS: &str = "conformance/clients.rs";
const FILTERS: &str = "conformance/filters.rs";
const OPAQUE: &str = "conformance/opaque.rs";
const POLICIES: &str = "conformance/policies.rs";
const SHARED: &str = "conformance/shared.rs";
const WEBSOCKET: &str = "l7/websocket.rs";

/// Every feature, ordered by name as the API asks for.
pub(super) const FEATURES: &[Feature] = &[
    ("BackendTLSPolicy", POLICIES, "tls_to_a_backend_or_nothing"),
    ("GRPCRoute", SHARED, "calls_go_by_service_method_and_fields"),
    ("HTTPRoute", SHARED, "paths"),
    ("HTTPRoute303RedirectStatusCode", SHARED, "redirects"),
    ("HTTPRoute307RedirectStatusCode", SHARED, "redirects"),
    ("HTTPRoute308RedirectStatusCode", SHARED, "redirects"),
    (
        "HTTPRouteBackendProtocolH2C",
        SHARED,
        "http_of_one_version_goes_on_in_the_other",
    ),
    (
        "HTTPRouteBackendProtocolWebSocket",
        WEBSOCKET,
        "messages_come_back_whatever_carries_them",
    ),
    (
        "HTTPRouteBackendRequestHeaderModification",
        SHARED,
        "header_fields",
    ),
    ("HTTPRouteBackendTimeout", SHARED, "time_outs"),
    ("HTTPRouteCORS", FILTERS, "cors"),
    ("HTTPRouteHostRewrite", SHARED, "rewrites"),
    (
        "HTTPRouteMethodMatching",
        SHARED,
        "header_fields_methods_and_queries",
    ),
    (
        "HTTPRouteNamedRouteRule",
        CLIENTS,
        "rules_are_counted_by_their_names",
    ),
    (
        "HTTPRouteParentRefPort",
        SHARED,
        "a_route_is_for_what_is_dialled_whatever_the_host",
    ),
    ("HTTPRoutePathRedirect", SHARED, "redirects"),
    ("HTTPRoutePathRewrite", SHARED, "rewrites"),
    ("HTTPRoutePortRedirect", SHARED, "redirects"),
    (
        "HTTPRouteQueryParamMatching",
        SHARED,
        "header_fields_methods_and_queries",
    ),
    ("HTTPRouteRequestMirror", FILTERS, "mirrors"),
    ("HTTPRouteRequestMultipleMirrors", FILTERS, "mirrors"),
    ("HTTPRouteRequestPercentageMirror", FILTERS, "mirrors"),
    ("HTTPRouteRequestTimeout", SHARED, "time_outs"),
    (
        "HTTPRouteResponseHeaderModification",
        SHARED,
        "header_fields",
    ),
    ("HTTPRouteRetry", SHARED, "retries"),
    ("HTTPRouteRetryBackendTimeout", SHARED, "retries"),
    ("HTTPRouteRetryConnectionError", SHARED, "retries"),
    ("HTTPRouteSchemeRedirect", SHARED, "redirects"),
    ("Mesh", SHARED, "a_service_without_a_route_is_as_it_was"),
    (
        "MeshClusterIPMatching",
        SHARED,
        "a_route_is_for_what_is_dialled_whatever_the_host",
    ),
    (
        "MeshConsumerRoute",
        SHARED,
        "a_route_of_another_namespace_is_for_that_namespaces_clients",
    ),
    (
        "MeshHTTPRouteBackendRequestHeaderModification",
        SHARED,
        "header_fields",
    ),
    (
        "MeshHTTPRouteNamedRouteRule",
        CLIENTS,
        "rules_are_counted_by_their_names",
    ),
    (
        "MeshHTTPRouteQueryParamMatching",
        SHARED,
        "header_fields_methods_and_queries",
    ),
    ("MeshHTTPRouteRedirectPath", SHARED, "redirects"),
    ("MeshHTTPRouteRedirectPort", SHARED, "redirects"),
    ("MeshHTTPRouteRewritePath", SHARED, "rewrites"),
    ("MeshHTTPRouteSchemeRedirect", SHARED, "redirects"),
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
            // Of cases that clusters run, too, only the names stand there.
            let name = format!("\n    {test},\n");
            assert!(
                text.contains(&head) || file == &SHARED && text.contains(&name),
                "no test `{test}` in {file} for {feature}"
            );
        }
    }
}
