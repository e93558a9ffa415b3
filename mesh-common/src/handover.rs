//! What the kernel tells the agent of a connection that it has led to it: what the client dialled.
//!
//! Written when the client's port is known and its SYN not sent, so that it is there before the agent can accept the connection.
//! Taken by the agent; else removed when the client's TCP closes, which is before another socket can have its port.

use crate::addr::{Addr, PortBe};
use crate::limits::BRIEFS;

/// A captured client's socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct HandoverKey {
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Its address.
    pub address: Addr,
    /// Its port.
    pub port: PortBe,
    /// Zero; map keys hash raw bytes.
    pub _pad: [u16; 3],
}

const _: () = assert!(size_of::<HandoverKey>() == 8 + 16 + 2 + 3 * 2);

/// What it dialled.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Handover {
    /// The address that the application dialled.
    pub dialled: Addr,
    /// Number of the service port.
    pub service: u32,
    /// Handle of the client's workload.
    pub workload: u32,
    /// The port that the application dialled.
    pub dialled_port: PortBe,
    /// Zero.
    pub _pad: [u16; 3],
}

const _: () = assert!(size_of::<Handover>() == 16 + 2 * 4 + 2 + 3 * 2);

/// A captured client's socket without a state of its own, since nobody would ask for it: its connection stays on TCP, the agent's own
/// to the backend is the flow, and nobody observes its owner. What of it is needed is here, from its SYN until its TCP closes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Brief {
    /// The socket's cookie; 0 where the place is free. With [`BRIEF_UNFINISHED`] while the rest is written.
    pub cookie: u64,
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Its address.
    pub address: Addr,
    /// The address that the application dialled.
    pub dialled: Addr,
    /// Number of the service port.
    pub service: u32,
    /// Its port.
    pub port: PortBe,
    /// The port that the application dialled.
    pub dialled_port: PortBe,
    /// `cookie` once the agent has taken it. Written by the agent alone.
    pub taken: u64,
}

/// In [`Brief::cookie`]: the rest is being written. Cookies are counted up from 1, and never get there.
pub const BRIEF_UNFINISHED: u64 = 1 << 63;

// One cache line.
const _: () = assert!(size_of::<Brief>() == 64);

/// Places where a socket may be, in a row: with half of all places taken, one of some 5,000 sockets finds none of its own free, and
/// gets a state instead.
pub const BRIEF_PLACES: u32 = 8;

impl Brief {
    /// Returns the first of the places where the socket with this port, in the namespace with this cookie, may be. The others follow.
    #[inline(always)]
    pub const fn first_place(netns: u64, port: PortBe) -> u32 {
        // Fibonacci hashing: the upper bits of the product depend on all below.
        let mixed = (netns << 16 | port.0 as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> (64 - BRIEFS.trailing_zeros()) & 0xFFFF_FFFF) as u32
    }
}

/// Between a socket's `connect` and its SYN, which takes microseconds: what it dialled.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct BriefDial {
    /// The socket's cookie; 0 where the place is free.
    pub cookie: u64,
    /// When it was taken, exact to some milliseconds; `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// The address that the application dialled.
    pub dialled: Addr,
    /// Number of the service port.
    pub service: u32,
    /// The port that the application dialled.
    pub dialled_port: PortBe,
    /// Zero.
    pub _pad: u16,
}

const _: () = assert!(size_of::<BriefDial>() == 2 * 8 + 16 + 4 + 2 + 2);

/// Connections that go through the agent, of the node as a whole. Written by kernel programs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct CaptureCounters {
    /// Open now.
    pub open: u64,
    /// Refused because as many as may be were open.
    pub refused: u64,
    /// Of which the agent was not told what was dialled, for want of memory.
    pub lost: u64,
    /// Refused because the agent was away.
    pub away: u64,
}

const _: () = assert!(size_of::<CaptureCounters>() == 4 * 8);
