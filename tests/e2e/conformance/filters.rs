//! What rules and backends change.

use super::mesh::{ECHO, Mesh, Route};

const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";

#[test]
fn header_fields() {
    let Some(mesh) = Mesh::new() else { return };
    let rule = "filters:\n      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: rule}], \
                add: [{name: X-Add, value: more}], remove: [X-Remove]}}\n      \
                - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Set, value: back}], \
                add: [{name: X-Backend, value: mesh}], remove: [X-Secret]}}\n      \
                backendRefs:\n      - {name: echo-v1, port: 80, filters: [{type: RequestHeaderModifier, \
                requestHeaderModifier: {set: [{name: X-Last, value: backend}], add: [{name: X-Add, value: last}]}}, \
                {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-Last, value: backend}]}}]}";
    mesh.routes(
        &Route::new("HTTPRoute", "fields", "echo")
            .port(80)
            .rule(rule),
    );
    let words = [
        "-H",
        "x-set: client",
        "-H",
        "x-add: client",
        "-H",
        "x-remove: client",
        "-H",
        "x-keep: client",
    ];
    let answer = mesh.curl(&[&words[..], &[&format!("http://{ECHO}/")]].concat());
    answer.expect(200, "v1");
    for (name, value) in [
        ("x-set", Some("rule")),
        ("x-add", Some("client,more,last")),
        ("x-remove", None),
        ("x-keep", Some("client")),
        ("x-last", Some("backend")),
    ] {
        let saw = answer.saw(name).map(|it| it.replace(", ", ","));
        assert_eq!(saw.as_deref(), value, "{name}: {answer:?}");
    }
    assert_eq!(answer.field("x-set").as_deref(), Some("back"));
    let added = answer.field("x-backend").map(|it| it.replace(", ", ","));
    assert_eq!(added.as_deref(), Some("v1,mesh"));
    assert_eq!(answer.field("x-secret"), None);
    assert_eq!(answer.field("x-last").as_deref(), Some("backend"));
}

/// Filter, URL, status, location.
const REDIRECTS: [(&str, &str, u16, &str); 10] = [
    (
        "{hostname: example.org}",
        "/a?b=c",
        302,
        "http://example.org/a?b=c",
    ),
    (
        "{hostname: example.org, statusCode: 301}",
        "/a",
        301,
        "http://example.org/a",
    ),
    (
        "{statusCode: 303, path: {type: ReplaceFullPath, replaceFullPath: /full}}",
        "/p/x",
        303,
        "http://10.96.1.1/full",
    ),
    (
        "{statusCode: 307, path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}",
        "/p/x",
        307,
        "http://10.96.1.1/q/x",
    ),
    (
        "{statusCode: 308, scheme: https}",
        "/p",
        308,
        "https://10.96.1.1/p",
    ),
    ("{port: 8080}", "/p", 302, "http://10.96.1.1:8080/p"),
    ("{port: 80}", "/p", 302, "http://10.96.1.1/p"),
    (
        "{scheme: https, port: 443}",
        "/p",
        302,
        "https://10.96.1.1/p",
    ),
    (
        "{scheme: https, port: 8443}",
        "/p",
        302,
        "https://10.96.1.1:8443/p",
    ),
    ("{scheme: http}", "/p", 302, "http://10.96.1.1/p"),
];

#[test]
fn redirects() {
    let Some(mesh) = Mesh::new() else { return };
    let mut rules = Vec::new();
    for (index, (filter, ..)) in REDIRECTS.iter().enumerate() {
        rules.push(format!(
            "matches: [{{path: {{type: PathPrefix, value: /{}}}, headers: [{{name: x-case, value: \"{index}\"}}]}}]\n      \
             filters: [{{type: RequestRedirect, requestRedirect: {filter}}}]",
            if filter.contains("path") { "p" } else { "" }
        ));
    }
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    mesh.routes(&Route::new("HTTPRoute", "redirects", "echo").rules(&rules));
    for (index, (filter, path, status, location)) in REDIRECTS.iter().enumerate() {
        let case = format!("x-case: {index}");
        let answer = mesh.curl(&["-H", &case, &format!("http://{ECHO}{path}")]);
        let told = answer.field("location");
        assert_eq!(
            (answer.status, told.as_deref()),
            (*status, Some(*location)),
            "{filter}"
        );
    }
    // Where nothing says the port, it is the one that was dialled.
    let answer = mesh.curl(&["-H", "x-case: 0", &format!("http://{ECHO}:8080/a")]);
    assert_eq!(
        answer.field("location").as_deref(),
        Some("http://example.org:8080/a")
    );
    assert_eq!(mesh.heard(0, "x-case"), 0);
}

/// Prefix that matches, filter, path, what the backend gets, and for which host.
const REWRITES: [(&str, &str, &str, &str, &str); 9] = [
    (
        "/p1",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}",
        "/p1/x?y=z",
        "/q/x?y=z",
        ECHO,
    ),
    (
        "/p2",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /q/}}",
        "/p2/x",
        "/q/x",
        ECHO,
    ),
    (
        "/p3/",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}",
        "/p3",
        "/q",
        ECHO,
    ),
    (
        "/p4",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}",
        "/p4/",
        "/q/",
        ECHO,
    ),
    (
        "/p5",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}",
        "/p5/x",
        "/x",
        ECHO,
    ),
    (
        "/p6",
        "{path: {type: ReplacePrefixMatch, replacePrefixMatch: \"\"}}",
        "/p6",
        "/",
        ECHO,
    ),
    (
        "/p7",
        "{path: {type: ReplaceFullPath, replaceFullPath: /full}}",
        "/p7/x?y=z",
        "/full?y=z",
        ECHO,
    ),
    (
        "/p8",
        "{hostname: inner.example}",
        "/p8/x",
        "/p8/x",
        "inner.example",
    ),
    (
        "/p9",
        "{hostname: both.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}",
        "/p9",
        "/q",
        "both.example",
    ),
];

#[test]
fn rewrites() {
    let Some(mesh) = Mesh::new() else { return };
    let rules: Vec<String> = REWRITES
        .iter()
        .map(|(prefix, filter, ..)| {
            format!(
                "matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}]\n      \
                 filters: [{{type: URLRewrite, urlRewrite: {filter}}}]\n      {V1}"
            )
        })
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    mesh.routes(
        &Route::new("HTTPRoute", "rewrites", "echo")
            .port(80)
            .rules(&rules),
    );
    for (_, filter, path, target, host) in REWRITES {
        let answer = mesh.get(&format!("{ECHO}{path}"));
        let told = answer.expect(200, "v1").told();
        assert_eq!(
            (&told["target"], &told["host"]),
            (&target.into(), &host.into()),
            "{filter}"
        );
    }
}

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
