//! Rules of routes.
#![forbid(unsafe_code)]

use super::{conditions, linked, route, rule};
use crate::config::gateway::link::Linked;
use crate::model::route::{Filter, PathEdit, PathMatch};

fn filter(text: &str) -> Result<Filter, String> {
    rule(&format!("{{filters: [{text}]}}")).map(|rule| rule.filters[0].clone())
}

fn path(sort: &str, field: &str, value: &str) -> [Result<PathEdit, String>; 2] {
    let path = format!("path: {{type: {sort}, {field}: {value}}}");
    [
        format!("{{type: URLRewrite, urlRewrite: {{{path}}}}}"),
        format!("{{type: RequestRedirect, requestRedirect: {{{path}}}}}"),
    ]
    .map(|text| {
        let filter = filter(&text)?;
        let path = match &filter {
            Filter::Rewrite(rewrite) => rewrite.path.clone(),
            Filter::Redirect(redirect) => redirect.path.clone(),
            Filter::RequestHeaders(_)
            | Filter::ResponseHeaders(_)
            | Filter::Mirror(_)
            | Filter::Cors(_)
            | Filter::Invalid(_) => None,
        };
        Ok(path.unwrap())
    })
}

/// A path of a manifest goes into request lines and `Location`: it is a path, or the rule does not count.
#[test]
fn replaced_paths_are_paths() {
    for (value, full, prefix) in [
        ("/a/b", "/a/b", "/a/b"),
        ("foo", "/foo", "/foo"),
        ("''", "/", ""),
        ("/", "/", "/"),
        ("/a/", "/a/", "/a/"),
        ("/a/../b", "/b", "/b"),
        ("/%7eb", "/~b", "/~b"),
        ("/\u{e4}", "/%C3%A4", "/%C3%A4"),
    ] {
        for found in path("ReplaceFullPath", "replaceFullPath", value) {
            assert_eq!(found, Ok(PathEdit::Full(full.to_owned())), "{value}");
        }
        for found in path("ReplacePrefixMatch", "replacePrefixMatch", value) {
            assert_eq!(found, Ok(PathEdit::Prefix(prefix.to_owned())), "{value}");
        }
    }
    for value in [
        "/a b",
        r#""/x HTTP/1.1\r\nX: y""#,
        r#""/x\tb""#,
        r#""/x\u007f""#,
        "/a?b=c",
        "'/a#b'",
        r"/a\b",
        "'/a%'",
        "'/%00'",
    ] {
        let full = path("ReplaceFullPath", "replaceFullPath", value);
        let prefix = path("ReplacePrefixMatch", "replacePrefixMatch", value);
        for found in full.into_iter().chain(prefix) {
            let why = found.unwrap_err();
            assert!(why.contains("is not a path"), "{value}: {why}");
        }
    }
}

/// Names of hosts go into `Host`, `:authority` and `Location`.
#[test]
fn hosts_are_hosts() {
    for (value, good) in [
        ("a.example", true),
        ("192.0.2.1", true),
        ("a b", false),
        ("a_b", false),
        ("user@a", false),
        ("'*.a'", false),
        ("a..b", false),
        ("a:80", false),
        ("a%2f", false),
        (r#""a\r\nX: y""#, false),
    ] {
        for text in [
            format!("{{type: URLRewrite, urlRewrite: {{hostname: {value}}}}}"),
            format!("{{type: RequestRedirect, requestRedirect: {{hostname: {value}}}}}"),
        ] {
            assert_eq!(filter(&text).is_ok(), good, "{text}");
        }
    }
    for (value, good) in [
        ("a.example", true),
        ("'a.example:8080'", true),
        ("'[::1]:80'", true),
        ("Cart", true),
        ("a b", false),
        ("user@a", false),
        ("a/b", false),
        ("''", false),
        ("'a:port'", false),
        ("'a:99999'", false),
    ] {
        let text = format!(
            "{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: host, value: {value}}}]}}}}"
        );
        assert_eq!(filter(&text).is_ok(), good, "{text}");
    }
}

/// Of a request's `Host` nothing else can be done than to set it, and whoever asks for it is told.
#[test]
fn host_is_set_and_nothing_else() {
    for (sort, field, edit, good) in [
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            "add: [{name: Host, value: a}]",
            false,
        ),
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            "remove: [Host]",
            false,
        ),
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            "set: [{name: Host, value: a}]",
            true,
        ),
        (
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            "remove: [Host]",
            true,
        ),
    ] {
        let text = format!("{{type: {sort}, {field}: {{{edit}}}}}");
        assert_eq!(filter(&text).is_ok(), good, "{text}");
    }
}

/// Lists of `CORS` go into fields of answers.
#[test]
fn cors_lists_are_what_a_field_may_hold() {
    for (list, good) in [
        ("allowOrigins: ['*']", true),
        (
            "allowOrigins: ['https://*.example.com', 'http://a:8080', 'http://*']",
            true,
        ),
        ("allowOrigins: ['https://a b']", false),
        (r#"allowOrigins: ["https://a\r\nX: y"]"#, false),
        ("allowOrigins: [a.example]", false),
        ("allowMethods: [GET, PATCH]", true),
        ("allowMethods: ['*']", true),
        (r#"allowMethods: ["GET\r\nX: y"]"#, false),
        ("allowMethods: ['GET POST']", false),
        ("allowHeaders: [X-One, '*']", true),
        (r#"allowHeaders: ["X\r\nY: z"]"#, false),
        ("exposeHeaders: [X-One]", true),
        ("exposeHeaders: ['X, Y']", false),
    ] {
        let text = format!("{{type: CORS, cors: {{{list}}}}}");
        assert_eq!(filter(&text).is_ok(), good, "{text}");
    }
}

/// No path that is no canonical one is a match, and least of all one that would be made to fit everything.
#[test]
fn dots_do_not_climb_in_a_match() {
    for (value, good) in [
        ("/foo/..", false),
        ("/foo/.", false),
        ("/foo/../", false),
        ("/foo/./", false),
        ("/..", false),
        ("/%2e%2e", false),
        ("/foo/%2E", false),
        ("/foo/...", true),
        ("/foo..", true),
        ("/.well-known", true),
    ] {
        for sort in ["PathPrefix", "Exact"] {
            let text = format!("{{matches: [{{path: {{type: {sort}, value: {value}}}}}]}}");
            assert_eq!(rule(&text).is_ok(), good, "{text}");
        }
    }
    let everything = rule("{}").unwrap();
    assert_eq!(everything.matches[0].path, PathMatch::Prefix(String::new()));
}

/// What the definitions allow is no reason to drop a rule.
#[test]
fn what_gateway_api_allows_is_taken() {
    let retry = rule("{retry: {attempts: 5000, codes: [503]}}").unwrap();
    assert_eq!(
        retry.retry.unwrap().attempts,
        100,
        "the rule holds, with as many as are made"
    );
    let mirror = "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}, fraction: {numerator: 1, denominator: 2147483647}}}]}";
    let Filter::Mirror(mirror) = rule(mirror).unwrap().filters[0].clone() else {
        panic!("a mirror");
    };
    assert_eq!((mirror.share, mirror.of), (1, 2_147_483_647));
    for (timeout, seconds) in [("168h", 604_800), ("99999h", 359_996_400)] {
        let text = format!(
            "{{sessionPersistence: {{absoluteTimeout: {timeout}, cookieConfig: {{lifetimeType: Permanent}}}}}}"
        );
        let session = rule(&text).unwrap().session.unwrap();
        assert_eq!(session.timeout.unwrap().as_secs(), seconds);
    }
    // Nobody waits that long for an answer.
    assert!(rule("{timeouts: {request: 168h}}").is_err());
}

/// Each rule has a session of its own, and two that have no name have different ones: a cookie of one is not to take the place of
/// the other's.
#[test]
fn a_session_without_a_name_has_none_here() {
    let session = rule("{sessionPersistence: {}}").unwrap().session.unwrap();
    assert_eq!(session.name, None);
    let session = rule("{sessionPersistence: {sessionName: s}}").unwrap();
    assert_eq!(session.session.unwrap().name.as_deref(), Some("s"));
}

/// A pattern that ends the group around it would not have to fit the whole any more.
#[test]
fn patterns_are_whole() {
    for value in ["'a)|(?:b'", "'a)(b'", "'('"] {
        let text = format!(
            "{{matches: [{{headers: [{{name: x, type: RegularExpression, value: {value}}}]}}]}}"
        );
        assert!(rule(&text).is_err(), "{value}");
    }
}

/// Returns objects, each a route: kind, name, when it was made, and its `spec`.
fn routes(all: &[(&str, &str, u32, &str)]) -> Linked {
    let one = |(kind, name, day, spec): &(&str, &str, u32, &str)| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, creationTimestamp: '2026-01-0{day}T00:00:00Z'}}\nspec: {spec}\n"
        )
    };
    linked(&all.iter().map(one).collect::<String>())
}

fn ports(linked: &Linked, name: &str) -> Vec<u16> {
    let parents = route(linked, name).map(|it| it.parents.clone());
    parents
        .unwrap_or_default()
        .into_iter()
        .flat_map(|it| it.ports)
        .collect()
}

fn accepted(linked: &Linked, route: &str) -> String {
    let (status, reason, message) = conditions(linked, route, "Accepted")[0].clone();
    format!("{status} {reason}: {message}")
}

/// A route for requests, or for TLS, leaves ports alone that say that they speak something else, unless they are named.
#[test]
fn a_route_without_a_port_takes_those_that_may_be_meant() {
    let not_requests = ": but for port 443, which speaks tls, port 5432, which speaks tcp";
    for (kind, all, but_for) in [
        ("HTTPRoute", &[80, 81][..], not_requests),
        ("GRPCRoute", &[80, 81], not_requests),
        (
            "TLSRoute",
            &[81, 443],
            ": but for port 80, which speaks http, port 5432, which speaks tcp",
        ),
        ("TCPRoute", &[80, 81, 443, 5432], ": "),
    ] {
        let spec = "{hostnames: [a.example], parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: other, port: 80}]}]}";
        let linked = routes(&[(kind, "r", 1, spec)]);
        assert_eq!(ports(&linked, "r"), all, "{kind}");
        let said = accepted(&linked, &format!("{kind} r"));
        assert_eq!(said, format!("True Accepted{but_for}"));
    }
    for (kind, parent, port, but_for) in [
        ("HTTPRoute", "port: 5432", 5432, "no request"),
        ("HTTPRoute", "sectionName: db", 5432, "no request"),
        ("HTTPRoute", "port: 443", 443, "no request"),
        ("TLSRoute", "port: 80", 80, "no TLS"),
        ("TLSRoute", "sectionName: http", 80, "no TLS"),
        ("TLSRoute", "port: 5432", 5432, "no TLS"),
    ] {
        let spec = format!(
            "{{hostnames: [a.example], parentRefs: [{{group: '', kind: Service, name: cart, {parent}}}], rules: [{{backendRefs: [{{name: other, port: 80}}]}}]}}"
        );
        let linked = routes(&[(kind, "r", 1, &spec)]);
        assert_eq!(ports(&linked, "r"), [port]);
        let said = accepted(&linked, &format!("{kind} r"));
        assert!(
            said.starts_with("True ") && said.contains(but_for),
            "{said}"
        );
    }
    for (kind, port, speaks) in [
        ("HTTPRoute", "{port: 5432, appProtocol: tcp}", "speaks tcp"),
        ("TLSRoute", "{port: 80, name: http-web}", "speaks http"),
        (
            "TLSRoute",
            "{port: 80, appProtocol: kubernetes.io/h2c}",
            "speaks h2c",
        ),
        ("TLSRoute", "{port: 80, name: grpc}", "speaks grpc"),
    ] {
        let linked = linked(&format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: one}}
spec: {{clusterIP: 10.96.0.9, ports: [{port}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r}}
spec: {{hostnames: [a.example], parentRefs: [{{group: '', kind: Service, name: one}}], rules: [{{backendRefs: [{{name: other, port: 80}}]}}]}}
"
        ));
        let said = accepted(&linked, &format!("{kind} r"));
        assert!(
            said.starts_with("False NoMatchingParent: ") && said.contains(speaks),
            "{said}"
        );
    }
}

/// The kernel balances datagrams, alike for all.
#[test]
fn udp_has_no_routes_of_clients() {
    let spec = "{parentRefs: [{group: '', kind: Service, name: cart, port: 53}], rules: [{backendRefs: [{name: cart, port: 53}]}]}";
    let own = routes(&[("UDPRoute", "r", 1, spec)]);
    assert_eq!(ports(&own, "r"), [53]);
    let linked = linked(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: r, namespace: client}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, namespace: default, port: 53}]
  rules: [{backendRefs: [{name: cart, namespace: default, port: 53}]}]
",
    );
    assert!(route(&linked, "r").is_none());
    let said = accepted(&linked, "UDPRoute r");
    assert!(
        said.starts_with("False UnsupportedValue: ") && said.contains("alike"),
        "{said}"
    );
}

/// Of routes that cannot be told apart on a connection the oldest holds, and the others say so.
#[test]
fn a_port_or_name_has_one_route() {
    for (kind, port) in [("TCPRoute", 81), ("UDPRoute", 53)] {
        let spec = format!(
            "{{parentRefs: [{{group: '', kind: Service, name: cart, port: {port}}}], rules: [{{backendRefs: [{{name: other, port: 80}}]}}]}}"
        );
        let linked = routes(&[(kind, "young", 2, &spec), (kind, "old", 1, &spec)]);
        assert_eq!(ports(&linked, "old"), [port]);
        assert!(route(&linked, "young").is_none());
        assert_eq!(accepted(&linked, &format!("{kind} old")), "True Accepted: ");
        let said = accepted(&linked, &format!("{kind} young"));
        assert_eq!(
            said,
            format!("False Conflicted: port {port}, which {kind} default/old has")
        );
    }
    let tls = |names: &str| {
        format!(
            "{{hostnames: [{names}], parentRefs: [{{group: '', kind: Service, name: cart, port: 443}}], rules: [{{backendRefs: [{{name: other, port: 80}}]}}]}}"
        )
    };
    let linked = routes(&[
        ("TLSRoute", "old", 1, &tls("a.example, b.example")),
        ("TLSRoute", "some", 2, &tls("b.example, c.example")),
        ("TLSRoute", "none", 3, &tls("a.example, c.example")),
    ]);
    assert_eq!(
        (ports(&linked, "old"), ports(&linked, "some")),
        (vec![443], vec![443])
    );
    assert!(route(&linked, "none").is_none());
    assert_eq!(accepted(&linked, "TLSRoute old"), "True Accepted: ");
    assert_eq!(
        accepted(&linked, "TLSRoute some"),
        "True Accepted: but for `b.example` on port 443, which TLSRoute default/old has"
    );
    let said = accepted(&linked, "TLSRoute none");
    assert!(said.starts_with("False Conflicted: `a.example`"), "{said}");
    assert!(
        said.contains("`c.example` on port 443, which TLSRoute default/some has"),
        "{said}"
    );
}

/// A match on what the agent keeps to itself is valid, and never fits.
#[test]
fn what_no_match_sees_is_said() {
    for (name, is_seen) in [
        ("Upgrade", false),
        ("content-length", false),
        ("host", true),
        ("x-one", true),
    ] {
        let spec = format!(
            "{{parentRefs: [{{group: '', kind: Service, name: cart, port: 80}}], rules: [{{matches: [{{headers: [{{name: {name}, value: a}}]}}]}}]}}"
        );
        let linked = routes(&[("HTTPRoute", "r", 1, &spec)]);
        let said = accepted(&linked, "HTTPRoute r");
        assert!(said.starts_with("True "), "{said}");
        assert_eq!(said.contains("rules[0]"), !is_seen, "{name}: {said}");
    }
}

/// Only what is another name has no endpoints.
#[test]
fn a_headless_service_can_answer() {
    let spec = "{parentRefs: [{group: '', kind: Service, name: cart, port: 80}], rules: [{backendRefs: [{name: set, port: 80}]}]}";
    let linked = routes(&[("HTTPRoute", "r", 1, spec)]);
    let resolved = conditions(&linked, "HTTPRoute r", "ResolvedRefs");
    assert_eq!(resolved[0].0, "True", "{resolved:?}");
    // And nobody dials it.
    let spec = "{parentRefs: [{group: '', kind: Service, name: set, port: 80}], rules: [{}]}";
    let linked = routes(&[("HTTPRoute", "r", 1, spec)]);
    assert!(accepted(&linked, "HTTPRoute r").starts_with("False NoMatchingParent: "));
}
