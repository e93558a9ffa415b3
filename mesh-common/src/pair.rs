//! Counters by pair of workloads, kept per CPU in the kernel and added up in user space.

use crate::addr::PortBe;
use crate::histogram::BUCKETS;

/// Whom the counters are of.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct PairKey {
    /// The source's workload; 0 when it is not one of this node.
    pub source_id: u32,
    /// The destination's workload; 0 when it is not one of this node.
    pub destination_id: u32,
    /// Number of the service port that the source dialled; 0 when it was none.
    pub service: u32,
    /// The destination's port.
    pub destination_port: PortBe,
    /// `Path`.
    pub path: u8,
    /// 1 for the agent's own connections that carry requests, which it counts one by one; else 0.
    pub requests: u8,
}

const _: () = assert!(size_of::<PairKey>() == 4 + 4 + 4 + 2 + 1 + 1);

impl PairKey {
    /// Takes what finds no place in the full map, so that sums stay true.
    pub const OVERFLOW: Self = Self {
        source_id: u32::MAX,
        destination_id: u32::MAX,
        service: 0,
        destination_port: PortBe(0),
        path: 0,
        requests: 0,
    };
}

/// What flowed between a pair. `tx` is source to destination. All grow only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct PairCounters {
    /// Bytes from source to destination.
    pub tx_bytes: u64,
    /// Bytes from destination to source.
    pub rx_bytes: u64,
    /// Messages from source to destination.
    pub tx_messages: u64,
    /// Messages from destination to source.
    pub rx_messages: u64,
    /// Flows established; on the row of path TCP, since none has taken its path by then.
    pub opened: u64,
    /// Flows ended, by the path that they had taken.
    pub closed: u64,
    /// Flows that were never established.
    pub failed: u64,
    /// Segments that TCP sent again.
    pub retransmits: u64,
    /// Sum of the smoothed round-trip times at the end of each flow.
    pub rtt_sum_us: u64,
    /// Number of terms in `rtt_sum_us`.
    pub rtt_samples: u64,
    /// Sum of connect times.
    pub connect_sum_us: u64,
    /// Sum of request turn-arounds.
    pub turn_sum_us: u64,
    /// Connect times by `histogram::bucket`.
    pub connect_histogram: [u64; BUCKETS],
    /// Request turn-arounds by `histogram::bucket`.
    pub turn_histogram: [u64; BUCKETS],
}

const _: () = assert!(size_of::<PairCounters>() == 12 * 8 + 2 * 8 * BUCKETS);

impl PairCounters {
    /// Counters of a pair that nothing was counted of.
    pub const ZERO: Self = Self {
        tx_bytes: 0,
        rx_bytes: 0,
        tx_messages: 0,
        rx_messages: 0,
        opened: 0,
        closed: 0,
        failed: 0,
        retransmits: 0,
        rtt_sum_us: 0,
        rtt_samples: 0,
        connect_sum_us: 0,
        turn_sum_us: 0,
        connect_histogram: [0; BUCKETS],
        turn_histogram: [0; BUCKETS],
    };

    /// Adds another CPU's (or pair's) counters to these.
    pub fn add(&mut self, other: &Self) {
        let Self {
            tx_bytes,
            rx_bytes,
            tx_messages,
            rx_messages,
            opened,
            closed,
            failed,
            retransmits,
            rtt_sum_us,
            rtt_samples,
            connect_sum_us,
            turn_sum_us,
            connect_histogram,
            turn_histogram,
        } = other;
        self.tx_bytes = self.tx_bytes.wrapping_add(*tx_bytes);
        self.rx_bytes = self.rx_bytes.wrapping_add(*rx_bytes);
        self.tx_messages = self.tx_messages.wrapping_add(*tx_messages);
        self.rx_messages = self.rx_messages.wrapping_add(*rx_messages);
        self.opened = self.opened.wrapping_add(*opened);
        self.closed = self.closed.wrapping_add(*closed);
        self.failed = self.failed.wrapping_add(*failed);
        self.retransmits = self.retransmits.wrapping_add(*retransmits);
        self.rtt_sum_us = self.rtt_sum_us.wrapping_add(*rtt_sum_us);
        self.rtt_samples = self.rtt_samples.wrapping_add(*rtt_samples);
        self.connect_sum_us = self.connect_sum_us.wrapping_add(*connect_sum_us);
        self.turn_sum_us = self.turn_sum_us.wrapping_add(*turn_sum_us);
        for (mine, theirs) in self.connect_histogram.iter_mut().zip(connect_histogram) {
            *mine = mine.wrapping_add(*theirs);
        }
        for (mine, theirs) in self.turn_histogram.iter_mut().zip(turn_histogram) {
            *mine = mine.wrapping_add(*theirs);
        }
    }
}
