//! A request with its names: what `flows --requests`, the access log and spans are made from.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::net::SocketAddr;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::l7::flag::Flag;
use crate::l7::message::{Fields, RequestHead, Version};
use crate::telemetry::flow::{ServiceRef, WorkloadRef};
use crate::telemetry::http::record::{Client, RequestRecord, Times};
use crate::telemetry::http::trace::{self, Parent, REQUEST_ID, SpanContext};

/// Bytes of a path that are kept: most are shorter, and thousands of requests are held at a time.
const PATH_BYTES: usize = 1024;

/// The same of what else comes from the client.
const WORD_BYTES: usize = 256;

/// A request that has ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// When it came.
    pub start: Timestamp,
    /// Its method. Empty, like authority, path and protocol, of what was refused before it was a request.
    pub method: String,
    /// Host and port as the client sent them; at most 256 bytes.
    pub authority: String,
    /// Path and query as routes and policies see them, normalised (`/a/../b` is `/b`), and before a filter changes them; at most 1,024 bytes.
    pub path: String,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: String,
    /// The status that the client got; `null`: none.
    pub status: Option<u16>,
    /// `grpc-status` of the response.
    pub grpc_status: Option<u32>,
    /// Why it did not simply end well: response flags.
    pub flags: Vec<String>,
    /// What is wrong with it, of what was refused before it was a request.
    #[serde(default)]
    pub why: Option<String>,
    /// Bytes of the request's body.
    pub received_bytes: u64,
    /// Bytes of the response's body.
    pub sent_bytes: u64,
    /// How long all of it took, in microseconds: the sum of the four that follow.
    pub duration_us: u64,
    /// In the agent.
    pub agent_us: u64,
    /// Waiting for a connection.
    pub connect_us: u64,
    /// From then until the head of the response.
    pub upstream_us: u64,
    /// From then to the end.
    pub transfer_us: u64,
    /// Who asked.
    pub source: WorkloadRef,
    /// Its end of the connection.
    pub source_address: SocketAddr,
    /// The service port that was dialled.
    pub service: ServiceRef,
    /// The one whose endpoints it was for; `null`: none.
    pub backend: Option<ServiceRef>,
    /// The endpoint that got it last.
    pub endpoint: Option<SocketAddr>,
    /// Attempts that got an endpoint.
    pub attempts: u32,
    /// The rule that it went by; `null`: no route applies, or none matches.
    pub route: Option<String>,
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// The trace that it is part of, in hexadecimal.
    pub trace_id: Option<String>,
    /// Where it is in the trace, where the agent takes part in it.
    #[serde(skip)]
    pub span: Option<SpanContext>,
    /// `tracestate`, where the agent takes part in the trace.
    #[serde(skip)]
    pub trace_state: String,
}

impl Request {
    /// Returns the request of a record that ended just now.
    pub fn of(record: &RequestRecord<'_>, now: Timestamp) -> Self {
        let head = record.request;
        let (path, authority) = match record.original {
            Some((path, authority)) => (path.as_str(), authority.as_str()),
            None => (head.target.as_str(), head.authority.as_str()),
        };
        let Times {
            agent_ns,
            connect_ns,
            upstream_ns,
            transfer_ns,
        } = record.times;
        let total = i64::try_from(record.times.total_ns()).unwrap_or(i64::MAX);
        let start = now.saturating_sub(SignedDuration::from_nanos(total));
        let [agent_us, connect_us, upstream_us, transfer_us] =
            whole_us([agent_ns, connect_ns, upstream_ns, transfer_ns]);
        Self {
            // Fails for spans of calendar units only.
            start: start.unwrap_or(now),
            method: cut(head.method.as_str(), WORD_BYTES),
            authority: cut(authority, WORD_BYTES),
            path: cut(path, PATH_BYTES),
            protocol: protocol(head).to_owned(),
            status: record.status.map(|status| status.as_u16()),
            grpc_status: record.grpc_status,
            flags: record.flags.iter().map(|it| it.word().to_owned()).collect(),
            why: None,
            received_bytes: record.received,
            sent_bytes: record.sent,
            duration_us: agent_us + connect_us + upstream_us + transfer_us,
            agent_us,
            connect_us,
            upstream_us,
            transfer_us,
            source: WorkloadRef::from((*record.client.workload).clone()),
            source_address: record.client.address,
            service: ServiceRef::from(&*record.client.port),
            backend: record.destination.map(|id| ServiceRef::from(&**id)),
            endpoint: record.endpoint,
            attempts: record.attempts,
            route: record.rule.map(|rule| rule.label()),
            request_id: word(&head.fields, REQUEST_ID),
            trace_id: trace_id(record),
            span: record.span,
            trace_state: record
                .span
                .map(|_| trace::state(&head.fields))
                .unwrap_or_default(),
        }
    }

    /// Returns what came from a client just now and is none.
    pub fn refused(client: &Client, status: StatusCode, why: &str, now: Timestamp) -> Self {
        let none = String::new;
        Self {
            start: now,
            method: none(),
            authority: none(),
            path: none(),
            protocol: none(),
            status: Some(status.as_u16()),
            grpc_status: None,
            flags: vec![Flag::DownstreamProtocol.word().to_owned()],
            why: Some(why.to_owned()),
            received_bytes: 0,
            sent_bytes: 0,
            duration_us: 0,
            agent_us: 0,
            connect_us: 0,
            upstream_us: 0,
            transfer_us: 0,
            source: WorkloadRef::from((*client.workload).clone()),
            source_address: client.address,
            service: ServiceRef::from(&*client.port),
            backend: None,
            endpoint: None,
            attempts: 0,
            route: None,
            request_id: None,
            trace_id: None,
            span: None,
            trace_state: none(),
        }
    }

    /// Returns whether it failed, also by the client's own doing: no status or one from 500 on, a flag that is not a delay on purpose,
    /// or a status of gRPC that says that the server failed.
    pub fn is_error(&self) -> bool {
        let is_flagged = self.flags.iter().any(|it| it != Flag::FaultDelay.word());
        failed(self.status, self.grpc_status, is_flagged)
    }
}

/// As [`Request::is_error`], without making one.
pub(super) fn is_error(record: &RequestRecord<'_>) -> bool {
    let status = record.status.map(|status| status.as_u16());
    let is_flagged = record.flags.iter().any(|it| it != Flag::FaultDelay);
    failed(status, record.grpc_status, is_flagged)
}

fn failed(status: Option<u16>, grpc: Option<u32>, is_flagged: bool) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, as OpenTelemetry has it.
    let grpc_failed = grpc.is_some_and(|code| matches!(code, 2 | 4 | 12..=15));
    is_flagged || grpc_failed || status.is_none_or(|status| status >= 500)
}

/// Returns whole microseconds whose sum is that of the nanoseconds, rounded down: each is rounded so that the rest goes on to the
/// next.
fn whole_us<const N: usize>(ns: [u64; N]) -> [u64; N] {
    let mut rest = 0;
    ns.map(|ns| {
        let all = ns.saturating_add(rest);
        rest = all % 1_000;
        all / 1_000
    })
}

fn trace_id(record: &RequestRecord<'_>) -> Option<String> {
    let named = record.span.map(|span| span.trace_id);
    let id = named.or_else(|| Parent::of(&record.request.fields).map(|it| it.trace_id))?;
    let mut text = String::with_capacity(32);
    let written = write!(text, "{id:032x}");
    debug_assert!(written.is_ok());
    Some(text)
}

fn word(fields: &Fields, name: &str) -> Option<String> {
    let value = String::from_utf8_lossy(fields.get(name)?);
    Some(cut(&value, WORD_BYTES))
}

fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

fn protocol(head: &RequestHead) -> &'static str {
    match head.version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
        Version::Http2 => "HTTP/2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::http::fake::Sample;

    #[test]
    fn times_add_up_to_the_whole_whatever_is_rounded() {
        let parts = [1_999, 999, 1, 3_001];
        let whole: u64 = whole_us(parts).iter().sum();
        assert_eq!(whole, parts.iter().sum::<u64>() / 1_000);
        let mut sample = Sample::default();
        sample.times.agent_ns = 1_234_567;
        let request = sample.request();
        let sum = request.agent_us + request.connect_us + request.upstream_us + request.transfer_us;
        assert_eq!(sum, request.duration_us);
    }

    #[test]
    fn what_the_client_sent_is_bounded_and_what_it_asked_for_is_shown() {
        let sample = Sample {
            original: Some((format!("/{}", "é".repeat(2_000)), "shop".to_owned())),
            ..Sample::default()
        };
        let request = sample.request();
        assert_eq!(request.path.len(), 1_023, "cut between characters");
        assert_eq!(request.authority, "shop");
        assert_eq!(request.route.as_deref(), Some("shop/cart/0"));
    }

    #[test]
    fn failures_are_told_from_what_went_well() {
        let failed = |change: &dyn Fn(&mut Sample)| {
            let mut sample = Sample::default();
            change(&mut sample);
            assert_eq!(is_error(&sample.record()), sample.request().is_error());
            sample.request().is_error()
        };
        assert!(!failed(&|_| ()));
        assert!(!failed(&|it| it.status = 404));
        assert!(!failed(&|it| it.grpc_status = Some(5)));
        assert!(failed(&|it| it.status = 0));
        assert!(failed(&|it| it.status = 503));
        assert!(failed(&|it| it.grpc_status = Some(14)));
        // What the client did is shown with the rest: often it is the answer to a server that is slow.
        assert!(failed(&|it| it.flags.raise(Flag::DownstreamClosed)));
        // A delay on purpose is no failure by itself.
        let delayed = |status| {
            move |it: &mut Sample| {
                it.status = status;
                it.flags.raise(Flag::FaultDelay);
            }
        };
        assert!(!failed(&delayed(200)));
        assert!(failed(&delayed(503)));
        assert!(failed(&|it| {
            delayed(200)(it);
            it.flags.raise(Flag::UpstreamClosed);
        }));
    }

    #[test]
    fn a_trace_is_named_though_the_agent_takes_no_part_in_it() {
        let mut sample = Sample::default();
        let context = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        sample.head.fields.append("traceparent", context);
        sample.head.fields.append("x-request-id", b"r1");
        let request = sample.request();
        let id = request.trace_id.as_deref();
        assert_eq!(id, Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(request.request_id.as_deref(), Some("r1"));
        assert_eq!(request.span, None);
    }
}
