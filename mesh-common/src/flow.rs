//! What both ends of a flow share while it lives, and the record that is left of it.

use crate::addr::{Addr, PortBe};
use crate::histogram::BUCKETS;
use crate::redirect::Progress;

/// What the two ends of one connection tell each other. Its number is found under the client's `SockKey`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct FlowCell {
    /// Written by the client's end.
    pub client: Progress,
    /// Written by the server's end.
    pub server: Progress,
}

/// One flow as it stands (`end_ns` is 0) or as it ended. `tx` is source to destination, whoever reports it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct FlowRecord {
    /// Socket cookie of the reporting end; identifies the flow while the machine runs.
    pub cookie: u64,
    /// Cookie of the reporting end's network namespace.
    pub netns: u64,
    /// When `connect` began, or the handshake ended where only the destination is on this node; `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// When the reporting socket closed; 0 while it is open.
    pub end_ns: u64,
    /// Bytes from source to destination.
    pub tx_bytes: u64,
    /// Bytes from destination to source.
    pub rx_bytes: u64,
    /// Messages from source to destination.
    pub tx_messages: u64,
    /// Messages from destination to source.
    pub rx_messages: u64,
    /// The part of `tx_bytes` that was redirected.
    pub redirect_tx_bytes: u64,
    /// The part of `rx_bytes` that was redirected.
    pub redirect_rx_bytes: u64,
    /// Sum of the request turn-arounds.
    pub turn_sum_us: u64,
    /// The source's address.
    pub source: Addr,
    /// The destination's address.
    pub destination: Addr,
    /// The source's port.
    pub source_port: PortBe,
    /// The destination's port.
    pub destination_port: PortBe,
    /// The source's workload; 0 when it is not one of this node.
    pub source_id: u32,
    /// The destination's workload; 0 when it is not one of this node.
    pub destination_id: u32,
    /// Duration of `connect`.
    pub connect_us: u32,
    /// Smoothed round-trip time as TCP knows it; it stands still while bytes are redirected.
    pub srtt_us: u32,
    /// Segments that TCP sent again.
    pub retransmits: u32,
    /// Request turn-arounds seen.
    pub turns: u32,
    /// Longest turn-around.
    pub turn_max_us: u32,
    /// `Path`.
    pub path: u8,
    /// `Reason`: why it was not redirected, or not all of it.
    pub reason: u8,
    /// `CloseReason`.
    pub close: u8,
    /// 1 when the source's end reports, 0 when the destination's does.
    pub from_source: u8,
    /// Number of the service port that the source dialled; 0 when it was none.
    pub service: u32,
    /// Number of the policy rule that decided; 0 when none did.
    pub rule: u32,
    /// 1 when a rule in dry-run mode would have denied it.
    pub would_deny: u8,
    /// `service::TCP` or `service::UDP`.
    pub protocol: u8,
    /// Zero.
    pub _pad: [u8; 2],
    /// Zero: one record's size is a multiple of eight bytes.
    pub _pad2: u32,
    /// In the ring buffer, a record of a live flow asks that the flow leave the socket map; then this is its cell's number.
    pub cell: u32,
    /// Request turn-arounds by `histogram::bucket`.
    pub turn_histogram: [u32; BUCKETS],
}

const _: () = assert!(
    size_of::<FlowRecord>() == 11 * 8 + 2 * 16 + 2 * 2 + 7 * 4 + 4 + 4 * 4 + 4 + 4 * BUCKETS
);
