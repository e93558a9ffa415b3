//! From two looks at the pairs' counters to what happens now.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use mesh_common::histogram::{BUCKETS, quantile_us};
use serde::Serialize;

use crate::admin::types::{Pair, Pairs, ServiceRef, WorkloadRef};
use crate::cli::SortKey;
use crate::ctl::human::{bytes, clean, duration_us, percent, short};

/// What every pair does now.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub(super) struct Top {
    /// Time between the two looks; 0 before the second.
    pub(super) seconds: f64,
    /// Bytes per second over all pairs.
    pub(super) bytes_per_second: f64,
    /// Messages per second over all pairs.
    pub(super) messages_per_second: f64,
    /// Live flows.
    pub(super) flows_open: u64,
    /// Share of the bytes that was redirected; `None` when there were none.
    pub(super) redirected_percent: Option<f64>,
    /// The pairs.
    pub(super) rows: Vec<Row>,
}

/// What one pair does now. Rates are of the time between the two looks; shares and turn-arounds too, or of all that was
/// counted where there is only one table to show.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Row {
    pub(super) source: Option<WorkloadRef>,
    /// `None` where a service was dialled, too: the row is the sum over its backends.
    pub(super) destination: Option<WorkloadRef>,
    pub(super) service: Option<ServiceRef>,
    pub(super) destination_port: u16,
    /// Whether this is the sum of all pairs that found no row of their own.
    pub(super) overflow: bool,
    /// Bytes since counting began.
    pub(super) bytes_total: u64,
    /// Messages since counting began.
    pub(super) messages_total: u64,
    pub(super) bytes_per_second: f64,
    pub(super) messages_per_second: f64,
    pub(super) retransmits_per_second: f64,
    pub(super) flows_open: u64,
    pub(super) turnaround_p50_us: Option<f64>,
    pub(super) turnaround_p99_us: Option<f64>,
    pub(super) redirected_percent: Option<f64>,
}

type Key = (
    bool,
    Option<WorkloadRef>,
    Option<WorkloadRef>,
    Option<ServiceRef>,
    u16,
);

/// What was counted of a pair over all paths.
#[derive(Default)]
struct Sum {
    /// Between the two looks.
    now: Counts,
    /// Since counting began.
    ever: Counts,
    flows_open: u64,
}

#[derive(Default)]
struct Counts {
    bytes: u64,
    redirected: u64,
    messages: u64,
    retransmits: u64,
    /// Opened, or failed to.
    flows: u64,
    turns: [u64; BUCKETS],
}

impl Top {
    /// Returns what happened between two looks, for a screen that is drawn again and again. Pairs without a sign of life are
    /// left out.
    pub(super) fn between(before: &Pairs, after: &Pairs) -> Self {
        Self::new(before, after, false)
    }

    /// Returns what there is to say once: every pair that was ever counted, since its traffic may have ended a moment ago,
    /// with the rates between the two looks; the redirected share and the turn-arounds are of all that was counted.
    pub(super) fn once(before: &Pairs, after: &Pairs) -> Self {
        Self::new(before, after, true)
    }

    fn new(before: &Pairs, after: &Pairs, once: bool) -> Self {
        let seconds = float(after.at_ns.saturating_sub(before.at_ns)) / 1e9;
        let known: BTreeMap<_, _> = before
            .pairs
            .iter()
            .map(|p| ((key(p), &p.path), p))
            .collect();
        let mut sums = BTreeMap::<Key, Sum>::new();
        let mut all = Sum::default();
        for pair in &after.pairs {
            let earlier = known.get(&(key(pair), &pair.path)).copied();
            for sum in [sums.entry(shown_as(key(pair))).or_default(), &mut all] {
                sum.now.add(earlier, pair);
                sum.ever.add(None, pair);
                sum.flows_open += pair.flows_open;
            }
        }
        let shown = |sum: &Sum| {
            let counts = if once { &sum.ever } else { &sum.now };
            counts.bytes + counts.messages + counts.retransmits + sum.flows_open > 0
                || (once && counts.flows > 0)
        };
        let rows = sums.into_iter().filter(|(_, sum)| shown(sum));
        let total = if once { &all.ever } else { &all.now };
        Self {
            seconds,
            bytes_per_second: rate(all.now.bytes, seconds),
            messages_per_second: rate(all.now.messages, seconds),
            flows_open: all.flows_open,
            redirected_percent: percent(total.redirected, total.bytes),
            rows: rows
                .map(|(key, sum)| row(key, &sum, seconds, once))
                .collect(),
        }
    }

    /// Sorts the rows: largest first, names from A to Z; equal ones by bytes so far, then by name, so that they stay where
    /// they are.
    pub(super) fn sort(&mut self, by: SortKey) {
        let value = |row: &Row| match by {
            SortKey::Bytes => row.bytes_per_second,
            SortKey::Messages => row.messages_per_second,
            SortKey::Flows => float(row.flows_open),
            SortKey::Latency => row.turnaround_p99_us.unwrap_or(-1.0),
            SortKey::Name => 0.0,
        };
        let total = |row: &Row| match by {
            SortKey::Name => 0,
            SortKey::Bytes | SortKey::Messages | SortKey::Flows | SortKey::Latency => {
                row.bytes_total
            }
        };
        let name = |row: &Row| (row.source_text(), row.destination_text());
        self.rows.sort_by(|a, b| {
            value(b)
                .total_cmp(&value(a))
                .then_with(|| total(b).cmp(&total(a)))
                .then_with(|| name(a).cmp(&name(b)))
        });
    }
}

impl Row {
    /// Returns the cells of the row, in the order of the columns.
    pub(super) fn texts(&self) -> [String; 9] {
        let us = |us: Option<f64>| us.map(duration_us).unwrap_or_default();
        let redirected = self.redirected_percent;
        [
            self.source_text(),
            self.destination_text(),
            bytes(self.bytes_per_second),
            short(self.messages_per_second),
            self.flows_open.to_string(),
            us(self.turnaround_p50_us),
            us(self.turnaround_p99_us),
            redirected
                .map(|share| format!("{share:.0}%"))
                .unwrap_or_default(),
            short(self.retransmits_per_second),
        ]
    }

    /// Returns the cell of the bytes since counting began.
    pub(super) fn total_text(&self) -> String {
        bytes(float(self.bytes_total))
    }

    fn source_text(&self) -> String {
        self.end(self.source.as_ref())
    }

    fn destination_text(&self) -> String {
        if self.overflow {
            return self.end(None);
        }
        if let Some(service) = &self.service {
            return clean(&service.to_string());
        }
        format!(
            "{}:{}",
            self.end(self.destination.as_ref()),
            self.destination_port
        )
    }

    fn end(&self, workload: Option<&WorkloadRef>) -> String {
        match workload {
            _ if self.overflow => "(others)".to_owned(),
            Some(workload) => clean(&workload.to_string()),
            None => "elsewhere".to_owned(),
        }
    }
}

impl Counts {
    fn add(&mut self, earlier: Option<&Pair>, now: &Pair) {
        // A row that was made anew starts from nothing.
        let earlier = earlier.filter(|e| e.tx_bytes <= now.tx_bytes && e.rx_bytes <= now.rx_bytes);
        let since = |field: fn(&Pair) -> u64| field(now).saturating_sub(earlier.map_or(0, field));
        let bytes = since(|p| p.tx_bytes) + since(|p| p.rx_bytes);
        self.bytes += bytes;
        self.redirected += if now.path == "redirect" { bytes } else { 0 };
        self.messages += since(|p| p.tx_messages) + since(|p| p.rx_messages);
        self.retransmits += since(|p| p.retransmits);
        self.flows += since(|p| p.flows_opened) + since(|p| p.flows_failed);
        for (i, count) in self.turns.iter_mut().enumerate() {
            let before = earlier.map_or(0, |e| e.turn_histogram[i]);
            *count += now.turn_histogram[i].saturating_sub(before);
        }
    }
}

fn row(key: Key, sum: &Sum, seconds: f64, once: bool) -> Row {
    let (overflow, source, destination, service, destination_port) = key;
    let Sum {
        now,
        ever,
        flows_open,
    } = sum;
    let counts = if once { ever } else { now };
    Row {
        source,
        destination,
        service,
        destination_port,
        overflow,
        bytes_total: ever.bytes,
        messages_total: ever.messages,
        bytes_per_second: rate(now.bytes, seconds),
        messages_per_second: rate(now.messages, seconds),
        retransmits_per_second: rate(now.retransmits, seconds),
        flows_open: *flows_open,
        turnaround_p50_us: quantile_us(&counts.turns, 0.5),
        turnaround_p99_us: quantile_us(&counts.turns, 0.99),
        redirected_percent: percent(counts.redirected, counts.bytes),
    }
}

/// Returns the row that a pair is shown in: all backends of a service share one.
fn shown_as(key: Key) -> Key {
    match key {
        (overflow, source, _, Some(service), _) => {
            let port = service.port;
            (overflow, source, None, Some(service), port)
        }
        key => key,
    }
}

fn key(pair: &Pair) -> Key {
    let Pair {
        source,
        destination,
        service,
        destination_port,
        overflow,
        ..
    } = pair;
    (
        *overflow,
        source.clone(),
        destination.clone(),
        service.clone(),
        *destination_port,
    )
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        float(count) / seconds
    } else {
        0.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates, not counts")]
fn float(number: u64) -> f64 {
    number as f64
}
