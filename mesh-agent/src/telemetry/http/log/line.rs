//! The lines of the access log.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::Write;

use crate::telemetry::http::log::{Line, LogFormat};
use crate::telemetry::http::relay::Relay;
use crate::telemetry::http::request::Request;

/// Adds a line to `to`.
pub(super) fn append(to: &mut Vec<u8>, line: &Line, format: LogFormat) {
    let before = to.len();
    let added = match (format, line) {
        (LogFormat::Json, Line::Request(it)) => serde_json::to_writer(&mut *to, &**it).is_ok(),
        (LogFormat::Json, Line::Relay(it)) => serde_json::to_writer(&mut *to, &**it).is_ok(),
        (LogFormat::Text, Line::Request(it)) => text(to, it).is_ok(),
        (LogFormat::Text, Line::Relay(it)) => relay(to, it).is_ok(),
    };
    // Neither a vector nor this type refuses anything; half a line would spoil the next.
    if !added {
        to.truncate(before);
        return;
    }
    to.push(b'\n');
}

/// Start, request, status, flags, bytes in and out, times, attempts, who to whom, ids, what is wrong: always as many words, `-` where there is
/// nothing to say.
fn text(to: &mut Vec<u8>, it: &Request) -> std::io::Result<()> {
    write!(to, "[{}] ", it.start)?;
    let asked = format!("{} {} {}", it.method, it.path, it.protocol);
    let asked = it.why.is_none().then(|| quoted(&asked));
    write!(to, "{} {}", or_none(asked), or_none(it.status))?;
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
    write!(to, "trace={}", or_none(it.trace_id.as_ref()))?;
    let why = it.why.as_deref().map(quoted);
    write!(to, " why={}", or_none(why))
}

/// The same of a connection that was passed on, with how it ended in the place of a request and its status.
fn relay(to: &mut Vec<u8>, it: &Relay) -> std::io::Result<()> {
    write!(to, "[{}] {} {}", it.start, it.protocol, it.end)?;
    write!(to, " in={} out={}", it.received_bytes, it.sent_bytes)?;
    write!(
        to,
        " took={} connect={}",
        us(it.duration_us),
        us(it.connect_us)
    )?;
    let name = it.server_name.as_deref().map(quoted);
    write!(to, " name={}", or_none(name))?;
    write!(to, " from={} at={}", it.source, it.source_address)?;
    write!(to, " to={}", it.service)?;
    write!(to, " backend={}", or_none(it.backend.as_ref()))?;
    write!(to, " endpoint={}", or_none(it.endpoint))
}

fn us(us: u64) -> String {
    format!("{}.{:03}ms", us / 1_000, us % 1_000)
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_default())
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
