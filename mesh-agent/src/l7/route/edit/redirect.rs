//! `RequestRedirect`.

use crate::l7::message::{RequestHead, ResponseHead, Scheme, Version};
use crate::l7::route::edit::rewrite::edited;
use crate::model::route::{Redirect, RedirectScheme};

/// Returns the answer that redirects a request. `port` is the one that was dialled (in the mesh: the service's); `prefix` is what
/// [`Selected::prefix`](crate::l7::route::Selected::prefix) says. The query is kept.
pub fn redirect(
    head: &RequestHead,
    edit: &Redirect,
    prefix: Option<usize>,
    port: u16,
) -> ResponseHead {
    let scheme = match edit.scheme {
        Some(RedirectScheme::Http) => Scheme::Http,
        Some(RedirectScheme::Https) => Scheme::Https,
        None => head.scheme,
    };
    let port = match (edit.port, edit.scheme) {
        (Some(port), _) => port.get(),
        (None, Some(_)) => scheme.port(),
        (None, None) => port,
    };
    let host = edit
        .hostname
        .as_deref()
        .unwrap_or_else(|| host(&head.authority));
    let path = match &edit.path {
        Some(path) => edited(head.target.path(), path, prefix),
        None => head.target.path().into(),
    };
    let mut location = format!("{}://{host}", scheme.word());
    if port != scheme.port() {
        location += &format!(":{port}");
    }
    location += &path;
    if let Some(query) = head.target.query() {
        location.push('?');
        location += query;
    }
    ResponseHead {
        status: edit.status,
        version: Version::Http11,
        fields: [("location", location.as_str())].into_iter().collect(),
    }
}

/// Returns an authority without its port.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use http::StatusCode;

    use super::*;
    use crate::l7::route::edit::fields::tests::head;
    use crate::model::route::PathEdit;

    fn edit() -> Redirect {
        Redirect {
            scheme: None,
            hostname: None,
            path: None,
            port: None,
            status: StatusCode::FOUND,
        }
    }

    fn location(authority: &str, target: &str, edit: &Redirect, port: u16) -> String {
        let answer = redirect(&head(authority, target, &[]), edit, Some(4), port);
        assert_eq!(answer.status, edit.status);
        String::from_utf8(answer.fields.get("location").unwrap().to_vec()).unwrap()
    }

    #[test]
    fn ports_come_from_port_then_scheme_then_the_one_dialled() {
        use RedirectScheme::{Http, Https};
        for (scheme, port, dialled, expected) in [
            (None, None, 80, "http://cart/foo/a"),
            (None, None, 8080, "http://cart:8080/foo/a"),
            (None, None, 443, "http://cart:443/foo/a"),
            (None, Some(80), 8080, "http://cart/foo/a"),
            (None, Some(8443), 80, "http://cart:8443/foo/a"),
            (Some(Http), None, 8080, "http://cart/foo/a"),
            (Some(Https), None, 8080, "https://cart/foo/a"),
            (Some(Https), Some(443), 80, "https://cart/foo/a"),
            (Some(Https), Some(80), 80, "https://cart:80/foo/a"),
            (Some(Http), Some(443), 80, "http://cart:443/foo/a"),
        ] {
            let edit = Redirect {
                scheme,
                port: port.and_then(NonZeroU16::new),
                ..edit()
            };
            assert_eq!(location("cart:9999", "/foo/a", &edit, dialled), expected);
        }
    }

    #[test]
    fn host_path_status_and_query() {
        let full = Redirect {
            hostname: Some("example.org".to_owned()),
            path: Some(PathEdit::Full("/x".to_owned())),
            status: StatusCode::PERMANENT_REDIRECT,
            ..edit()
        };
        assert_eq!(
            location("cart", "/foo/a?q=1", &full, 80),
            "http://example.org/x?q=1"
        );
        let prefix = Redirect {
            path: Some(PathEdit::Prefix("/x".to_owned())),
            ..edit()
        };
        assert_eq!(
            location("[::1]:80", "/foo/a", &prefix, 80),
            "http://[::1]/x/a"
        );
        assert_eq!(location("[::1]", "/foo", &prefix, 80), "http://[::1]/x");
    }
}
