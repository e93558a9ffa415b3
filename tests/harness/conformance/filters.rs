//! What rules and backends change, and for how long they wait.

use super::cases::{Case, Check, case};
use super::request::{Expected, Request};
use super::route::Route;

const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";

pub(super) fn cases() -> Vec<Case> {
    vec![fields(), redirects(), rewrites(), time_outs(), retries()]
}

fn fields() -> Case {
    let rule = "filters:\n      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: rule}], \
                add: [{name: X-Add, value: more}], remove: [X-Remove]}}\n      \
                - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Set, value: back}], \
                add: [{name: X-Backend, value: mesh}], remove: [X-Secret]}}\n      \
                backendRefs:\n      - {name: echo-v1, port: 80, filters: [{type: RequestHeaderModifier, \
                requestHeaderModifier: {set: [{name: X-Last, value: backend}], add: [{name: X-Add, value: last}]}}, \
                {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-Last, value: backend}]}}]}";
    let request = Request::get("http://<echo>/")
        .field("x-set", "client")
        .field("x-add", "client")
        .field("x-remove", "client")
        .field("x-keep", "client");
    let expected = Expected::of("v1")
        .saw("x-set", "rule")
        .saw("x-add", "client,more,last")
        .saw_no("x-remove")
        .saw("x-keep", "client")
        .saw("x-last", "backend")
        .field("x-set", "back")
        .field("x-backend", "v1,mesh")
        .no_field("x-secret")
        .field("x-last", "backend");
    let routes = Route::new("HTTPRoute", "fields", "echo")
        .port(80)
        .rule(rule);
    case(
        "header_fields",
        routes,
        vec![Check::Once(request, expected)],
    )
}

/// Filter, URL, status, location.
const REDIRECTS: [(&str, &str, u16, &str); 10] = [
    (
        "{hostname: example.org}",
        "/a?b=c",
        302,
        "http://example.org/a?b=c",
    ),
    (
        "{hostname: example.org, statusCode: 301}",
        "/a",
        301,
        "http://example.org/a",
    ),
    (
        "{statusCode: 303, path: {type: ReplaceFullPath, replaceFullPath: /full}}",
        "/p/x",
        303,
        "http://<echo>/full",
    ),
    (
        "{statusCode: 307, path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}",
        "/p/x",
        307,
        "http://<echo>/q/x",
    ),
    (
        "{statusCode: 308, scheme: https}",
        "/p",
        308,
        "https://<echo>/p",
    ),
    ("{port: 8080}", "/p", 302, "http://<echo>:8080/p"),
    ("{port: 80}", "/p", 302, "http://<echo>/p"),
    ("{scheme: https, port: 443}", "/p", 302, "https://<echo>/p"),
    (
        "{scheme: https, port: 8443}",
        "/p",
        302,
        "https://<echo>:8443/p",
    ),
    ("{scheme: http}", "/p", 302, "http://<echo>/p"),
];

fn redirects() -> Case {
    let rules = REDIRECTS.iter().enumerate().map(|(index, (filter, ..))| {
        let path = if filter.contains("path") { "p" } else { "" };
        format!(
            "matches: [{{path: {{type: PathPrefix, value: /{path}}}, headers: [{{name: x-case, value: \"{index}\"}}]}}]\n      \
             filters: [{{type: RequestRedirect, requestRedirect: {filter}}}]"
        )
    });
    let rules: Vec<String> = rules.collect();
    let routes = Route::new("HTTPRoute", "redirects", "echo").rules(&rules);
    let rows = REDIRECTS.iter().enumerate();
    let rows = rows.map(|(index, (_, path, status, location))| {
        let request = Request::get(&format!("http://<echo>{path}"));
        let request = request.field("x-case", &index.to_string());
        Check::Once(
            request,
            Expected::status(*status).field("location", location),
        )
    });
    let mut checks: Vec<Check> = rows.collect();
    // Where nothing says the port, it is the one that was dialled.
    let other_port = Request::get("http://<echo>:8080/a").field("x-case", "0");
    let expected = Expected::status(302).field("location", "http://example.org:8080/a");
    checks.push(Check::Once(other_port, expected));
    case("redirects", routes, checks)
}

/// Prefix that matches, filter, path, what the backend gets, and for which host.
const REWRITES: [(&str, &str, &str, &str, &str); 9] = [
    (
        "/p1",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}",
        "/p1/x?y=z",
        "/q/x?y=z",
        "<echo>",
    ),
    (
        "/p2",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /q/}}",
        "/p2/x",
        "/q/x",
        "<echo>",
    ),
    (
        "/p3/",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}",
        "/p3",
        "/q",
        "<echo>",
    ),
    (
        "/p4",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}",
        "/p4/",
        "/q/",
        "<echo>",
    ),
    (
        "/p5",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}",
        "/p5/x",
        "/x",
        "<echo>",
    ),
    (
        "/p6",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: \"\"}}",
        "/p6",
        "/",
        "<echo>",
    ),
    (
        "/p7",
        "{path: {type: ReplaceFullPath, replaceFullPath: /full}}",
        "/p7/x?y=z",
        "/full?y=z",
        "<echo>",
    ),
    (
        "/p8",
        "{hostname: inner.example}",
        "/p8/x",
        "/p8/x",
        "inner.example",
    ),
    (
        "/p9",
        "{hostname: both.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}",
        "/p9",
        "/q",
        "both.example",
    ),
];

fn rewrites() -> Case {
    let rules = REWRITES.map(|(prefix, filter, ..)| {
        format!(
            "matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}]\n      \
             filters: [{{type: URLRewrite, urlRewrite: {filter}}}]\n      {V1}"
        )
    });
    let routes = Route::new("HTTPRoute", "rewrites", "echo")
        .port(80)
        .rules(&rules);
    let checks = REWRITES.map(|(_, _, path, target, host)| {
        let expected = Expected::of("v1").told("target", target).told("host", host);
        Check::Once(Request::get(&format!("http://<echo>{path}")), expected)
    });
    case("rewrites", routes, checks.into())
}

fn time_outs() -> Case {
    let one = |path: &str, timeouts: &str| {
        format!(
            "matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n      timeouts: {timeouts}\n      {V1}"
        )
    };
    let routes = Route::new("HTTPRoute", "patient", "echo").port(80).rules(&[
        one("/request", "{request: 500ms}"),
        one("/backend", "{backendRequest: 500ms}"),
        one("/none", "{request: 0s}"),
    ]);
    let get = |path: &str| Request::get(&format!("http://<echo>{path}"));
    let checks = vec![
        Check::Once(get("/request"), Expected::of("v1")),
        Check::Once(get("/backend"), Expected::of("v1")),
        Check::Once(get("/request?delay=10000"), Expected::status(504)),
        Check::Once(get("/backend?delay=10000"), Expected::status(504)),
        Check::Once(get("/none?delay=1000"), Expected::of("v1")),
    ];
    case("time_outs", routes, checks)
}

fn retries() -> Case {
    let rule = format!("retry: {{codes: [500, 503], attempts: 3, backoff: 10ms}}\n      {V1}");
    let routes = Route::new("HTTPRoute", "patient", "echo")
        .port(80)
        .rule(&rule);
    let get = |query: &str| Request::get(&format!("http://<echo>/?{query}"));
    let checks = vec![
        // Each has its own key; asked once more, none of them fails. So what counts is that the first answer is good already.
        Check::Once(get("fail=2&key=a"), Expected::of("v1")),
        // The last response comes through, whatever it is.
        Check::Once(
            get("fail=1000000&key=b&status=500"),
            Expected {
                status: 500,
                ..Expected::of("v1")
            },
        ),
        // Of others one is enough.
        Check::Once(
            get("fail=1000000&key=c&status=502"),
            Expected {
                status: 502,
                ..Expected::of("v1")
            },
        ),
    ];
    case("retries", routes, checks)
}
