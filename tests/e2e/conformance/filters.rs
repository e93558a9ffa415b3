//! Copies of requests, and answers for browsers. What rules and backends change otherwise is in `harness::conformance`.

use super::mesh::{ECHO, Mesh, Route};

const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";

#[test]
fn mirrors() {
    let Some(mesh) = Mesh::new() else { return };
    let mirror = |name: &str, share: &str| {
        format!(
            "- {{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 80}}{share}}}}}\n      "
        )
    };
    let route = Route::new("HTTPRoute", "mirrors", "echo").port(80);
    let set = "- {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-copy, value: also}]}}\n      ";
    let filters = set.to_owned()
        + &mirror("echo-v2", "")
        + &mirror("echo-v3", ", percent: 20")
        + &mirror("absent", "");
    mesh.routes(&route.rule(&format!("filters:\n      {filters}{V1}")));
    let spread = mesh.spread(&format!("http://{ECHO}/all"), 500, &[]);
    assert_eq!(spread.get("v1"), Some(&500), "{spread:?}");
    harness::wait_for("the copies", harness::wait::PATIENCE, || {
        mesh.heard(1, "/all?n=") == 500
    })
    .unwrap();
    // Three standard deviations of a draw of a fifth, 500 times.
    let some = mesh.heard(2, "/all?n=");
    assert!((73..=127).contains(&some), "{some}");
    let log = mesh.servers[1].log();
    assert!(
        log.lines()
            .filter(|it| it.contains("/all?n="))
            .all(|it| it.contains("x-copy"))
    );
    // A body is copied, too; what the copy gets back is nobody's business.
    let answer = mesh.curl(&["--data", "12345", &format!("http://{ECHO}/body")]);
    assert_eq!(answer.expect(200, "v1").told()["body"], 5);
    harness::wait_for("the copy", harness::wait::PATIENCE, || {
        mesh.heard(1, "/body") == 1
    })
    .unwrap();
    let log = mesh.servers[1].log();
    let copy = log.lines().find(|it| it.contains("/body")).unwrap();
    assert!(copy.contains("\"body\":5"), "{copy}");
}

#[test]
fn cors() {
    let Some(mesh) = Mesh::new() else { return };
    let rule = format!(
        "filters: [{{type: CORS, cors: {{allowOrigins: [\"https://www.example.org\", \"https://*.wild.example\"], \
         allowMethods: [GET, PUT], allowHeaders: [x-one, x-two], exposeHeaders: [x-backend], allowCredentials: true, maxAge: 600}}}}]\n      {V1}"
    );
    mesh.routes(&Route::new("HTTPRoute", "cors", "echo").port(80).rule(&rule));
    let url = format!("http://{ECHO}/c");
    let ask = |origin: &str| {
        let origin = format!("origin: {origin}");
        let preflight = [
            "-X",
            "OPTIONS",
            "-H",
            "access-control-request-method: PUT",
            "-H",
            "access-control-request-headers: x-one",
        ];
        mesh.curl(&[&preflight[..], &["-H", &origin, &url]].concat())
    };
    for origin in ["https://www.example.org", "https://a.wild.example"] {
        let answer = ask(origin);
        assert!([200, 204].contains(&answer.status), "{answer:?}");
        assert_eq!(
            answer.field("access-control-allow-origin").as_deref(),
            Some(origin)
        );
        assert_eq!(
            answer.field("access-control-allow-credentials").as_deref(),
            Some("true")
        );
        assert_eq!(
            answer.field("access-control-max-age").as_deref(),
            Some("600")
        );
        let methods = answer.field("access-control-allow-methods").unwrap();
        assert!(
            methods.contains("GET") && methods.contains("PUT"),
            "{methods}"
        );
        let fields = answer.field("access-control-allow-headers").unwrap();
        assert!(fields.contains("x-one"), "{fields}");
        let origin_field = format!("origin: {origin}");
        let actual = mesh.curl(&["-H", &origin_field, &url]);
        assert_eq!(
            actual
                .expect(200, "v1")
                .field("access-control-allow-origin")
                .as_deref(),
            Some(origin)
        );
        assert_eq!(
            actual.field("access-control-expose-headers").as_deref(),
            Some("x-backend")
        );
    }
    let other = ask("https://evil.example");
    assert_eq!(
        other.field("access-control-allow-origin"),
        None,
        "{other:?}"
    );
    let actual = mesh.curl(&["-H", "origin: https://evil.example", &url]);
    assert_eq!(
        actual.field("access-control-allow-origin"),
        None,
        "{actual:?}"
    );
    // Preflights are not the backend's business.
    assert_eq!(mesh.heard(0, "\"method\":\"OPTIONS\""), 0);
}
