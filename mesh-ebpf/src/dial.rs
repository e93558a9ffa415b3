//! What a workload dials: `connect`, and datagrams of unconnected sockets. Policy fails closed; who is no workload is not judged.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::service::{TCP, UDP};

use crate::established::addr6;
use crate::maps::WORKLOADS;
use crate::policy::{self, Dial};

/// The hook of IPv4.
pub(crate) const V4: u32 = 2;
/// The hook of IPv6.
pub(crate) const V6: u32 = 10;

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_SCTP: u32 = 132;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_ICMPV6: u32 = 58;

/// Returns the hook's action: 1 to go on, 0 for `EPERM`.
#[inline(always)]
pub(crate) fn judged(ctx: &SockAddrContext, family: u32) -> i32 {
    // SAFETY: the context is valid.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: read at once; a workload's entry is replaced as a whole by the agent.
    let Some(me) = (unsafe { WORKLOADS.get(netns) }) else {
        return 1;
    };
    let Some(protocol) = protocol(ctx) else {
        return 1;
    };
    let destination = if family == V4 {
        // SAFETY: a field of the context.
        let address = unsafe { (*ctx.sock_addr).user_ip4 };
        Addr::v4(address.to_ne_bytes())
    } else {
        // SAFETY: a field of the context.
        addr6(unsafe { &raw const (*ctx.sock_addr).user_ip6 })
    };
    // SAFETY: a field of the context.
    let port = unsafe { (*ctx.sock_addr).user_port };
    let (bound, source_port) = bound(ctx);
    let dial = Dial {
        netns,
        // SAFETY: the context is valid.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        bound,
        source_port,
        destination,
        port: PortBe(port as u16),
        protocol,
        service: 0,
    };
    i32::from(policy::judge(me, &dial).allowed)
}

/// Returns the protocol that is judged: MPTCP as TCP, and `None` for what is not.
#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: a field of the context.
    let kind = unsafe { (*ctx.sock_addr).type_ };
    // SAFETY: a field of the context.
    let protocol = unsafe { (*ctx.sock_addr).protocol };
    match (kind, protocol) {
        (_, IPPROTO_SCTP | IPPROTO_ICMP | IPPROTO_ICMPV6) => None,
        (SOCK_STREAM, _) => Some(TCP),
        (SOCK_DGRAM, _) => Some(UDP),
        _ => None,
    }
}

/// Returns what the socket is bound to.
#[inline(always)]
fn bound(ctx: &SockAddrContext) -> (Addr, PortBe) {
    // SAFETY: a field of the context.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return (Addr::UNSPECIFIED, PortBe(0));
    }
    // SAFETY: a field of the context's socket.
    let port = PortBe::new(unsafe { (*sk).src_port } as u16);
    // SAFETY: a field of the context's socket.
    let v4 = unsafe { (*sk).src_ip4 };
    // SAFETY: a field of the context's socket.
    let family = unsafe { (*sk).family };
    if family == V4 || v4 != 0 {
        return (Addr::v4(v4.to_ne_bytes()), port);
    }
    // SAFETY: a field of the context's socket.
    (addr6(unsafe { &raw const (*sk).src_ip6 }), port)
}
