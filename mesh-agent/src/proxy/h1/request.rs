//! The head of a request: `httparse` finds its parts, and what the parts may be is decided here.

use http::{Method, StatusCode};
use httparse::{EMPTY_HEADER, Status};

use crate::l7::message::{Fields, RequestHead, Version};
use crate::proxy::exchange::BodySize;
use crate::proxy::h1::limits::{Limits, MAX_FIELDS};
use crate::proxy::h1::names::{self, Known, Nomination};

/// Why a request is answered without being one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What it is answered with.
    pub status: StatusCode,
    /// What is wrong with it, for people.
    pub why: &'static str,
}

/// What the head says besides what is passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Framing {
    pub(super) body: BodySize,
    /// Whether the client wants to send another request after this one.
    pub(super) keep_alive: bool,
    /// Whether trailers of the response are welcome.
    pub(super) trailers: bool,
    /// Whether the client may hold its body back until it is asked for it.
    pub(super) expects: bool,
}

fn refuse<T>(status: StatusCode, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, why })
}

fn bad<T>(why: &'static str) -> Result<T, Refusal> {
    refuse(StatusCode::BAD_REQUEST, why)
}

/// Reads a whole head, whose lines end in CRLF, into `head`.
///
/// A request of HTTP/1.0 may come without `Host`; `head.authority` is empty then.
pub(super) fn parse(
    bytes: &[u8],
    head: &mut RequestHead,
    limits: &Limits,
) -> Result<Framing, Refusal> {
    let mut lines = [EMPTY_HEADER; MAX_FIELDS];
    let most = limits.fields.min(MAX_FIELDS);
    let mut request = httparse::Request::new(&mut lines[..most]);
    match request.parse(bytes) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return bad("the head ends early"),
        Err(error) => return Err(refusal(error, bytes)),
    }
    head.clear();
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return bad("the request line lacks something");
    };
    head.version = match minor {
        0 => Version::Http10,
        _ => Version::Http11,
    };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else {
        return bad("the method is no token");
    };
    head.method = method;
    let mut seen = Seen::default();
    for line in &*request.headers {
        match names::known(line.name) {
            None => head.fields.append(line.name, line.value),
            Some(known) => seen.field(known, line.value, &mut head.fields)?,
        }
    }
    take_target(target, head, seen.host, limits)?;
    if seen.nominates {
        drop_nominated(request.headers, &mut head.fields)?;
    }
    if seen.te_trailers {
        head.fields.append("te", b"trailers");
    }
    let body = seen.body(head.version)?;
    let is_upgrade = seen.upgrades && seen.websocket && head.version == Version::Http11;
    if is_upgrade && head.method == Method::GET && body == BodySize::Empty {
        head.protocol = Some("websocket".to_owned());
    }
    let is_11 = head.version == Version::Http11;
    if !is_11 {
        // It has no meaning there, and is to be ignored (RFC 9110, section 10.1.1): such a client holds nothing back.
        head.fields.remove("expect");
    }
    Ok(Framing {
        body,
        keep_alive: !seen.close && (is_11 || seen.keep_alive),
        trailers: seen.te_trailers,
        expects: head.fields.contains("expect") && is_11,
    })
}

fn refusal(error: httparse::Error, bytes: &[u8]) -> Refusal {
    let (status, why) = match error {
        httparse::Error::TooManyHeaders => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "there are too many fields",
        ),
        httparse::Error::Version if names_a_version(bytes) => (
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "the version is neither 1.0 nor 1.1",
        ),
        httparse::Error::Version => (StatusCode::BAD_REQUEST, "the version is none"),
        httparse::Error::HeaderName => (StatusCode::BAD_REQUEST, "a field's name is no token"),
        httparse::Error::HeaderValue => (
            StatusCode::BAD_REQUEST,
            "a field's value has characters that it may not have",
        ),
        httparse::Error::Token => (StatusCode::BAD_REQUEST, "the request line is malformed"),
        httparse::Error::NewLine => (StatusCode::BAD_REQUEST, "a line ends in CR alone"),
        httparse::Error::Status => (StatusCode::BAD_REQUEST, "this is a response"),
    };
    Refusal { status, why }
}

/// Returns whether the first line has three parts, the last of them something like `HTTP/3.0`.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or(bytes);
    let mut parts = line.split(|byte| *byte == b' ').skip(2);
    let (Some(word), None) = (parts.next(), parts.next()) else {
        return false;
    };
    match word.strip_prefix(b"HTTP/") {
        Some([major, b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        _ => false,
    }
}

/// What was seen of the fields that are for us.
#[derive(Default)]
struct Seen<'b> {
    host: Option<&'b [u8]>,
    length: Option<u64>,
    /// Whether `Transfer-Encoding` stands there, and what its last and its other codings are.
    coded: bool,
    chunked_last: bool,
    chunked_twice: bool,
    other_coding: bool,
    close: bool,
    keep_alive: bool,
    upgrades: bool,
    /// Whether `Connection` names fields that have to go.
    nominates: bool,
    websocket: bool,
    te_trailers: bool,
}

impl<'b> Seen<'b> {
    fn field(&mut self, known: Known, value: &'b [u8], fields: &mut Fields) -> Result<(), Refusal> {
        match known {
            Known::Host if self.host.is_some() => return bad("there are two `Host`"),
            Known::Host => self.host = Some(value),
            Known::ContentLength if self.length.is_some() => {
                return bad("there are two `Content-Length`");
            }
            Known::ContentLength => match length(value) {
                Some(length) => self.length = Some(length),
                None => return bad("`Content-Length` is no number"),
            },
            Known::TransferEncoding => {
                self.coded = true;
                for coding in names::tokens(value) {
                    let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
                    self.chunked_twice |= is_chunked && self.chunked_last;
                    self.other_coding |= !is_chunked;
                    self.chunked_last = is_chunked;
                }
            }
            Known::Connection => {
                for token in names::tokens(value) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrades |= token.eq_ignore_ascii_case(b"upgrade");
                    match names::nomination(token) {
                        Nomination::Remove => self.nominates = true,
                        Nomination::Ignore => {}
                        Nomination::Refuse => {
                            return bad("`Connection` names a field that frames the message");
                        }
                    }
                }
            }
            Known::Te => self.te_trailers |= names::has_token(value, "trailers"),
            // Among others it may be offered; the first offer is the client's wish.
            Known::Upgrade => {
                let mut offers = names::tokens(value);
                self.websocket = offers
                    .next()
                    .is_some_and(|it| it.eq_ignore_ascii_case(b"websocket"));
            }
            Known::Expect if value.eq_ignore_ascii_case(b"100-continue") => {
                fields.set("expect", value);
            }
            Known::Expect => {
                return refuse(
                    StatusCode::EXPECTATION_FAILED,
                    "nothing but 100-continue can be expected",
                );
            }
            Known::Hop => {}
        }
        Ok(())
    }

    fn body(&self, version: Version) -> Result<BodySize, Refusal> {
        match (self.coded, self.length) {
            (false, None) => Ok(BodySize::Empty),
            (false, Some(length)) => Ok(BodySize::Exact(length)),
            (true, Some(_)) => bad("there are `Content-Length` and `Transfer-Encoding`"),
            (true, None) if version == Version::Http10 => {
                bad("HTTP/1.0 has no `Transfer-Encoding`")
            }
            (true, None) if !self.chunked_last => {
                bad("the last coding of `Transfer-Encoding` is not chunked")
            }
            (true, None) if self.chunked_twice => bad("the body is chunked twice"),
            (true, None) if self.other_coding => refuse(
                StatusCode::NOT_IMPLEMENTED,
                "`Transfer-Encoding` is more than chunked",
            ),
            (true, None) => Ok(BodySize::Unknown),
        }
    }
}

/// Returns the number that `Content-Length` is: digits, and nothing else.
pub(super) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}

/// Removes what `Connection` names. It may come after what it names, and so all of it is looked at again.
fn drop_nominated(lines: &[httparse::Header<'_>], fields: &mut Fields) -> Result<(), Refusal> {
    let connection = lines
        .iter()
        .filter(|line| line.name.eq_ignore_ascii_case("connection"));
    for token in connection.flat_map(|line| names::tokens(line.value)) {
        if names::nomination(token) == Nomination::Remove {
            let Ok(name) = str::from_utf8(token) else {
                return bad("`Connection` names what is no field");
            };
            fields.remove(name);
        }
    }
    Ok(())
}

/// Takes the target in any of its forms (RFC 9112, section 3.2), and the authority from it or from `Host`.
fn take_target(
    target: &str,
    head: &mut RequestHead,
    host: Option<&[u8]>,
    limits: &Limits,
) -> Result<(), Refusal> {
    if target.len() > limits.target_bytes {
        return refuse(StatusCode::URI_TOO_LONG, "the target is too long");
    }
    if head.method == Method::CONNECT {
        return refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "tunnels are not made for `CONNECT`",
        );
    }
    if host.is_none() && head.version == Version::Http11 {
        return bad("there is no `Host`");
    }
    if let Some(host) = host {
        take_authority(host, &mut head.authority)?;
    }
    if target.starts_with('/') {
        head.target.set(target);
    } else if target == "*" {
        if head.method != Method::OPTIONS {
            return bad("the target `*` is for `OPTIONS` alone");
        }
        head.target.set(target);
    } else {
        take_absolute(target, head)?;
    }
    check_target(head.target.as_str(), head.target.path())
}

/// Takes `http://authority/path`: the authority wins over `Host`.
fn take_absolute(target: &str, head: &mut RequestHead) -> Result<(), Refusal> {
    let rest = match target.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http://") => rest,
        _ => return bad("the target is neither a path nor an `http` URL"),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    head.authority.clear();
    take_authority(authority.as_bytes(), &mut head.authority)?;
    match path.as_bytes().first() {
        // Section 3.2.4: the server as a whole.
        None if head.method == Method::OPTIONS => head.target.set("*"),
        None => head.target.set("/"),
        Some(b'?') => head.target.set(&format!("/{path}")),
        Some(_) => head.target.set(path),
    }
    Ok(())
}

fn check_target(target: &str, path: &str) -> Result<(), Refusal> {
    let is_plain = |byte: u8| matches!(byte, b'!'..=b'~') && byte != b'#';
    if !target.bytes().all(is_plain) {
        return bad("the target has characters that it may not have");
    }
    if path.contains('\\') {
        return bad("the path has a backslash");
    }
    Ok(())
}

/// Takes host and port, in lower case.
fn take_authority(bytes: &[u8], authority: &mut String) -> Result<(), Refusal> {
    const WHY: &str = "the host is none";
    let Ok(text) = str::from_utf8(bytes) else {
        return bad(WHY);
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return bad(WHY);
            };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return bad(WHY);
            }
            (&text[..address.len() + 2], port)
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (host, port) = text.split_at(end);
            if host.is_empty() || !host.bytes().all(is_of_name) {
                return bad(WHY);
            }
            (host, port)
        }
    };
    let port_is_valid = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some("") => true,
        Some(digits) => {
            digits.bytes().all(|it| it.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
    };
    if !port_is_valid {
        return bad("the host's port is none");
    }
    authority.push_str(host);
    if port.len() > 1 {
        authority.push_str(port);
    }
    authority.make_ascii_lowercase();
    Ok(())
}

/// `reg-name` of RFC 3986: unreserved characters, sub-delimiters, and `%` for encoded ones.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
