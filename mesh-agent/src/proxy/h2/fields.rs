//! Fields as the `h2` crate has them, and as the rest of the agent has them.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::l7::message::Fields;
use crate::proxy::h1::may_trail;

/// Fields about one connection (RFC 9113, section 8.2.2), those between a proxy and its client, `Host`, whose place is `:authority`,
/// and `Content-Length`, which goes beside the head.
const NEVER_SENT: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

fn is_among(name: &str, names: &[&str]) -> bool {
    names.iter().any(|it| name.eq_ignore_ascii_case(it))
}

/// Puts a head's fields into `fields`. Crumbs of `Cookie` become one line (RFC 9113, section 8.2.3); `TE` keeps `trailers` alone.
pub(super) fn from_map(map: &HeaderMap, fields: &mut Fields) {
    fields.clear();
    for (name, value) in map {
        let once = fields.contains(name.as_str());
        match name.as_str() {
            name if is_among(name, &NEVER_SENT) => {}
            "te" if once || !offers_trailers(value.as_bytes()) => {}
            "te" => fields.append("te", b"trailers"),
            "cookie" if once => {}
            "cookie" => fields.append("cookie", &crumbs(map)),
            name => fields.append(name, value.as_bytes()),
        }
    }
}

fn crumbs(map: &HeaderMap) -> Vec<u8> {
    let crumbs: Vec<&[u8]> = map
        .get_all(http::header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    crumbs.join(&b"; "[..])
}

fn offers_trailers(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|coding| {
        let name = coding.split(|byte| *byte == b';').next();
        name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

/// Returns the trailers that are passed on.
pub(super) fn from_trailers(map: &HeaderMap) -> Fields {
    let mut fields = Fields::default();
    let allowed = map.iter().filter(|(name, _)| may_trail(name.as_str()));
    for (name, value) in allowed {
        fields.append(name.as_str(), value.as_bytes());
    }
    fields
}

/// Returns the fields of a head as they are sent: without those about a connection.
pub(super) fn to_map(fields: &Fields) -> HeaderMap {
    convert(fields, |name| !is_among(name, &NEVER_SENT))
}

/// Returns trailers as they are sent.
pub(super) fn to_trailers(fields: &Fields) -> HeaderMap {
    convert(fields, may_trail)
}

fn convert(fields: &Fields, pass: impl Fn(&str) -> bool) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields.iter().filter(|field| pass(field.name)) {
        let te = field.name.eq_ignore_ascii_case("te");
        if te && !offers_trailers(field.value) {
            continue;
        }
        let value = if te { b"trailers" } else { field.value };
        // Neither fails for what a parser let in.
        let name = HeaderName::from_bytes(field.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        lines.iter().copied().collect()
    }

    fn from(map: &HeaderMap) -> Fields {
        let mut fields = fields(&[("left", "over")]);
        from_map(map, &mut fields);
        fields
    }

    #[test]
    fn what_is_about_a_connection_is_not_sent() {
        let given = fields(&[
            ("Connection", "x"),
            ("Host", "a"),
            ("Keep-Alive", "1"),
            ("proxy-connection", "x"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAA"),
            ("TE", "gzip, Trailers;q=1"),
            ("X-One", "1"),
            ("x-one", "2"),
        ]);
        let back = from(&to_map(&given));
        let expected = fields(&[("te", "trailers"), ("x-one", "1"), ("x-one", "2")]);
        assert_eq!(back, expected);
        assert!(to_map(&fields(&[("te", "gzip")])).is_empty());
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let mut map = HeaderMap::new();
        for (name, value) in [
            ("cookie", "a=1"),
            ("content-length", "5"),
            ("cookie", "b=2; c=3"),
            ("x", "1"),
        ] {
            map.append(name, HeaderValue::from_static(value));
        }
        let expected = fields(&[("cookie", "a=1; b=2; c=3"), ("x", "1")]);
        assert_eq!(from(&map), expected);
    }

    #[test]
    fn trailers_cannot_change_the_head() {
        let given = fields(&[
            ("grpc-status", "0"),
            ("Content-Length", "9"),
            ("host", "evil"),
            ("transfer-encoding", "chunked"),
            ("authorization", "x"),
            ("x-checksum", "1"),
        ]);
        let map = to_trailers(&given);
        assert_eq!(map.len(), 2);
        let expected = fields(&[("grpc-status", "0"), ("x-checksum", "1")]);
        assert_eq!(from_trailers(&map), expected);
    }

    proptest! {
        #[test]
        fn other_fields_come_back_as_they_went(lines in proptest::collection::vec(("x-[a-z0-9-]{1,9}", "[!-~]([ -~]{0,20}[!-~])?"), 0..20)) {
            let given: Fields = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let back = from(&to_map(&given));
            prop_assert_eq!(back.len(), given.len());
            for field in given.iter() {
                let (was, is): (Vec<_>, Vec<_>) = (given.get_all(field.name).collect(), back.get_all(field.name).collect());
                prop_assert_eq!(was, is);
            }
        }
    }
}
