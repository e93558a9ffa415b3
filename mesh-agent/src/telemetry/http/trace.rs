//! W3C trace context and request ids: read from the head of a request, and put there. Pure.
//!
//! An application's own trace is never broken: a context that came stays as it is unless the agent adds a span to it, and a
//! request without one gets one only when its trace is recorded, so that whoever comes next still decides for itself.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

use crate::chance::Chance;
use crate::l7::message::{Fields, RequestHead};

/// Name of the field that bears the context.
pub const TRACEPARENT: &str = "traceparent";

/// Name of the field that bears what tracing systems add to it.
pub const TRACESTATE: &str = "tracestate";

/// Name of the field that bears the request's id.
pub const REQUEST_ID: &str = "x-request-id";

/// Bytes of version 00 of the context: all that a version this agent knows may have.
const LENGTH: usize = 55;

/// Where a request is in its trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpanContext {
    /// The trace.
    pub trace_id: u128,
    /// The agent's own span.
    pub span_id: u64,
    /// The span that it is part of; `None`: it is the first.
    pub parent_id: Option<u64>,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

/// What a head says of the trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parent {
    /// The trace.
    pub trace_id: u128,
    /// The caller's span.
    pub span_id: u64,
    /// Whether the caller records it.
    pub is_sampled: bool,
    /// All flags that the caller set.
    flags: u8,
}

impl Parent {
    /// Reads a `traceparent`. `None`: it is none, and the trace begins anew (W3C Trace Context, section 3.2).
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        if text.len() < LENGTH || !text.is_ascii() {
            return None;
        }
        let (known, more) = text.split_at(LENGTH);
        let mut parts = known.split('-');
        let version = parts.next().and_then(|part| hex(part, 2))?;
        let trace_id = parts.next().and_then(|part| hex(part, 32))?;
        let span_id = parts.next().and_then(|part| hex(part, 16))?;
        let flags = parts.next().and_then(|part| hex(part, 2))?;
        // A later version may say more, after another dash.
        let fits = more.is_empty() || (version > 0 && more.starts_with('-'));
        if version == 0xff || trace_id == 0 || span_id == 0 || !fits || parts.next().is_some() {
            return None;
        }
        let flags = u8::try_from(flags).ok()?;
        Some(Self {
            trace_id,
            span_id: u64::try_from(span_id).ok()?,
            is_sampled: flags & SAMPLED != 0,
            flags,
        })
    }

    /// Reads that of a head: where there are several, there is none.
    pub fn of(fields: &Fields) -> Option<Self> {
        let mut values = fields.get_all(TRACEPARENT);
        let parent = Self::parse(values.next()?);
        parent.filter(|_| values.next().is_none())
    }
}

const SAMPLED: u8 = 1;

/// Bytes of `tracestate` that are kept of a request: as many as everybody has to pass on (W3C Trace Context, section 3.3.1.5).
const STATE: usize = 512;

/// Members of it that are longer go first where there is too much (the same section).
const LONG: usize = 128;

/// Returns the `tracestate` of a head, its lines joined: whole members only, as many as there is room for.
pub fn state(fields: &Fields) -> String {
    let lines = fields.get_all(TRACESTATE);
    let lines = lines.filter_map(|line| std::str::from_utf8(line).ok());
    let members = lines.flat_map(|line| line.split(',')).map(str::trim);
    let mut members: Vec<&str> = members.filter(|it| !it.is_empty()).collect();
    let mut length: usize = members.iter().map(|it| it.len() + 1).sum();
    while length > STATE + 1 {
        let long = members.iter().rposition(|it| it.len() > LONG);
        // The last ones are the oldest.
        let gone = members.remove(long.unwrap_or(members.len() - 1));
        length -= gone.len() + 1;
    }
    members.join(",")
}

/// What is added to requests.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Tracing {
    /// Share of the traces that begin here which are recorded, 0 to 1; `None`: the agent takes no part in traces.
    pub ratio: Option<f64>,
    /// Whether a request without an id gets one.
    pub request_ids: bool,
}

/// Random numbers for ids: two rows, since a trace's id has 128 bits.
#[derive(Debug)]
pub struct Ids(Chance, Chance);

impl Ids {
    /// Returns rows that differ from run to run.
    pub fn random() -> Self {
        Self(Chance::random(), Chance::random())
    }

    fn trace(&mut self) -> u128 {
        let bits = u128::from(self.0.bits()) << 64 | u128::from(self.1.bits());
        bits.max(1)
    }

    fn span(&mut self) -> u64 {
        self.1.bits().max(1)
    }
}

impl Tracing {
    /// Puts trace context and request id on a head, and returns where the request is in its trace; `None`: the agent takes no
    /// part in traces, or this one is not recorded and nobody has named it.
    pub fn before(&self, head: &mut RequestHead, ids: &mut Ids) -> Option<SpanContext> {
        if self.request_ids && !head.fields.contains(REQUEST_ID) {
            let mut id = Text::default();
            uuid(ids.trace(), &mut id);
            head.fields.append(REQUEST_ID, id.bytes());
        }
        let ratio = self.ratio?;
        let parent = Parent::of(&head.fields);
        if parent.is_none() && head.fields.remove(TRACEPARENT) {
            // What belongs to a context that is none says nothing.
            head.fields.remove(TRACESTATE);
        }
        let is_sampled = match parent {
            Some(parent) => parent.is_sampled,
            None => ids.0.unit() < ratio,
        };
        if parent.is_none() && !is_sampled {
            return None;
        }
        let span = SpanContext {
            trace_id: parent.map_or_else(|| ids.trace(), |it| it.trace_id),
            span_id: ids.span(),
            parent_id: parent.map(|it| it.span_id),
            is_sampled,
        };
        if is_sampled {
            let flags = parent.map_or(0, |it| it.flags) | SAMPLED;
            let mut text = Text::default();
            let (trace, own) = (span.trace_id, span.span_id);
            let written = write!(text, "00-{trace:032x}-{own:016x}-{:02x}", flags & 3);
            debug_assert!(written.is_ok());
            head.fields.set(TRACEPARENT, text.bytes());
        }
        Some(span)
    }
}

/// Writes a random UUID (RFC 9562, version 4).
fn uuid(bits: u128, to: &mut Text) {
    let bits = bits & !(0xf << 76) | 0x4 << 76;
    let bits = bits & !(0x3 << 62) | 0x2 << 62;
    let hex = |from: u32, digits: u32| (bits >> from) & ((1 << (4 * digits)) - 1);
    let written = write!(
        to,
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        hex(96, 8),
        hex(80, 4),
        hex(64, 4),
        hex(48, 4),
        hex(0, 12)
    );
    debug_assert!(written.is_ok());
}

/// Digits in lower case only, exactly so many.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let fits = text.len() == digits && text.bytes().all(lower);
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// A short text that is not allocated; the longest is the context.
struct Text {
    buffer: [u8; LENGTH],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            buffer: [0; LENGTH],
            length: 0,
        }
    }
}

impl Text {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let room = self.buffer.get_mut(self.length..end);
        room.ok_or(std::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn ids() -> Ids {
        Ids(Chance::seeded(1), Chance::seeded(2))
    }

    fn head(lines: &[(&str, &str)]) -> RequestHead {
        RequestHead {
            fields: lines.iter().copied().collect(),
            ..RequestHead::default()
        }
    }

    fn tracing(ratio: f64) -> Tracing {
        Tracing {
            ratio: Some(ratio),
            request_ids: false,
        }
    }

    #[test]
    fn state_is_kept_by_whole_members() {
        let of = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("tracestate", *line)).collect();
            state(&head(&lines).fields)
        };
        assert_eq!(of(&[]), "");
        assert_eq!(of(&["a=1, b=2 ,,", "c=3"]), "a=1,b=2,c=3");
        // What does not fit goes from the end, and long ones before.
        let member = |name: &str, length: usize| format!("{name}={}", "x".repeat(length - 2));
        let fits = [member("a", 100), member("b", 128), member("c", 128)].join(",");
        let all = [&fits, &member("d", 153) as &str].join(",");
        assert_eq!((all.len(), of(&[&all])), (512, all.clone()));
        assert_eq!(of(&[&all, "e=1"]), format!("{fits},e=1"));
        let many: Vec<_> = (0..100).map(|it| format!("k{it:02}=value")).collect();
        let kept = of(&[&many.join(",")]);
        assert_eq!(kept, many[..51].join(","));
    }

    #[test]
    fn a_context_is_read_as_the_standard_says() {
        let parent = Parent::parse(PARENT.as_bytes()).unwrap();
        assert_eq!(parent.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(parent.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(parent.is_sampled);
        let not = PARENT.replace("-01", "-00");
        assert!(!Parent::parse(not.as_bytes()).unwrap().is_sampled);
        let later = format!("{}-more", PARENT.replacen("00-", "01-", 1));
        assert!(Parent::parse(later.as_bytes()).is_some());
        for wrong in [
            String::new(),
            PARENT[..54].to_owned(),
            format!("{PARENT}-more"),
            format!("{PARENT}0"),
            PARENT.to_uppercase(),
            PARENT.replacen("00-", "ff-", 1),
            PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            PARENT.replace('-', "_"),
            PARENT.replace("-00f0", "+00f0"),
            "é".repeat(30),
        ] {
            assert_eq!(Parent::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_recorded_trace_goes_on_with_a_span_of_the_agent() {
        let mut head = head(&[("Traceparent", PARENT), ("tracestate", "a=1,b=2")]);
        let span = tracing(0.0).before(&mut head, &mut ids()).unwrap();
        assert_eq!(span.parent_id, Some(0x00f0_67aa_0ba9_02b7));
        assert!(span.is_sampled, "the parent decides, not the ratio");
        let sent = Parent::of(&head.fields).unwrap();
        assert_eq!((sent.trace_id, sent.span_id), (span.trace_id, span.span_id));
        assert_eq!(head.fields.get(TRACESTATE), Some(&b"a=1,b=2"[..]));
        assert_eq!(head.fields.len(), 2);
    }

    #[test]
    fn a_trace_that_is_not_recorded_passes_untouched() {
        let not = PARENT.replace("-01", "-00");
        let mut head = head(&[("traceparent", &not), ("tracestate", "a=1")]);
        let before = head.clone();
        let span = tracing(1.0).before(&mut head, &mut ids()).unwrap();
        assert!(!span.is_sampled);
        assert_eq!(head, before);
    }

    #[test]
    fn without_context_the_ratio_decides() {
        let mut untouched = head(&[]);
        assert_eq!(tracing(0.0).before(&mut untouched, &mut ids()), None);
        assert!(
            untouched.fields.is_empty(),
            "the next one decides for itself"
        );
        let mut ids = ids();
        let begun = (0..10_000)
            .filter_map(|_| tracing(0.25).before(&mut head(&[]), &mut ids))
            .count();
        assert!((2_300..2_700).contains(&begun), "{begun}");
        let mut first = head(&[]);
        let span = tracing(1.0).before(&mut first, &mut ids).unwrap();
        assert_eq!(span.parent_id, None);
        assert!(Parent::of(&first.fields).unwrap().is_sampled);
    }

    #[test]
    fn a_context_that_is_none_begins_anew_and_loses_its_state() {
        for lines in [
            &[("traceparent", "rubbish"), ("tracestate", "a=1")][..],
            &[
                ("traceparent", PARENT),
                ("traceparent", PARENT),
                ("tracestate", "a=1"),
            ],
        ] {
            let mut head = head(lines);
            let span = tracing(1.0).before(&mut head, &mut ids()).unwrap();
            assert_eq!(span.parent_id, None);
            assert_eq!(head.fields.len(), 1);
        }
    }

    #[test]
    fn a_request_id_is_kept_or_made() {
        let ids_only = Tracing {
            ratio: None,
            request_ids: true,
        };
        let mut kept = head(&[("X-Request-Id", "mine")]);
        assert_eq!(ids_only.before(&mut kept, &mut ids()), None);
        assert_eq!(kept.fields.get(REQUEST_ID), Some(&b"mine"[..]));
        let mut made = head(&[("traceparent", PARENT)]);
        ids_only.before(&mut made, &mut ids());
        let id = std::str::from_utf8(made.fields.get(REQUEST_ID).unwrap()).unwrap();
        let groups: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert!(&id[14..15] == "4" && "89ab".contains(&id[19..20]), "{id}");
        assert_eq!(made.fields.get(TRACEPARENT), Some(PARENT.as_bytes()));
        let mut other = head(&[]);
        Tracing::default().before(&mut other, &mut ids());
        assert!(other.fields.is_empty());
    }
}
