//! Counters of one set of labels on one data thread.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::http::record::{Messages, RequestRecord, Times};

/// Upper bounds of the buckets of durations, in microseconds: what both families of metrics take theirs from.
pub(super) const BOUNDS_US: [u64; 22] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Upper bounds of the buckets of sizes, in bytes.
pub(super) const BOUNDS_BYTES: [u64; 8] = [
    0,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
];

/// Counts by bucket; the last one has no upper bound.
pub(super) type Durations<T> = [T; BOUNDS_US.len() + 1];

/// The same of sizes.
pub(super) type Sizes<T> = [T; BOUNDS_BYTES.len() + 1];

/// Counters of one set of labels on one data thread, which alone writes them.
#[derive(Debug, Default)]
pub(super) struct Cell {
    durations: Durations<AtomicU64>,
    received_sizes: Sizes<AtomicU64>,
    sent_sizes: Sizes<AtomicU64>,
    received: AtomicU64,
    sent: AtomicU64,
    retries: AtomicU64,
    messages_received: AtomicU64,
    messages_sent: AtomicU64,
    agent_ns: AtomicU64,
    connect_ns: AtomicU64,
    upstream_ns: AtomicU64,
    transfer_ns: AtomicU64,
}

/// What cells say, added up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sums {
    pub(super) durations: Durations<u64>,
    pub(super) received_sizes: Sizes<u64>,
    pub(super) sent_sizes: Sizes<u64>,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) retries: u64,
    /// Messages of calls of gRPC.
    pub(super) messages: Messages,
    pub(super) times: Times,
}

impl Sums {
    /// Returns the number of requests. Not a counter of its own, so that it never differs from the buckets.
    pub(super) fn requests(&self) -> u64 {
        self.durations.iter().sum()
    }
}

impl Cell {
    /// Counts a request. One thread at a time: plain loads and stores cost no more than memory does.
    pub(super) fn count(&self, record: &RequestRecord<'_>) {
        let Times {
            agent_ns,
            connect_ns,
            upstream_ns,
            transfer_ns,
        } = record.times;
        add(&self.agent_ns, agent_ns);
        add(&self.connect_ns, connect_ns);
        add(&self.upstream_ns, upstream_ns);
        add(&self.transfer_ns, transfer_ns);
        add(&self.received, record.received);
        add(&self.sent, record.sent);
        let retries = record.attempts.saturating_sub(1);
        if retries > 0 {
            add(&self.retries, retries.into());
        }
        if let Some(Messages { received, sent }) = record.messages {
            add(&self.messages_received, received);
            add(&self.messages_sent, sent);
        }
        let duration_us = record.times.total_ns().div_ceil(1_000);
        add(&self.durations[bucket(&BOUNDS_US, duration_us)], 1);
        let received = bucket(&BOUNDS_BYTES, record.received);
        add(&self.received_sizes[received], 1);
        add(&self.sent_sizes[bucket(&BOUNDS_BYTES, record.sent)], 1);
    }

    /// Adds what it says to `sums`.
    pub(super) fn add_to(&self, sums: &mut Sums) {
        each(&mut sums.durations, &self.durations);
        each(&mut sums.received_sizes, &self.received_sizes);
        each(&mut sums.sent_sizes, &self.sent_sizes);
        let times = &mut sums.times;
        for (sum, counter) in [
            (&mut sums.received, &self.received),
            (&mut sums.sent, &self.sent),
            (&mut sums.retries, &self.retries),
            (&mut sums.messages.received, &self.messages_received),
            (&mut sums.messages.sent, &self.messages_sent),
            (&mut times.agent_ns, &self.agent_ns),
            (&mut times.connect_ns, &self.connect_ns),
            (&mut times.upstream_ns, &self.upstream_ns),
            (&mut times.transfer_ns, &self.transfer_ns),
        ] {
            *sum += counter.load(Ordering::Relaxed);
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

fn each(sums: &mut [u64], counters: &[AtomicU64]) {
    for (sum, counter) in sums.iter_mut().zip(counters) {
        *sum += counter.load(Ordering::Relaxed);
    }
}

fn bucket(bounds: &[u64], value: u64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        assert_eq!(bucket(&BOUNDS_US, 0), 0);
        assert_eq!(bucket(&BOUNDS_US, 100), 0);
        assert_eq!(bucket(&BOUNDS_US, 101), 1);
        assert_eq!(bucket(&BOUNDS_US, u64::MAX), BOUNDS_US.len());
        assert!(BOUNDS_US.is_sorted() && BOUNDS_BYTES.is_sorted());
    }
}
