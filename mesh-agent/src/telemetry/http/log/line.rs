//! The lines of the access log.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::Write;

use crate::telemetry::http::log::LogFormat;
use crate::telemetry::http::request::Request;

/// Adds the line of a request to `to`.
pub(super) fn append(to: &mut Vec<u8>, request: &Request, format: LogFormat) {
    let before = to.len();
    let added = match format {
        LogFormat::Json => serde_json::to_writer(&mut *to, request).is_ok(),
        LogFormat::Text => text(to, request).is_ok(),
    };
    // Neither a vector nor this type refuses anything; half a line would spoil the next.
    if !added {
        to.truncate(before);
        return;
    }
    to.push(b'\n');
}

/// Start, request, status, flags, bytes in and out, times, attempts, who to whom, ids: always as many words, `-` where there is
/// nothing to say.
fn text(to: &mut Vec<u8>, it: &Request) -> std::io::Result<()> {
    let quoted = |text: &str| format!("\"{}\"", text.escape_default());
    let us = |us: u64| format!("{}.{:03}ms", us / 1_000, us % 1_000);
    write!(to, "[{}] ", it.start)?;
    let asked = format!("{} {} {}", it.method, it.path, it.protocol);
    write!(to, "{} {}", quoted(&asked), or_none(it.status))?;
    write!(to, " grpc={}", or_none(it.grpc_status))?;
    let flags = it.flags.join(",");
    let flags = (!flags.is_empty()).then_some(flags);
    write!(to, " {}", or_none(flags))?;
    write!(to, " in={} out={}", it.received_bytes, it.sent_bytes)?;
    write!(to, " took={} agent={}", us(it.duration_us), us(it.agent_us))?;
    write!(to, " connect={}", us(it.connect_us))?;
    write!(to, " upstream={}", us(it.upstream_us))?;
    write!(to, " transfer={}", us(it.transfer_us))?;
    write!(to, " attempts={} {}", it.attempts, quoted(&it.authority))?;
    write!(to, " from={} at={}", it.source, it.source_address)?;
    write!(to, " to={}", it.service)?;
    write!(to, " backend={}", or_none(it.backend.as_ref()))?;
    write!(to, " endpoint={}", or_none(it.endpoint))?;
    write!(to, " route={}", or_none(it.route.as_ref()))?;
    let id = it.request_id.as_deref().map(quoted);
    write!(to, " id={} ", or_none(id))?;
    write!(to, "trace={}", or_none(it.trace_id.as_ref()))
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
