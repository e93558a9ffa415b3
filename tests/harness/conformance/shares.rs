//! Shares of backends.

use super::cases::{Case, Check, Step};
use super::request::{Expected, Request};
use super::route::Route;

const FILTER: &str = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x, value: y}]}}]\n      ";

pub(super) fn cases() -> Vec<Case> {
    vec![weights(), calls(), nobody()]
}

fn shares(port: u16) -> String {
    format!(
        "backendRefs: [{{name: echo-v1, port: {port}, weight: 70}}, {{name: echo-v2, port: {port}, weight: 30}}, \
         {{name: echo-v3, port: {port}, weight: 0}}]"
    )
}

/// By the kernel, where a connection is a draw; and by the agent, where a request is one.
fn weights() -> Case {
    let route = Route::new("HTTPRoute", "shares", "echo");
    let spread = |request: Request| Check::Spread(request, vec![("v1", 70), ("v2", 30)]);
    let urls = ["http://<echo>/", "http://<echo/6>/"];
    let closing = |url: &str| Request::get(url).field("connection", "close");
    Case {
        name: "requests_are_spread_by_weight",
        steps: vec![
            Step {
                routes: route.rule(&shares(8080)),
                checks: urls.iter().map(|url| spread(closing(url))).collect(),
            },
            Step {
                routes: route.rule(&format!("{FILTER}{}", shares(8080))),
                checks: urls.iter().map(|url| spread(Request::get(url))).collect(),
            },
        ],
    }
}

fn calls() -> Case {
    let rule = format!("{FILTER}{}", shares(7070));
    let routes = Route::new("GRPCRoute", "shares", "echo")
        .port(7070)
        .rule(&rule);
    let call = Request::get("http://<echo>:7070/echo.Echo/Say").grpc();
    Case {
        name: "calls_of_grpc_are_spread_by_weight",
        steps: vec![Step {
            routes,
            checks: vec![Check::Spread(call, vec![("v1", 70), ("v2", 30)])],
        }],
    }
}

/// A backend that does not exist is answered with 500, one without endpoints with 503.
fn nobody() -> Case {
    let route = Route::new("HTTPRoute", "shares", "echo").port(80);
    let get = || Request::get("http://<echo>/");
    let half = |name: &str| {
        format!("{FILTER}backendRefs: [{{name: echo-v1, port: 80}}, {{name: {name}, port: 80}}]")
    };
    let spread = |name: &str, status| Step {
        routes: route.rule(&half(name)),
        checks: vec![Check::Spread(get(), vec![("v1", 50), (status, 50)])],
    };
    let all = |backends: &str, status| Step {
        routes: route.rule(&format!("{FILTER}backendRefs: {backends}")),
        checks: vec![Check::Once(get(), Expected::status(status))],
    };
    Case {
        name: "shares_that_nobody_can_answer",
        steps: vec![
            spread("absent", "500"),
            spread("empty", "503"),
            all("[{name: absent, port: 80}]", 500),
            all("[{name: echo-v1, port: 1}]", 500),
            all("[{name: echo-v1, port: 80, weight: 0}]", 500),
            all("[{name: empty, port: 80}]", 503),
        ],
    }
}
