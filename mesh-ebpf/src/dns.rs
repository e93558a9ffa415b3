//! Name queries go to the agent's listener in the workload's own network namespace, while there is one.
//!
//! Fails open: without a listener they go where the application said.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::service;
use mesh_common::workload::WORKLOAD_DNS;

use crate::maps::CONTROL;
use crate::service::Backend;
use crate::sockaddr::{Caller, Place};

/// The port that name servers listen on (RFC 1035, section 4.2).
const DNS: PortBe = PortBe::new(53);
/// `BPF_F_CURRENT_NETNS`: the namespace of the context's socket.
const OWN_NETNS: u64 = u64::MAX;

/// Addresses and ports of a connection (`struct bpf_sock_tuple`), in network order.
#[repr(C)]
struct TupleV4 {
    remote: [u8; 4],
    local: [u8; 4],
    remote_port: PortBe,
    local_port: PortBe,
}

/// As [`TupleV4`].
#[repr(C, align(4))]
struct TupleV6 {
    remote: Addr,
    local: Addr,
    remote_port: PortBe,
    local_port: PortBe,
}

/// Returns the listener that a query to `dialled` goes to; `None` when it is no query, or there is no listener.
///
/// A query to a loopback address is left alone: the workload's own resolver is there, whose queries come here in turn. So is
/// one from a socket that is bound to a device, which does not reach the loopback device.
#[inline(always)]
pub(crate) fn server(
    ctx: &SockAddrContext,
    sk: *mut c_void,
    caller: &Caller,
    dialled: &Place,
    protocol: u8,
) -> Option<Backend> {
    if dialled.port != DNS || caller.workload.flags & WORKLOAD_DNS == 0 {
        return None;
    }
    let port = CONTROL.get(0)?.dns_port;
    let sk: *const bpf_sock = sk.cast_const().cast();
    // SAFETY: the context's socket, not null.
    let device = unsafe { (&raw const (*sk).bound_dev_if).read_volatile() };
    if port == PortBe(0) || device != 0 || dialled.address.is_loopback() {
        return None;
    }
    let (address, there) = if dialled.address.is_v4() {
        let mut tuple = TupleV4 {
            remote: [127, 0, 0, 1],
            local: [127, 0, 0, 1],
            remote_port: PortBe(0),
            local_port: port,
        };
        (Addr::v4([127, 0, 0, 1]), listens(ctx, &mut tuple, protocol))
    } else {
        let mut tuple = TupleV6 {
            remote: Addr::LOOPBACK_V6,
            local: Addr::LOOPBACK_V6,
            remote_port: PortBe(0),
            local_port: port,
        };
        (Addr::LOOPBACK_V6, listens(ctx, &mut tuple, protocol))
    };
    there.then_some(Backend {
        number: 0,
        generation: 0,
        place: Place { address, port },
    })
}

/// Returns whether a socket takes what comes to the tuple's local end.
#[inline(always)]
fn listens<T>(ctx: &SockAddrContext, tuple: &mut T, protocol: u8) -> bool {
    let size = size_of::<T>() as u32;
    let tuple: *mut bpf_sock_tuple = core::ptr::from_mut(tuple).cast();
    let found = if protocol == service::UDP {
        // SAFETY: the context, and a tuple of the size that tells its family.
        unsafe { bpf_sk_lookup_udp(ctx.as_ptr(), tuple, size, OWN_NETNS, 0) }
    } else {
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_tcp(ctx.as_ptr(), tuple, size, OWN_NETNS, 0) }
    };
    if found.is_null() {
        return false;
    }
    // SAFETY: the reference that the look-up returned, given back once.
    unsafe { bpf_sk_release(found.cast()) };
    true
}
