//! `CORS`: who may read answers across origins, decided at the agent so that services need not.

use http::{Method, StatusCode};

use crate::l7::message::{Fields, RequestHead, ResponseHead, Version};
use crate::model::route::Cors;

/// What the filter does with a request.
#[derive(Clone, PartialEq, Debug)]
pub enum CorsAnswer {
    /// It is a preflight: this is the answer, and the request goes nowhere.
    Preflight(Box<ResponseHead>),
    /// It goes on; the response gets [`cors_fields`] with this origin.
    Actual(String),
    /// It goes on, and the response stays as it is, but for `Vary`: no origin, or one that is not allowed.
    Other,
}

/// Returns what the filter does with a request.
pub fn cors_answer(head: &RequestHead, cors: &Cors) -> CorsAnswer {
    let text = |name| {
        head.fields
            .get(name)
            .and_then(|it| std::str::from_utf8(it).ok())
    };
    let Some(origin) = text("origin") else {
        return CorsAnswer::Other;
    };
    let is_allowed = cors.origins.iter().any(|it| origin_fits(it, origin));
    let asked = text("access-control-request-method");
    let (Some(method), true) = (asked, head.method == Method::OPTIONS) else {
        return match is_allowed {
            true => CorsAnswer::Actual(origin.to_owned()),
            false => CorsAnswer::Other,
        };
    };
    let mut fields = Fields::default();
    if is_allowed {
        allow_origin(&mut fields, cors, origin);
        let all = |list: &[String]| list.iter().any(|it| it == "*");
        let methods = match all(&cors.methods) {
            // With credentials browsers take `*` for a name.
            true if cors.credentials => method.to_owned(),
            true => "*".to_owned(),
            false => cors.methods.join(", "),
        };
        append(&mut fields, "access-control-allow-methods", &methods);
        let asked = text("access-control-request-headers").unwrap_or_default();
        let headers = match all(&cors.headers) {
            true if cors.credentials => asked.to_owned(),
            true => "*".to_owned(),
            false => cors.headers.join(", "),
        };
        append(&mut fields, "access-control-allow-headers", &headers);
        let age = cors.max_age.as_secs().to_string();
        append(&mut fields, "access-control-max-age", &age);
    }
    append(
        &mut fields,
        "vary",
        "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    );
    CorsAnswer::Preflight(Box::new(ResponseHead {
        status: StatusCode::NO_CONTENT,
        version: Version::Http11,
        fields,
    }))
}

/// Adds to a response what lets `origin` read it; what the service itself said of that goes. For another origin, or none (`None`),
/// only that it would look otherwise for this one: a cache is not to give it to that.
pub fn cors_fields(fields: &mut Fields, cors: &Cors, origin: Option<&str>) {
    let is_vary = |line: &[u8]| {
        let mut names = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
    };
    if !fields.get_all("vary").any(is_vary) {
        append(fields, "vary", "Origin");
    }
    let Some(origin) = origin else { return };
    for name in [
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "access-control-expose-headers",
    ] {
        fields.remove(name);
    }
    allow_origin(fields, cors, origin);
    let expose = match cors.credentials && cors.expose.iter().any(|it| it == "*") {
        // With credentials browsers take `*` for a name.
        true => all_names(fields),
        false => cors.expose.join(", "),
    };
    append(fields, "access-control-expose-headers", &expose);
}

/// Returns the names of all fields that there are, but for those that no script may see or that are ours.
fn all_names(fields: &Fields) -> String {
    let mut names: Vec<String> = Vec::new();
    for field in fields.iter() {
        let name = field.name.to_ascii_lowercase();
        let is_hidden = name.starts_with("set-cookie") || name.starts_with("access-control-");
        if !is_hidden && !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

fn allow_origin(fields: &mut Fields, cors: &Cors, origin: &str) {
    let any = cors.origins.iter().any(|it| it == "*") && !cors.credentials;
    let allowed = if any { "*" } else { origin };
    append(fields, "access-control-allow-origin", allowed);
    if cors.credentials {
        append(fields, "access-control-allow-credentials", "true");
    }
}

fn append(fields: &mut Fields, name: &str, value: &str) {
    if !value.is_empty() {
        fields.append(name, value.as_bytes());
    }
}

/// Returns whether an origin is one of those that `allowed` means: `*`, itself, or `scheme://*.suffix`, whose `*` stands for one or more labels.
fn origin_fits(allowed: &str, origin: &str) -> bool {
    if allowed == "*" || allowed.eq_ignore_ascii_case(origin) {
        return true;
    }
    let Some((scheme, suffix)) = allowed.split_once("://*") else {
        return false;
    };
    let Some((given, host)) = origin.split_once("://") else {
        return false;
    };
    let host = host.to_ascii_lowercase();
    let suffix = suffix.to_ascii_lowercase();
    let label = host.strip_suffix(&suffix);
    given.eq_ignore_ascii_case(scheme)
        && label.is_some_and(|label| !label.is_empty() && !label.contains(['/', ':', '@']))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::l7::route::edit::fields::tests::head;

    fn cors() -> Cors {
        Cors {
            origins: vec![
                "https://a.example".to_owned(),
                "https://*.b.example".to_owned(),
            ],
            credentials: true,
            methods: vec!["GET".to_owned(), "PUT".to_owned()],
            headers: vec!["x-one".to_owned()],
            expose: vec!["x-two".to_owned()],
            max_age: Duration::from_secs(5),
        }
    }

    fn preflight(origin: &str, cors: &Cors) -> ResponseHead {
        let mut head = head(
            "cart",
            "/",
            &[
                ("Origin", origin),
                ("Access-Control-Request-Method", "PUT"),
                ("Access-Control-Request-Headers", "x-asked"),
            ],
        );
        head.method = Method::OPTIONS;
        let answer = cors_answer(&head, cors);
        let CorsAnswer::Preflight(answer) = answer else {
            panic!("{answer:?}");
        };
        *answer
    }

    fn get(fields: &Fields, name: &str) -> Option<String> {
        let value = fields.get(&format!("access-control-{name}"))?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    #[test]
    fn origins_fit_whole_or_by_suffix() {
        assert!(origin_fits("*", "null"));
        assert!(origin_fits("https://*.b.example", "https://x.y.b.example"));
        assert!(origin_fits(
            "https://*.b.example:8443",
            "https://x.b.example:8443"
        ));
        for origin in [
            "https://b.example",
            "http://x.b.example",
            "https://x.b.example:1",
            "https://evil/x.b.example",
        ] {
            assert!(!origin_fits("https://*.b.example", origin), "{origin}");
        }
    }

    #[test]
    fn a_preflight_is_answered_here() {
        let answer = preflight("https://x.b.example", &cors());
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        let is = |name: &str| get(&answer.fields, name).unwrap_or_default();
        assert_eq!(is("allow-origin"), "https://x.b.example");
        assert_eq!(is("allow-methods"), "GET, PUT");
        assert_eq!(is("allow-headers"), "x-one");
        assert_eq!(is("allow-credentials"), "true");
        assert_eq!(is("max-age"), "5");
        let refused = preflight("https://evil.example", &cors());
        assert_eq!(get(&refused.fields, "allow-origin"), None);
        assert_eq!(get(&refused.fields, "allow-methods"), None);
    }

    #[test]
    fn a_star_is_what_was_asked_for_where_there_are_credentials() {
        let star = || vec!["*".to_owned()];
        let mut cors = Cors {
            origins: star(),
            methods: star(),
            headers: star(),
            ..cors()
        };
        let answer = preflight("https://any.example", &cors);
        assert_eq!(
            get(&answer.fields, "allow-origin").as_deref(),
            Some("https://any.example")
        );
        assert_eq!(get(&answer.fields, "allow-methods").as_deref(), Some("PUT"));
        assert_eq!(
            get(&answer.fields, "allow-headers").as_deref(),
            Some("x-asked")
        );
        cors.credentials = false;
        let answer = preflight("https://any.example", &cors);
        for name in ["allow-origin", "allow-methods", "allow-headers"] {
            assert_eq!(get(&answer.fields, name).as_deref(), Some("*"), "{name}");
        }
    }

    #[test]
    fn an_actual_request_goes_on() {
        let of = |fields: &[(&str, &str)]| cors_answer(&head("cart", "/", fields), &cors());
        assert_eq!(of(&[]), CorsAnswer::Other);
        assert_eq!(of(&[("origin", "https://evil.example")]), CorsAnswer::Other);
        let origin = "https://a.example";
        assert_eq!(
            of(&[("origin", origin)]),
            CorsAnswer::Actual(origin.to_owned())
        );
        let mut fields: Fields = [("Access-Control-Allow-Origin", "*"), ("x", "1")]
            .into_iter()
            .collect();
        cors_fields(&mut fields, &cors(), Some(origin));
        assert_eq!(get(&fields, "allow-origin").as_deref(), Some(origin));
        assert_eq!(get(&fields, "expose-headers").as_deref(), Some("x-two"));
        assert_eq!(fields.get("vary"), Some(&b"Origin"[..]));
    }

    #[test]
    fn who_may_not_read_it_is_told_by_a_cache_apart() {
        for (vary, expected) in [
            (None, &["Origin"][..]),
            (Some("Accept"), &["Accept", "Origin"]),
            (Some("accept, origin"), &["accept, origin"]),
            (Some("*"), &["*"]),
        ] {
            let mut fields: Fields = vary.iter().map(|it| ("vary", *it)).collect();
            cors_fields(&mut fields, &cors(), None);
            let lines: Vec<&[u8]> = fields.get_all("vary").collect();
            let expected: Vec<&[u8]> = expected.iter().map(|it| it.as_bytes()).collect();
            assert_eq!(lines, expected);
            assert_eq!(get(&fields, "allow-origin"), None);
        }
    }

    #[test]
    fn a_star_of_fields_is_their_names_where_there_are_credentials() {
        let mut cors = Cors {
            expose: vec!["*".to_owned()],
            ..cors()
        };
        let own = [
            ("X-One", "1"),
            ("x-one", "2"),
            ("Set-Cookie", "a=b"),
            ("Etag", "x"),
        ];
        for (credentials, expected) in [(true, "x-one, etag, vary"), (false, "*")] {
            cors.credentials = credentials;
            let mut fields: Fields = own.into_iter().collect();
            cors_fields(&mut fields, &cors, Some("https://a.example"));
            assert_eq!(get(&fields, "expose-headers").as_deref(), Some(expected));
        }
    }
}
