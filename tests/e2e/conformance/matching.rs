//! Which rule a request goes by.

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
fn paths() {
    let Some(mesh) = Mesh::new() else { return };
    let route = Route::new("HTTPRoute", "paths", "echo").port(80);
    mesh.routes(&route.rules(&[
        &rule("{path: {type: Exact, value: /one}}", V1),
        &rule("{path: {type: PathPrefix, value: /v2}}", V2),
        &rule("{path: {type: PathPrefix, value: /v2/deep/}}", V3),
        &rule("{path: {type: Exact, value: /v2/deep/exact}}", V1),
    ]));
    check(
        &mesh,
        &[
            (&[], "/one", "v1"),
            (&[], "/one?x=1", "v1"),
            (&[], "/one/", ""),
            (&[], "/One", ""),
            (&[], "/one/two", ""),
            (&[], "/v2", "v2"),
            (&[], "/v2/", "v2"),
            (&[], "/v2/example", "v2"),
            (&[], "/v2example", ""),
            (&[], "/v2/deep", "v3"),
            (&[], "/v2/deep/", "v3"),
            (&[], "/v2/deeper", "v2"),
            (&[], "/v2/deep/exact", "v1"),
            (&[], "/v2/deep/exact/", "v3"),
            (&[], "/", ""),
        ],
    );
    let logged = mesh.logged("/v2example");
    assert_eq!(logged[0]["flags"], serde_json::json!(["NR"]), "{logged:?}");
}

#[test]
fn header_fields_methods_and_queries() {
    let Some(mesh) = Mesh::new() else { return };
    let route = Route::new("HTTPRoute", "rest", "echo").port(80);
    mesh.routes(&route.rules(&[
        &rule("{headers: [{name: Version, value: two}]}", V2),
        &rule(
            "{headers: [{name: version, value: two}, {name: Color, value: red}]}",
            V3,
        ),
        &rule(
            "{headers: [{name: color, type: RegularExpression, value: \"gr[ae]y\"}]}",
            V1,
        ),
        &rule("{method: POST, path: {type: PathPrefix, value: /m}}", V1),
        &rule("{method: PUT}, {method: DELETE}", V2),
        &rule("{queryParams: [{name: animal, value: whale}]}", V1),
        &rule(
            "{queryParams: [{name: animal, value: whale}, {name: sea, value: \"north west\"}]}",
            V3,
        ),
    ]));
    check(
        &mesh,
        &[
            (&["-H", "version: two"], "/", "v2"),
            (&["-H", "VERSION: two"], "/", "v2"),
            (&["-H", "version: Two"], "/", ""),
            (&["-H", "version: two", "-H", "color: red"], "/", "v3"),
            // Field lines of one name are one value.
            (&["-H", "version: two", "-H", "version: three"], "/", ""),
            (&["-H", "color: grey"], "/", "v1"),
            (&["-H", "color: greyish"], "/", ""),
            (&["-X", "POST"], "/m/x", "v1"),
            (&["-X", "POST"], "/", ""),
            (&["-X", "PUT"], "/", "v2"),
            (&["-X", "DELETE"], "/m", "v2"),
            (&[], "/m", ""),
            (&[], "/?animal=whale", "v1"),
            (&[], "/?animal=dolphin", ""),
            (&[], "/?animal=dolphin&animal=whale", ""),
            (&[], "/?animal=whale&animal=dolphin", "v1"),
            (&[], "/?Animal=whale", ""),
            (&[], "/?sea=north%20west&animal=whale", "v3"),
            (&[], "/?animal=%77hale", "v1"),
            // A field comes before a query where both have one match.
            (&["-H", "version: two"], "/?animal=whale", "v2"),
        ],
    );
}

#[test]
fn precedence_is_by_match_over_all_routes() {
    let Some(mesh) = Mesh::new() else { return };
    let route = |name| Route::new("HTTPRoute", name, "echo").port(80);
    let text = route("b-long").rules(&[
        &rule(
            "{path: {type: PathPrefix, value: /a/b}, headers: [{name: x, value: \"1\"}]}",
            V1,
        ),
        &rule("{path: {type: PathPrefix, value: /same}}", V1),
    ]) + &route("a-short").rules(&[
        &rule("{path: {type: PathPrefix, value: /a}}", V2),
        &rule("{path: {type: PathPrefix, value: /same}}", V2),
        &rule("{path: {type: PathPrefix, value: /same}}", V3),
        &rule(
            "{path: {type: PathPrefix, value: /}, headers: [{name: x, value: \"1\"}]}",
            V3,
        ),
        &rule("{path: {type: PathPrefix, value: /a}, method: GET}", V3),
    ]);
    mesh.routes(&text);
    check(
        &mesh,
        &[
            // The longest prefix wins, and where its fields fail, shorter ones are looked at.
            (&["-H", "x: 1"], "/a/b", "v1"),
            (&[], "/a/b", "v3"),
            (&["-X", "POST"], "/a/b", "v2"),
            (&["-X", "POST", "-H", "x: 1"], "/a", "v2"),
            (&["-H", "x: 1"], "/", "v3"),
            // The same match: the name of the route, then the order of rules.
            (&[], "/same", "v2"),
        ],
    );
    // The older route is the first.
    mesh.routes(&text.replace(
        "name: b-long,",
        "name: b-long, creationTimestamp: \"2026-01-01T00:00:00Z\",",
    ));
    check(&mesh, &[(&[], "/same", "v1")]);
}
