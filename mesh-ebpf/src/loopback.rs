//! The agent's listeners on the loopback address of the caller's own network namespace.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::service;

use crate::listener;
use crate::sockaddr::Place;

/// `BPF_F_CURRENT_NETNS`: the namespace of the context's socket.
const OWN_NETNS: u64 = u64::MAX;

/// Whose a listener has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Anybody's: what it does, the workload does to itself.
    Anybody,
    /// The agent's, which it has marked.
    Agent,
}

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

/// Returns whether the socket is bound to a device: it does not reach the loopback device then.
#[inline(always)]
pub(crate) fn is_bound_to_device(sk: *mut c_void) -> bool {
    let sk: *const bpf_sock = sk.cast_const().cast();
    // SAFETY: the context's socket, not null.
    (unsafe { (&raw const (*sk).bound_dev_if).read_volatile() }) != 0
}

/// Returns where the listener on this port is, on the loopback address of this family; `None` where there is none.
#[inline(always)]
pub(crate) fn listener(
    ctx: &SockAddrContext,
    v4: bool,
    port: PortBe,
    protocol: u8,
    owner: Owner,
) -> Option<Place> {
    let (address, there) = if v4 {
        let mut tuple = TupleV4 {
            remote: [127, 0, 0, 1],
            local: [127, 0, 0, 1],
            remote_port: PortBe(0),
            local_port: port,
        };
        (
            Addr::v4([127, 0, 0, 1]),
            listens(ctx, &mut tuple, protocol, owner),
        )
    } else {
        let mut tuple = TupleV6 {
            remote: Addr::LOOPBACK_V6,
            local: Addr::LOOPBACK_V6,
            remote_port: PortBe(0),
            local_port: port,
        };
        (Addr::LOOPBACK_V6, listens(ctx, &mut tuple, protocol, owner))
    };
    there.then_some(Place { address, port })
}

/// Returns whether a socket takes what comes to the tuple's local end.
#[inline(always)]
fn listens<T>(ctx: &SockAddrContext, tuple: &mut T, protocol: u8, owner: Owner) -> bool {
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
    let right = owner == Owner::Anybody || listener::is_agents(found.cast());
    // SAFETY: the reference that the look-up returned, given back once.
    unsafe { bpf_sk_release(found.cast()) };
    right
}
