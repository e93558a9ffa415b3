//! From requests to the message that bears their spans. Pure.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::message::{
    AnyValue, Export, KeyValue, Resource, ResourceSpans, Scope, ScopeSpans, Span, Status, Value,
};
use crate::telemetry::http::request::Request;
use crate::telemetry::http::trace::SpanContext;

/// `SPAN_KIND_CLIENT`: the agent asks on behalf of the workload.
const CLIENT: i32 = 3;

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

/// Flags of a span: its trace is recorded, and it is known that the parent is elsewhere.
const FLAGS: u32 = 0x01 | 0x100 | 0x200;

/// Methods that have names in the conventions; others would make as many names of spans as a client likes.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// Returns the message with the spans of these requests, by workload: each is a resource of its own, since it is their requests
/// that are told of, not the agent's.
pub(super) fn message(requests: &[Arc<Request>], node: &str, version: &str) -> Bytes {
    let mut by_source = BTreeMap::<_, Vec<Span>>::new();
    for request in requests {
        if let Some(context) = &request.span {
            let spans = by_source.entry(&request.source).or_default();
            spans.push(span(request, context));
        }
    }
    let resources = by_source.into_iter().map(|(source, spans)| ResourceSpans {
        resource: Some(Resource {
            attributes: vec![
                text("service.name", &source.name),
                text("service.namespace", &source.namespace),
                text("k8s.namespace.name", &source.namespace),
                text("k8s.pod.name", &source.name),
                text("k8s.node.name", node),
            ],
        }),
        scope_spans: vec![ScopeSpans {
            scope: Some(Scope {
                name: "underpass".to_owned(),
                version: version.to_owned(),
            }),
            spans,
        }],
    });
    let message = Export {
        resource_spans: resources.collect(),
    };
    message.encode_to_vec().into()
}

fn span(request: &Request, context: &SpanContext) -> Span {
    let method = METHODS.iter().find(|known| **known == request.method);
    let name = match (&request.route, method) {
        (Some(route), Some(method)) => format!("{method} {route}"),
        (None, Some(method)) => (*method).to_owned(),
        (Some(route), None) => format!("HTTP {route}"),
        (None, None) => "HTTP".to_owned(),
    };
    let start_ns = u64::try_from(request.start.as_nanosecond()).unwrap_or(0);
    let status = request.is_error().then(|| Status {
        message: request.flags.join(","),
        code: ERROR,
    });
    Span {
        trace_id: context.trace_id.to_be_bytes().to_vec(),
        span_id: context.span_id.to_be_bytes().to_vec(),
        trace_state: request.trace_state.clone(),
        parent_span_id: context
            .parent_id
            .map(|id| id.to_be_bytes().to_vec())
            .unwrap_or_default(),
        name,
        kind: CLIENT,
        start_ns,
        end_ns: start_ns + request.duration_us * 1_000,
        attributes: attributes(request, method.copied()),
        status,
        flags: FLAGS,
    }
}

/// Attributes as OpenTelemetry's conventions for HTTP and RPC clients name them, and our own.
fn attributes(request: &Request, method: Option<&str>) -> Vec<KeyValue> {
    let path = request.path.split('?').next().unwrap_or_default();
    let protocol = request.protocol.trim_start_matches("HTTP/");
    let mut all = vec![
        text("http.request.method", method.unwrap_or("_OTHER")),
        text("url.scheme", "http"),
        // Not the query: that is where secrets are.
        text("url.path", path),
        text("server.address", &service(request)),
        number("server.port", request.service.port.into()),
        text("network.protocol.name", "http"),
        text("network.protocol.version", protocol),
        number("http.request.body.size", request.received_bytes),
        number("http.response.body.size", request.sent_bytes),
        number("underpass.time.agent_us", request.agent_us),
        number("underpass.time.connect_us", request.connect_us),
        number("underpass.time.upstream_us", request.upstream_us),
        number("underpass.time.transfer_us", request.transfer_us),
    ];
    if method.is_none() {
        all.push(text("http.request.method_original", &request.method));
    }
    if let Some(endpoint) = request.endpoint {
        all.push(text("network.peer.address", &endpoint.ip().to_string()));
        all.push(number("network.peer.port", endpoint.port().into()));
    }
    if let Some(status) = request.status {
        all.push(number("http.response.status_code", status.into()));
    }
    if let Some(code) = request.grpc_status {
        all.push(text("rpc.system.name", "grpc"));
        all.push(text("rpc.response.status_code", &code.to_string()));
    }
    if request.attempts > 1 {
        let retries = request.attempts - 1;
        all.push(number("http.request.resend_count", retries.into()));
    }
    for (key, value) in [
        ("underpass.route", &request.route),
        ("underpass.request_id", &request.request_id),
    ] {
        if let Some(value) = value {
            all.push(text(key, value));
        }
    }
    if let Some(backend) = &request.backend {
        all.push(text("underpass.backend", &backend.to_string()));
    }
    if request.is_error() {
        let kind = match (request.flags.first(), request.grpc_status, request.status) {
            (Some(flag), _, _) => flag.clone(),
            (None, Some(code), _) if code != 0 => code.to_string(),
            (None, _, Some(status)) => status.to_string(),
            (None, _, None) => "_OTHER".to_owned(),
        };
        all.push(text("error.type", &kind));
    }
    all
}

fn service(request: &Request) -> String {
    format!("{}.{}", request.service.name, request.service.namespace)
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::Text(value.to_owned()))
}

fn number(key: &str, value: u64) -> KeyValue {
    pair(key, Value::Whole(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}
