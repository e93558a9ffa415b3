//! One look at everything that connected sockets dialled: what counts as open and is not, and what is to be drained.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write};
use mesh_common::addr::{Addr, PortBe};
use mesh_common::service::{Dial, OpenDial, TCP, UDP};

use crate::iterator::StorageIter;
use crate::kernel::{
    NET_NET_COOKIE, SOCK_COMMON_SKC_BOUND_DEV_IF, SOCK_COMMON_SKC_NET, SOCK_COMMON_SKC_NUM,
    SOCK_COMMON_SKC_RCV_SADDR, SOCK_COMMON_SKC_STATE, SOCK_COMMON_SKC_V6_RCV_SADDR,
    SOCK_SK_PROTOCOL, field,
};
use crate::{dials, service};

/// `TCP_CLOSE`, which is also the state of a UDP socket that is not connected (include/net/tcp_states.h).
const CLOSE: u8 = 7;

/// A socket that is not connected so long after its `connect` is not on its way any more. The hook runs before the kernel looks for
/// a route and changes the state, which takes microseconds.
const CONNECTING_NS: u64 = 1_000_000_000;

/// Looks at one socket that has dialled a service. Counts it off where it is not connected: it was dissolved (`connect` to
/// `AF_UNSPEC`, `SOCK_DESTROY`) or its `connect` failed after the hook, and the kernel has no hook for either. Shows it where it is
/// a UDP socket whose backend takes no new ones.
#[inline(always)]
pub(crate) fn look(ctx: &StorageIter) {
    let sk = ctx.socket();
    if sk.is_null() {
        return;
    }
    // The field was a byte of a word before Linux 5.6; these programs need a later one.
    let is_udp = field::<u16>(sk, &SOCK_SK_PROTOCOL) == Some(u16::from(UDP));
    let Some(dial) = dials::of(sk, if is_udp { UDP } else { TCP }) else {
        return;
    };
    if dial.backend_number == 0 {
        return;
    }
    if field(sk, &SOCK_COMMON_SKC_STATE) == Some(CLOSE) {
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        if now.saturating_sub(dial.used_ns) > CONNECTING_NS {
            dials::closed(dial);
        }
        return;
    }
    // A TCP connection is found by its flow.
    if is_udp && service::usable(dial.backend_number, dial.service, Some(dial.generation)).is_none()
    {
        show(ctx, sk, dial);
    }
}

#[inline(always)]
fn show(ctx: &StorageIter, sk: *mut c_void, dial: &Dial) {
    let local = if dial.backend.is_v4() {
        field(sk, &SOCK_COMMON_SKC_RCV_SADDR).map(Addr::v4)
    } else {
        field(sk, &SOCK_COMMON_SKC_V6_RCV_SADDR).map(Addr)
    };
    let net = field::<*const c_void>(sk, &SOCK_COMMON_SKC_NET);
    let netns = net.and_then(|net| field(net, &NET_NET_COOKIE));
    let number = field(sk, &SOCK_COMMON_SKC_NUM);
    let (Some(local), Some(netns), Some(number)) = (local, netns, number) else {
        return;
    };
    let shown = OpenDial {
        netns,
        // SAFETY: the iterator's own socket.
        cookie: unsafe { bpf_get_socket_cookie(sk) },
        local,
        dial: *dial,
        interface: field(sk, &SOCK_COMMON_SKC_BOUND_DEV_IF).unwrap_or(0),
        local_port: PortBe::new(number),
        _pad: 0,
    };
    let bytes = core::ptr::from_ref(&shown).cast_mut().cast();
    // SAFETY: the sequence file of the context, and a record's bytes. On overflow the kernel calls again with more room.
    let _ = unsafe { bpf_seq_write(ctx.sequence(), bytes, size_of::<OpenDial>() as u32) };
}
