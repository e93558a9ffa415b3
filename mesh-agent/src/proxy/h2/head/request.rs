//! A request's head, read line by line.

use http::{Method, StatusCode};

use super::{Length, Malformed, WEBSOCKET};
use crate::l7::message::{RequestHead, Scheme, Version};
use crate::proxy::exchange::BodySize;
use crate::proxy::h2::fields::Kind;
use crate::proxy::h2::hpack::Line;

/// Why a stream does not get to be a request: what it is answered with, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proxy::h2) struct Refusal {
    pub(in crate::proxy::h2) status: StatusCode,
    pub(in crate::proxy::h2) why: &'static str,
}

/// What a list of fields is instead of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proxy::h2) enum Bad {
    Malformed,
    Refused(Refusal),
}

/// What the head says besides what is passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proxy::h2) struct Asked {
    pub(in crate::proxy::h2) size: BodySize,
    /// Bytes that have to come, if that is said.
    pub(in crate::proxy::h2) length: Option<u64>,
    pub(in crate::proxy::h2) to_head: bool,
}

fn refused<T>(status: StatusCode, why: &'static str) -> Result<T, Bad> {
    Err(Bad::Refused(Refusal { status, why }))
}

/// Reads lines into a head.
pub(in crate::proxy::h2) struct RequestReader<'h> {
    head: &'h mut RequestHead,
    most_lines: usize,
    most_target: usize,
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    malformed: bool,
    /// Lines behind those that begin the list.
    lines: usize,
    method: bool,
    /// Whether a scheme stands there, and whether it is one of ours.
    scheme: Option<bool>,
    authority: Option<bool>,
    host: bool,
    path: Option<Path>,
    te: bool,
    length: Length,
    /// Crumbs of `Cookie`, where there is more than one.
    crumbs: Vec<u8>,
    cookies: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Good,
    Bad,
    TooLong,
}

impl<'h> RequestReader<'h> {
    /// Begins a head with at most so many lines, and bytes of path and query.
    pub(in crate::proxy::h2) fn new(
        head: &'h mut RequestHead,
        most_lines: usize,
        most_target: usize,
    ) -> Self {
        head.clear();
        head.version = Version::Http2;
        Self {
            head,
            most_lines,
            most_target,
            seen: Seen::default(),
        }
    }

    /// Takes a line.
    pub(in crate::proxy::h2) fn line(&mut self, line: Line<'_>) {
        let taken = match line.kind.is_pseudo() {
            true if self.seen.lines > 0 => Err(Malformed),
            true => self.pseudo(line),
            false => self.field(line),
        };
        self.seen.malformed |= taken.is_err();
    }

    fn pseudo(&mut self, line: Line<'_>) -> Result<(), Malformed> {
        let (head, seen) = (&mut *self.head, &mut self.seen);
        let value = line.value;
        let again = match line.kind {
            Kind::Method => {
                head.method = Method::from_bytes(value).map_err(|_| Malformed)?;
                std::mem::replace(&mut seen.method, true)
            }
            Kind::Scheme => {
                let scheme = match value {
                    b"http" => Some(Scheme::Http),
                    b"https" => Some(Scheme::Https),
                    _ => None,
                };
                head.scheme = scheme.unwrap_or(Scheme::Http);
                seen.scheme.replace(scheme.is_some()).is_some()
            }
            Kind::Authority => {
                let is_one = is_authority(value);
                let text = str::from_utf8(value).ok().filter(|_| is_one);
                head.authority.push_str(text.unwrap_or(""));
                head.authority.make_ascii_lowercase();
                seen.authority.replace(is_one).is_some()
            }
            Kind::Path => {
                let path = match value {
                    [] => return Err(Malformed),
                    _ if value.len() > self.most_target => Path::TooLong,
                    _ if is_target(value) => Path::Good,
                    _ => Path::Bad,
                };
                let text = str::from_utf8(value).ok().filter(|_| path == Path::Good);
                head.target.set(text.unwrap_or(""));
                seen.path.replace(path).is_some()
            }
            Kind::Protocol => {
                let text = str::from_utf8(value).map_err(|_| Malformed)?;
                head.protocol.replace(text.to_ascii_lowercase()).is_some()
            }
            Kind::Status
            | Kind::Plain
            | Kind::Host
            | Kind::ContentLength
            | Kind::Te
            | Kind::Cookie
            | Kind::Connection
            | Kind::Dropped
            | Kind::Malformed => true,
        };
        match again {
            true => Err(Malformed),
            false => Ok(()),
        }
    }

    fn field(&mut self, line: Line<'_>) -> Result<(), Malformed> {
        let (head, seen) = (&mut *self.head, &mut self.seen);
        seen.lines += 1;
        if seen.lines > self.most_lines {
            return Ok(());
        }
        match line.kind {
            Kind::Plain if line.secret => head.fields.append_secret(line.name, line.value),
            Kind::Plain => head.fields.append(line.name, line.value),
            Kind::Dropped => {}
            Kind::Host => {
                let is_same = head.authority.as_bytes().eq_ignore_ascii_case(line.value);
                let again = std::mem::replace(&mut seen.host, true);
                seen.authority = seen.authority.map(|was| was && is_same && !again);
            }
            Kind::ContentLength => seen.length.take(line.value)?,
            Kind::Te if line.value != b"trailers" => return Err(Malformed),
            Kind::Te if seen.te => {}
            Kind::Te => {
                seen.te = true;
                head.fields.append("te", b"trailers");
            }
            // Crumbs become one line (section 8.2.3).
            Kind::Cookie => {
                seen.cookies += 1;
                if seen.cookies == 1 && line.secret {
                    head.fields.append_secret("cookie", line.value);
                } else if seen.cookies == 1 {
                    head.fields.append("cookie", line.value);
                } else {
                    if let Some(first) = head.fields.get("cookie").filter(|_| seen.cookies == 2) {
                        seen.crumbs.extend_from_slice(first);
                    }
                    seen.crumbs.extend_from_slice(b"; ");
                    seen.crumbs.extend_from_slice(line.value);
                }
            }
            Kind::Connection
            | Kind::Malformed
            | Kind::Method
            | Kind::Scheme
            | Kind::Authority
            | Kind::Path
            | Kind::Status
            | Kind::Protocol => return Err(Malformed),
        }
        Ok(())
    }

    /// Ends the head; `ended`: nothing follows it.
    pub(in crate::proxy::h2) fn end(self, ended: bool) -> Result<Asked, Bad> {
        let Self { head, seen, .. } = self;
        if seen.malformed || !seen.method {
            return Err(Bad::Malformed);
        }
        let is_connect = head.method == Method::CONNECT;
        match &head.protocol {
            None if is_connect => {
                let why = "this is no proxy to connect by";
                return refused(StatusCode::METHOD_NOT_ALLOWED, why);
            }
            Some(_) if !is_connect => return Err(Bad::Malformed),
            Some(it) if it != WEBSOCKET => {
                return refused(StatusCode::NOT_IMPLEMENTED, "only websocket may connect");
            }
            Some(_) | None => {}
        }
        let (Some(scheme), Some(path)) = (seen.scheme, seen.path) else {
            return Err(Bad::Malformed);
        };
        if seen.lines > self.most_lines {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return refused(status, "there are too many fields");
        }
        if seen.authority != Some(true) {
            let why = "the authority is missing, none, or not what Host says";
            return refused(StatusCode::BAD_REQUEST, why);
        }
        if !scheme {
            return refused(StatusCode::BAD_REQUEST, "the scheme is not one of HTTP");
        }
        let is_whole_server = head.target.as_str() == "*" && head.method == Method::OPTIONS;
        match path {
            Path::TooLong => return refused(StatusCode::URI_TOO_LONG, "the path is too long"),
            Path::Good if head.target.as_str().starts_with('/') || is_whole_server => {}
            Path::Good | Path::Bad => {
                return refused(StatusCode::BAD_REQUEST, "the path is none");
            }
        }
        if !seen.crumbs.is_empty() {
            head.fields.set("cookie", &seen.crumbs);
        }
        let to_head = head.method == Method::HEAD;
        if is_connect {
            // An upgrade is the same request whatever the version: each end of HTTP/2 makes its own method of it.
            head.method = Method::GET;
        }
        let length = seen.length.0.filter(|_| !is_connect);
        if ended && length.is_some_and(|it| it > 0) {
            return Err(Bad::Malformed);
        }
        let size = match length {
            _ if ended => BodySize::Empty,
            Some(length) => BodySize::Exact(length),
            None => BodySize::Unknown,
        };
        Ok(Asked {
            size,
            length,
            to_head,
        })
    }
}

/// Returns whether all characters are ones that a path and query may have, and the path has no backslash.
fn is_target(value: &[u8]) -> bool {
    let path = value.split(|byte| *byte == b'?').next().unwrap_or(value);
    value
        .iter()
        .all(|byte| matches!(byte, b'!'..=b'~') && *byte != b'#')
        && !path.contains(&b'\\')
}

/// Returns whether this is a host, with a port or without, and no user.
fn is_authority(value: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(value) else {
        return false;
    };
    let (is_host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (!host.is_empty() && host.bytes().all(is_of_name), port)
        }
    };
    let is_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            digits.bytes().all(|it| it.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
    };
    is_host && is_port
}

/// `reg-name` of RFC 3986: unreserved characters, sub-delimiters, and `%` for encoded ones.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte)
}
