//! Time-outs, retries and their budget.

use super::mesh::{ECHO, Mesh, Route, policy};

const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";

fn route() -> Route {
    Route::new("HTTPRoute", "patient", "echo").port(80)
}

#[test]
fn time_outs() {
    let Some(mesh) = Mesh::new() else { return };
    let one = |path: &str, timeouts: &str| {
        format!(
            "matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n      timeouts: {timeouts}\n      {V1}"
        )
    };
    mesh.routes(&route().rules(&[
        &one("/request", "{request: 300ms}"),
        &one("/backend", "{backendRequest: 300ms}"),
        &one("/none", "{request: 0s}"),
    ]));
    for path in ["request", "backend"] {
        let url = format!("http://{ECHO}/{path}");
        mesh.curl(&[&url]).expect(200, "v1");
        let late = mesh.curl(&[&format!("{url}?delay=10000")]);
        assert_eq!(late.status, 504, "{late:?}");
        let logged = mesh.logged(&format!("{path}?delay"));
        assert_eq!(logged[0]["flags"], serde_json::json!(["UT"]), "{logged:?}");
    }
    mesh.get(&format!("{ECHO}/none?delay=600"))
        .expect(200, "v1");
}

#[test]
fn retries() {
    let Some(mesh) = Mesh::new() else { return };
    let retry = "retry: {codes: [500, 503], attempts: 3, backoff: 10ms}";
    let rule =
        format!("{retry}\n      timeouts: {{backendRequest: 400ms, request: 15s}}\n      {V1}");
    mesh.routes(&route().rule(&rule));
    let url = |query: &str| format!("http://{ECHO}/?{query}");
    // A response that is to be tried again, until there is another one.
    let answer = mesh.curl(&[&url("fail=2&key=a")]);
    assert_eq!(answer.expect(200, "v1").told()["seen"], 3);
    // The last response comes through, whatever it is: four attempts.
    let answer = mesh.curl(&[&url("fail=9&key=b&status=500")]);
    assert_eq!(answer.expect(500, "v1").told()["seen"], 4);
    let logged = mesh.logged("key=b");
    assert_eq!(logged[0]["attempts"], 4, "{logged:?}");
    assert_eq!(logged[0]["flags"], serde_json::json!(["URX"]), "{logged:?}");
    // Of others one is enough, and a body is sent again with each.
    let answer = mesh.curl(&[&url("fail=9&key=c&status=502")]);
    assert_eq!(answer.expect(502, "v1").told()["seen"], 1);
    let answer = mesh.curl(&["--data", "12345", &url("fail=1&key=d")]);
    assert_eq!(
        (&answer.told()["seen"], &answer.told()["body"]),
        (&2.into(), &5.into()),
        "{answer:?}"
    );
    // Each attempt has its time.
    let answer = mesh.curl(&[&url("delay=5000&key=e")]);
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(mesh.heard(0, "key=e"), 4);
    // Connections that break off.
    let answer = mesh.curl(&[&url("close=1&key=f")]);
    assert!([502, 503].contains(&answer.status), "{answer:?}");
    assert_eq!(mesh.heard(0, "key=f"), 4);
}

#[test]
fn retries_find_an_endpoint_that_listens() {
    let Some(mut mesh) = Mesh::new() else { return };
    let own = "backendRefs: [{name: echo, port: 80}]";
    mesh.routes(&route().rule(&format!("retry: {{attempts: 2}}\n      {own}")));
    mesh.servers[0].kill().unwrap();
    let spread = mesh.spread(&format!("http://{ECHO}/"), 100, &[]);
    assert_eq!(spread.get("v2"), Some(&100), "{spread:?}");
    mesh.servers[1].kill().unwrap();
    let answer = mesh.get(&format!("{ECHO}/nobody"));
    assert_eq!(answer.status, 503, "{answer:?}");
    let logged = mesh.logged("/nobody");
    assert!(logged[0]["flags"].to_string().contains("UF"), "{logged:?}");
}

#[test]
fn a_retry_budget_that_is_spent_is_503() {
    let Some(mesh) = Mesh::new() else { return };
    let rule = format!("retry: {{codes: [500], attempts: 5, backoff: 1ms}}\n      {V1}");
    let budget = "  retryConstraint: {budget: {percent: 0, interval: 10s}, minRetryRate: {count: 1, interval: 10s}}";
    mesh.routes(
        &(route().rule(&rule)
            + &policy("XBackendTrafficPolicy", "budget", "name: echo-v1", budget)),
    );
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(mesh.get(&format!("{ECHO}/poor?status=500")).status);
    }
    assert!(statuses.contains(&503), "{statuses:?}");
    assert!(statuses[15..].iter().all(|it| *it == 503), "{statuses:?}");
    let heard = mesh.heard(0, "/poor");
    assert!(heard < 30 + 15, "{heard}");
    let logged = mesh.logged("/poor");
    assert!(
        logged
            .iter()
            .any(|it| it["flags"].to_string().contains("UO")),
        "{logged:?}"
    );
}
