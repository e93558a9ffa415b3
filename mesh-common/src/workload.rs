//! What the kernel programs know of a workload.

use crate::addr::{Addr, PortBe};

/// A workload's entry, found by the cookie of its network namespace.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct NetnsEntry {
    /// Handle of the workload; its index in the admission array. Never 0.
    pub id: u32,
    /// `WORKLOAD_*`.
    pub flags: u32,
    /// Hash of the workload's name and UID, so that a restarted agent gives it the same handle.
    pub uid_hash: u64,
    /// Table of prefixes that the workload's policies are judged by; 0, which is empty, until they are compiled.
    pub table: u32,
    /// Stands for the workload's Kubernetes namespace ([`namespace`]).
    pub namespace: u32,
    /// Its one IPv4 address, v4-mapped: what it dials from unless it binds. Unspecified where it has none, or several, so that
    /// nobody knows before the packet is there.
    pub v4: Addr,
    /// Its one IPv6 address, likewise.
    pub v6: Addr,
}

const _: () = assert!(size_of::<NetnsEntry>() == 4 + 4 + 8 + 2 * 4 + 2 * 16);

/// Returns the number that stands for a Kubernetes namespace in the kernel: FNV-1a of its name, so that agents agree.
///
/// Two namespaces of one number, of which there is one chance in 4,000,000,000 for each pair, have their connections captured
/// together; the agent, which knows names, treats each as its own.
pub const fn namespace(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let mut hash: u32 = 0x811c_9dc5;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

/// Policies apply to what the workload dials: a missing verdict denies.
pub const WORKLOAD_EGRESS_POLICY: u32 = 1 << 0;
/// Policies apply to what dials the workload: a missing verdict denies.
pub const WORKLOAD_INGRESS_POLICY: u32 = 1 << 1;
/// The workload's name queries go to the agent's listener in its network namespace, while there is one.
pub const WORKLOAD_DNS: u32 = 1 << 2;

/// What comes to the workload is judged where its network namespace looks up a socket, and counted there.
pub const WORKLOAD_LOOKUP: u32 = 1 << 3;

/// The owner of an address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct AddrEntry {
    /// Cookie of the network namespace that has the address.
    pub netns: u64,
    /// Handle of the workload.
    pub id: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<AddrEntry>() == 8 + 4 + 4);

/// A workload's sockets are not accelerated: its mode is `off`.
pub const ADMISSION_OFF: u32 = 0;
/// Not accelerated: observed and not (yet) admitted.
pub const ADMISSION_OBSERVING: u32 = 1;
/// Accelerated as long as no behaviour that this kernel forbids was seen.
pub const ADMISSION_AUTO: u32 = 2;
/// Accelerated on the operator's word.
pub const ADMISSION_ON: u32 = 3;

/// Whether a workload's sockets are accelerated. One slot per handle.
///
/// The agent writes the first word (`admission` and `observed`) as one; the agent and kernel programs set bits of
/// `behaviours`, atomically; kernel programs count `reads`. So no writer can undo what another wrote: the array is mapped into
/// the agent, since the kernel's own call to write an element writes all of it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Admission {
    /// `ADMISSION_*`.
    pub admission: u32,
    /// 1 while syscalls of the workload are observed.
    pub observed: u32,
    /// `behaviour::*` bits seen so far.
    pub behaviours: u64,
    /// Receive calls seen while observed: evidence that there was something to observe.
    pub reads: u64,
}

const _: () = assert!(size_of::<Admission>() == 2 * 4 + 2 * 8);

/// Settings that every program reads; slot 0 of one array. Written by the agent only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Control {
    /// `REDIRECT_*`: the kill switch, acting at once on live flows.
    pub redirect: u32,
    /// 1 when receive and send calls are counted (kernel 6.3 and later).
    pub counts_calls: u32,
    /// `behaviour::*` bits that forbid redirect on this kernel, as the probe found.
    pub forbidden: u64,
    /// Process (thread group) of the agent in the machine's first PID namespace; its own connections are neither balanced nor
    /// judged. 0: none.
    pub agent_tgid: u32,
    /// First and last port, in host order, that is looked up as a node port.
    pub node_ports: [u16; 2],
    /// Port of the agent's name server on the loopback address of a workload's network namespace; 0: none.
    pub dns_port: PortBe,
    /// Port of the agent's listener for captured connections, likewise; 0: none.
    pub proxy_port: PortBe,
    /// Zero.
    pub _pad: [u16; 2],
}

const _: () = assert!(size_of::<Control>() == 2 * 4 + 8 + 4 + 2 * 2 + 2 * 2 + 2 * 2);

/// Nothing is redirected: the kill switch is on.
pub const REDIRECT_KILLED: u32 = 0;
/// Nothing is redirected: the kernel failed the start-up probe.
pub const REDIRECT_UNFIT: u32 = 1;
/// Redirect is allowed.
pub const REDIRECT_ALLOWED: u32 = 2;
