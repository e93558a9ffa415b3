//! Requests that need the agent: a route of Gateway API on a service, between real programs.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::manifest::Acceleration;
use harness::wait::PATIENCE;
use harness::{Running, wait_for};

use crate::world::World;

const VIP: &str = "10.96.0.20";
const VIP6: &str = "fd96::20";

/// Longer than any answer here takes.
const LONG: Duration = Duration::from_secs(30);

/// A world whose server answers HTTP/1.1 behind a service with this route, once a response bears its mark.
fn world(mode: Acceleration, rules: &str) -> Option<(World, Vec<Running>)> {
    let world = World::new(Some(mode))?;
    let site = world.node.files().join("site");
    fs::create_dir_all(&site).unwrap();
    fs::write(site.join("hello"), "hello from the backend\n").unwrap();
    let [v4, v6] = world.pods[1].addresses();
    let mut servers = Vec::new();
    for address in [v4, v6] {
        let site = site.display();
        let web = format!("exec python3 -m http.server -p HTTP/1.1 -d {site} -b {address} 8080");
        servers.push(shell(&world, 1, "web", &web));
    }
    let slice = |family: &str, address: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: site-{}\n  \
             namespace: default\n  labels:\n    kubernetes.io/service-name: site\naddressType: {family}\n\
             endpoints:\n  - addresses: [\"{address}\"]\n    conditions:\n      ready: true\nports:\n  \
             - {{name: http, port: 8080, protocol: TCP}}\n",
            family.to_lowercase()
        )
    };
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: site\n  namespace: default\nspec:\n  clusterIP: {VIP}\n  \
         clusterIPs: [\"{VIP}\", \"{VIP6}\"]\n  ipFamilies: [IPv4, IPv6]\n  ports:\n    \
         - {{name: http, port: 80, targetPort: 8080, protocol: TCP}}\n"
    );
    let route = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: site\n  namespace: default\nspec:\n  \
         parentRefs:\n  - {{group: \"\", kind: Service, name: site}}\n  rules:\n{rules}"
    );
    let text = service + &slice("IPv4", &v4.to_string()) + &slice("IPv6", &v6.to_string()) + &route;
    let draft = world.node.files().join("site.draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, world.node.manifests().join("site.yaml")).unwrap();
    for vip in [VIP.to_owned(), format!("[{VIP6}]")] {
        wait_for("the route to be in force", PATIENCE * 2, || {
            curl(&world, &format!("-m 2 -g http://{vip}/hello")).contains("x-carried-by: underpass")
        })
        .unwrap();
    }
    Some((world, servers))
}

const MARKED: &str = "  - filters:\n    - type: ResponseHeaderModifier\n      responseHeaderModifier:\n        \
     set: [{name: x-carried-by, value: underpass}]\n    backendRefs: [{name: site, port: 80}]\n";

fn shell(world: &World, pod: usize, name: &str, line: &str) -> Running {
    let pod = &world.pods[pod];
    let mut command = pod.command("sh");
    pod.start(name, command.args(["-c", line])).unwrap()
}

/// Programs so far: each has a log of its own.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// Returns head and body of an answer, or what `curl` complains of.
fn curl(world: &World, arguments: &str) -> String {
    let line = format!("curl -si {arguments} 2>&1; echo \"exit $?\"");
    // Each run has a log of its own.
    let name = format!("curl-{}", RUNS.fetch_add(1, Ordering::Relaxed));
    let run = shell(world, 0, &name, &line).success(LONG);
    run.unwrap_or_default()
}

#[test]
fn a_route_is_carried_out_by_the_agent_and_seen() {
    let Some((world, _servers)) = world(Acceleration::On, MARKED) else {
        return;
    };
    let answer = curl(&world, &format!("http://{VIP}/hello"));
    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer:?}");
    assert!(answer.contains("hello from the backend"), "{answer}");
    let metrics = world.agent().metrics().unwrap();
    let counted = metrics
        .lines()
        .find(|line| line.starts_with("mesh_http_requests_total{"));
    let counted = counted.unwrap_or_else(|| panic!("{metrics}"));
    for label in [
        "source=\"client\"",
        "destination_service=\"site\"",
        "route=\"default/site/0\"",
        "status=\"2xx\"",
    ] {
        assert!(counted.contains(label), "{counted}");
    }
    let requests = world.agent().ask(&["flows", "--requests"]).unwrap();
    assert!(requests.contains("/hello"), "{requests}");
    let explained = world
        .agent()
        .ask(&["explain", "default/client", "10.96.0.20:80"]);
    let explained = explained.unwrap();
    assert!(explained.contains("agent"), "{explained}");
}

#[test]
fn without_the_agent_a_route_is_not_passed_by() {
    let Some((mut world, _servers)) = world(Acceleration::On, MARKED) else {
        return;
    };
    world.agent_mut().kill9().unwrap();
    let away = curl(&world, &format!("http://{VIP}/hello"));
    assert!(
        !away.contains("HTTP/1.1") && !away.contains("exit 0"),
        "{away}"
    );
    world.agent_mut().start_again().unwrap();
    wait_for("the route to be in force again", PATIENCE, || {
        curl(&world, &format!("-m 2 http://{VIP}/hello")).contains("x-carried-by: underpass")
    })
    .unwrap();
}
