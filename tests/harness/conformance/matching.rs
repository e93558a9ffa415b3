//! Which rule a request goes by.

use super::cases::{Case, Check, Step, case};
use super::request::{Expected, Request};
use super::route::Route;

const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";
const V2: &str = "backendRefs: [{name: echo-v2, port: 80}]";
const V3: &str = "backendRefs: [{name: echo-v3, port: 80}]";

pub(super) fn cases() -> Vec<Case> {
    vec![paths(), fields_methods_and_queries(), precedence()]
}

fn rule(matches: &str, to: &str) -> String {
    format!("matches: [{matches}]\n      {to}")
}

fn get(path: &str) -> Request {
    Request::get(&format!("http://<echo>{path}"))
}

/// Returns a check for each row: who is to answer; nobody is 404.
fn checks(rows: Vec<(Request, &'static str)>) -> Vec<Check> {
    let rows = rows.into_iter().map(|(request, backend)| {
        let expected = match backend {
            "" => Expected::status(404),
            backend => Expected::of(backend),
        };
        Check::Once(request, expected)
    });
    rows.collect()
}

fn paths() -> Case {
    let routes = Route::new("HTTPRoute", "paths", "echo").port(80).rules(&[
        rule("{path: {type: Exact, value: /one}}", V1),
        rule("{path: {type: PathPrefix, value: /v2}}", V2),
        rule("{path: {type: PathPrefix, value: /v2/deep/}}", V3),
        rule("{path: {type: Exact, value: /v2/deep/exact}}", V1),
    ]);
    let rows = [
        ("/one", "v1"),
        ("/one?x=1", "v1"),
        ("/one/", ""),
        ("/One", ""),
        ("/one/two", ""),
        ("/v2", "v2"),
        ("/v2/", "v2"),
        ("/v2/example", "v2"),
        ("/v2example", ""),
        ("/v2/deep", "v3"),
        ("/v2/deep/", "v3"),
        ("/v2/deeper", "v2"),
        ("/v2/deep/exact", "v1"),
        ("/v2/deep/exact/", "v3"),
        ("/", ""),
    ];
    let rows = rows.map(|(path, backend)| (get(path), backend));
    case("paths", routes, checks(rows.into()))
}

fn fields_methods_and_queries() -> Case {
    let routes = Route::new("HTTPRoute", "rest", "echo").port(80).rules(&[
        rule("{headers: [{name: Version, value: two}]}", V2),
        rule(
            "{headers: [{name: version, value: two}, {name: Color, value: red}]}",
            V3,
        ),
        rule(
            "{headers: [{name: color, type: RegularExpression, value: \"gr[ae]y\"}]}",
            V1,
        ),
        rule("{method: POST, path: {type: PathPrefix, value: /m}}", V1),
        rule("{method: PUT}, {method: DELETE}", V2),
        rule("{queryParams: [{name: animal, value: whale}]}", V1),
        rule(
            "{queryParams: [{name: animal, value: whale}, {name: sea, value: \"north west\"}]}",
            V3,
        ),
    ]);
    let with = |name, value: &str| get("/").field(name, value);
    let rows = vec![
        (with("version", "two"), "v2"),
        (with("VERSION", "two"), "v2"),
        (with("version", "Two"), ""),
        (with("version", "two").field("color", "red"), "v3"),
        // Field lines of one name are one value.
        (with("version", "two").field("version", "three"), ""),
        (with("color", "grey"), "v1"),
        (with("color", "greyish"), ""),
        (get("/m/x").method("POST"), "v1"),
        (get("/").method("POST"), ""),
        (get("/").method("PUT"), "v2"),
        (get("/m").method("DELETE"), "v2"),
        (get("/m"), ""),
        (get("/?animal=whale"), "v1"),
        (get("/?animal=dolphin"), ""),
        (get("/?animal=dolphin&animal=whale"), ""),
        (get("/?animal=whale&animal=dolphin"), "v1"),
        (get("/?Animal=whale"), ""),
        (get("/?sea=north%20west&animal=whale"), "v3"),
        (get("/?animal=%77hale"), "v1"),
        // A field comes before a query where both have one match.
        (get("/?animal=whale").field("version", "two"), "v2"),
    ];
    case("header_fields_methods_and_queries", routes, checks(rows))
}

/// Times of creation cannot be chosen in a cluster: that the older route comes first is tested with manifests.
fn precedence() -> Case {
    let route = |name| Route::new("HTTPRoute", name, "echo").port(80);
    let long = route("b-long").rules(&[
        rule(
            "{path: {type: PathPrefix, value: /a/b}, headers: [{name: x, value: \"1\"}]}",
            V1,
        ),
        rule("{path: {type: PathPrefix, value: /long/same}}", V1),
    ]);
    let short = route("a-short").rules(&[
        rule("{path: {type: PathPrefix, value: /a}}", V2),
        rule("{path: {type: PathPrefix, value: /same}}", V2),
        rule("{path: {type: PathPrefix, value: /same}}", V3),
        rule(
            "{path: {type: PathPrefix, value: /}, headers: [{name: x, value: \"1\"}]}",
            V3,
        ),
        rule("{path: {type: PathPrefix, value: /a}, method: GET}", V3),
    ]);
    let x = |path| get(path).field("x", "1");
    let rows = vec![
        // The longest prefix wins, and where its fields fail, shorter ones are looked at.
        (x("/a/b"), "v1"),
        (get("/a/b"), "v3"),
        (get("/a/b").method("POST"), "v2"),
        (x("/a").method("POST"), "v2"),
        (x("/"), "v3"),
        // The same match: the order of rules.
        (get("/same"), "v2"),
        (get("/long/same"), "v1"),
    ];
    Case {
        name: "precedence_is_by_match_over_all_routes",
        steps: vec![Step {
            routes: long + &short,
            checks: checks(rows),
        }],
    }
}
