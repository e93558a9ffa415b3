//! `GRPCRoute`.

use super::answer::Answer;
use super::mesh::{ECHO, Mesh, Route};

fn call(mesh: &Mesh, path: &str, more: &[&str]) -> Answer {
    let url = format!("http://{ECHO}:7070{path}");
    let words = [
        "--http2-prior-knowledge",
        "-X",
        "POST",
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
    ];
    mesh.curl(&[&words[..], more, &[&url]].concat())
}

#[track_caller]
fn failed(answer: &Answer, code: u32) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.field("grpc-status"),
        Some(code.to_string()),
        "{answer:?}"
    );
}

#[test]
fn calls_go_by_service_method_and_fields() {
    let Some(mesh) = Mesh::new() else { return };
    let to = |number: u32| format!("backendRefs: [{{name: echo-v{number}, port: 7070}}]");
    let rule = |matches: &str, number: u32| format!("matches: [{matches}]\n      {}", to(number));
    mesh.routes(&Route::new("GRPCRoute", "calls", "echo").port(7070).rules(&[
        &rule("{method: {service: a.B, method: One}}", 1),
        &rule("{method: {service: a.B}}", 2),
        &rule("{method: {service: a.B}, headers: [{name: color, value: red}]}", 3),
        &rule("{headers: [{name: color, value: blue}]}", 3),
        &"matches: [{method: {service: a.Absent}}]\n      backendRefs: [{name: absent, port: 7070}]".to_owned(),
        &"matches: [{method: {service: a.Empty}}]\n      backendRefs: [{name: empty, port: 7070}]".to_owned(),
    ].map(|it: &String| it.as_str())));
    for (path, fields, backend) in [
        ("/a.B/One", &[][..], "v1"),
        ("/a.B/Two", &[], "v2"),
        ("/a.B/One", &["-H", "color: red"], "v1"),
        ("/a.B/Two", &["-H", "color: red"], "v3"),
        ("/x.Y/Z", &["-H", "color: blue"], "v3"),
    ] {
        let answer = call(&mesh, path, fields);
        answer.expect(200, backend);
        assert_eq!(answer.told()["version"], "2");
        assert!(answer.body.contains("grpc-status: 0"), "{answer:?}");
    }
    failed(&call(&mesh, "/a.Bb/One", &[]), 12);
    failed(&call(&mesh, "/x.Y/Z", &["-H", "color: green"]), 12);
    failed(&call(&mesh, "/a.Absent/M", &[]), 14);
    failed(&call(&mesh, "/a.Empty/M", &[]), 14);
    for (path, flag) in [("/a.Bb/", "NR"), ("/a.Absent/", "NC"), ("/a.Empty/", "UH")] {
        let logged = mesh.logged(path);
        assert_eq!(logged[0]["flags"], serde_json::json!([flag]), "{logged:?}");
    }
}

#[test]
fn filters_of_calls() {
    let Some(mesh) = Mesh::new() else { return };
    let rule = "filters:\n      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: rule}]}}\n      \
                - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-back, value: rule}], remove: [x-secret]}}\n      \
                - {type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 7070}}}\n      \
                backendRefs: [{name: echo-v1, port: 7070}]";
    mesh.routes(
        &Route::new("GRPCRoute", "calls", "echo")
            .port(7070)
            .rule(rule),
    );
    let answer = call(&mesh, "/a.B/Copied", &["--data-binary", "12345"]);
    assert_eq!(
        answer.expect(200, "v1").saw("x-set").as_deref(),
        Some("rule")
    );
    assert_eq!(answer.field("x-back").as_deref(), Some("rule"));
    assert_eq!(answer.field("x-secret"), None);
    harness::wait_for("the copy", harness::wait::PATIENCE, || {
        mesh.heard(1, "/a.B/Copied") == 1
    })
    .unwrap();
}

#[test]
fn http_of_one_version_goes_on_in_the_other() {
    let Some(mesh) = Mesh::new() else { return };
    let to = |name: &str, port: u16| {
        format!(
            "matches: [{{path: {{type: PathPrefix, value: /{name}}}}}]\n      backendRefs: [{{name: echo-v1, port: {port}}}]"
        )
    };
    mesh.routes(&Route::new("HTTPRoute", "both", "echo").rules(&[&to("h2c", 81), &to("h1", 80)]));
    for (words, path, version) in [
        (&["--http1.1"][..], "/h2c", "2"),
        (&["--http2-prior-knowledge"], "/h1", "1.1"),
        (&["--http2-prior-knowledge"], "/h2c", "2"),
        (&["--http1.1"], "/h1", "1.1"),
    ] {
        let url = format!("http://{ECHO}{path}");
        for data in [
            &[][..],
            &["--data", "12345"],
            &["--data", "12345", "-H", "transfer-encoding: chunked"],
        ] {
            // HTTP/2 has no such coding.
            if data.len() == 4 && words[0] != "--http1.1" {
                continue;
            }
            let answer = mesh.curl(&[words, data, &[&url]].concat());
            let told = answer.expect(200, "v1").told();
            assert_eq!(
                (&told["version"], &told["host"]),
                (&version.into(), &ECHO.into()),
                "{answer:?}"
            );
            let length = if data.is_empty() { 0 } else { 5 };
            assert_eq!(told["body"], length, "{answer:?}");
        }
    }
}
