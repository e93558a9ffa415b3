//! Field names that mean something to a proxy, and what a connection's own fields are (RFC 9110, section 7.6.1).

/// A field that is not simply passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    Connection,
    ContentLength,
    Expect,
    Host,
    /// For one connection only, and nothing that we read.
    Hop,
    Te,
    TransferEncoding,
    Upgrade,
}

/// Returns what `name` is, or `None` if it is passed on as it is.
pub(super) fn known(name: &str) -> Option<Known> {
    let candidates: &[(&str, Known)] = match name.len() {
        2 => &[("te", Known::Te)],
        4 => &[("host", Known::Host)],
        6 => &[("expect", Known::Expect)],
        7 => &[("upgrade", Known::Upgrade)],
        10 => &[
            ("connection", Known::Connection),
            ("keep-alive", Known::Hop),
        ],
        14 => &[
            ("content-length", Known::ContentLength),
            ("http2-settings", Known::Hop),
        ],
        16 => &[("proxy-connection", Known::Hop)],
        17 => &[("transfer-encoding", Known::TransferEncoding)],
        18 => &[("proxy-authenticate", Known::Hop)],
        19 => &[("proxy-authorization", Known::Hop)],
        _ => return None,
    };
    let found = candidates
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, known)| *known)
}

/// Returns the elements of a list of tokens, such as the value of `Connection`; empty ones are left out.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = value.split(|byte| *byte == b',');
    elements
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Returns whether a list of tokens has this one, which may have parameters.
pub(super) fn has_token(value: &[u8], token: &str) -> bool {
    tokens(value).any(|it| {
        let end = it.iter().position(|byte| *byte == b';').unwrap_or(it.len());
        it[..end]
            .trim_ascii()
            .eq_ignore_ascii_case(token.as_bytes())
    })
}

/// Fields that `Connection` may not name: they say where a message ends or whom it is for, and a proxy that drops one would see
/// another message than the next does.
const FRAMING: [&str; 3] = ["host", "content-length", "transfer-encoding"];

/// Fields that naming them in `Connection` does not remove: whoever reads them would be deceived by their absence.
const KEPT: [&str; 2] = ["authorization", "cookie"];

/// What naming a field in `Connection` comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nomination {
    /// It goes.
    Remove,
    /// An option of the connection, gone anyway, or one that may not go this way.
    Ignore,
    /// The message is refused.
    Refuse,
}

/// Returns what it comes to that `Connection` names `token`.
pub(super) fn nomination(token: &[u8]) -> Nomination {
    let is = |names: &[&str]| {
        names
            .iter()
            .any(|name| token.eq_ignore_ascii_case(name.as_bytes()))
    };
    if is(&FRAMING) || token.starts_with(b":") {
        return Nomination::Refuse;
    }
    if is(&KEPT) || is(&["close", "keep-alive", "upgrade", "te"]) {
        return Nomination::Ignore;
    }
    Nomination::Remove
}

/// Trailer fields that are dropped: those that frame, route, authenticate or modify a message, or describe its content, which all
/// belong where they are seen before the body (RFC 9110, section 6.5.1).
const NOT_IN_TRAILERS: [&str; 34] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
];

/// Returns whether a field of this name may stand in trailers.
pub fn may_trail(name: &str) -> bool {
    !NOT_IN_TRAILERS
        .iter()
        .any(|forbidden| forbidden.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_knows_its_own_fields() {
        assert_eq!(known("HOST"), Some(Known::Host));
        assert_eq!(known("HTTP2-Settings"), Some(Known::Hop));
        assert_eq!(known("Content-Lengths"), None);
        assert_eq!(known("te"), Some(Known::Te));
        assert_eq!(known("xe"), None);
    }

    #[test]
    fn lists_are_read_with_their_gaps() {
        let all: Vec<_> = tokens(b" , close,, X-a\t,").collect();
        assert_eq!(all, [&b"close"[..], b"X-a"]);
        assert!(has_token(b"gzip;q=0.5, Trailers ; q=1", "trailers"));
        assert!(!has_token(b"xtrailers", "trailers"));
    }

    #[test]
    fn what_frames_a_message_cannot_be_nominated_away() {
        assert_eq!(nomination(b"Content-LENGTH"), Nomination::Refuse);
        assert_eq!(nomination(b":path"), Nomination::Refuse);
        assert_eq!(nomination(b"Cookie"), Nomination::Ignore);
        assert_eq!(nomination(b"x-anything"), Nomination::Remove);
        assert!(!may_trail("Content-Length") && may_trail("grpc-status"));
    }
}
