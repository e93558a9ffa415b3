//! Which connections a route is for.

use super::mesh::{ECHO, ECHO6, Mesh, Route, V2, literal};

const MARKED: &str = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: marked}]}}]\n      \
                      backendRefs: [{name: echo-v2, port: 80}]";

#[test]
fn a_service_without_a_route_is_as_it_was() {
    let Some(mesh) = Mesh::new() else { return };
    let spread = mesh.spread(&format!("http://{ECHO}/"), 60, &["-H", "connection: close"]);
    assert_eq!(
        spread.keys().map(String::as_str).collect::<Vec<_>>(),
        ["v1", "v2"]
    );
    let answer = mesh.curl(&[
        "-H",
        "Host: anybody",
        &format!("http://{ECHO}/a%2Fb//c?x=1"),
    ]);
    assert_eq!(answer.told()["target"], "/a%2Fb//c?x=1", "{answer:?}");
    assert_eq!(answer.told()["host"], "anybody");
    assert_eq!(answer.saw("via"), None);
    assert_eq!(mesh.carrier(&format!("{ECHO}:80")).0, "kernel");
    // Nothing of it went through the agent.
    let metrics = mesh.agent.metrics().unwrap();
    let mut counted = metrics
        .lines()
        .filter(|it| it.starts_with("mesh_http_requests_total{"));
    assert!(
        !counted.any(|it| it.contains("destination_service=\"echo\"")),
        "{metrics}"
    );
}

#[test]
fn a_route_is_for_what_is_dialled_whatever_the_host() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.routes(&Route::new("HTTPRoute", "all", "echo").port(80).rule(MARKED));
    for host in ["echo", "echo-v1", "no.such.host"] {
        let host = format!("Host: {host}");
        for address in [ECHO.to_owned(), format!("[{ECHO6}]")] {
            let answer = mesh.curl(&["-H", &host, &format!("http://{address}/")]);
            answer.expect(200, "v2");
            assert_eq!(answer.field("x-route").as_deref(), Some("marked"));
        }
    }
    // Another service is another destination, though its endpoints and the host are the same.
    let other = mesh.curl(&["-H", "Host: echo", &format!("http://{V2}/")]);
    assert_eq!(other.expect(200, "v2").field("x-route"), None);
    // Another port of the same service.
    let other = mesh.spread(
        &format!("http://{ECHO}:8080/"),
        60,
        &["-H", "connection: close"],
    );
    assert_eq!(other.len(), 2, "{other:?}");
    let answer = mesh.get(&format!("{ECHO}:8080/"));
    assert_eq!(answer.field("x-route"), None);
    // A pod's address.
    for address in mesh.backends[0].addresses() {
        let answer = mesh.get(&format!("{}:8080/", literal(address)));
        assert_eq!(answer.expect(200, "v1").field("x-route"), None);
    }
}

#[test]
fn a_route_without_a_port_is_for_every_port() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.routes(&Route::new("HTTPRoute", "all", "echo").rule(MARKED));
    for port in [80, 8080] {
        let answer = mesh.get(&format!("{ECHO}:{port}/"));
        assert_eq!(
            answer.expect(200, "v2").field("x-route").as_deref(),
            Some("marked")
        );
    }
}

#[test]
fn who_comes_and_goes_has_listeners_while_it_is_there() {
    let Some(mesh) = Mesh::new() else { return };
    let listening = || {
        let shown = mesh
            .guest
            .enter(|| std::fs::read_to_string("/proc/thread-self/net/tcp"));
        let shown = shown.unwrap().unwrap();
        shown.lines().filter(|line| line.contains(" 0A ")).count()
    };
    harness::wait_for("listeners", harness::wait::PATIENCE, || listening() > 0).unwrap();
    std::fs::remove_file(mesh.node.manifests().join("guest.yaml")).unwrap();
    harness::wait_for("no listeners", harness::wait::PATIENCE, || listening() == 0).unwrap();
}
