//! Which ports of workloads have closed: counts the sockets that listen.
//!
//! Fails open: a port of which nothing is known is taken for one that somebody listens on.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::programs::{SockContext, SockOpsContext};
use mesh_common::addr::PortBe;
use mesh_common::listener::{ListenerKey, Listeners, Listening};

use crate::iterator::TcpIter;
use crate::kernel::{
    NET_NET_COOKIE, SOCK_COMMON_SKC_NET, SOCK_COMMON_SKC_NUM, SOCK_COMMON_SKC_STATE, field,
};
use crate::maps::{ADDRESSES, LISTENERS, LISTENING, WORKLOADS};
use crate::sockaddr::Place;
use crate::{atomic, dials, established, kernel};

/// `TCP_LISTEN`, include/net/tcp_states.h.
pub(crate) const LISTEN: u32 = 10;

/// A workload's socket listens from now on.
#[inline(never)]
pub(crate) fn opened(ctx: &SockOpsContext) {
    let Some(sk) = established::socket(ctx) else {
        return;
    };
    // Its `connect` did not come to TCP, or it could not listen. What it accepts must not count it off once more.
    if let Some(state) = kernel::state(sk) {
        dials::ended(&mut state.dial);
        state.dial.service = 0;
    }
    // SAFETY: the context is valid.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: read at once; a workload's entry is replaced as a whole by the agent.
    let Some(workload) = (unsafe { WORKLOADS.get(netns) }) else {
        return;
    };
    let Some(listening) = storage(sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) else {
        return;
    };
    enter(listening, workload.id, PortBe::new(ctx.local_port() as u16));
    established::ask_for_state_changes(ctx);
}

/// A socket was found that may have listened before the programs, or its workload, were known. The kernel holds its lock, so it is
/// not about to be counted by [`opened`]; its end is seen by [`released`].
#[inline(always)]
pub(crate) fn found(ctx: &TcpIter) {
    let sk = ctx.socket();
    if sk.is_null() || field(sk, &SOCK_COMMON_SKC_STATE) != Some(LISTEN as u8) {
        return;
    }
    let net = field::<*const c_void>(sk, &SOCK_COMMON_SKC_NET);
    let (Some(netns), Some(port)) = (
        net.and_then(|net| field::<u64>(net, &NET_NET_COOKIE)),
        field(sk, &SOCK_COMMON_SKC_NUM),
    ) else {
        return;
    };
    // SAFETY: read at once; a workload's entry is replaced as a whole by the agent.
    let Some(workload) = (unsafe { WORKLOADS.get(netns) }) else {
        return;
    };
    let Some(listening) = storage(sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) else {
        return;
    };
    if listening.key.workload != workload.id || !is_counted(listening) {
        enter(listening, workload.id, PortBe::new(port));
    }
}

/// The owner closes the socket. One that [`found`] counted tells nobody else.
#[inline(always)]
pub(crate) fn released(ctx: &SockContext) {
    let sk = ctx.as_ptr();
    // SAFETY: this hook's context is the socket.
    if (unsafe { (&raw const (*sk.cast::<bpf_sock>()).state).read_volatile() }) == LISTEN {
        closed(sk);
    }
}

/// A socket listens no more.
#[inline(always)]
pub(crate) fn closed(sk: *mut c_void) {
    if let Some(listening) = storage(sk, 0) {
        leave(listening);
    }
}

/// Returns whether the socket is one that the agent has marked.
#[inline(always)]
pub(crate) fn is_agents(sk: *mut c_void) -> bool {
    storage(sk, 0).is_some_and(|listening| listening.agents != 0)
}

/// Returns whether it is known that nobody listens there any more: the last socket did that was seen to.
#[inline(always)]
pub(crate) fn is_closed(place: &Place) -> bool {
    // SAFETY: copied at once; the agent replaces entries as a whole.
    let Some(owner) = unsafe { ADDRESSES.get(place.address) }.copied() else {
        return false;
    };
    let key = ListenerKey {
        workload: owner.id,
        port: place.port,
        _pad: 0,
    };
    let Some(listeners) = LISTENERS.get_ptr(key) else {
        return false;
    };
    // SAFETY: an element of the map, which stays in place while the program runs.
    let open = unsafe { (&raw const (*listeners).open).read_volatile() };
    open == 0
}

/// Counts a socket that listens, and takes it off the entry that counted it before: its last end was not seen.
#[inline(always)]
fn enter(listening: &mut Listening, workload: u32, port: PortBe) {
    leave(listening);
    listening.key = ListenerKey {
        workload,
        port,
        _pad: 0,
    };
    listening.since_ns = count(listening.key);
}

/// Returns whether an entry that is still there counts the socket.
#[inline(always)]
fn is_counted(listening: &Listening) -> bool {
    let Some(listeners) = LISTENERS.get_ptr(listening.key) else {
        return false;
    };
    // SAFETY: an element of the map, which stays in place while the program runs.
    listening.since_ns != 0 && unsafe { (*listeners).since_ns } == listening.since_ns
}

/// Counts one more socket; returns which entry did, 0 where there is no room for it.
#[inline(always)]
fn count(key: ListenerKey) -> u64 {
    if let Some(listeners) = LISTENERS.get_ptr_mut(key) {
        return add(listeners);
    }
    let first = Listeners {
        open: 1,
        // SAFETY: no arguments.
        since_ns: unsafe { bpf_ktime_get_ns() },
    };
    if LISTENERS.insert(key, first, u64::from(BPF_NOEXIST)).is_ok() {
        return first.since_ns;
    }
    // The table is full, or another socket was faster by this much.
    LISTENERS.get_ptr_mut(key).map_or(0, add)
}

#[inline(always)]
fn add(listeners: *mut Listeners) -> u64 {
    // SAFETY: an element of the map.
    unsafe { atomic::add(&raw mut (*listeners).open, 1) };
    // SAFETY: as above; never written again.
    unsafe { (*listeners).since_ns }
}

/// Takes a socket off the entry that counts it, if one does, and that entry is still there.
#[inline(always)]
fn leave(listening: &mut Listening) {
    let since_ns = listening.since_ns;
    if since_ns == 0 {
        return;
    }
    listening.since_ns = 0;
    let Some(listeners) = LISTENERS.get_ptr_mut(listening.key) else {
        return;
    };
    // SAFETY: an element of the map.
    if unsafe { (*listeners).since_ns } == since_ns {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*listeners).open, u64::MAX) };
    }
}

#[inline(always)]
fn storage(sk: *mut c_void, flags: u64) -> Option<&'static mut Listening> {
    let map = core::ptr::from_ref(&LISTENING).cast_mut().cast();
    // SAFETY: `sk` comes from the context; a null initial value means zeros.
    let listening = unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), flags) };
    // SAFETY: null, or this socket's value, which lives as long as the program runs. The kernel holds the socket's lock.
    unsafe { listening.cast::<Listening>().as_mut() }
}
