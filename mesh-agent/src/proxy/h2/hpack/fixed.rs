//! The table that never changes (RFC 7541, appendix A).

use super::Line;
use crate::proxy::h2::fields::Kind;

/// Its entries; the first is number 1.
const ENTRIES: [(Kind, &str, &str); 61] = [
    (Kind::Authority, ":authority", ""),
    (Kind::Method, ":method", "GET"),
    (Kind::Method, ":method", "POST"),
    (Kind::Path, ":path", "/"),
    (Kind::Path, ":path", "/index.html"),
    (Kind::Scheme, ":scheme", "http"),
    (Kind::Scheme, ":scheme", "https"),
    (Kind::Status, ":status", "200"),
    (Kind::Status, ":status", "204"),
    (Kind::Status, ":status", "206"),
    (Kind::Status, ":status", "304"),
    (Kind::Status, ":status", "400"),
    (Kind::Status, ":status", "404"),
    (Kind::Status, ":status", "500"),
    (Kind::Plain, "accept-charset", ""),
    (Kind::Plain, "accept-encoding", "gzip, deflate"),
    (Kind::Plain, "accept-language", ""),
    (Kind::Plain, "accept-ranges", ""),
    (Kind::Plain, "accept", ""),
    (Kind::Plain, "access-control-allow-origin", ""),
    (Kind::Plain, "age", ""),
    (Kind::Plain, "allow", ""),
    (Kind::Plain, "authorization", ""),
    (Kind::Plain, "cache-control", ""),
    (Kind::Plain, "content-disposition", ""),
    (Kind::Plain, "content-encoding", ""),
    (Kind::Plain, "content-language", ""),
    (Kind::ContentLength, "content-length", ""),
    (Kind::Plain, "content-location", ""),
    (Kind::Plain, "content-range", ""),
    (Kind::Plain, "content-type", ""),
    (Kind::Cookie, "cookie", ""),
    (Kind::Plain, "date", ""),
    (Kind::Plain, "etag", ""),
    (Kind::Plain, "expect", ""),
    (Kind::Plain, "expires", ""),
    (Kind::Plain, "from", ""),
    (Kind::Host, "host", ""),
    (Kind::Plain, "if-match", ""),
    (Kind::Plain, "if-modified-since", ""),
    (Kind::Plain, "if-none-match", ""),
    (Kind::Plain, "if-range", ""),
    (Kind::Plain, "if-unmodified-since", ""),
    (Kind::Plain, "last-modified", ""),
    (Kind::Plain, "link", ""),
    (Kind::Plain, "location", ""),
    (Kind::Plain, "max-forwards", ""),
    (Kind::Dropped, "proxy-authenticate", ""),
    (Kind::Dropped, "proxy-authorization", ""),
    (Kind::Plain, "range", ""),
    (Kind::Plain, "referer", ""),
    (Kind::Plain, "refresh", ""),
    (Kind::Plain, "retry-after", ""),
    (Kind::Plain, "server", ""),
    (Kind::Plain, "set-cookie", ""),
    (Kind::Plain, "strict-transport-security", ""),
    (Kind::Connection, "transfer-encoding", ""),
    (Kind::Plain, "user-agent", ""),
    (Kind::Plain, "vary", ""),
    (Kind::Plain, "via", ""),
    (Kind::Plain, "www-authenticate", ""),
];

/// How many there are.
pub(super) const COUNT: usize = ENTRIES.len();

/// Returns an entry by its number.
pub(super) fn get(number: usize) -> Option<Line<'static>> {
    let (kind, name, value) = ENTRIES.get(number.checked_sub(1)?)?;
    Some(Line {
        kind: *kind,
        name,
        value: value.as_bytes(),
        secret: false,
    })
}

/// Returns the number of the first entry with this name.
pub(super) fn of_name(name: &str) -> Option<usize> {
    let number = match name {
        ":authority" => 1,
        ":method" => 2,
        ":path" => 4,
        ":scheme" => 6,
        ":status" => 8,
        "accept-charset" => 15,
        "accept-encoding" => 16,
        "accept-language" => 17,
        "accept-ranges" => 18,
        "accept" => 19,
        "access-control-allow-origin" => 20,
        "age" => 21,
        "allow" => 22,
        "authorization" => 23,
        "cache-control" => 24,
        "content-disposition" => 25,
        "content-encoding" => 26,
        "content-language" => 27,
        "content-length" => 28,
        "content-location" => 29,
        "content-range" => 30,
        "content-type" => 31,
        "cookie" => 32,
        "date" => 33,
        "etag" => 34,
        "expect" => 35,
        "expires" => 36,
        "from" => 37,
        "host" => 38,
        "if-match" => 39,
        "if-modified-since" => 40,
        "if-none-match" => 41,
        "if-range" => 42,
        "if-unmodified-since" => 43,
        "last-modified" => 44,
        "link" => 45,
        "location" => 46,
        "max-forwards" => 47,
        "proxy-authenticate" => 48,
        "proxy-authorization" => 49,
        "range" => 50,
        "referer" => 51,
        "refresh" => 52,
        "retry-after" => 53,
        "server" => 54,
        "set-cookie" => 55,
        "strict-transport-security" => 56,
        "transfer-encoding" => 57,
        "user-agent" => 58,
        "vary" => 59,
        "via" => 60,
        "www-authenticate" => 61,
        _ => return None,
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_first_entry() {
        for (at, (kind, name, _)) in ENTRIES.iter().enumerate() {
            let first = ENTRIES.iter().position(|it| it.1 == *name).unwrap();
            assert_eq!(of_name(name), Some(first + 1), "{name}");
            assert_eq!(Kind::of(name), *kind, "{name}");
            assert_eq!(get(at + 1).unwrap().name, *name);
        }
        assert_eq!((get(0), get(62), of_name("x")), (None, None, None));
    }
}
