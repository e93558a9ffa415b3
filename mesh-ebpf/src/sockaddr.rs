//! The context of a socket address hook: who calls, and the address that the call bears.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_retval, bpf_get_socket_cookie, bpf_set_retval,
};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::service;
use mesh_common::workload::NetnsEntry;

use crate::maps::{CONTROL, WORKLOADS};
use crate::{dials, kernel};

pub(crate) const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
// include/uapi/linux/in.h
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_ICMPV6: u32 = 58;
const IPPROTO_SCTP: u32 = 132;

/// What a hook returns for "go on".
pub(crate) const PASS: i32 = 1;

pub(crate) const ECONNREFUSED: i32 = 111;

/// An address and a port, as a call names them.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) address: Addr,
    pub(crate) port: PortBe,
}

impl Place {
    /// Returns whether this is `address` and `port`. One branch: each more doubles what the verifier walks through.
    #[inline(always)]
    pub(crate) fn is(&self, address: Addr, port: PortBe) -> bool {
        let difference = u128::from_ne_bytes(self.address.0) ^ u128::from_ne_bytes(address.0);
        let difference = difference as u64 | (difference >> 64) as u64;
        difference | u64::from(self.port.0 ^ port.0) == 0
    }
}

/// The workload that calls.
pub(crate) struct Caller {
    /// Cookie of its network namespace.
    pub(crate) netns: u64,
    /// What is known of it.
    pub(crate) workload: NetnsEntry,
}

impl Caller {
    /// Returns the workload whose process calls, or `None` for anybody else and for the agent itself.
    #[inline(always)]
    pub(crate) fn of(ctx: &SockAddrContext) -> Option<Self> {
        let caller = Self::anybody(ctx)?;
        if is_agent() { None } else { Some(caller) }
    }

    /// As [`Caller::of`], but the agent is the workload where its socket goes to a backend on the workload's behalf.
    #[inline(always)]
    pub(crate) fn judged(ctx: &SockAddrContext, sk: *mut c_void, protocol: u8) -> Option<Self> {
        let caller = Self::anybody(ctx)?;
        if is_agent() && dials::of(sk, protocol).is_none_or(|dial| !dial.is_upstream()) {
            return None;
        }
        Some(caller)
    }

    #[inline(always)]
    fn anybody(ctx: &SockAddrContext) -> Option<Self> {
        // SAFETY: the context is valid.
        let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        // SAFETY: copied at once; the agent replaces entries as a whole.
        let workload = *unsafe { WORKLOADS.get(netns) }?;
        Some(Self { netns, workload })
    }
}

/// Returns whether it is the agent that calls: a thread of its process, wherever the socket was made.
#[inline(always)]
fn is_agent() -> bool {
    let Some(control) = CONTROL.get(0) else {
        return true;
    };
    (bpf_get_current_pid_tgid() >> 32) as u32 == control.agent_tgid
}

/// Returns `service::TCP` or `service::UDP`, or `None` for what is neither balanced nor judged. Multipath TCP is TCP here.
#[inline(always)]
pub(crate) fn protocol(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: a field of the context.
    let kind = unsafe { (&raw const (*ctx.sock_addr).type_).read_volatile() };
    // SAFETY: a field of the context.
    let protocol = unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() };
    match (kind, protocol) {
        (_, IPPROTO_SCTP | IPPROTO_ICMP | IPPROTO_ICMPV6) => None,
        (SOCK_STREAM, _) => Some(service::TCP),
        (SOCK_DGRAM, _) => Some(service::UDP),
        _ => None,
    }
}

/// Returns the kernel's cookie of the socket.
#[inline(always)]
pub(crate) fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Returns the socket.
#[inline(always)]
pub(crate) fn socket(ctx: &SockAddrContext) -> Option<*mut c_void> {
    // SAFETY: a field of the context.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    kernel::full(sk)
}

/// Returns the address that the call bears.
#[inline(always)]
pub(crate) fn read<const V6: bool>(ctx: &SockAddrContext) -> Place {
    let call: *const bpf_sock_addr = ctx.sock_addr;
    let address = if V6 {
        // SAFETY: fields of the context.
        kernel::addr6(unsafe { &raw const (*call).user_ip6 })
    } else {
        // SAFETY: a field of the context.
        let word = unsafe { (&raw const (*call).user_ip4).read_volatile() };
        Addr::v4(word.to_ne_bytes())
    };
    // SAFETY: a field of the context.
    let port = unsafe { (&raw const (*call).user_port).read_volatile() };
    Place {
        address,
        // The context has it in network order.
        port: PortBe(port as u16),
    }
}

/// Makes the call bear another address of the same family. A v4-mapped one stays v4-mapped.
///
/// Each store is of four bytes and volatile: merged ones are an "invalid bpf_context access".
#[inline(always)]
pub(crate) fn write<const V6: bool>(ctx: &SockAddrContext, place: Place) {
    let call = ctx.sock_addr;
    let bytes = place.address.0;
    if V6 {
        let mut i = 0;
        while i < 4 {
            let word = u32::from_ne_bytes([
                bytes[4 * i],
                bytes[4 * i + 1],
                bytes[4 * i + 2],
                bytes[4 * i + 3],
            ]);
            // SAFETY: fields of the context.
            let words = unsafe { &raw mut (*call).user_ip6 };
            // SAFETY: inside the array.
            let slot = unsafe { words.cast::<u32>().add(i) };
            // SAFETY: as above.
            unsafe { slot.write_volatile(word) };
            i += 1;
        }
    } else {
        let word = u32::from_ne_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        // SAFETY: a field of the context.
        unsafe { (&raw mut (*call).user_ip4).write_volatile(word) };
    }
    // SAFETY: a field of the context.
    unsafe { (&raw mut (*call).user_port).write_volatile(u32::from(place.port.0)) };
}

/// Returns the socket's own address as far as it has one before it is connected.
#[inline(always)]
pub(crate) fn own<const V6: bool>(sk: *mut c_void) -> Place {
    let sk: *const bpf_sock = sk.cast_const().cast();
    let address = if V6 {
        // SAFETY: the context's socket, not null.
        kernel::addr6(unsafe { &raw const (*sk).src_ip6 })
    } else {
        // SAFETY: as above.
        let word = unsafe { (&raw const (*sk).src_ip4).read_volatile() };
        Addr::v4(word.to_ne_bytes())
    };
    // SAFETY: as above.
    let port = unsafe { (&raw const (*sk).src_port).read_volatile() };
    Place {
        address,
        port: PortBe::new(port as u16),
    }
}

/// Returns the address that the socket is connected to.
#[inline(always)]
pub(crate) fn remote<const V6: bool>(sk: *mut c_void) -> Place {
    let sk: *const bpf_sock = sk.cast_const().cast();
    let address = if V6 {
        // SAFETY: the context's socket, not null.
        kernel::addr6(unsafe { &raw const (*sk).dst_ip6 })
    } else {
        // SAFETY: as above.
        let word = unsafe { (&raw const (*sk).dst_ip4).read_volatile() };
        Addr::v4(word.to_ne_bytes())
    };
    // SAFETY: as above.
    let port = unsafe { (&raw const (*sk).dst_port).read_volatile() };
    Place {
        address,
        // Unlike its own, in network order.
        port: PortBe(port),
    }
}

/// Returns whether a program that ran before on the same call made it fail.
#[inline(always)]
pub(crate) fn has_failed() -> bool {
    // SAFETY: no arguments.
    unsafe { bpf_get_retval() != 0 }
}

/// Makes the call fail; returns what the hook is to return.
#[inline(always)]
pub(crate) fn fail(error: i32) -> i32 {
    // SAFETY: no pointers.
    unsafe { bpf_set_retval(-error) };
    0
}
