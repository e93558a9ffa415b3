//! Heads as they are sent: always made anew from what was understood, never what came.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};

use crate::l7::message::{Fields, RequestHead, ResponseHead};
use crate::proxy::exchange::BodySize;
use crate::proxy::h1::names::{self, Known};

/// How a body is framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    /// There is none, and it may not say so.
    None,
    /// Of this length.
    Length(u64),
    /// In chunks.
    Chunked,
    /// To the end of the connection.
    Close,
    /// A tunnel.
    Tunnel,
}

/// Writes a request in origin form, with `Host`.
pub(super) fn request(out: &mut Vec<u8>, head: &RequestHead, body: BodySize, key: Option<&str>) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target.as_str().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(out, "Host", head.authority.as_bytes());
    fields(out, &head.fields, false);
    match body {
        BodySize::Empty if expects_body(&head.method) => content_length(out, 0),
        BodySize::Empty => {}
        BodySize::Exact(length) => content_length(out, length),
        BodySize::Unknown if head.protocol.is_none() => out.extend_from_slice(CHUNKED),
        BodySize::Unknown => {}
    }
    match &head.protocol {
        Some(protocol) => {
            field(out, "Connection", b"Upgrade");
            field(out, "Upgrade", protocol.as_bytes());
        }
        None if head.fields.contains("te") => field(out, "Connection", b"TE"),
        None => {}
    }
    if let Some(key) = key {
        field(out, "Sec-WebSocket-Key", key.as_bytes());
        if !head.fields.contains("sec-websocket-version") {
            field(out, "Sec-WebSocket-Version", b"13");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What a response's head is framed with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    pub(super) frame: Frame,
    /// Whether the client speaks HTTP/1.0.
    pub(super) is_10: bool,
    pub(super) keep_alive: bool,
}

/// Writes the head of a final response.
pub(super) fn response(out: &mut Vec<u8>, head: &ResponseHead, closing: Closing, date: &mut Date) {
    status_line(out, head.status);
    fields(out, &head.fields, closing.frame == Frame::None);
    match closing.frame {
        Frame::Length(length) => content_length(out, length),
        Frame::Chunked => out.extend_from_slice(CHUNKED),
        Frame::None | Frame::Close | Frame::Tunnel => {}
    }
    if !head.fields.contains("date") {
        field(out, "Date", date.now());
    }
    if !closing.keep_alive {
        field(out, "Connection", b"close");
    } else if closing.is_10 {
        field(out, "Connection", b"keep-alive");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of the response that makes the connection a tunnel, with what answers the client's key if that is missing.
pub(super) fn switching(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    accept: Option<&str>,
    date: &mut Date,
) {
    status_line(out, StatusCode::SWITCHING_PROTOCOLS);
    fields(out, &head.fields, false);
    if let Some(accept) = accept.filter(|_| !head.fields.contains("sec-websocket-accept")) {
        field(out, "Sec-WebSocket-Accept", accept.as_bytes());
    }
    if !head.fields.contains("date") {
        field(out, "Date", date.now());
    }
    out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
}

/// Writes an interim response.
pub(super) fn informational(out: &mut Vec<u8>, head: &ResponseHead) {
    status_line(out, head.status);
    fields(out, &head.fields, false);
    out.extend_from_slice(b"\r\n");
}

/// Writes what stands before a chunk.
pub(super) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = size;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left % 16];
        left /= 16;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk, and trailers.
pub(super) fn last_chunk(out: &mut Vec<u8>, trailers: Option<&Fields>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        let may = trailers.iter().filter(|it| names::may_trail(it.name));
        for line in may {
            field(out, line.name, line.value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Returns whether nothing would be understood of a request without `Content-Length: 0` (RFC 9110, section 8.6).
fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

const CHUNKED: &[u8] = b"Transfer-Encoding: chunked\r\n";

fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes all fields but those that frame a message or belong to a connection: whoever put one here, another parser would read
/// another message. `Content-Length` is written where nothing follows that it could frame.
fn fields(out: &mut Vec<u8>, fields: &Fields, with_length: bool) {
    for line in fields.iter() {
        let may = match names::known(line.name) {
            None | Some(Known::Expect | Known::Te) => true,
            Some(Known::ContentLength) => with_length,
            Some(_) => false,
        };
        if may {
            field(out, line.name, line.value);
        }
    }
}

pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789"[usize::try_from(number % 10).unwrap_or(0)];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The value of `Date`, made once a second.
#[derive(Clone, Debug, Default)]
pub(super) struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn now(&mut self) -> &[u8] {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let second = since.unwrap_or(Duration::ZERO).as_secs();
        if self.second != second || self.text.is_empty() {
            self.second = second;
            let at = UNIX_EPOCH + Duration::from_secs(second);
            self.text = httpdate::fmt_http_date(at);
        }
        self.text.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_such() {
        let mut out = Vec::new();
        for number in [0, 7, 10, 18_446_744_073_709_551_615] {
            decimal(&mut out, number);
            out.push(b' ');
        }
        for size in [1, 16, 0xdead_beef] {
            chunk_size(&mut out, size);
        }
        let expected = "0 7 10 18446744073709551615 1\r\n10\r\ndeadbeef\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn an_upgrade_is_asked_for_with_a_key() {
        let mut head = RequestHead {
            protocol: Some("websocket".to_owned()),
            ..RequestHead::default()
        };
        head.authority.push('a');
        head.target.set("/ws");
        let mut out = Vec::new();
        request(&mut out, &head, BodySize::Unknown, Some("key"));
        let expected = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: key\r\nSec-WebSocket-Version: 13\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_date_is_made_for_each_second() {
        let mut date = Date {
            second: 1,
            text: "old".to_owned(),
        };
        let now = String::from_utf8(date.now().to_vec()).unwrap();
        assert!(httpdate::parse_http_date(&now).is_ok(), "{now}");
    }
}
