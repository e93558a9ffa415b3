//! Which pairs have series of their own, and sums that never fall although rows come and go.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_common::pair::{PairCounters, PairKey};

use crate::model::balanced::PortId;
use crate::model::workload::WorkloadName;
use crate::telemetry::flow::path_label;
use crate::telemetry::metrics::table::{OTHER, UNKNOWN};

/// Pairs with series of their own. Each costs about 40 series for each path that it uses, so that 256 pairs make 10,000 to
/// 20,000: what one target may cost a Prometheus server. A node of 110 pods (Kubernetes' bound) that call two others each
/// has fewer.
pub(super) const PAIRS_MAX: usize = 256;

/// The labels that name a pair, in the order of the table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct PairLabels {
    pub(super) source: (String, String),
    pub(super) destination: (String, String),
    pub(super) port: String,
    /// The service that was dialled; empty names for none.
    pub(super) service: (String, String),
}

impl PairLabels {
    /// Returns all of it but the service.
    fn without_service(&self) -> impl PartialEq + '_ {
        (&self.source, &self.destination, &self.port)
    }

    fn other() -> Self {
        Self {
            source: (OTHER.to_owned(), OTHER.to_owned()),
            destination: (OTHER.to_owned(), OTHER.to_owned()),
            port: OTHER.to_owned(),
            service: (OTHER.to_owned(), OTHER.to_owned()),
        }
    }
}

/// Labels that all connections of a pair have in common whatever their port: what Istio tells them by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Ends {
    pub(super) source: (String, String),
    pub(super) destination: (String, String),
    pub(super) service: (String, String),
}

impl Ends {
    fn of(labels: &PairLabels) -> Self {
        Self {
            source: labels.source.clone(),
            destination: labels.destination.clone(),
            service: labels.service.clone(),
        }
    }
}

/// Connections that carry no requests which the agent counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Opaque {
    pub(super) tx_bytes: u64,
    pub(super) rx_bytes: u64,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) failed: u64,
}

impl Opaque {
    fn add(&mut self, more: &PairCounters) {
        self.tx_bytes += more.tx_bytes;
        self.rx_bytes += more.rx_bytes;
        self.opened += more.opened;
        self.closed += more.closed;
        self.failed += more.failed;
    }
}

/// Sums of one pair, by path.
pub(super) type Sums = BTreeMap<&'static str, PairCounters>;

/// What was added up so far.
///
/// The kernel's counters are the only ones; this keeps what each row said at the last scrape, because a sum over rows
/// would fall when a row goes with its workload, and Prometheus takes a fall for a restart. Rules:
///
/// - A pair that got series keeps them until a workload of it is gone; then they end.
/// - A pair that comes when [`PAIRS_MAX`] have series is folded into `__other__`, and stays there.
/// - `__other__` starts from nothing when the agent starts, since nobody knows what it said before; pairs with series of
///   their own go on where the kernel's counters stand.
#[derive(Default)]
pub(super) struct Book {
    started: bool,
    rows: HashMap<PairKey, Row>,
    pairs: BTreeMap<Arc<PairLabels>, Pair>,
    other: Sums,
    /// Of what carries no requests: an entry lives as long as there is a pair of its ends. Apart from the sums of those, since one that
    /// ends would take its part along.
    opaque: BTreeMap<Ends, Opaque>,
    opaque_other: Opaque,
}

struct Row {
    /// The names it had when it was first seen.
    labels: Option<Arc<PairLabels>>,
    place: Place,
    last: PairCounters,
    seen: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The series of its labels.
    Own,
    Other,
    /// Its workload is gone, and with it the series.
    Nowhere,
}

struct Pair {
    /// Handles of the newest row, which say whether the workloads are still there.
    ids: (u32, u32),
    sums: Sums,
}

impl Book {
    /// Takes the kernel's rows of this moment.
    pub(super) fn update(
        &mut self,
        rows: &[(PairKey, PairCounters)],
        name: &dyn Fn(u32) -> Option<WorkloadName>,
        service: &dyn Fn(u32) -> Option<Arc<PortId>>,
    ) {
        self.end_pairs_of_gone_workloads(name);
        for (key, counters) in rows {
            let labels = labels(key, name, service).map(Arc::new);
            self.take(*key, counters, labels);
        }
        self.rows.retain(|_, row| std::mem::take(&mut row.seen));
        self.started = true;
    }

    /// Calls `each` with every pair that has series, `__other__` last.
    pub(super) fn each(&self, mut each: impl FnMut(&PairLabels, &Sums)) {
        for (labels, pair) in &self.pairs {
            each(labels, &pair.sums);
        }
        if !self.other.is_empty() {
            each(&PairLabels::other(), &self.other);
        }
    }

    /// Calls `each` with what carries no requests, comes from workloads of this node and goes to others, `None` for all that has no series last.
    pub(super) fn each_opaque(&self, mut each: impl FnMut(Option<&Ends>, &Opaque)) {
        for (ends, opaque) in &self.opaque {
            each(Some(ends), opaque);
        }
        if self.opaque_other != Opaque::default() {
            each(None, &self.opaque_other);
        }
    }

    /// Returns how many rows of the kernel are folded.
    pub(super) fn folded(&self) -> usize {
        let folded = |row: &&Row| row.place == Place::Other;
        self.rows.values().filter(folded).count()
    }

    fn end_pairs_of_gone_workloads(&mut self, name: &dyn Fn(u32) -> Option<WorkloadName>) {
        let is = |id: u32, label: &(String, String)| label_of(id, name).as_ref() == Some(label);
        self.pairs.retain(|labels, pair| {
            is(pair.ids.0, &labels.source) && is(pair.ids.1, &labels.destination)
        });
        let left: BTreeSet<Ends> = self.pairs.keys().map(|labels| Ends::of(labels)).collect();
        self.opaque.retain(|ends, _| left.contains(ends));
        for row in self.rows.values_mut() {
            let ended = |labels: &Arc<PairLabels>| !self.pairs.contains_key(labels);
            if row.place == Place::Own && row.labels.as_ref().is_none_or(ended) {
                row.place = Place::Nowhere;
            }
        }
    }

    fn take(&mut self, key: PairKey, counters: &PairCounters, labels: Option<Arc<PairLabels>>) {
        let known = self.rows.remove(&key);
        // A row that was made anew: what is there was counted since.
        let known = known.filter(|row| !restarted(counters, &row.last));
        let mut row = match known {
            None => self.place(&key, counters, labels),
            Some(row) => match (&row.labels, &labels) {
                (Some(before), Some(now)) if before != now => {
                    // The handle went to another workload, whose row is new; or the number to another service, whose row is not.
                    let is_same_row = before.without_service() == now.without_service();
                    let new = self.place(&key, counters, labels);
                    let last = if is_same_row { row.last } else { new.last };
                    Row { last, ..new }
                }
                _ => row,
            },
        };
        let path = if key == PairKey::OVERFLOW {
            OTHER
        } else {
            path_label(key.path)
        };
        let sums = match row.place {
            Place::Nowhere => None,
            Place::Other => Some(&mut self.other),
            Place::Own => row
                .labels
                .as_ref()
                .and_then(|labels| self.pairs.get_mut(labels))
                .map(|pair| &mut pair.sums),
        };
        if let Some(sums) = sums {
            let more = since(counters, &row.last);
            let sum = sums.entry(path).or_insert(PairCounters::ZERO);
            sum.add(&more);
            // What a workload says to itself, as the agent's checks do for it, Istio's proxies do not see.
            let is_own = key.source_id == key.destination_id && key.service == 0;
            let is_opaque = key.requests == 0 && key.source_id != 0 && !is_own;
            match (row.place, &row.labels) {
                _ if !is_opaque || key == PairKey::OVERFLOW => {}
                (Place::Own, Some(labels)) => {
                    let opaque = self.opaque.entry(Ends::of(labels));
                    opaque.or_default().add(&more);
                }
                (Place::Own | Place::Other | Place::Nowhere, _) => self.opaque_other.add(&more),
            }
        }
        row.last = *counters;
        row.seen = true;
        self.rows.insert(key, row);
    }

    fn place(
        &mut self,
        key: &PairKey,
        counters: &PairCounters,
        labels: Option<Arc<PairLabels>>,
    ) -> Row {
        let ids = (key.source_id, key.destination_id);
        let place = match &labels {
            None => Place::Other,
            Some(labels) => {
                let room = self.pairs.len() < PAIRS_MAX;
                if let Some(pair) = self.pairs.get_mut(labels) {
                    pair.ids = ids;
                    Place::Own
                } else if room {
                    let sums = Sums::new();
                    self.pairs.insert(labels.clone(), Pair { ids, sums });
                    Place::Own
                } else {
                    Place::Other
                }
            }
        };
        let from_start = place == Place::Other && !self.started;
        Row {
            labels,
            place,
            last: if from_start {
                *counters
            } else {
                PairCounters::ZERO
            },
            seen: true,
        }
    }
}

/// Returns the labels of a row; `None` for the overflow row and for workloads that are gone.
fn labels(
    key: &PairKey,
    name: &dyn Fn(u32) -> Option<WorkloadName>,
    service: &dyn Fn(u32) -> Option<Arc<PortId>>,
) -> Option<PairLabels> {
    if *key == PairKey::OVERFLOW {
        return None;
    }
    Some(PairLabels {
        source: label_of(key.source_id, name)?,
        destination: label_of(key.destination_id, name)?,
        port: key.destination_port.number().to_string(),
        service: match (key.service, service(key.service)) {
            (0, _) => <(String, String)>::default(),
            (_, None) => (UNKNOWN.to_owned(), UNKNOWN.to_owned()),
            (_, Some(id)) => (id.service.namespace.clone(), id.service.name.clone()),
        },
    })
}

fn label_of(id: u32, name: &dyn Fn(u32) -> Option<WorkloadName>) -> Option<(String, String)> {
    if id == 0 {
        return Some((UNKNOWN.to_owned(), UNKNOWN.to_owned()));
    }
    name(id).map(|name| (name.namespace, name.name))
}

/// Returns whether a row was deleted and made anew since `last`.
fn restarted(now: &PairCounters, last: &PairCounters) -> bool {
    now.tx_bytes < last.tx_bytes
        || now.rx_bytes < last.rx_bytes
        || now.opened < last.opened
        || now.closed < last.closed
        || now.failed < last.failed
}

/// Returns what was counted since `last`.
fn since(now: &PairCounters, last: &PairCounters) -> PairCounters {
    let mut more = *now;
    more.tx_bytes = now.tx_bytes.saturating_sub(last.tx_bytes);
    more.rx_bytes = now.rx_bytes.saturating_sub(last.rx_bytes);
    more.tx_messages = now.tx_messages.saturating_sub(last.tx_messages);
    more.rx_messages = now.rx_messages.saturating_sub(last.rx_messages);
    more.opened = now.opened.saturating_sub(last.opened);
    more.closed = now.closed.saturating_sub(last.closed);
    more.failed = now.failed.saturating_sub(last.failed);
    more.retransmits = now.retransmits.saturating_sub(last.retransmits);
    more.rtt_sum_us = now.rtt_sum_us.saturating_sub(last.rtt_sum_us);
    more.rtt_samples = now.rtt_samples.saturating_sub(last.rtt_samples);
    more.connect_sum_us = now.connect_sum_us.saturating_sub(last.connect_sum_us);
    more.turn_sum_us = now.turn_sum_us.saturating_sub(last.turn_sum_us);
    for (more, last) in more
        .connect_histogram
        .iter_mut()
        .zip(&last.connect_histogram)
    {
        *more = more.saturating_sub(*last);
    }
    for (more, last) in more.turn_histogram.iter_mut().zip(&last.turn_histogram) {
        *more = more.saturating_sub(*last);
    }
    more
}

#[cfg(test)]
mod tests;
