//! The gRPC check: `grpc.health.v1.Health/Check` over HTTP/2 without TLS. Two messages of one field each, so they are written and
//! read by hand.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::health::http::AGENT;
use crate::health::probe::Failure;

/// Bytes of a gRPC message's prefix: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Bytes of the answer at most: it has one small number.
const ANSWER_MAX: usize = 1024;

/// Bytes of the answer's header lines at most.
const HEADERS_MAX: u32 = 16 * 1024;

/// Asks whether `service` serves; the empty one is the server as a whole.
pub(super) async fn check(
    stream: TcpStream,
    address: SocketAddr,
    service: &str,
) -> Result<(), Failure> {
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(question(service)))?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_header_list_size(HEADERS_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let exchange = async move { answer(sender.send_request(request).await?).await };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        _ = connection => exchange.await,
    }
}

/// Reads an answer and returns whether it is good.
async fn answer(response: Response<Incoming>) -> Result<(), Failure> {
    if response.status() != StatusCode::OK {
        return Err(Failure::Status(response.status().as_u16()));
    }
    good(response.headers())?;
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) if bytes.len() + data.len() > ANSWER_MAX => return Err(Failure::Message),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => frame.trailers_ref().map_or(Ok(()), good)?,
        }
    }
    match status(&bytes) {
        Some(1) => Ok(()),
        Some(0) => Err(Failure::NotServing("UNKNOWN")),
        Some(2) => Err(Failure::NotServing("NOT_SERVING")),
        Some(3) => Err(Failure::NotServing("SERVICE_UNKNOWN")),
        Some(_) | None => Err(Failure::Message),
    }
}

/// Returns whether these headers or trailers have no status other than OK.
fn good(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => {
            let status = String::from_utf8_lossy(status.as_bytes()).into_owned();
            Err(Failure::Grpc(status))
        }
        Some(_) | None => Ok(()),
    }
}

/// `HealthCheckRequest { string service = 1; }`, with its prefix.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(0x80 | u8::try_from(length & 0x7f).unwrap_or(0));
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or(0));
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut bytes = vec![0];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&message);
    bytes.into()
}

/// Returns the status of `HealthCheckResponse { ServingStatus status = 1; }` with its prefix; it is 0 where it is left out.
fn status(bytes: &[u8]) -> Option<u64> {
    let (prefix, message) = bytes.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    if prefix[0] != 0 || message.len() != usize::try_from(length).ok()? {
        return None;
    }
    let (mut rest, mut status) = (message, 0);
    // Unknown fields are for later versions of the protocol.
    while !rest.is_empty() {
        let (tag, after) = varint(rest)?;
        let (value, after) = match tag & 7 {
            0 => varint(after)?,
            1 => (0, after.get(8..)?),
            2 => {
                let (length, after) = varint(after)?;
                (0, after.get(usize::try_from(length).ok()?..)?)
            }
            5 => (0, after.get(4..)?),
            _ => return None,
        };
        if tag == 1 << 3 {
            status = value;
        }
        rest = after;
    }
    Some(status)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * place).min(63);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[place + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_question_is_what_protobuf_makes_of_it() {
        assert_eq!(question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(
            question("abc")[..],
            [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'b', b'c']
        );
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn an_answer_is_read_and_nothing_else_is_taken_for_one() {
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[0, 0, 0, 0, 6, 18, 2, b'x', b'y', 8, 1]), Some(1));
        assert_eq!(status(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed");
        assert_eq!(status(&[0, 0, 0, 0, 3, 8, 1]), None, "cut off");
        assert_eq!(status(&[0, 0, 0, 0, 1, 8]), None);
        assert_eq!(status(b"HTTP/1.1 400"), None);
        assert_eq!(status(&[]), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut framed = vec![0, 0, 0, 0, u8::try_from(bytes.len()).unwrap()];
            framed.extend(&bytes);
            status(&framed);
            status(&bytes);
        }
    }
}
