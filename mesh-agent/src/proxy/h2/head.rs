//! Heads of requests and responses, between the `h2` crate's form and the agent's; what a valid one is.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request, response, uri};

use super::fields;
use super::limits::Limits;
use crate::l7::message::{Fields, RequestHead, ResponseHead, Scheme, Target, Version};
use crate::proxy::exchange::BodySize;

/// The one protocol that requests may change to (RFC 8441).
const WEBSOCKET: &str = "websocket";

/// What proves with HTTP/1.1 that both ends speak WebSocket, and what a stream of HTTP/2 proves by itself. The ends of HTTP/1.1 make
/// and check it.
const HANDSHAKE: [&str; 2] = ["sec-websocket-key", "sec-websocket-accept"];

/// Why a stream does not get to be a request: what it is answered with, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) why: &'static str,
}

fn refused<T>(status: StatusCode, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, why })
}

/// Returns a request's head.
pub(super) fn request(parts: request::Parts, limits: &Limits) -> Result<RequestHead, Refusal> {
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    let protocol = protocol.map(|it| it.as_str().to_ascii_lowercase());
    match &protocol {
        None if parts.method == Method::CONNECT => {
            return refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "this is no proxy to connect by",
            );
        }
        Some(it) if it != WEBSOCKET => {
            return refused(StatusCode::NOT_IMPLEMENTED, "only websocket may connect");
        }
        _ => {}
    }
    if parts.headers.len() > limits.header_lines {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return refused(status, "there are too many fields");
    }
    let Some(authority) = authority(&parts.uri, &parts.headers) else {
        let why = "the authority is missing, none, or not what Host says";
        return refused(StatusCode::BAD_REQUEST, why);
    };
    let scheme = match parts.uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return refused(StatusCode::BAD_REQUEST, "the scheme is not one of HTTP"),
    };
    let target = parts.uri.path_and_query().map_or("", |it| it.as_str());
    if target.len() > limits.target {
        return refused(StatusCode::URI_TOO_LONG, "the path is too long");
    }
    let whole_server = target == "*" && parts.method == Method::OPTIONS;
    if !target.starts_with('/') && !whole_server {
        return refused(StatusCode::BAD_REQUEST, "the path is none");
    }
    let mut fields = Fields::default();
    fields::from_map(&parts.headers, &mut fields);
    Ok(RequestHead {
        target: Target::new(target.to_owned()),
        // An upgrade is the same request whatever the version: each end of HTTP/2 makes its own method of it.
        method: match protocol {
            Some(_) => Method::GET,
            None => parts.method,
        },
        scheme,
        authority,
        protocol,
        version: Version::Http2,
        fields,
    })
}

/// Returns `:authority` in lower case if it is there and valid, and `Host`, if any, is the same.
fn authority(uri: &Uri, map: &HeaderMap) -> Option<String> {
    let authority = uri.authority()?;
    let (text, host) = (authority.as_str(), authority.host());
    let port_is_valid = text.len() == host.len() || authority.port_u16().is_some();
    if host.is_empty() || text.contains('@') || !port_is_valid {
        return None;
    }
    let mut hosts = map.get_all(header::HOST).iter();
    let same = hosts
        .next()
        .is_none_or(|it| it.as_bytes().eq_ignore_ascii_case(text.as_bytes()));
    (same && hosts.next().is_none()).then(|| text.to_ascii_lowercase())
}

/// Returns how much body follows a head with these fields. That data and length agree is seen to by the `h2` crate.
pub(super) fn body_size(map: &HeaderMap, ended: bool) -> BodySize {
    if ended {
        return BodySize::Empty;
    }
    let length = map.get(CONTENT_LENGTH);
    let length = length.and_then(|it| it.to_str().ok()?.parse().ok());
    length.map_or(BodySize::Unknown, BodySize::Exact)
}

/// Returns a request as it is sent, or `None` if no request of HTTP/2 says this.
pub(super) fn to_request(head: &RequestHead, body: BodySize) -> Option<http::Request<()>> {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(match head.scheme {
        Scheme::Http => uri::Scheme::HTTP,
        Scheme::Https => uri::Scheme::HTTPS,
    });
    parts.authority = Some(head.authority.parse().ok()?);
    parts.path_and_query = Some(head.target.as_str().parse().ok()?);
    let mut request = http::Request::new(());
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.method_mut() = head.method.clone();
    let mut map = fields::to_map(&head.fields);
    if let Some(protocol) = &head.protocol {
        *request.method_mut() = Method::CONNECT;
        let protocol = h2::ext::Protocol::from(protocol.as_str());
        request.extensions_mut().insert(protocol);
        strip_handshake(&mut map);
    } else if head.method == Method::CONNECT {
        return None;
    } else {
        set_length(&mut map, body);
    }
    *request.headers_mut() = map;
    Some(request)
}

/// Reads a response's head into `head`. How long a body would be is kept of an answer to `HEAD`, and of 304.
pub(super) fn response(parts: &response::Parts, to_head: bool, head: &mut ResponseHead) {
    head.status = parts.status;
    head.version = Version::Http2;
    fields::from_map(&parts.headers, &mut head.fields);
    let length = parts.headers.get(CONTENT_LENGTH);
    if let Some(length) = length
        && (to_head || parts.status == StatusCode::NOT_MODIFIED)
    {
        head.fields
            .append(CONTENT_LENGTH.as_str(), length.as_bytes());
    }
}

/// Returns a response as it is sent; as that to an extended CONNECT if `tunnel`.
pub(super) fn to_response(head: &ResponseHead, body: BodySize, tunnel: bool) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.version_mut() = http::Version::HTTP_2;
    *response.status_mut() = head.status;
    let mut map = fields::to_map(&head.fields);
    if tunnel && head.status == StatusCode::SWITCHING_PROTOCOLS {
        *response.status_mut() = StatusCode::OK;
        strip_handshake(&mut map);
    } else {
        set_length(&mut map, body);
    }
    // An answer to `HEAD`, or 304.
    if let Some(length) = head.fields.get(CONTENT_LENGTH.as_str())
        && body == BodySize::Empty
        && let Ok(length) = HeaderValue::from_bytes(length)
    {
        map.insert(CONTENT_LENGTH, length);
    }
    *response.headers_mut() = map;
    response
}

fn set_length(map: &mut HeaderMap, body: BodySize) {
    if let BodySize::Exact(length) = body {
        map.insert(CONTENT_LENGTH, length.into());
    }
}

fn strip_handshake(map: &mut HeaderMap) {
    for name in HANDSHAKE {
        map.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: Method, uri: &str, fields: &[(&'static str, &str)]) -> request::Parts {
        let mut request = http::Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in fields {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers_mut().append(*name, value);
        }
        request.into_parts().0
    }

    fn parse(parts: request::Parts) -> Result<RequestHead, StatusCode> {
        request(parts, &Limits::default()).map_err(|refusal| refusal.status)
    }

    fn get(uri: &str, fields: &[(&'static str, &str)]) -> Result<RequestHead, StatusCode> {
        parse(parts(Method::GET, uri, fields))
    }

    #[test]
    fn authority_is_needed_and_is_what_host_says() {
        let head = get("http://Shop.Mesh:8080/a?b=c", &[("host", "shop.mesh:8080")]).unwrap();
        assert_eq!(head.authority, "shop.mesh:8080");
        assert_eq!(
            (head.target.path(), head.target.query()),
            ("/a", Some("b=c"))
        );
        assert!(!head.fields.contains("host"));
        for (uri, fields) in [
            ("/a", &[][..]),
            ("/a", &[("host", "shop")]),
            ("http://shop/", &[("host", "evil")]),
            ("http://shop/", &[("host", "shop:80")]),
            ("http://shop/", &[("host", "shop"), ("host", "shop")]),
            ("http://user@shop/", &[]),
            ("http://shop:/", &[]),
            ("http://shop:99999/", &[]),
            ("http://:80/", &[]),
            ("ftp://shop/", &[]),
        ] {
            let Ok(uri) = uri.parse::<Uri>() else {
                continue;
            };
            assert_eq!(
                get(&uri.to_string(), fields),
                Err(StatusCode::BAD_REQUEST),
                "{uri}"
            );
        }
    }

    #[test]
    fn size_is_bounded() {
        let long = format!("http://shop/{}", "a".repeat(16 << 10));
        assert_eq!(get(&long, &[]), Err(StatusCode::URI_TOO_LONG));
        let many = vec![("x", "1"); 101];
        assert_eq!(
            get("http://shop/", &many),
            Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        );
        assert!(get("http://shop/", &many[1..]).is_ok());
    }

    #[test]
    fn connect_is_for_websocket_alone() {
        let plain = parts(Method::CONNECT, "shop:80", &[]);
        assert_eq!(parse(plain), Err(StatusCode::METHOD_NOT_ALLOWED));
        for (protocol, expected) in [
            ("websocket", None),
            ("connect-udp", Some(StatusCode::NOT_IMPLEMENTED)),
        ] {
            let mut extended = parts(Method::CONNECT, "http://shop/chat", &[]);
            extended
                .extensions
                .insert(h2::ext::Protocol::from(protocol));
            assert_eq!(parse(extended).err(), expected);
        }
    }

    #[test]
    fn a_head_comes_back_as_it_went() {
        let mut head = get("https://shop:8443/a/b?c", &[("te", "trailers"), ("x", "1")]).unwrap();
        let (back, ()) = to_request(&head, BodySize::Empty).unwrap().into_parts();
        assert_eq!(parse(back), Ok(head.clone()));
        head.method = Method::OPTIONS;
        head.target = Target::new("*".to_owned());
        let (back, ()) = to_request(&head, BodySize::Empty).unwrap().into_parts();
        assert_eq!(parse(back), Ok(head));
    }

    #[test]
    fn length_is_said_where_it_is_known() {
        let head = get("http://shop/", &[("content-length", "9")]).unwrap();
        assert!(!head.fields.contains("content-length"));
        for (body, expected) in [
            (BodySize::Empty, None),
            (BodySize::Exact(7), Some("7")),
            (BodySize::Unknown, None),
        ] {
            let request = to_request(&head, body).unwrap();
            let length = request.headers().get(CONTENT_LENGTH);
            assert_eq!(length.map(|it| it.to_str().unwrap()), expected);
        }
        // Of what HEAD would get.
        let given = http::Response::builder().header("content-length", "9");
        let (given, ()) = given.body(()).unwrap().into_parts();
        let mut head = ResponseHead::default();
        for (to_head, expected) in [(true, Some("9")), (false, None)] {
            response(&given, to_head, &mut head);
            let sent = to_response(&head, BodySize::Empty, false);
            let length = sent.headers().get(CONTENT_LENGTH);
            assert_eq!(length.map(|it| it.to_str().unwrap()), expected);
        }
    }
}
