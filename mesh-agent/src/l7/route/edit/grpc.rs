//! Answers of the agent's own: a status for HTTP, and for gRPC a head that is also the trailers ("trailers-only").

use http::StatusCode;

use crate::l7::message::{Fields, ResponseHead, Version};

/// Why the agent answers by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// No rule fits the request.
    NoRoute,
    /// The rule leads to a backend that does not exist, or to none.
    NoBackend,
    /// The backend has no endpoint.
    NoEndpoint,
    /// No connection came about, or it broke before a response.
    Connect,
    /// Time was up.
    Timeout,
    /// Policy denies it.
    Denied,
    /// Nobody knows who asks.
    Unauthenticated,
    /// A rate limit.
    RateLimited,
    /// A circuit breaker, the retry budget or the limit on concurrency.
    Overflow,
    /// The request cannot be understood.
    Malformed,
    /// The upstream broke the protocol.
    UpstreamProtocol,
    /// A fault on purpose, with this status.
    Fault(StatusCode),
}

impl Cause {
    /// Every cause but faults.
    pub const ALL: [Self; 11] = [
        Self::NoRoute,
        Self::NoBackend,
        Self::NoEndpoint,
        Self::Connect,
        Self::Timeout,
        Self::Denied,
        Self::Unauthenticated,
        Self::RateLimited,
        Self::Overflow,
        Self::Malformed,
        Self::UpstreamProtocol,
    ];

    /// Returns the status of HTTP.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoint | Self::Connect | Self::Overflow => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::UpstreamProtocol => StatusCode::BAD_GATEWAY,
            Self::Fault(status) => status,
        }
    }

    /// Returns the code of gRPC.
    pub fn grpc(self) -> u8 {
        match self {
            Self::NoRoute => UNIMPLEMENTED,
            Self::NoBackend | Self::NoEndpoint | Self::Connect => UNAVAILABLE,
            Self::Timeout => DEADLINE_EXCEEDED,
            Self::Denied => PERMISSION_DENIED,
            Self::Unauthenticated => UNAUTHENTICATED,
            // A client is to tell "come back later" from "ask somebody else", and only the latter is tried again at once.
            Self::RateLimited | Self::Overflow => RESOURCE_EXHAUSTED,
            Self::Malformed | Self::UpstreamProtocol => INTERNAL,
            Self::Fault(status) => of_status(status),
        }
    }
}

const UNKNOWN: u8 = 2;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;
const UNAUTHENTICATED: u8 = 16;

/// Returns the code that gRPC takes a status of HTTP for (its `http-grpc-status-mapping`).
fn of_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// Returns the head of the agent's answer, which has no body: for gRPC status 200 with the code in its fields, and the stream ends
/// with it.
pub fn answer(cause: Cause, message: &str, is_grpc: bool) -> ResponseHead {
    let mut fields = Fields::default();
    let status = match is_grpc {
        false => cause.status(),
        true => {
            fields.append("content-type", b"application/grpc");
            fields.append("grpc-status", cause.grpc().to_string().as_bytes());
            fields.append("grpc-message", escaped(message).as_bytes());
            StatusCode::OK
        }
    };
    ResponseHead {
        status,
        version: Version::Http11,
        fields,
    }
}

/// Escapes as `grpc-message` has it: all but printable ASCII without `%`.
fn escaped(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_status_and_code() {
        let table = [
            (404, 12),
            (500, 14),
            (503, 14),
            (503, 14),
            (504, 4),
            (403, 7),
            (401, 16),
            (429, 8),
            (503, 8),
            (400, 13),
            (502, 13),
        ];
        for (cause, expected) in Cause::ALL.into_iter().zip(table) {
            assert_eq!(
                (cause.status().as_u16(), cause.grpc()),
                expected,
                "{cause:?}"
            );
        }
        let fault = Cause::Fault(StatusCode::NOT_FOUND);
        assert_eq!((fault.status().as_u16(), fault.grpc()), (404, 12));
    }

    #[test]
    fn grpc_gets_its_status_in_the_only_head() {
        let head = answer(Cause::NoRoute, "no 100 % r\u{f6}ute", true);
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.fields.get("grpc-status"), Some(&b"12"[..]));
        assert_eq!(
            head.fields.get("grpc-message"),
            Some(&b"no 100 %25 r%C3%B6ute"[..])
        );
        let plain = answer(Cause::NoRoute, "x", false);
        assert_eq!(plain.status, StatusCode::NOT_FOUND);
        assert!(plain.fields.is_empty());
    }
}
