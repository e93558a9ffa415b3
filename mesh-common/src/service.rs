//! Services as the kernel balances them: what is dialled, what it stands for, and who answers.
//!
//! A [`Frontend`] leads to a service port's number, that to its [`ServiceEntry`], and its `set` to the first [`Chunk`] of an
//! immutable table of backends in one pool (`balance` says how it is laid out). A new table is written beside the old one and
//! then named by one store to `set`, so a program sees either, whole. What nobody names any more is used again only after a
//! grace period in which every program that could have read it has ended.

use crate::addr::{Addr, PortBe};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// What a workload dials to reach a service port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Frontend {
    /// The service's address. For a node port, which every address of a node has: [`Frontend::NODE_V4`] where an IPv4 address is
    /// dialled, [`Frontend::NODE_V6`] where an IPv6 one is; a service port has a number, and backends, for each family.
    pub address: Addr,
    /// The service's port, or its node port.
    pub port: PortBe,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Zero; map keys hash raw bytes.
    pub _pad: u8,
}

const _: () = assert!(size_of::<Frontend>() == 16 + 2 + 1 + 1);

impl Frontend {
    /// Stands for every IPv4 address of a node: `0.0.0.0`.
    pub const NODE_V4: Addr = Addr::v4([0; 4]);
    /// Stands for every IPv6 address of a node: `::`.
    pub const NODE_V6: Addr = Addr::UNSPECIFIED;

    /// Returns the address that a node port's frontend has where `address` is dialled.
    #[inline(always)]
    pub const fn node(address: &Addr) -> Addr {
        if address.is_v4() {
            Self::NODE_V4
        } else {
            Self::NODE_V6
        }
    }
}

/// Stands for the agent's name server in a [`Dial`]: no service port has this number.
pub const DNS_SERVICE: u32 = u32::MAX;

/// Without backends a connect is left unanswered (as a packet filter's DROP) instead of refused: it goes to the service's own
/// address, which nobody has.
pub const SERVICE_DROPS: u32 = 1 << 0;

/// Every client's connections go to the agent. TCP only.
pub const SERVICE_PROXIED: u32 = 1 << 1;
/// Those of clients in namespaces that have a [`CaptureKey`] do.
pub const SERVICE_PROXIED_SOME: u32 = 1 << 2;
/// Where the agent is away, what would go to it is refused instead of balanced.
pub const SERVICE_FAILS_CLOSED: u32 = 1 << 3;

/// Clients of a namespace whose connections to a service port go to the agent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct CaptureKey {
    /// Number of the service port.
    pub service: u32,
    /// The namespace, as `NetnsEntry::namespace` has it.
    pub namespace: u32,
}

const _: () = assert!(size_of::<CaptureKey>() == 2 * 4);

/// One service port in one address family, found by its number; the number is never 0. The agent writes the first line of fields, word by word;
/// kernel programs add to the others.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct ServiceEntry {
    /// First chunk of its table; 0 when nobody answers.
    pub set: u32,
    /// `SERVICE_*`.
    pub flags: u32,
    /// How long a client sticks to its backend after its last connect; 0: not at all.
    pub affinity_ns: u64,
    /// Connects and first datagrams so far: also whose turn it is in round robin.
    pub turn: u64,
    /// Of those, the ones for which there was no backend.
    pub refused: u64,
    /// Zero: one service to a cache line.
    pub _pad: [u64; 4],
}

const _: () = assert!(size_of::<ServiceEntry>() == 64);

/// One endpoint of a service port, found by its number; the number is never 0. The agent writes the fields up to `weight` before
/// any table names the number; kernel programs add to the counters. An endpoint that is not listed any more keeps its number until
/// `open` is 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct BackendEntry {
    /// Its address.
    pub address: Addr,
    /// Its port.
    pub port: PortBe,
    /// 1 while tables may name it: a client may stick to it.
    pub usable: u16,
    /// Counts the owners that this number has had: what remembers a number remembers this with it.
    pub generation: u32,
    /// Number of the service port that it belongs to; 0: nobody owns this entry.
    pub service: u32,
    /// Its weight, for least connections.
    pub weight: u32,
    /// Sockets connected to it now: from the connect that picked it until the owner releases the socket, TCP has closed, or the
    /// same socket connects anew, whichever comes first; one that is dissolved instead is counted off seconds later. Datagrams of unconnected sockets do not count. Starts at 0 when an owner
    /// gets the number.
    pub open: u64,
    /// Connects and first datagrams sent to it.
    pub picked: u64,
    /// TCP connects to it that failed: that it refused, or that had no answer. Those given up before a segment had to be sent
    /// again say nothing about it.
    pub failed: u32,
    /// Established connections that it reset or that timed out.
    pub reset: u32,
    /// Segments sent again to it, counted when a flow is reported.
    pub retransmits: u64,
}

const _: () = assert!(size_of::<BackendEntry>() == 64);

/// A piece of the pool that tables of backends are laid out in.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Chunk(pub [u32; 4]);

const _: () = assert!(size_of::<Chunk>() == 16);

/// What a socket dialled and what it got instead; in the socket's storage.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Dial {
    /// The address that the application dialled; it goes on seeing this one.
    pub dialled: Addr,
    /// The backend's address.
    pub backend: Addr,
    /// The port that the application dialled.
    pub dialled_port: PortBe,
    /// The backend's port.
    pub backend_port: PortBe,
    /// Number of the service port, or [`DNS_SERVICE`]; 0 when the entry is unused.
    pub service: u32,
    /// Number of the backend. In a connected socket's, 0 once it no longer counts as open.
    pub backend_number: u32,
    /// Its generation.
    pub generation: u32,
    /// When it was last used; `CLOCK_MONOTONIC`.
    pub used_ns: u64,
    /// `DIAL_*`.
    pub kind: u32,
    /// `COUNTED_*`: whether the socket is among the captured ones that are bounded.
    pub counted: u32,
}

const _: () = assert!(size_of::<Dial>() == 2 * 16 + 2 * 2 + 3 * 4 + 8 + 2 * 4);

impl Dial {
    /// Returns whether the socket is the agent's own and goes to a backend.
    #[inline(always)]
    pub const fn is_upstream(&self) -> bool {
        matches!(self.kind, DIAL_UPSTREAM | DIAL_PASSED)
    }
}

/// The socket goes to a backend that the kernel has picked, or to the agent's name server.
pub const DIAL_BALANCED: u32 = 0;
/// The socket goes to the agent, which picks the backend: `Dial::backend` is the agent's listener.
pub const DIAL_CAPTURED: u32 = 1;
/// The socket is the agent's own and goes to the backend that the agent has picked for requests of a workload. Written by the agent
/// alone.
pub const DIAL_UPSTREAM: u32 = 2;
/// The same, for a connection of a workload that is passed on byte by byte.
pub const DIAL_PASSED: u32 = 3;

/// Stands for the service in the agent's own [`Dial`] where the one that was dialled is not balanced any more.
pub const UNKNOWN_SERVICE: u32 = u32::MAX - 1;

/// The socket is not counted.
pub const COUNTED_NOT: u32 = 0;
/// It is, and `connect` has not got as far as TCP.
pub const COUNTED_DIALLED: u32 = 1;
/// It is, until TCP closes.
pub const COUNTED_CONNECTING: u32 = 2;

/// A connected UDP socket whose backend takes no new ones, as the iterator over what sockets dialled shows it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct OpenDial {
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Its own cookie.
    pub cookie: u64,
    /// Its address.
    pub local: Addr,
    /// What it dialled and got.
    pub dial: Dial,
    /// The interface that it is bound to; 0: none.
    pub interface: u32,
    /// Its port.
    pub local_port: PortBe,
    /// Zero.
    pub _pad: u16,
}

const _: () = assert!(size_of::<OpenDial>() == 2 * 8 + 16 + size_of::<Dial>() + 4 + 2 * 2);

/// Services that one unconnected UDP socket talks to at a time. A resolver has up to three name servers; the one used longest
/// ago makes room, and an answer that comes for it afterwards bears the backend's own address.
pub const DATAGRAM_DIALS: usize = 8;

/// Where an unconnected UDP socket's datagrams go, and whose name the answers bear; in the socket's storage.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct DatagramDials {
    /// In no order.
    pub dials: [Dial; DATAGRAM_DIALS],
}

/// A client that sticks to a backend.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct AffinityKey {
    /// Cookie of the client's network namespace.
    pub client: u64,
    /// Number of the service port.
    pub service: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<AffinityKey>() == 16);

/// The backend that a client sticks to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct AffinityEntry {
    /// When it last dialled; `CLOCK_MONOTONIC`.
    pub used_ns: u64,
    /// Number of the backend.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
}

const _: () = assert!(size_of::<AffinityEntry>() == 16);
