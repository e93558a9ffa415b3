//! Policies: TLS to backends, and what Gateway API has no field for.

use std::time::{Duration, Instant};

use harness::machine::workspace_program;
use harness::wait::PATIENCE;

use super::mesh::{ECHO, Mesh, Route, policy};
use super::secure::Certificates;

const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";

fn tls(hostname: &str, authority: &str) -> String {
    let spec = format!(
        "  validation: {{hostname: {hostname}, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: {authority}}}]}}"
    );
    policy(
        "BackendTLSPolicy",
        "tls",
        "name: echo-v1, sectionName: tls",
        &spec,
    )
}

#[test]
fn tls_to_a_backend_or_nothing() {
    let Some(mesh) = Mesh::new() else { return };
    let certificates = Certificates::new(&mesh, &["a.example"]);
    let server = certificates.serve(&mesh, 0, "a.example");
    let maps = certificates.config_map("ca") + &certificates.config_map("other");
    let route = Route::new("HTTPRoute", "tls", "echo").port(80);
    let route = route.rule("backendRefs: [{name: echo-v1, port: 444}]");
    mesh.routes(&(maps.clone() + &route + &tls("a.example", "ca")));
    mesh.get(&format!("{ECHO}/who")).expect(200, "v1");
    // Without a route, too.
    mesh.get("10.96.1.2:444/who").expect(200, "v1");
    for (hostname, authority) in [
        ("a.example", "other"),
        ("b.example", "ca"),
        ("a.example", "absent"),
    ] {
        mesh.routes(&(maps.clone() + &route + &tls(hostname, authority)));
        for target in [ECHO, "10.96.1.2:444"] {
            let path = format!("/who?{hostname}-{authority}");
            let answer = mesh.get(&format!("{target}{path}"));
            assert!((500..600).contains(&answer.status), "{answer:?}");
            let logged = mesh.logged(&path);
            assert!(logged[0]["flags"].to_string().contains("TLS"), "{logged:?}");
        }
    }
    // A backend that would take plain text gets none.
    drop(server);
    let pod = &mesh.backends[0];
    let mut command = pod.command(workspace_program("peer", "UNDERPASS_PEER").unwrap());
    command.args([
        "answer",
        "--name",
        "plain",
        "--listen",
        &format!("{}:8443", pod.v4()),
    ]);
    let mut plain = pod.start("plain", &mut command).unwrap();
    plain.line("ready", PATIENCE).unwrap();
    mesh.routes(&(maps + &route + &tls("a.example", "ca")));
    for target in [ECHO, "10.96.1.2:444"] {
        let answer = mesh.get(&format!("{target}/who"));
        assert!((500..600).contains(&answer.status), "{answer:?}");
    }
    assert!(!plain.log().contains("/who"), "{}", plain.log());
}

#[test]
fn rate_limits() {
    let Some(mesh) = Mesh::new() else { return };
    let spec = "  rateLimits:\n    - {requests: 3, per: 1h, burst: 3, key: [{header: x-tenant}]}\n    \
                - {requests: 2, per: 1h, algorithm: SlidingWindow, route: default/limited/few}";
    let few =
        format!("name: few\n      matches: [{{path: {{type: Exact, value: /few}}}}]\n      {V1}");
    let route = Route::new("HTTPRoute", "limited", "echo")
        .port(80)
        .rules(&[&few, V1]);
    mesh.routes(&(route + &policy("TrafficPolicy", "limits", "name: echo", spec)));
    let ask = |tenant: &str, path: &str| {
        let tenant = format!("x-tenant: {tenant}");
        mesh.curl(&["-H", &tenant, &format!("http://{ECHO}{path}")])
            .status
    };
    for tenant in ["a", "b"] {
        let statuses: Vec<u16> = (0..5).map(|_| ask(tenant, "/many")).collect();
        assert_eq!(statuses, [200, 200, 200, 429, 429], "{tenant}");
    }
    let statuses: Vec<u16> = ["c", "d", "e"]
        .into_iter()
        .map(|it| ask(it, &format!("/few?{it}")))
        .collect();
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(mesh.logged("/few?e")[0]["flags"], serde_json::json!(["RL"]));
    assert_eq!(mesh.heard(0, "/many"), 6);
    assert_eq!(mesh.heard(0, "/few"), 2);
}

#[test]
fn faults() {
    let Some(mesh) = Mesh::new() else { return };
    let fault = |spec: &str| {
        policy(
            "TrafficPolicy",
            "faults",
            "name: echo",
            &format!("  fault: {spec}"),
        )
    };
    let even =
        fault("{abort: {httpStatus: 418, percent: 50}}") + "  balancing: {algorithm: RoundRobin}\n";
    mesh.routes(&even);
    mesh.expect_spread(
        &format!("http://{ECHO}:8080/"),
        &[],
        &[("418", 50), ("v1", 25), ("v2", 25)],
    );
    mesh.routes(&fault("{delay: {duration: 700ms, percent: 100}}"));
    let start = Instant::now();
    let answer = mesh.get(&format!("{ECHO}:8080/late"));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(start.elapsed() >= Duration::from_millis(700));
    assert_eq!(mesh.logged("/late")[0]["flags"], serde_json::json!(["DI"]));
    mesh.routes(&fault("{abort: {grpcStatus: 14, percent: 100}}"));
    let url = format!("http://{ECHO}:7070/a.B/C");
    let words = [
        "--http2-prior-knowledge",
        "-X",
        "POST",
        "-H",
        "content-type: application/grpc",
    ];
    let answer = mesh.curl(&[&words[..], &[&url]].concat());
    assert_eq!(
        (answer.status, answer.field("grpc-status").as_deref()),
        (200, Some("14"))
    );
}

#[test]
fn a_circuit_breaker_refuses_what_is_too_much() {
    let Some(mesh) = Mesh::new() else { return };
    let route = Route::new("HTTPRoute", "breaker", "echo").port(80).rule(V1);
    let spec = "  circuitBreaker: {maxRequests: 1}";
    mesh.routes(&(route + &policy("TrafficPolicy", "breaker", "name: echo-v1", spec)));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| mesh.get(&format!("{ECHO}/slow?delay=4000")));
        harness::wait_for("the slow request", PATIENCE, || mesh.heard(0, "/slow") == 1).unwrap();
        let answer = mesh.get(&format!("{ECHO}/more"));
        assert_eq!(answer.status, 503, "{answer:?}");
        slow.join().unwrap().expect(200, "v1");
    });
    assert_eq!(mesh.logged("/more")[0]["flags"], serde_json::json!(["UO"]));
    mesh.get(&format!("{ECHO}/again")).expect(200, "v1");
}

#[test]
fn a_request_waits_for_nobody_that_policy_keeps_from_the_backend() {
    let Some(mesh) = Mesh::new() else { return };
    let to = |number: u32| {
        let set = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x, value: y}]}}]";
        format!(
            "matches: [{{path: {{type: PathPrefix, value: /v{number}}}}}]\n      {set}\n      backendRefs: [{{name: echo-v{number}, port: 80}}]"
        )
    };
    let route = Route::new("HTTPRoute", "guarded", "echo")
        .port(80)
        .rules(&[&to(1), &to(2)]);
    mesh.routes(&route);
    for number in [1, 2] {
        mesh.get(&format!("{ECHO}/v{number}"))
            .expect(200, &format!("v{number}"));
    }
    // The client may not go to the second backend: neither directly nor by the agent, which acts for it.
    let guard = format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: guard, namespace: default}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: client}}}}\n  policyTypes: [Egress]\n  egress:\n  - to: [{{ipBlock: {{cidr: 0.0.0.0/0, \
         except: [{}/32]}}}}]\n",
        mesh.backends[1].v4()
    );
    mesh.routes(&(route + &guard));
    mesh.get(&format!("{ECHO}/v1")).expect(200, "v1");
    let direct = mesh.get(&format!("{}:8080/", mesh.backends[1].v4()));
    assert_eq!(direct.status, 0, "{direct:?}");
    let answer = mesh.get(&format!("{ECHO}/v2?denied"));
    let logged = mesh.logged("/v2?denied");
    assert_eq!(answer.status, 403, "{answer:?} {logged:?}");
    assert_eq!(
        logged[0]["flags"],
        serde_json::json!(["UAEX"]),
        "{logged:?}"
    );
    assert_eq!(mesh.heard(1, "denied"), 0);
}

#[test]
fn endpoints_that_answer_badly_give_way_to_the_next_zone() {
    let Some(mesh) = Mesh::with(&["--zone", "a"]) else {
        return;
    };
    let near = |number: usize, zone: &str| {
        let at = mesh.backends[number].v4();
        format!("  - {{addresses: [\"{at}\"], conditions: {{ready: true}}, zone: {zone}}}\n")
    };
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: zones, namespace: default}}\nspec:\n  clusterIP: 10.96.1.30\n  \
         trafficDistribution: PreferClose\n  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: zones-4\n  namespace: default\n  \
         labels: {{kubernetes.io/service-name: zones}}\naddressType: IPv4\nendpoints:\n{}{}\
         ports:\n  - {{name: http, port: 8080, appProtocol: http}}\n",
        near(0, "a"),
        near(1, "b")
    );
    let spec =
        "  outlierDetection: {consecutiveErrors: 3, maxEjectionPercent: 50, baseEjection: 3s}";
    mesh.routes(&(service + &policy("TrafficPolicy", "zones", "name: zones", spec)));
    let url = "10.96.1.30/";
    for _ in 0..10 {
        mesh.get(url).expect(200, "v1");
    }
    // The only endpoint of the zone is ready for all that anybody but its clients knows.
    for _ in 0..3 {
        mesh.get(&format!("{url}?status=503")).expect(503, "v1");
    }
    mesh.get(url).expect(200, "v2");
    harness::wait_for("the end of the ejection", PATIENCE, || {
        mesh.get(url).backend() == "v1"
    })
    .unwrap();
}
