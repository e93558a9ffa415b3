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
fn calls_of_grpc_keep_to_weights() {
    let Some(mesh) = Mesh::new() else { return };
    let rule = SHARES.replace("8080", "7070");
    let filter = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: y}]}}]\n      ";
    // By the kernel one connection is one backend; the agent has ten of them.
    for (filter, carrier, connections) in [("", "kernel", "500"), (filter, "agent", "10")] {
        let rule = format!("{filter}{rule}");
        mesh.routes(
            &Route::new("GRPCRoute", "shares", "echo")
                .port(7070)
                .rule(&rule),
        );
        assert_eq!(mesh.carrier(&format!("{ECHO}:7070")).0, carrier);
        let spread = |number: u32| {
            let method = format!("/echo.Echo/{carrier}-{number}");
            let mut load = mesh.client.command("h2load");
            load.args([
                "-n",
                "500",
                "-c",
                connections,
                "-H",
                "content-type: application/grpc",
                "-H",
                "te: trailers",
            ]);
            let output = load
                .arg(format!("http://{ECHO}:7070{method}"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("500 succeeded, 0 failed"), "{text}");
            [0, 1, 2].map(|it| mesh.heard(it, &method))
        };
        let near = |seen: &[usize; 3]| {
            seen[0].abs_diff(350) <= 25 && seen[1].abs_diff(150) <= 25 && seen[2] == 0
        };
        // As in `Mesh::expect_spread`.
        let all: Vec<[usize; 3]> = (0..5).map(spread).take_while(|it| !near(it)).collect();
        assert!(all.len() < 5, "{carrier}: {all:?}");
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
