//! `GRPCRoute`, and HTTP of one version that goes on in the other.

use super::cases::{Case, Check, case};
use super::request::{Expected, Request};
use super::route::Route;

pub(super) fn cases() -> Vec<Case> {
    vec![calls(), versions()]
}

fn call(path: &str) -> Request {
    Request::get(&format!("http://<echo>:7070{path}")).grpc()
}

fn calls() -> Case {
    let to = |name: &str| format!("backendRefs: [{{name: {name}, port: 7070}}]");
    let rule = |matches: &str, name: &str| format!("matches: [{matches}]\n      {}", to(name));
    let routes = Route::new("GRPCRoute", "calls", "echo").port(7070).rules(&[
        rule("{method: {service: a.B, method: One}}", "echo-v1"),
        rule("{method: {service: a.B}}", "echo-v2"),
        rule(
            "{method: {service: a.B}, headers: [{name: color, value: red}]}",
            "echo-v3",
        ),
        rule("{headers: [{name: color, value: blue}]}", "echo-v3"),
        rule("{method: {service: a.Absent}}", "absent"),
        rule("{method: {service: a.Empty}}", "empty"),
    ]);
    let answered = |backend| {
        Expected::of(backend)
            .field("grpc-status", "0")
            .told("version", "2")
    };
    let failed = |code: &str| Expected::status(200).field("grpc-status", code);
    let red = |path| call(path).field("color", "red");
    let checks = vec![
        Check::Once(call("/a.B/One"), answered("v1")),
        Check::Once(call("/a.B/Two"), answered("v2")),
        Check::Once(red("/a.B/One"), answered("v1")),
        Check::Once(red("/a.B/Two"), answered("v3")),
        Check::Once(call("/x.Y/Z").field("color", "blue"), answered("v3")),
        Check::Once(call("/a.Bb/One"), failed("12")),
        Check::Once(call("/x.Y/Z").field("color", "green"), failed("12")),
        Check::Once(call("/a.Absent/M"), failed("14")),
        Check::Once(call("/a.Empty/M"), failed("14")),
    ];
    case("calls_go_by_service_method_and_fields", routes, checks)
}

fn versions() -> Case {
    let to = |name: &str, port: u16| {
        format!(
            "matches: [{{path: {{type: PathPrefix, value: /{name}}}}}]\n      backendRefs: [{{name: echo-v1, port: {port}}}]"
        )
    };
    let routes = Route::new("HTTPRoute", "both", "echo").rules(&[to("h2c", 81), to("h1", 80)]);
    let rows = [
        (false, "/h2c", "2"),
        (true, "/h1", "1.1"),
        (true, "/h2c", "2"),
        (false, "/h1", "1.1"),
    ];
    let checks = rows.map(|(http2, path, version)| {
        let request = Request::get(&format!("http://<echo>{path}"));
        let request = if http2 { request.http2() } else { request };
        let expected = Expected::of("v1")
            .told("version", version)
            .told("host", "<echo>");
        Check::Once(request, expected)
    });
    case(
        "http_of_one_version_goes_on_in_the_other",
        routes,
        checks.into(),
    )
}
