//! Frames as they are sent, appended to what waits for the socket.

use super::{Code, HEAD, MAX_PAYLOAD, flag, kind};

fn head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [a, b, c, d] = stream.to_be_bytes();
    let [low, middle, high, ..] = length.to_le_bytes();
    out.extend_from_slice(&[high, middle, low, kind, flags, a, b, c, d]);
}

/// Writes what stands before content of this length.
pub(in crate::proxy::h2) fn data_head(out: &mut Vec<u8>, stream: u32, length: usize, end: bool) {
    let flags = if end { flag::END_STREAM } else { 0 };
    head(out, length, kind::DATA, flags, stream);
}

/// Begins a HEADERS frame, whose block is to be appended; returns where it begins.
pub(in crate::proxy::h2) fn begin_headers(out: &mut Vec<u8>, stream: u32, end: bool) -> usize {
    let at = out.len();
    let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
    head(out, 0, kind::HEADERS, flags, stream);
    at
}

/// Ends the HEADERS frame that begins at `at`: says how long it is, and makes CONTINUATION frames of what is too long for it.
pub(in crate::proxy::h2) fn end_headers(out: &mut Vec<u8>, at: usize, stream: u32) {
    let length = out.len() - at - HEAD;
    if length > MAX_PAYLOAD {
        return split(out, at, stream);
    }
    let [low, middle, ..] = length.to_le_bytes();
    out[at + 1] = middle;
    out[at + 2] = low;
}

fn split(out: &mut Vec<u8>, at: usize, stream: u32) {
    let rest = out.split_off(at + HEAD + MAX_PAYLOAD);
    out[at + 4] &= !flag::END_HEADERS;
    end_headers(out, at, stream);
    let mut pieces = rest.chunks(MAX_PAYLOAD).peekable();
    while let Some(piece) = pieces.next() {
        let is_last = pieces.peek().is_none();
        let flags = if is_last { flag::END_HEADERS } else { 0 };
        head(out, piece.len(), kind::CONTINUATION, flags, stream);
        out.extend_from_slice(piece);
    }
}

/// Writes what ends a stream.
pub(in crate::proxy::h2) fn rst_stream(out: &mut Vec<u8>, stream: u32, code: Code) {
    head(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Writes settings.
pub(in crate::proxy::h2) fn settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    head(out, settings.len() * 6, kind::SETTINGS, 0, 0);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Writes that settings are followed from here on.
pub(in crate::proxy::h2) fn settings_ack(out: &mut Vec<u8>) {
    head(out, 0, kind::SETTINGS, flag::ACK, 0);
}

/// Writes a PING, or the answer to one.
pub(in crate::proxy::h2) fn ping(out: &mut Vec<u8>, is_answer: bool, payload: [u8; 8]) {
    let flags = if is_answer { flag::ACK } else { 0 };
    head(out, 8, kind::PING, flags, 0);
    out.extend_from_slice(&payload);
}

/// Writes that no streams are opened any more, and which were.
pub(in crate::proxy::h2) fn goaway(out: &mut Vec<u8>, last: u32, code: Code) {
    head(out, 8, kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Writes that so much more may be sent on a stream, or on the connection (stream 0).
pub(in crate::proxy::h2) fn window_update(out: &mut Vec<u8>, stream: u32, by: u32) {
    head(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&by.to_be_bytes());
}
