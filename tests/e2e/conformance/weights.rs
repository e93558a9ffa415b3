//! Shares of backends.

use super::mesh::{ECHO, ECHO6, Mesh, Route};

const SHARES: &str = "backendRefs: [{name: echo-v1, port: 8080, weight: 70}, {name: echo-v2, port: 8080, weight: 30}, \
                      {name: echo-v3, port: 8080, weight: 0}]";

/// So that each request is a connection.
const CLOSE: [&str; 2] = ["-H", "connection: close"];

#[test]
fn the_kernel_keeps_to_weights() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.routes(&Route::new("HTTPRoute", "shares", "echo").rule(SHARES));
    assert_eq!(mesh.carrier(&format!("{ECHO}:80")).0, "kernel");
    for address in [ECHO.to_owned(), format!("[{ECHO6}]")] {
        mesh.expect_spread(
            &format!("http://{address}/"),
            &CLOSE,
            &[("v1", 70), ("v2", 30)],
        );
    }
}

#[test]
fn the_agent_keeps_to_weights_also_within_a_connection() {
    let Some(mesh) = Mesh::new() else { return };
    let filter = |name: &str, weight: u32| {
        format!(
            "{{name: echo-{name}, port: 8080, weight: {weight}, filters: [{{type: RequestHeaderModifier, \
             requestHeaderModifier: {{set: [{{name: x-for, value: {name}}}]}}}}]}}"
        )
    };
    let rule = format!(
        "backendRefs: [{}, {}, {}]",
        filter("v1", 70),
        filter("v2", 30),
        filter("v3", 0)
    );
    mesh.routes(&Route::new("HTTPRoute", "shares", "echo").rule(&rule));
    assert_eq!(mesh.carrier(&format!("{ECHO}:80")).0, "agent");
    for address in [ECHO.to_owned(), format!("[{ECHO6}]")] {
        mesh.expect_spread(
            &format!("http://{address}/"),
            &[],
            &[("v1", 70), ("v2", 30)],
        );
    }
    // The filter of a backend is for that backend's requests alone.
    for number in 0..2 {
        let name = ["v1", "v2"][number];
        let log = mesh.servers[number].log();
        let asked = log.lines().filter(|line| line.contains("?n="));
        let right = format!("[\"x-for\",\"{name}\"]");
        assert!(
            asked.clone().count() > 0 && asked.clone().all(|it| it.contains(&right)),
            "{log}"
        );
    }
}

#[test]
fn grpc_by_weights() {
    let Some(mesh) = Mesh::new() else { return };
    let rule = SHARES.replace("8080", "7070");
    let filter = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: y}]}}]\n      ";
    for (filter, carrier) in [("", "kernel"), (filter, "agent")] {
        let rule = format!("{filter}{rule}");
        mesh.routes(
            &Route::new("GRPCRoute", "shares", "echo")
                .port(7070)
                .rule(&rule),
        );
        assert_eq!(mesh.carrier(&format!("{ECHO}:7070")).0, carrier);
        let url = format!("http://{ECHO}:7070/echo.Echo/Say");
        let call = [
            "--http2-prior-knowledge",
            "-H",
            "content-type: application/grpc",
            "-H",
            "te: trailers",
            "--data",
            "0",
        ];
        // By the kernel one connection is one backend.
        if carrier == "agent" {
            mesh.expect_spread(&url, &call, &[("v1", 70), ("v2", 30)]);
        } else {
            assert_eq!(mesh.spread(&url, 20, &call).len(), 1);
        }
    }
}

#[test]
fn shares_that_nobody_can_answer() {
    let Some(mesh) = Mesh::new() else { return };
    let route = Route::new("HTTPRoute", "shares", "echo").port(80);
    // Gateway API: a backend that does not exist is answered with 500, one without endpoints with 503.
    let half = |name: &str| {
        format!("backendRefs: [{{name: echo-v1, port: 80}}, {{name: {name}, port: 80}}]")
    };
    mesh.routes(&route.rule(&half("absent")));
    mesh.expect_spread(&format!("http://{ECHO}/"), &[], &[("v1", 50), ("500", 50)]);
    let spec = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x, value: y}]}}]\n      ";
    mesh.routes(&route.rule(&(spec.to_owned() + &half("empty"))));
    mesh.expect_spread(&format!("http://{ECHO}/"), &[], &[("v1", 50), ("503", 50)]);
    for (backends, status) in [
        ("[{name: absent, port: 80}]", 500),
        ("[{name: echo-v1, port: 1}]", 500),
        ("[{name: echo-v1, port: 80, weight: 0}]", 500),
        ("[]", 500),
    ] {
        mesh.routes(&route.rule(&format!("backendRefs: {backends}")));
        let answer = mesh.get(&format!("{ECHO}/"));
        assert_eq!(answer.status, status, "{backends}: {answer:?}");
    }
    mesh.routes(&route.rule(&(spec.to_owned() + "backendRefs: [{name: empty, port: 80}]")));
    let answer = mesh.get(&format!("{ECHO}/empty"));
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(mesh.logged("/empty")[0]["flags"], serde_json::json!(["UH"]));
}
