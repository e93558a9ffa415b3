//! What requests are counted by.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::l7::route::CompiledRule;
use crate::model::balanced::PortId;
use crate::model::service::ServiceName;
use crate::model::workload::WorkloadName;
use crate::telemetry::http::record::{Flags, RequestRecord};

/// Number of a gRPC status that no gRPC response has.
pub(super) const NOT_GRPC: u8 = u8::MAX;

/// gRPC's `UNKNOWN`, which a number beyond its sixteen counts as.
const GRPC_UNKNOWN: u8 = 2;

/// What requests are counted by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Labels {
    /// Whose request; `None`: the sum of all that have no place of their own.
    pub(super) whose: Option<Whose>,
    pub(super) how: How,
}

/// Source, service and workload of requests that may be added up.
pub(super) type Group<'l> = (&'l WorkloadName, &'l ServiceName, Option<&'l WorkloadName>);

/// Names that a request is counted by. None of them comes from the request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Whose {
    pub(super) source: Arc<WorkloadName>,
    /// The service port that was dialled.
    pub(super) service: Arc<PortId>,
    /// The one whose endpoints the request was for.
    pub(super) backend: Option<Arc<PortId>>,
    /// The workload that answered, where records say so.
    pub(super) workload: Option<Arc<WorkloadName>>,
    pub(super) route: Option<RuleRef>,
}

/// A rule by the label that it has: whatever else changes of it, it stays the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct RuleRef(pub(super) String);

impl RuleRef {
    fn is_of(&self, rule: &CompiledRule) -> bool {
        let rest = self.0.strip_prefix(rule.route.namespace.as_str());
        let rest = rest.and_then(|it| it.strip_prefix('/'));
        let rest = rest.and_then(|it| it.strip_prefix(rule.route.name.as_str()));
        let Some(rest) = rest.and_then(|it| it.strip_prefix('/')) else {
            return false;
        };
        match &rule.name {
            Some(name) => rest == name,
            None => rest.parse() == Ok(rule.index),
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(super) struct How {
    /// The status, or where classes are counted the first of its class; 0: none.
    pub(super) status: u16,
    pub(super) grpc: u8,
    /// All of them, in their order; or where classes are counted the cause alone.
    pub(super) flags: Flags,
    /// Whether it is a call of gRPC, where records say so.
    pub(super) is_grpc: bool,
}

impl How {
    pub(super) fn of(record: &RequestRecord<'_>, is_exact: bool) -> Self {
        let status = record.status.map_or(0, |status| status.as_u16());
        let grpc = record.grpc_status.map(|code| match u8::try_from(code) {
            Ok(known @ 0..=16) => known,
            _ => GRPC_UNKNOWN,
        });
        Self {
            status: if is_exact { status } else { status / 100 * 100 },
            grpc: grpc.unwrap_or(NOT_GRPC),
            flags: match is_exact {
                true => record.flags.sorted(),
                false => record.flags.cause().into_iter().collect(),
            },
            is_grpc: record.messages.is_some(),
        }
    }
}

impl Labels {
    /// Returns those of a request.
    pub(super) fn of(record: &RequestRecord<'_>, how: How) -> Self {
        Self {
            whose: Some(Whose {
                source: record.client.workload.clone(),
                service: record.client.port.clone(),
                backend: record.destination.cloned(),
                workload: record.workload.cloned(),
                route: record.rule.map(|rule| RuleRef(rule.label())),
            }),
            how,
        }
    }

    /// Returns what all labels have in common that may be added up in one row of requests, whichever names of metrics there are: the
    /// source, the service whose endpoints the request was for, and which of them.
    pub(super) fn group(&self) -> Option<Group<'_>> {
        let whose = self.whose.as_ref()?;
        let to = whose.backend.as_ref().unwrap_or(&whose.service);
        Some((&whose.source, &to.service, whose.workload.as_deref()))
    }

    /// Returns those of all requests by the same route, however they ended and whoever answered.
    pub(super) fn of_route(&self) -> Self {
        let whose = self.whose.as_ref().map(|whose| Whose {
            workload: None,
            ..whose.clone()
        });
        Self {
            whose,
            how: How::default(),
        }
    }

    /// Returns whether they are those of a request. Names are compared only where they are not the very same ones.
    pub(super) fn are_of(&self, record: &RequestRecord<'_>, how: How) -> bool {
        let Some(whose) = &self.whose else {
            return false;
        };
        self.how == how
            && is_same(&whose.source, &record.client.workload)
            && is_same(&whose.service, &record.client.port)
            && match (&whose.backend, record.destination) {
                (Some(mine), Some(its)) => is_same(mine, its),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
            && match (&whose.workload, record.workload) {
                (Some(mine), Some(its)) => is_same(mine, its),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
            && match (&whose.route, record.rule) {
                (Some(mine), Some(its)) => mine.is_of(its),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }
}

fn is_same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// Returns a hash of what [`Labels`] of this request would be, without making them. By value: a connection or a new
/// configuration may bring the same names at other addresses.
pub(super) fn hash(record: &RequestRecord<'_>, how: How) -> u64 {
    let mut mix = Mix(0);
    mix.text(&record.client.workload.namespace);
    mix.text(&record.client.workload.name);
    mix.port(&record.client.port);
    match record.destination {
        Some(backend) if Arc::ptr_eq(backend, &record.client.port) => mix.word(1),
        Some(backend) if **backend == *record.client.port => mix.word(1),
        Some(backend) => mix.port(backend),
        None => mix.word(0),
    }
    if let Some(workload) = record.workload {
        mix.text(&workload.namespace);
        mix.text(&workload.name);
    }
    if let Some(rule) = record.rule {
        mix.text(&rule.route.namespace);
        mix.text(&rule.route.name);
        match &rule.name {
            Some(name) => mix.text(name),
            None => mix.number(rule.index),
        }
    }
    let flags = how.flags.iter();
    let flags = flags.fold(0, |word, flag| word << 8 | (flag as u64 + 1));
    mix.word(
        u64::from(how.is_grpc) << 63
            | u64::from(how.status) << 32
            | u64::from(how.grpc) << 24
            | flags,
    );
    mix.finish()
}

/// A quick hash (as rustc's): what it is given comes from manifests, so nobody chooses it to collide.
struct Mix(u64);

impl Mix {
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// As its text.
    fn number(&mut self, mut number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b"0123456789"[number % 10];
            number /= 10;
            if number == 0 {
                return self.bytes(&digits[at..]);
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.word(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        }
        let mut rest = [0; 8];
        let last = chunks.remainder();
        rest[..last.len()].copy_from_slice(last);
        self.word(u64::from_le_bytes(rest));
        self.word(bytes.len() as u64);
    }

    fn port(&mut self, id: &PortId) {
        self.text(&id.service.namespace);
        self.text(&id.service.name);
        self.word(u64::from(id.port));
    }

    fn finish(mut self) -> u64 {
        // The upper bits are the good ones, and a table takes the lower.
        self.word(0);
        self.0 ^ (self.0 >> 32)
    }
}
