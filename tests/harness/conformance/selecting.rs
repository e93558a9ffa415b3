//! Which connections a route is for, and whose.

use super::cases::{Case, Check, Step, case};
use super::request::{Expected, Request};
use super::route::Route;

const MARKED: &str = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: marked}]}}]\n      \
                      backendRefs: [{name: echo-v2, port: 80}]";

const GUESTS: &str = "name: chosen\n      \
                      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: guest}]}}]\n      \
                      backendRefs: [{name: echo-v3, namespace: <mesh>, port: 80}]";

pub(super) fn cases() -> Vec<Case> {
    vec![
        without_a_route(),
        by_what_is_dialled(),
        every_port(),
        guests(),
        network_policy(),
    ]
}

/// So that each request is a connection.
fn closing(url: &str) -> Request {
    Request::get(url).field("connection", "close")
}

fn marked() -> Expected {
    Expected::of("v2").field("x-route", "marked")
}

fn without_a_route() -> Case {
    let as_asked = Expected::of_any(&["v1", "v2"])
        .told("target", "/a%2Fb//c?x=1")
        .told("host", "anybody")
        .saw_no("via");
    let raw = Request::get("http://<echo>/a%2Fb//c?x=1").field("host", "anybody");
    case(
        "a_service_without_a_route_is_as_it_was",
        String::new(),
        vec![
            Check::Spread(closing("http://<echo>/"), vec![("v1", 50), ("v2", 50)]),
            Check::Spread(closing("http://<echo/6>/"), vec![("v1", 50), ("v2", 50)]),
            Check::Once(raw, as_asked),
        ],
    )
}

fn by_what_is_dialled() -> Case {
    let mut checks = Vec::new();
    for host in ["echo", "echo-v1", "no.such.host"] {
        for address in ["<echo>", "<echo/6>"] {
            let request = Request::get(&format!("http://{address}/")).field("host", host);
            checks.push(Check::Once(request, marked()));
        }
    }
    // Another service is another destination, though its endpoints and the host are the same.
    let other = Request::get("http://<echo-v2>/").field("host", "echo");
    checks.push(Check::Once(other, Expected::of("v2").no_field("x-route")));
    // Another port of the same service, and a pod's address.
    for url in [
        "http://<echo>:8080/",
        "http://<pod v1>:8080/",
        "http://<pod v1/6>:8080/",
    ] {
        let expected = Expected::of_any(&["v1", "v2"]).no_field("x-route");
        checks.push(Check::Once(Request::get(url), expected));
    }
    let routes = Route::new("HTTPRoute", "all", "echo").port(80).rule(MARKED);
    case(
        "a_route_is_for_what_is_dialled_whatever_the_host",
        routes,
        checks,
    )
}

fn every_port() -> Case {
    let ports = [80, 8080].map(|port| {
        let request = Request::get(&format!("http://<echo>:{port}/"));
        Check::Once(request, marked())
    });
    let routes = Route::new("HTTPRoute", "all", "echo").rule(MARKED);
    case(
        "a_route_without_a_port_is_for_every_port",
        routes,
        ports.into(),
    )
}

fn guests() -> Case {
    let consumer = Route::new("HTTPRoute", "ours", "echo")
        .within("<guest>")
        .port(80);
    let consumer = consumer.rule(GUESTS);
    let own = "matches: [{path: {type: Exact, value: /own}}]\n      \
               filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-own, value: \"1\"}]}}]\n      \
               backendRefs: [{name: echo-v2, port: 80}]";
    let producer = Route::new("HTTPRoute", "theirs", "echo").port(80).rule(own);
    let url = "http://<echo>/x";
    let chosen = || {
        Expected::of("v3")
            .field("x-route", "guest")
            .no_field("x-own")
    };
    let alone = Step {
        routes: consumer.clone(),
        checks: vec![
            Check::Once(Request::get(url).guest(), chosen()),
            // Nobody else is concerned.
            Check::Once(
                Request::get(url),
                Expected::of_any(&["v1", "v2"]).no_field("x-route"),
            ),
        ],
    };
    let both = Step {
        routes: consumer + &producer,
        // It takes the place of the service's own route, and nothing of that is left for these clients.
        checks: vec![
            Check::Once(
                Request::get("http://<echo>/own"),
                Expected::of("v2").field("x-own", "1"),
            ),
            Check::Once(Request::get(url), Expected::status(404)),
            Check::Once(Request::get("http://<echo>/own").guest(), chosen()),
            Check::Once(Request::get(url).guest(), chosen()),
            // Another port is not the route's.
            Check::Once(
                Request::get("http://<echo>:8080/").guest(),
                Expected::of_any(&["v1", "v2"]).no_field("x-route"),
            ),
        ],
    };
    Case {
        name: "a_route_of_another_namespace_is_for_that_namespaces_clients",
        steps: vec![alone, both],
    }
}

/// Policy judges where a connection goes, whatever was dialled.
fn network_policy() -> Case {
    let guard = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: guard, namespace: <mesh>}\nspec:\n  \
                 podSelector: {matchLabels: {app: client}}\n  policyTypes: [Egress]\n  egress:\n  - to: [{podSelector: {matchLabels: {app: v1}}}]\n";
    let denied = || Expected::status(0);
    case(
        "what_no_policy_allows_is_denied",
        guard.to_owned(),
        vec![
            Check::Once(Request::get("http://<pod v2>:8080/"), denied()),
            Check::Once(Request::get("http://<echo-v2>/"), denied()),
            Check::Once(Request::get("http://<pod v1>:8080/"), Expected::of("v1")),
            Check::Once(Request::get("http://<echo-v1>/"), Expected::of("v1")),
            Check::Once(
                Request::get("http://<echo-v2>/").guest(),
                Expected::of("v2"),
            ),
        ],
    )
}
