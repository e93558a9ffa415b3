//! A socket's key and its state in socket storage.

use crate::addr::{Addr, PortBe};
use crate::histogram::BUCKETS;
use crate::redirect::Window;
use crate::service::Dial;

/// One end of a connection as its own socket sees it: the key of the socket map.
///
/// Network namespace cookie and both initial sequence numbers make it unforgeable by a socket elsewhere: the same
/// addresses and ports in another namespace, an old connection's left-over socket, or TCP Fast Open data all miss.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct SockKey {
    /// Cookie of the owner's network namespace.
    pub netns: u64,
    /// The owner's address.
    pub local: Addr,
    /// The other end's address.
    pub remote: Addr,
    /// The owner's port.
    pub local_port: PortBe,
    /// The other end's port.
    pub remote_port: PortBe,
    /// Initial sequence number of the owner's bytes: the number of its SYN.
    pub iss: u32,
    /// Initial sequence number of the other end's bytes.
    pub irs: u32,
    /// Zero; map keys hash raw bytes.
    pub _pad: u32,
}

const _: () = assert!(size_of::<SockKey>() == 8 + 16 + 16 + 2 + 2 + 4 + 4 + 4);

impl SockKey {
    /// Returns the key of the other end's socket, which lives in the namespace `peer_netns`.
    #[inline(always)]
    pub const fn mirrored(&self, peer_netns: u64) -> Self {
        Self {
            netns: peer_netns,
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
            iss: self.irs,
            irs: self.iss,
            _pad: 0,
        }
    }
}

/// The owner dialled.
pub const FLAG_CLIENT: u32 = 1 << 0;
/// The socket is in the socket map, so that `redirect` runs for each of its messages.
pub const FLAG_MEMBER: u32 = 1 << 1;
/// This end reports the flow: the client's, or the server's where the client is not a workload of this node.
pub const FLAG_REPORTER: u32 = 1 << 2;
/// The connection was established.
pub const FLAG_ESTABLISHED: u32 = 1 << 3;
/// The owner's workload is being observed.
pub const FLAG_OBSERVED: u32 = 1 << 4;
/// The owner closed first.
pub const FLAG_CLOSED_FIRST: u32 = 1 << 5;
/// The other end closed first.
pub const FLAG_PEER_CLOSED_FIRST: u32 = 1 << 6;

/// The other end dialled too (a simultaneous open, RFC 9293 section 3.5, or a socket that dialled itself): neither is the client.
pub const FLAG_BOTH_DIALLED: u32 = 1 << 7;

/// The owner is the agent, on the workload's behalf: its socket is in the workload's network namespace.
pub const FLAG_AGENT: u32 = 1 << 8;
/// The other end's owner is the agent.
pub const FLAG_PEER_AGENT: u32 = 1 << 9;
/// The owner dialled a service and got the agent: no flow of its own, since the agent's connection to the backend is one.
pub const FLAG_CAPTURED: u32 = 1 << 10;

/// In `SockState::rule`: the rule is in dry-run mode and would have denied. Rules have numbers below `limits::RULES`.
pub const RULE_WOULD_DENY: u32 = 1 << 31;

/// What was already added to the pair counters; each field trails its total.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Flushed {
    /// 1 once the flow was counted as opened.
    pub opened: u64,
    /// Bytes sent by TCP.
    pub tcp_tx_bytes: u64,
    /// Bytes received by TCP.
    pub tcp_rx_bytes: u64,
    /// Bytes sent by redirect.
    pub redirect_tx_bytes: u64,
    /// Bytes received by redirect.
    pub redirect_rx_bytes: u64,
    /// Messages sent by TCP.
    pub tcp_tx_messages: u64,
    /// Messages sent by redirect.
    pub redirect_tx_messages: u64,
    /// Messages received by TCP.
    pub tcp_rx_messages: u64,
    /// Messages received by redirect.
    pub redirect_rx_messages: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Turn-arounds counted.
    pub turns: u64,
    /// Sum of turn-arounds counted.
    pub turn_sum_us: u64,
}

/// What was found out about both ends where a connect was judged, so that nobody looks it up again when its SYN goes out.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Judged {
    /// Cookie of the owner's network namespace; 0 where nothing was found out, or once it was taken.
    pub netns: u64,
    /// Cookie of the other end's; 0 when it is not a workload of this node.
    pub peer_netns: u64,
    /// The owner's workload.
    pub self_id: u32,
    /// The other end's; 0 when it is not one of this node.
    pub peer_id: u32,
    /// As `SockState::rule`.
    pub rule: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Judged>() == 2 * 8 + 4 * 4);

/// The state of one workload's socket, from `connect` (or the handshake's end) until it is destroyed.
///
/// Lives in socket storage, so it is never evicted and dies with its socket. An accepted socket has none where nobody would ask for
/// it: the client's end on this node reports the flow, the owner is not observed, and the flow stays on TCP from the beginning. An accepted socket starts with a copy of its
/// listener's, of which only `behaviours` counts. Totals only grow, until the same socket dials anew. Written by the programs
/// that run for this socket: `redirect`'s fields under the socket's lock, the others by atomic addition.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct SockState {
    /// What the owner dialled; its service is 0 where that was none. First, since what is known of a connection is cleared behind it,
    /// and since the compiler would add its offset to what may be null: "pointer arithmetic on map_value_or_null prohibited".
    pub dial: Dial,
    /// Whom it dialled, and by whose leave.
    pub judged: Judged,
    /// This end.
    pub key: SockKey,
    /// The other end's key; zero when it is not a workload of this node.
    pub peer: SockKey,
    /// Bytes that the owner's send calls took, by any path.
    pub tx_bytes: u64,
    /// Bytes that the owner's receive calls returned, by any path.
    pub rx_bytes: u64,
    /// Send calls that took at least one byte.
    pub tx_messages: u64,
    /// Receive calls that returned at least one byte.
    pub rx_messages: u64,
    /// Bytes sent by redirect.
    pub redirect_tx_bytes: u64,
    /// Messages sent by redirect.
    pub redirect_tx_messages: u64,
    /// Bytes received by redirect.
    pub redirect_rx_bytes: u64,
    /// Messages received by redirect.
    pub redirect_rx_messages: u64,
    /// What the pair counters have.
    pub flushed: Flushed,
    /// When `connect` began, or the handshake ended on the accepting side; `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// When the first byte of the request in progress was sent; 0 while none is.
    pub turn_start_ns: u64,
    /// Sum of the request turn-arounds.
    pub turn_sum_us: u64,
    /// 1 once TCP has closed; the owner may still read what arrived before.
    pub tcp_closed: u64,
    /// 1 once the owner has closed its descriptor: no call can follow.
    pub released: u64,
    /// 1 once the flow was reported for the last time.
    pub finished: u64,
    /// Value of `tx_bytes` when the owner last received something.
    pub answered_tx_bytes: u64,
    /// Behaviours set on this very socket by option, before or after it was established.
    pub behaviours: u64,
    /// Kernel's cookie of the socket, unique while the machine runs.
    pub cookie: u64,
    /// Bound of the bytes and messages in flight by redirect.
    pub window: Window,
    /// Duration of `connect`; 0 on the accepting side.
    pub connect_us: u32,
    /// Request turn-arounds seen.
    pub turns: u32,
    /// Longest turn-around.
    pub turn_max_us: u32,
    /// The owner's workload.
    pub self_id: u32,
    /// The other end's workload; 0 when it is not one of this node.
    pub peer_id: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// `Reason` that stood against redirect when the socket was established.
    pub reason: u32,
    /// `Reason` of the first message that went by TCP although the socket is in the map.
    pub message_reason: u32,
    /// `CloseReason` once TCP has closed.
    pub close: u32,
    /// Smoothed round-trip time when TCP closed.
    pub srtt_us: u32,
    /// Segments sent again by the time TCP closed.
    pub retransmits: u32,
    /// `tcp_sock.copied_seq` at the last receive call: where it stands still, the bytes came by redirect.
    pub last_copied: u32,
    /// 1 when the last message went by redirect.
    pub last_redirected: u32,
    /// Number of the cell that it shares with the other end, while it is in the socket map.
    pub cell: u32,
    /// Number of the service port that the owner dialled; 0 when it was none.
    pub service: u32,
    /// Number of the backend that it was given; 0 when there is none, or once its end was counted.
    pub backend: u32,
    /// That backend's generation.
    pub backend_generation: u32,
    /// Number of the policy rule that decided; 0 when none did. With [`RULE_WOULD_DENY`].
    pub rule: u32,
    /// Request turn-arounds by `histogram::bucket`.
    pub turn_histogram: [u64; BUCKETS],
    /// What the pair counters have of `turn_histogram`.
    pub turn_flushed: [u64; BUCKETS],
}

const _: () = assert!(core::mem::offset_of!(SockState, dial) == 0);
const _: () = assert!(
    size_of::<SockState>()
        == 2 * 56
            + 8 * 8
            + 12 * 8
            + 9 * 8
            + size_of::<Dial>()
            + size_of::<Judged>()
            + size_of::<Window>()
            + 18 * 4
            + 2 * 8 * BUCKETS
);
