//! Heads and trailers as they are sent: always made anew from what was understood.

use http::{Method, StatusCode};

use super::{HANDSHAKE, WEBSOCKET};
use crate::l7::message::{Fields, RequestHead, ResponseHead, Scheme};
use crate::proxy::exchange::BodySize;
use crate::proxy::h1::may_trail;
use crate::proxy::h2::fields::{Kind, offers_trailers};
use crate::proxy::h2::hpack::Encoder;

/// Writes a request's list of fields. No plain `CONNECT` may be asked for.
pub(in crate::proxy::h2) fn write_request(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    head: &RequestHead,
    body: BodySize,
) {
    encoder.begin(out);
    let tunnel = head.protocol.is_some();
    match head.method {
        _ if tunnel => encoder.field(out, ":method", b"CONNECT", false),
        Method::GET => encoder.fixed(out, 2),
        Method::POST => encoder.fixed(out, 3),
        ref other => encoder.field(out, ":method", other.as_str().as_bytes(), false),
    }
    match head.scheme {
        Scheme::Http => encoder.fixed(out, 6),
        Scheme::Https => encoder.fixed(out, 7),
    }
    encoder.field(out, ":authority", head.authority.as_bytes(), false);
    match head.target.as_str() {
        "/" => encoder.fixed(out, 4),
        target => encoder.field(out, ":path", target.as_bytes(), false),
    }
    if tunnel {
        encoder.field(out, ":protocol", WEBSOCKET.as_bytes(), false);
    }
    fields(encoder, out, &head.fields, tunnel);
    if let BodySize::Exact(length) = body
        && !tunnel
    {
        content_length(encoder, out, length);
    }
}

/// Writes a response's list of fields; as that to an extended CONNECT if `tunnel`.
pub(in crate::proxy::h2) fn write_response(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    head: &ResponseHead,
    body: BodySize,
    tunnel: bool,
) {
    encoder.begin(out);
    let accepts = tunnel && head.status == StatusCode::SWITCHING_PROTOCOLS;
    let status = if accepts { StatusCode::OK } else { head.status };
    match status.as_u16() {
        200 => encoder.fixed(out, 8),
        204 => encoder.fixed(out, 9),
        206 => encoder.fixed(out, 10),
        304 => encoder.fixed(out, 11),
        400 => encoder.fixed(out, 12),
        404 => encoder.fixed(out, 13),
        500 => encoder.fixed(out, 14),
        _ => encoder.field(out, ":status", status.as_str().as_bytes(), false),
    }
    fields(encoder, out, &head.fields, accepts);
    match body {
        _ if accepts => {}
        BodySize::Exact(length) => content_length(encoder, out, length),
        // An answer to `HEAD`, or 304.
        BodySize::Empty => {
            if let Some(length) = head.fields.get("content-length") {
                encoder.field(out, "content-length", length, false);
            }
        }
        BodySize::Unknown => {}
    }
}

/// Writes trailers.
pub(in crate::proxy::h2) fn write_trailers(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    trailers: &Fields,
) {
    encoder.begin(out);
    for field in trailers.iter().filter(|it| may_trail(it.name)) {
        encoder.field(out, field.name, field.value, field.secret);
    }
}

/// Writes the fields that are passed on: without those about a connection, and without the handshake of HTTP/1.1 in a tunnel's.
fn fields(encoder: &mut Encoder, out: &mut Vec<u8>, fields: &Fields, tunnel: bool) {
    for field in fields.iter() {
        let value = match Kind::known(field.name) {
            Kind::Plain | Kind::Cookie => field.value,
            Kind::Te if offers_trailers(field.value) => b"trailers",
            Kind::Te
            | Kind::ContentLength
            | Kind::Host
            | Kind::Connection
            | Kind::Dropped
            | Kind::Method
            | Kind::Scheme
            | Kind::Authority
            | Kind::Path
            | Kind::Status
            | Kind::Protocol
            | Kind::Malformed => continue,
        };
        let is_handshake = || {
            HANDSHAKE
                .iter()
                .any(|it| field.name.eq_ignore_ascii_case(it))
        };
        if !tunnel || !is_handshake() {
            encoder.field(out, field.name, value, field.secret);
        }
    }
}

fn content_length(encoder: &mut Encoder, out: &mut Vec<u8>, length: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = length;
    loop {
        at -= 1;
        digits[at] = b"0123456789"[usize::try_from(left % 10).unwrap_or(0)];
        left /= 10;
        if left == 0 {
            break;
        }
    }
    encoder.field(out, "content-length", &digits[at..], false);
}
