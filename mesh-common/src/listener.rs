//! Which TCP ports of the node's workloads somebody listens on, as far as the kernel programs have seen.

use crate::addr::PortBe;

/// A TCP port of a workload, at any of its addresses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct ListenerKey {
    /// Handle of the workload.
    pub workload: u32,
    /// The port.
    pub port: PortBe,
    /// Zero; map keys hash raw bytes.
    pub _pad: u16,
}

const _: () = assert!(size_of::<ListenerKey>() == 4 + 2 + 2);

/// What listens on a port. There is an entry from the first socket on that was seen to listen: without one nothing is known.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Listeners {
    /// Listening sockets that were seen. 0: the last of them has closed, and the port with it.
    pub open: u64,
    /// When the entry was made; tells it from an earlier or later one of the same key. `CLOCK_MONOTONIC`.
    pub since_ns: u64,
}

const _: () = assert!(size_of::<Listeners>() == 2 * 8);

/// What is known of a listening socket; in its own storage, which accepted sockets do not inherit.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Listening {
    /// The port that it is counted at.
    pub key: ListenerKey,
    /// The entry's `since_ns`; 0: the socket is not counted.
    pub since_ns: u64,
    /// 1 where it is the agent's, which has said so before it listened; workloads cannot write it.
    pub agents: u64,
}

const _: () = assert!(size_of::<Listening>() == 8 + 8 + 8);
