//! Names and values of fields: which are valid, and which are not simply passed on (RFC 9113, sections 8.2 and 8.3).

/// What a field's name means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing to us.
    Plain,
    /// `:method`.
    Method,
    /// `:scheme`.
    Scheme,
    /// `:authority`.
    Authority,
    /// `:path`.
    Path,
    /// `:status`.
    Status,
    /// `:protocol` (RFC 8441).
    Protocol,
    /// `Host`, whose place is `:authority`.
    Host,
    /// `Content-Length`, which goes beside the head.
    ContentLength,
    /// `TE`.
    Te,
    /// `Cookie`.
    Cookie,
    /// About one connection, which HTTP/2 has no fields for (section 8.2.2): such a message is malformed.
    Connection,
    /// Between a proxy and its client.
    Dropped,
    /// None that a field may have.
    Malformed,
}

impl Kind {
    /// Returns what a name means, as it stands in HTTP/2: in lower case.
    pub fn of(name: &str) -> Self {
        let known = Self::known(name);
        let text = name.strip_prefix(':').filter(|_| known.is_pseudo());
        match is_name(text.unwrap_or(name).as_bytes()) {
            true => known,
            false => Self::Malformed,
        }
    }

    /// Returns what a name means, in any case, that is one of HTTP.
    pub(super) fn known(name: &str) -> Self {
        let candidates: &[(&str, Self)] = match name.len() {
            2 => &[("te", Self::Te)],
            4 => &[("host", Self::Host)],
            5 => &[(":path", Self::Path)],
            6 => &[("cookie", Self::Cookie)],
            7 => &[
                (":method", Self::Method),
                (":scheme", Self::Scheme),
                (":status", Self::Status),
                ("upgrade", Self::Connection),
            ],
            9 => &[(":protocol", Self::Protocol)],
            10 => &[
                (":authority", Self::Authority),
                ("connection", Self::Connection),
                ("keep-alive", Self::Connection),
            ],
            14 => &[
                ("content-length", Self::ContentLength),
                ("http2-settings", Self::Dropped),
            ],
            16 => &[("proxy-connection", Self::Connection)],
            17 => &[("transfer-encoding", Self::Connection)],
            18 => &[("proxy-authenticate", Self::Dropped)],
            19 => &[("proxy-authorization", Self::Dropped)],
            _ => return Self::Plain,
        };
        let found = candidates
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or(Self::Plain, |(_, kind)| *kind)
    }

    /// Returns whether it is one of those that begin a list.
    pub(super) fn is_pseudo(self) -> bool {
        match self {
            Self::Method
            | Self::Scheme
            | Self::Authority
            | Self::Path
            | Self::Status
            | Self::Protocol => true,
            Self::Plain
            | Self::Host
            | Self::ContentLength
            | Self::Te
            | Self::Cookie
            | Self::Connection
            | Self::Dropped
            | Self::Malformed => false,
        }
    }
}

/// Characters of a token (RFC 9110, section 5.6.2), upper case left out.
static NAME: [bool; 256] = names();

const fn names() -> [bool; 256] {
    let mut names = [false; 256];
    let mut at = 0;
    while at < 256 {
        names[at] = matches!(at, 0x61..=0x7a | 0x30..=0x39);
        at += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < marks.len() {
        names[marks[at] as usize] = true;
        at += 1;
    }
    names
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| NAME[usize::from(*byte)])
}

/// Returns whether a value may be one: no control characters but tabs, and no white space around it.
pub(super) fn is_value(value: &[u8]) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !is_space(value.first())
        && !is_space(value.last())
        && value
            .iter()
            .all(|byte| (*byte >= 0x20 && *byte != 0x7f) || *byte == b'\t')
}

/// Returns whether a `TE`, as HTTP/1 has it, offers to take trailers.
pub(super) fn offers_trailers(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|coding| {
        let name = coding.split(|byte| *byte == b';').next();
        name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens_in_lower_case() {
        for (name, kind) in [
            ("x-one", Kind::Plain),
            ("te", Kind::Te),
            (":path", Kind::Path),
            ("upgrade", Kind::Connection),
            ("Te", Kind::Malformed),
            ("X-One", Kind::Malformed),
            (":new", Kind::Malformed),
            ("a b", Kind::Malformed),
            ("a:b", Kind::Malformed),
            ("\u{e4}", Kind::Malformed),
            ("", Kind::Malformed),
        ] {
            assert_eq!(Kind::of(name), kind, "{name}");
        }
        assert_eq!(Kind::known("Transfer-Encoding"), Kind::Connection);
    }

    #[test]
    fn values_are_one_line_without_space_around() {
        for good in [&b""[..], b"a", b"a b\tc", b"\xff\x80"] {
            assert!(is_value(good), "{good:?}");
        }
        for bad in [
            &b" "[..],
            b" a",
            b"a\t",
            b"a\0b",
            b"a\rb",
            b"a\nb",
            b"a\x7f",
        ] {
            assert!(!is_value(bad), "{bad:?}");
        }
    }

    #[test]
    fn trailers_are_offered_among_others() {
        assert!(offers_trailers(b"gzip, Trailers;q=1") && offers_trailers(b"trailers"));
        assert!(!offers_trailers(b"gzip") && !offers_trailers(b"xtrailers"));
    }
}
