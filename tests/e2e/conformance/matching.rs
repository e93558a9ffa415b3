//! Which rule a request goes by, as far as clusters do not run it.

use super::mesh::{ECHO, Mesh, Route};

const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";
const V2: &str = "backendRefs: [{name: echo-v2, port: 80}]";
const V3: &str = "backendRefs: [{name: echo-v3, port: 80}]";

fn rule(matches: &str, to: &str) -> String {
    format!("matches: [{matches}]\n      {to}")
}

/// Checks each row: words of `curl` before the URL, path, and who is to answer; nobody is 404.
fn check(mesh: &Mesh, rows: &[(&[&str], &str, &str)]) {
    for (words, path, backend) in rows {
        let url = format!("http://{ECHO}{path}");
        let answer = mesh.curl(&[words, [url.as_str()].as_slice()].concat());
        let status = if backend.is_empty() { 404 } else { 200 };
        assert_eq!(
            (answer.status, answer.backend().as_str()),
            (status, *backend),
            "{words:?} {path}: {answer:?}"
        );
    }
}

#[test]
fn what_no_rule_matches_is_logged() {
    let Some(mesh) = Mesh::new() else { return };
    let route = Route::new("HTTPRoute", "paths", "echo").port(80);
    mesh.routes(&route.rule(&rule("{path: {type: PathPrefix, value: /v2}}", V2)));
    check(&mesh, &[(&[], "/v2", "v2"), (&[], "/v2example", "")]);
    let logged = mesh.logged("/v2example");
    assert_eq!(logged[0]["flags"], serde_json::json!(["NR"]), "{logged:?}");
}

#[test]
fn names_and_age_decide_between_equal_matches() {
    let Some(mesh) = Mesh::new() else { return };
    let route = |name| Route::new("HTTPRoute", name, "echo").port(80);
    let same = "{path: {type: PathPrefix, value: /same}}";
    let text = route("b-long").rules(&[rule(same, V1)])
        + &route("a-short").rules(&[rule(same, V2), rule(same, V3)]);
    mesh.routes(&text);
    check(&mesh, &[(&[], "/same", "v2")]);
    // The older route is the first.
    mesh.routes(&text.replace(
        "name: b-long,",
        "name: b-long, creationTimestamp: \"2026-01-01T00:00:00Z\",",
    ));
    check(&mesh, &[(&[], "/same", "v1")]);
}
