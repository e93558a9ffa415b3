//! Counters by pair, with names and live flows: what `top` is made from.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use mesh_common::pair::{PairCounters, PairKey};

use crate::admin::types::{PAIRS_SCHEMA, Pair, Pairs, Totals, WorkloadRef};
use crate::model::observed::KernelView;
use crate::telemetry::clock::monotonic_ns;
use crate::telemetry::flow::{path_label, service};

/// Returns the counters of every pair.
pub(super) fn pairs(kernel: &dyn KernelView) -> anyhow::Result<Pairs> {
    let mut open = BTreeMap::<PairKey, u64>::new();
    // Live flows first: reading them brings the pairs up to date.
    for flow in kernel.live_flows()? {
        let key = PairKey {
            source_id: flow.source_id,
            destination_id: flow.destination_id,
            service: flow.service,
            destination_port: flow.destination_port,
            path: flow.path,
            requests: 0,
        };
        *open.entry(key).or_default() += 1;
    }
    // What carries requests and what does not is one pair here.
    let mut rows = BTreeMap::<PairKey, PairCounters>::new();
    for (key, counters) in kernel.pairs()? {
        let key = PairKey { requests: 0, ..key };
        rows.entry(key).or_insert(PairCounters::ZERO).add(&counters);
    }
    let at_ns = monotonic_ns();
    let mut pairs = Vec::with_capacity(rows.len());
    for (key, counters) in &rows {
        let live = open.remove(key).unwrap_or(0);
        pairs.push(pair(kernel, key, counters, live));
    }
    // Flows whose pair has no row yet: nothing was counted of them.
    for (key, live) in open {
        pairs.push(pair(kernel, &key, &PairCounters::ZERO, live));
    }
    Ok(Pairs {
        schema: PAIRS_SCHEMA.to_owned(),
        at_ns,
        pairs,
    })
}

/// Returns the sums over all pairs.
pub(super) fn totals(rows: &[(PairKey, PairCounters)]) -> Totals {
    let redirect = mesh_common::path::Path::Redirect as u8;
    let mut totals = Totals {
        at_ns: monotonic_ns(),
        ..Totals::default()
    };
    for (key, counters) in rows {
        let bytes = counters.tx_bytes + counters.rx_bytes;
        totals.bytes += bytes;
        totals.redirected_bytes += if key.path == redirect { bytes } else { 0 };
        totals.messages += counters.tx_messages + counters.rx_messages;
        totals.flows_opened += counters.opened;
        totals.flows_closed += counters.closed;
        totals.flows_failed += counters.failed;
    }
    totals
}

fn pair(kernel: &dyn KernelView, key: &PairKey, counters: &PairCounters, live: u64) -> Pair {
    let overflow = *key == PairKey::OVERFLOW;
    let name = |id: u32| {
        let known = id != 0 && !overflow;
        let name = known.then(|| kernel.name(id)).flatten();
        name.map(WorkloadRef::from)
    };
    Pair {
        source: name(key.source_id),
        destination: name(key.destination_id),
        service: service(kernel, if overflow { 0 } else { key.service }),
        destination_port: key.destination_port.number(),
        path: path_label(key.path).to_owned(),
        overflow,
        tx_bytes: counters.tx_bytes,
        rx_bytes: counters.rx_bytes,
        tx_messages: counters.tx_messages,
        rx_messages: counters.rx_messages,
        flows_open: live,
        flows_opened: counters.opened,
        flows_closed: counters.closed,
        flows_failed: counters.failed,
        retransmits: counters.retransmits,
        connect_sum_us: counters.connect_sum_us,
        connect_histogram: counters.connect_histogram,
        turn_sum_us: counters.turn_sum_us,
        turn_histogram: counters.turn_histogram,
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::path::Path;

    use super::*;
    use crate::telemetry::fake::{FakeKernel, traffic};

    #[test]
    fn what_carries_requests_and_what_does_not_is_one_pair() {
        let kernel = FakeKernel::default();
        kernel.change(|state| {
            let key = crate::telemetry::fake::pair(1, 2, 80, Path::Tcp);
            let requests = 1;
            let rows = [
                (key, traffic(1)),
                (PairKey { requests, ..key }, traffic(10)),
            ];
            state.pairs = rows.into();
        });
        let pairs = pairs(&kernel).unwrap().pairs;
        let counted = pairs.iter().filter(|it| it.tx_bytes > 0);
        let counted: Vec<_> = counted.map(|it| (it.tx_bytes, it.flows_opened)).collect();
        assert_eq!(counted, [(11_000, 22)]);
    }
}
