//! Rules of routes.
#![forbid(unsafe_code)]

use super::rule;
use crate::model::route::{Filter, PathEdit, PathMatch};

fn filter(text: &str) -> Result<Filter, String> {
    rule(&format!("{{filters: [{text}]}}")).map(|rule| rule.filters[0].clone())
}

fn path(sort: &str, field: &str, value: &str) -> [Result<PathEdit, String>; 2] {
    let path = format!("path: {{type: {sort}, {field}: {value}}}");
    [
        format!("{{type: URLRewrite, urlRewrite: {{{path}}}}}"),
        format!("{{type: RequestRedirect, requestRedirect: {{{path}}}}}"),
    ]
    .map(|text| {
        Ok(match filter(&text)? {
            Filter::Rewrite(rewrite) => rewrite.path.unwrap(),
            Filter::Redirect(redirect) => redirect.path.unwrap(),
            other => panic!("{other:?}"),
        })
    })
}

/// A path of a manifest goes into request lines and `Location`: it is a path, or the rule does not count.
#[test]
fn replaced_paths_are_paths() {
    for (value, full, prefix) in [
        ("/a/b", "/a/b", "/a/b"),
        ("foo", "/foo", "/foo"),
        ("''", "/", ""),
        ("/", "/", "/"),
        ("/a/", "/a/", "/a/"),
        ("/a/../b", "/b", "/b"),
        ("/%7eb", "/~b", "/~b"),
        ("/\u{e4}", "/%C3%A4", "/%C3%A4"),
    ] {
        for found in path("ReplaceFullPath", "replaceFullPath", value) {
            assert_eq!(found, Ok(PathEdit::Full(full.to_owned())), "{value}");
        }
        for found in path("ReplacePrefixMatch", "replacePrefixMatch", value) {
            assert_eq!(found, Ok(PathEdit::Prefix(prefix.to_owned())), "{value}");
        }
    }
    for value in [
        "/a b",
        r#""/x HTTP/1.1\r\nX: y""#,
        r#""/x\tb""#,
        r#""/x\u007f""#,
        "/a?b=c",
        "'/a#b'",
        r"/a\b",
        "'/a%'",
        "'/%00'",
    ] {
        let full = path("ReplaceFullPath", "replaceFullPath", value);
        let prefix = path("ReplacePrefixMatch", "replacePrefixMatch", value);
        for found in full.into_iter().chain(prefix) {
            let why = found.unwrap_err();
            assert!(why.contains("is not a path"), "{value}: {why}");
        }
    }
}

/// Names of hosts go into `Host`, `:authority` and `Location`.
#[test]
fn hosts_are_hosts() {
    for (value, good) in [
        ("a.example", true),
        ("192.0.2.1", true),
        ("a b", false),
        ("a_b", false),
        ("user@a", false),
        ("'*.a'", false),
        ("a..b", false),
        ("a:80", false),
        ("a%2f", false),
        (r#""a\r\nX: y""#, false),
    ] {
        for text in [
            format!("{{type: URLRewrite, urlRewrite: {{hostname: {value}}}}}"),
            format!("{{type: RequestRedirect, requestRedirect: {{hostname: {value}}}}}"),
        ] {
            assert_eq!(filter(&text).is_ok(), good, "{text}");
        }
    }
    for (value, good) in [
        ("a.example", true),
        ("'a.example:8080'", true),
        ("'[::1]:80'", true),
        ("Cart", true),
        ("a b", false),
        ("user@a", false),
        ("a/b", false),
        ("''", false),
        ("'a:port'", false),
        ("'a:99999'", false),
    ] {
        let text = format!(
            "{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: host, value: {value}}}]}}}}"
        );
        assert_eq!(filter(&text).is_ok(), good, "{text}");
    }
}

/// Of a request's `Host` nothing else can be done than to set it, and whoever asks for it is told.
#[test]
fn host_is_set_and_nothing_else() {
    for (sort, field, edit, good) in [
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            "add: [{name: Host, value: a}]",
            false,
        ),
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            "remove: [Host]",
            false,
        ),
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            "set: [{name: Host, value: a}]",
            true,
        ),
        (
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            "remove: [Host]",
            true,
        ),
    ] {
        let text = format!("{{type: {sort}, {field}: {{{edit}}}}}");
        assert_eq!(filter(&text).is_ok(), good, "{text}");
    }
}

/// Lists of `CORS` go into fields of answers.
#[test]
fn cors_lists_are_what_a_field_may_hold() {
    for (list, good) in [
        ("allowOrigins: ['*']", true),
        (
            "allowOrigins: ['https://*.example.com', 'http://a:8080', 'http://*']",
            true,
        ),
        ("allowOrigins: ['https://a b']", false),
        (r#"allowOrigins: ["https://a\r\nX: y"]"#, false),
        ("allowOrigins: [a.example]", false),
        ("allowMethods: [GET, PATCH]", true),
        ("allowMethods: ['*']", true),
        (r#"allowMethods: ["GET\r\nX: y"]"#, false),
        ("allowMethods: ['GET POST']", false),
        ("allowHeaders: [X-One, '*']", true),
        (r#"allowHeaders: ["X\r\nY: z"]"#, false),
        ("exposeHeaders: [X-One]", true),
        ("exposeHeaders: ['X, Y']", false),
    ] {
        let text = format!("{{type: CORS, cors: {{{list}}}}}");
        assert_eq!(filter(&text).is_ok(), good, "{text}");
    }
}

/// No path that is no canonical one is a match, and least of all one that would be made to fit everything.
#[test]
fn dots_do_not_climb_in_a_match() {
    for (value, good) in [
        ("/foo/..", false),
        ("/foo/.", false),
        ("/foo/../", false),
        ("/foo/./", false),
        ("/..", false),
        ("/%2e%2e", false),
        ("/foo/%2E", false),
        ("/foo/...", true),
        ("/foo..", true),
        ("/.well-known", true),
    ] {
        for sort in ["PathPrefix", "Exact"] {
            let text = format!("{{matches: [{{path: {{type: {sort}, value: {value}}}}}]}}");
            assert_eq!(rule(&text).is_ok(), good, "{text}");
        }
    }
    let everything = rule("{}").unwrap();
    assert_eq!(everything.matches[0].path, PathMatch::Prefix(String::new()));
}

/// What the definitions allow is no reason to drop a rule.
#[test]
fn what_gateway_api_allows_is_taken() {
    let retry = rule("{retry: {attempts: 5000, codes: [503]}}").unwrap();
    assert_eq!(
        retry.retry.unwrap().attempts,
        100,
        "the rule holds, with as many as are made"
    );
    let mirror = "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}, fraction: {numerator: 1, denominator: 2147483647}}}]}";
    let Filter::Mirror(mirror) = rule(mirror).unwrap().filters[0].clone() else {
        panic!("a mirror");
    };
    assert_eq!((mirror.share, mirror.of), (1, 2_147_483_647));
    for (timeout, seconds) in [("168h", 604_800), ("99999h", 359_996_400)] {
        let text = format!(
            "{{sessionPersistence: {{absoluteTimeout: {timeout}, cookieConfig: {{lifetimeType: Permanent}}}}}}"
        );
        let session = rule(&text).unwrap().session.unwrap();
        assert_eq!(session.timeout.unwrap().as_secs(), seconds);
    }
    // Nobody waits that long for an answer.
    assert!(rule("{timeouts: {request: 168h}}").is_err());
}

/// Each rule has a session of its own, and two that have no name have different ones: a cookie of one is not to take the place of
/// the other's.
#[test]
fn a_session_without_a_name_has_none_here() {
    let session = rule("{sessionPersistence: {}}").unwrap().session.unwrap();
    assert_eq!(session.name, None);
    let session = rule("{sessionPersistence: {sessionName: s}}").unwrap();
    assert_eq!(session.session.unwrap().name.as_deref(), Some("s"));
}

/// A pattern that ends the group around it would not have to fit the whole any more.
#[test]
fn patterns_are_whole() {
    for value in ["'a)|(?:b'", "'a)(b'", "'('"] {
        let text = format!(
            "{{matches: [{{headers: [{{name: x, type: RegularExpression, value: {value}}}]}}]}}"
        );
        assert!(rule(&text).is_err(), "{value}");
    }
}
