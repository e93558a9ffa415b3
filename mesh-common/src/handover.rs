//! What the kernel tells the agent of a connection that it has led to it: what the client dialled.
//!
//! Written when the client's port is known and its SYN not sent, so that it is there before the agent can accept the connection.
//! Taken by the agent; else removed when the client's TCP closes, which is before another socket can have its port.

use crate::addr::{Addr, PortBe};

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
