//! The head of a response, as strictly as that of a request: what an upstream frames ambiguously could be made the client's next
//! response by whoever controls a part of it.

use http::StatusCode;
use httparse::{EMPTY_HEADER, Status};

use crate::l7::message::{ResponseHead, Version};
use crate::proxy::h1::limits::MAX_FIELDS;
use crate::proxy::h1::names::{self, Known, Nomination};
use crate::proxy::h1::request::length;

/// A response's head that cannot be understood, or in two ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// How the body is framed, if the request and the status allow one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delimiter {
    Length(u64),
    Chunked,
    /// The end of the connection.
    Close,
}

/// What the head says besides what is passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Framing {
    pub(super) delimiter: Delimiter,
    /// Whether another request may follow on the connection.
    pub(super) keep_alive: bool,
    /// Whether it says that it switches to `websocket`.
    pub(super) websocket: bool,
}

/// Reads a whole head, whose lines end in CRLF, into `head`. `to_head`: the request was `HEAD`.
pub(super) fn parse(
    bytes: &[u8],
    head: &mut ResponseHead,
    to_head: bool,
) -> Result<Framing, Malformed> {
    let mut lines = [EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut lines);
    let Ok(Status::Complete(_)) = response.parse(bytes) else {
        return Err(Malformed);
    };
    head.clear();
    let (Some(minor), Some(code)) = (response.version, response.code) else {
        return Err(Malformed);
    };
    head.version = match minor {
        0 => Version::Http10,
        _ => Version::Http11,
    };
    // Statuses above 599 have no class, and below 100 no meaning.
    head.status = match code {
        100..=599 => StatusCode::from_u16(code).map_err(|_| Malformed)?,
        _ => return Err(Malformed),
    };
    let mut seen = Seen::default();
    for line in &*response.headers {
        match names::known(line.name) {
            None => head.fields.append(line.name, line.value),
            Some(known) => seen.field(known, line.value)?,
        }
    }
    if seen.nominates {
        let connection = response.headers.iter();
        let connection = connection.filter(|line| line.name.eq_ignore_ascii_case("connection"));
        for token in connection.flat_map(|line| names::tokens(line.value)) {
            if names::nomination(token) == Nomination::Remove {
                head.fields
                    .remove(str::from_utf8(token).map_err(|_| Malformed)?);
            }
        }
    }
    let is_11 = head.version == Version::Http11;
    if seen.coded && !(seen.chunked && is_11) {
        return Err(Malformed);
    }
    if let Some(length) = seen.length
        && !seen.coded
        && (to_head || head.status == StatusCode::NOT_MODIFIED)
    {
        head.fields
            .append("Content-Length", length.to_string().as_bytes());
    }
    Ok(Framing {
        delimiter: match seen.length {
            _ if seen.coded => Delimiter::Chunked,
            Some(length) => Delimiter::Length(length),
            None => Delimiter::Close,
        },
        // Both framings at once are read as the standard says, and then the connection is not trusted any further.
        keep_alive: !seen.close
            && (is_11 || seen.keep_alive)
            && !(seen.coded && seen.length.is_some()),
        websocket: seen.websocket,
    })
}

/// What was seen of the fields that are for us.
#[derive(Default)]
struct Seen {
    length: Option<u64>,
    coded: bool,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    nominates: bool,
    websocket: bool,
}

impl Seen {
    fn field(&mut self, known: Known, value: &[u8]) -> Result<(), Malformed> {
        match known {
            // The same twice is a common mistake, and harmless.
            Known::ContentLength => {
                let length = length(value).ok_or(Malformed)?;
                if self.length.is_some_and(|before| before != length) {
                    return Err(Malformed);
                }
                self.length = Some(length);
            }
            Known::TransferEncoding => {
                if self.coded {
                    return Err(Malformed);
                }
                self.coded = true;
                self.chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            Known::Connection => {
                for token in names::tokens(value) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    match names::nomination(token) {
                        Nomination::Remove => self.nominates = true,
                        Nomination::Ignore => {}
                        Nomination::Refuse => return Err(Malformed),
                    }
                }
            }
            Known::Upgrade => self.websocket |= names::has_token(value, "websocket"),
            Known::Expect | Known::Host | Known::Hop | Known::Te => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(ResponseHead, Framing)> {
        let mut head = ResponseHead::default();
        let framing = super::parse(text.as_bytes(), &mut head, false);
        framing.ok().map(|framing| (head, framing))
    }

    fn with(fields: &str) -> Option<(ResponseHead, Framing)> {
        parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"))
    }

    #[test]
    fn bodies_are_framed_in_one_way() {
        let delimiter = |fields: &str| with(fields).map(|(_, framing)| framing.delimiter);
        assert_eq!(delimiter("X: y"), Some(Delimiter::Close));
        assert_eq!(delimiter("Content-Length: 4"), Some(Delimiter::Length(4)));
        assert_eq!(
            delimiter("Content-Length: 4\r\ncontent-length: 4"),
            Some(Delimiter::Length(4))
        );
        assert_eq!(
            delimiter("Transfer-Encoding: Chunked"),
            Some(Delimiter::Chunked)
        );
        let (head, both) = with("Content-Length: 4\r\nTransfer-Encoding: chunked").unwrap();
        assert_eq!(
            (both.delimiter, both.keep_alive),
            (Delimiter::Chunked, false)
        );
        assert!(head.fields.is_empty());
        for wrong in [
            "Content-Length: 4\r\nContent-Length: 5",
            "Content-Length: 4, 4",
            "Content-Length: +4",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "X : y",
            "X: y\r\n z",
            "X: a\0b",
            "Connection: content-length",
        ] {
            assert!(with(wrong).is_none(), "{wrong:?}");
        }
        for wrong in [
            "HTTP/1.1 99 x\r\n\r\n",
            "HTTP/1.1 600 x\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
        assert!(parse("HTTP/1.1 200\r\n\r\n").is_some());
    }

    #[test]
    fn a_connections_fields_and_lengths_of_nothing() {
        let (head, framing) = with(
            "Connection: close, X-One\r\nX-One: 1\r\nKeep-Alive: x\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nTE: x\r\nX-Two: 2",
        )
        .unwrap();
        assert_eq!(head.fields, [("X-Two", "2")].into_iter().collect());
        assert!(!framing.keep_alive);
        let mut head = ResponseHead::default();
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 123\r\n\r\n";
        super::parse(text, &mut head, true).unwrap();
        assert_eq!(head.fields.get("content-length"), Some(&b"123"[..]));
        let (head, _) = parse("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n").unwrap();
        assert!(head.fields.contains("content-length"));
        let (head, _) = parse("HTTP/1.1 204 x\r\nContent-Length: 9\r\n\r\n").unwrap();
        assert!(head.fields.is_empty());
    }
}
