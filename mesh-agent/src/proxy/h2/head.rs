//! Heads of requests and responses, between compressed lists of fields and the agent's form; what a valid one is (RFC 9113,
//! section 8).

mod request;
mod response;
#[cfg(test)]
mod tests;
mod write;

pub(super) use request::{Asked, Bad, Refusal, RequestReader};
pub(super) use response::{ResponseReader, TrailersReader};
pub(super) use write::{write_request, write_response, write_trailers};

/// The one protocol that requests may change to (RFC 8441).
const WEBSOCKET: &str = "websocket";

/// What proves with HTTP/1.1 that both ends speak WebSocket, and what a stream of HTTP/2 proves by itself. The ends of HTTP/1.1 make
/// and check it.
const HANDSHAKE: [&str; 2] = ["sec-websocket-key", "sec-websocket-accept"];

/// A message that is none: its stream is reset (section 8.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// What was seen of `Content-Length`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Length(Option<u64>);

impl Length {
    /// Takes a line; said twice, it has to be the same.
    fn take(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = str::from_utf8(value).ok().filter(|_| digits);
        let number = number.and_then(|it| it.parse().ok()).ok_or(Malformed)?;
        match self.0.replace(number) {
            Some(before) if before != number => Err(Malformed),
            Some(_) | None => Ok(()),
        }
    }
}
