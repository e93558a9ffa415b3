//! What no route is for, and who listens where.

use super::mesh::{ECHO, Mesh};

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
