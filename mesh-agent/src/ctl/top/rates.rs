//! From two looks at the pairs' counters to what happens now.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use mesh_common::histogram::{BUCKETS, quantile_us};
use serde::Serialize;

use crate::admin::types::{Pair, Pairs, WorkloadRef};
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

/// What one pair does now. Rates and turn-arounds are of the time between the two looks.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Row {
    pub(super) source: Option<WorkloadRef>,
    pub(super) destination: Option<WorkloadRef>,
    pub(super) destination_port: u16,
    /// Whether this is the sum of all pairs that found no row of their own.
    pub(super) overflow: bool,
    pub(super) bytes_per_second: f64,
    pub(super) messages_per_second: f64,
    pub(super) retransmits_per_second: f64,
    pub(super) flows_open: u64,
    pub(super) turnaround_p50_us: Option<f64>,
    pub(super) turnaround_p99_us: Option<f64>,
    pub(super) redirected_percent: Option<f64>,
}

type Key = (bool, Option<WorkloadRef>, Option<WorkloadRef>, u16);

/// What was counted of a pair over all paths.
#[derive(Default)]
struct Sum {
    bytes: u64,
    redirected: u64,
    messages: u64,
    retransmits: u64,
    flows_open: u64,
    turns: [u64; BUCKETS],
}

impl Top {
    /// Returns what happened between two looks. Pairs without a sign of life are left out.
    pub(super) fn between(before: &Pairs, after: &Pairs) -> Self {
        let seconds = float(after.at_ns.saturating_sub(before.at_ns)) / 1e9;
        let known: BTreeMap<_, _> = before
            .pairs
            .iter()
            .map(|p| ((key(p), &p.path), p))
            .collect();
        let mut sums = BTreeMap::<Key, Sum>::new();
        for pair in &after.pairs {
            let earlier = known.get(&(key(pair), &pair.path)).copied();
            sums.entry(key(pair)).or_default().add(earlier, pair);
        }
        let mut all = Sum::default();
        let mut rows = Vec::new();
        for (key, sum) in sums {
            all.bytes += sum.bytes;
            all.redirected += sum.redirected;
            all.messages += sum.messages;
            all.flows_open += sum.flows_open;
            if sum.bytes + sum.messages + sum.flows_open + sum.retransmits > 0 {
                rows.push(row(key, &sum, seconds));
            }
        }
        Self {
            seconds,
            bytes_per_second: rate(all.bytes, seconds),
            messages_per_second: rate(all.messages, seconds),
            flows_open: all.flows_open,
            redirected_percent: percent(all.redirected, all.bytes),
            rows,
        }
    }

    /// Sorts the rows: largest first, names from A to Z; equal ones by name, so that they stay where they are.
    pub(super) fn sort(&mut self, by: SortKey) {
        let value = |row: &Row| match by {
            SortKey::Bytes => row.bytes_per_second,
            SortKey::Messages => row.messages_per_second,
            SortKey::Flows => float(row.flows_open),
            SortKey::Latency => row.turnaround_p99_us.unwrap_or(-1.0),
            SortKey::Name => 0.0,
        };
        let name = |row: &Row| (row.source_text(), row.destination_text());
        self.rows.sort_by(|a, b| {
            value(b)
                .total_cmp(&value(a))
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

    fn source_text(&self) -> String {
        self.end(self.source.as_ref())
    }

    fn destination_text(&self) -> String {
        if self.overflow {
            return self.end(None);
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

impl Sum {
    fn add(&mut self, earlier: Option<&Pair>, now: &Pair) {
        // A row that was made anew starts from nothing.
        let earlier = earlier.filter(|e| e.tx_bytes <= now.tx_bytes && e.rx_bytes <= now.rx_bytes);
        let since = |field: fn(&Pair) -> u64| field(now).saturating_sub(earlier.map_or(0, field));
        let bytes = since(|p| p.tx_bytes) + since(|p| p.rx_bytes);
        self.bytes += bytes;
        self.redirected += if now.path == "redirect" { bytes } else { 0 };
        self.messages += since(|p| p.tx_messages) + since(|p| p.rx_messages);
        self.retransmits += since(|p| p.retransmits);
        self.flows_open += now.flows_open;
        for (i, count) in self.turns.iter_mut().enumerate() {
            let before = earlier.map_or(0, |e| e.turn_histogram[i]);
            *count += now.turn_histogram[i].saturating_sub(before);
        }
    }
}

fn row(key: Key, sum: &Sum, seconds: f64) -> Row {
    let (overflow, source, destination, destination_port) = key;
    Row {
        source,
        destination,
        destination_port,
        overflow,
        bytes_per_second: rate(sum.bytes, seconds),
        messages_per_second: rate(sum.messages, seconds),
        retransmits_per_second: rate(sum.retransmits, seconds),
        flows_open: sum.flows_open,
        turnaround_p50_us: quantile_us(&sum.turns, 0.5),
        turnaround_p99_us: quantile_us(&sum.turns, 0.99),
        redirected_percent: percent(sum.redirected, sum.bytes),
    }
}

fn key(pair: &Pair) -> Key {
    let Pair {
        source,
        destination,
        destination_port,
        overflow,
        ..
    } = pair;
    (
        *overflow,
        source.clone(),
        destination.clone(),
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
