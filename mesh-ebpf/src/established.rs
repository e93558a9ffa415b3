//! From `connect` to established: who is it, does it take part in redirect, and why not.
//!
//! Fails open: whatever is not understood stays on TCP, with a reason.

use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_NOEXIST, BPF_SOCK_OPS_STATE_CB_FLAG};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_sock_hash_update,
};
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::warn;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::flow::FlowCell;
use mesh_common::reason::Reason;
use mesh_common::redirect::tcp_read;
use mesh_common::service::{
    DIAL_CAPTURED, DIAL_PASSED, DIAL_UPSTREAM, DNS_SERVICE, UNKNOWN_SERVICE,
};
use mesh_common::sock::{
    FLAG_AGENT, FLAG_BOTH_DIALLED, FLAG_CAPTURED, FLAG_CLIENT, FLAG_ESTABLISHED, FLAG_MEMBER,
    FLAG_OBSERVED, FLAG_PEER_AGENT, FLAG_REPORTER, Judged, SockKey, SockState,
};
use mesh_common::stats;
use mesh_common::workload::{AddrEntry, NetnsEntry};

use crate::maps::{ADDRESSES, ADMISSIONS, CELLS, FLOWS, FREE_CELLS, SOCKETS, WORKLOADS, count};
use crate::sockaddr::Place;
use crate::{account, brief, capture, kernel, observe, policy, teardown};

const AF_INET: u32 = 2;

const E2BIG: i64 = -7;
const EEXIST: i64 = -17;
const EOPNOTSUPP: i64 = -95;

/// A workload's socket is about to send its SYN: notes when.
#[inline(never)]
pub(crate) fn connecting(ctx: &SockOpsContext) {
    let Some(sk) = socket(ctx) else { return };
    let known = kernel::state(sk);
    if known.is_none() && brief::connecting(ctx, sk) {
        return;
    }
    let known = known.filter(|state| state.judged.netns != 0);
    let Some(state) = known.or_else(|| found_out(ctx)) else {
        return;
    };
    // The same socket may dial again, after a failure or after it was dissolved.
    if state.flags != 0 {
        teardown::dissolved(state);
        forget(state);
    }
    state.flags = FLAG_CLIENT | FLAG_REPORTER;
    // SAFETY: no arguments.
    state.start_ns = unsafe { bpf_ktime_get_ns() };
    state.key = key(ctx, state.judged.netns);
    state.cookie = socket_cookie(ctx);
    state.self_id = state.judged.self_id;
    state.peer_id = state.judged.peer_id;
    // The rest of that key is known once the other end has answered.
    state.peer.netns = state.judged.peer_netns;
    state.rule = state.judged.rule;
    state.judged.netns = 0;
    served(state);
    match state.dial.kind {
        DIAL_CAPTURED => {
            // The agent's connection to the backend is the flow.
            state.flags = FLAG_CLIENT | FLAG_CAPTURED | FLAG_PEER_AGENT;
            capture::hand_over(state);
        }
        DIAL_UPSTREAM | DIAL_PASSED => state.flags |= FLAG_AGENT,
        _ => {}
    }
    ask_for_state_changes(ctx);
}

/// Returns the state of a workload's socket, with what was to be found out where its connect was judged, and was not: its source was
/// not known yet, or it is one of several of one connection (RFC 8684).
#[inline(always)]
fn found_out(ctx: &SockOpsContext) -> Option<&'static mut SockState> {
    let (netns, me, state) = workloads_socket(ctx)?;
    let key = key(ctx, netns);
    let peer = peer(&key, me.id);
    state.judged = Judged {
        netns,
        peer_netns: peer.map_or(0, |peer| peer.netns),
        self_id: me.id,
        peer_id: peer.map_or(0, |peer| peer.id),
        rule: policy::dialled(me, &key, peer),
        _pad: 0,
    };
    Some(state)
}

/// Notes which service the owner dialled, and which backend it got.
#[inline(always)]
fn served(state: &mut SockState) {
    if state.dial.service == DNS_SERVICE || state.dial.service == UNKNOWN_SERVICE {
        return;
    }
    state.service = state.dial.service;
    state.backend = state.dial.backend_number;
    state.backend_generation = state.dial.generation;
}

/// The handshake ended on the dialling side.
#[inline(never)]
pub(crate) fn active(ctx: &SockOpsContext) {
    let Some(sk) = socket(ctx) else { return };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let known = kernel::state(sk);
    if known.is_none() && capture::is_agent(&remote(ctx)) {
        // What was captured and has no state needs none.
        return;
    }
    if let Some(state) = known
        && state.flags & (FLAG_CLIENT | FLAG_ESTABLISHED) == FLAG_CLIENT
    {
        // Who it is was found out at `connect`, of this end and of the other.
        state.connect_us = ((now - state.start_ns) / 1000) as u32;
        state.flags |= FLAG_ESTABLISHED;
        let peer = known_peer(state);
        return follow(ctx, state, key(ctx, state.key.netns), peer);
    }
    // It dialled before the programs, or its workload, were known.
    let Some((netns, me, state)) = workloads_socket(ctx) else {
        return;
    };
    state.start_ns = now;
    state.flags = FLAG_CLIENT | FLAG_REPORTER | FLAG_ESTABLISHED;
    state.self_id = me.id;
    state.cookie = socket_cookie(ctx);
    let key = key(ctx, netns);
    follow(ctx, state, key, peer(&key, me.id));
}

/// The handshake ended on the accepting side.
#[inline(never)]
pub(crate) fn passive(ctx: &SockOpsContext) {
    let Some(sk) = socket(ctx) else { return };
    let netns = netns_cookie(ctx);
    // SAFETY: read at once; a workload's entry is replaced as a whole by the agent.
    let Some(me) = (unsafe { WORKLOADS.get(netns) }) else {
        return;
    };
    let key = key(ctx, netns);
    let peer = peer(&key, me.id);
    let known = kernel::state(sk);
    if known.is_none() && is_idle(&key, me, peer) {
        return;
    }
    let Some(state) = known.or_else(|| state_or_new(ctx, sk)) else {
        return;
    };
    if state.cookie != 0 && state.cookie != socket_cookie(ctx) {
        // The copy of what its listener had done before it listened.
        forget(state);
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if state.flags & FLAG_CLIENT == 0 {
        state.start_ns = now;
        state.flags = FLAG_ESTABLISHED;
        if capture::is_agents(&key) {
            state.flags |= FLAG_AGENT;
        }
        state.dial.service = 0;
        state.dial.backend_number = 0;
        state.rule = policy::accepted(me, &key);
    } else {
        state.connect_us = ((now - state.start_ns) / 1000) as u32;
        let kept = FLAG_AGENT | FLAG_PEER_AGENT | FLAG_CAPTURED;
        state.flags = FLAG_ESTABLISHED | FLAG_BOTH_DIALLED | state.flags & kept;
    }
    state.self_id = me.id;
    state.cookie = socket_cookie(ctx);
    follow(ctx, state, key, peer);
}

/// Returns whether nobody will ask for the state of this socket, which was accepted: the client's end on this node reports the flow,
/// nobody observes the owner, and that end stays on TCP. To make it costs a quarter of what a connect does.
#[inline(always)]
fn is_idle(key: &SockKey, me: &NetnsEntry, peer: Option<AddrEntry>) -> bool {
    let Some(peer) = peer else { return false };
    // Where the owner is not accelerated, nobody pays for the look-up.
    !observed(me.id)
        && (!observe::is_admitted(me.id) || known_cell(&key.mirrored(peer.netns)).is_none())
}

/// Returns the other end's owner as it was at `connect`.
#[inline(always)]
fn known_peer(state: &SockState) -> Option<AddrEntry> {
    if state.peer.netns == 0 {
        return None;
    }
    Some(AddrEntry {
        netns: state.peer.netns,
        id: state.peer_id,
        _pad: 0,
    })
}

/// Returns the cookie of the socket's namespace, the workload there, and the socket's state; `None` when it is no workload's.
#[inline(always)]
fn workloads_socket(
    ctx: &SockOpsContext,
) -> Option<(u64, &'static NetnsEntry, &'static mut SockState)> {
    let netns = netns_cookie(ctx);
    // SAFETY: read at once; a workload's entry is replaced as a whole by the agent.
    let me = unsafe { WORKLOADS.get(netns) }?;
    let state = state_or_new(ctx, socket(ctx)?)?;
    Some((netns, me, state))
}

/// Returns the socket's state, made if it had none.
#[inline(always)]
fn state_or_new(ctx: &SockOpsContext, sk: *mut c_void) -> Option<&'static mut SockState> {
    let state = kernel::state_or_new(sk);
    if state.is_none() {
        not_counted(ctx);
    }
    state
}

/// There was no memory for a socket's state.
#[inline(always)]
fn not_counted(ctx: &SockOpsContext) {
    count(stats::STATE_FAILED, 1);
    warn!(
        ctx,
        "no memory for the state of a socket: its flow is not counted"
    );
}

/// Fills in who talks to whom, and joins the socket to the map where redirect is allowed.
#[inline(always)]
fn follow(ctx: &SockOpsContext, state: &mut SockState, key: SockKey, peer: Option<AddrEntry>) {
    state.key = key;
    if let Some(peer) = peer {
        state.peer_id = peer.id;
        state.peer = state.key.mirrored(peer.netns);
    } else if state.flags & FLAG_CLIENT == 0 {
        // Nobody else on this node sees this flow.
        state.flags |= FLAG_REPORTER;
    }
    if state.flags & FLAG_BOTH_DIALLED != 0 && crossed(ctx) && state.key.iss <= state.key.irs {
        // The end whose number is lower; of a socket that is both ends, it.
        state.flags |= FLAG_REPORTER;
    }
    if observed(state.self_id) && state.flags & FLAG_AGENT == 0 {
        state.flags |= FLAG_OBSERVED;
    }
    let reason = match peer {
        Some(_) => join(ctx, state),
        None => Reason::PeerElsewhere,
    };
    state.reason = reason as u32;
    ask_for_state_changes(ctx);
}

/// Of a socket that dialled and was dialled: returns whether both SYNs crossed, so that the other end is in the same position.
/// Otherwise that end took this one's answer for the answer to its SYN, and reports as the one that dialled.
///
/// SYNs that crossed are each answered by a SYN-ACK: that ends the handshake on kernels with commit 23e89e8ee7be (2024, also in
/// stable releases); on others it is dropped for an acknowledgement, the third segment.
#[inline(always)]
fn crossed(ctx: &SockOpsContext) -> bool {
    const SYN: u32 = 0x02;
    // SAFETY: fields of the context.
    let flags = unsafe { (*ctx.ops).skb_tcp_flags };
    // SAFETY: fields of the context.
    let segments = unsafe { (*ctx.ops).segs_in };
    flags & SYN != 0 || segments > 2
}

/// Joins the socket to the map, or returns why not.
#[inline(always)]
fn join(ctx: &SockOpsContext, state: &mut SockState) -> Reason {
    let refusal = observe::refusal(state);
    let stays = refusal != Reason::None && !agent_joined(state);
    // Where acceleration is off, nobody pays for the look-up.
    let is_off = matches!(
        refusal,
        Reason::ModeOff | Reason::KillSwitch | Reason::KernelLevel
    );
    let passes = stays && is_off;
    if !passes && !owned(&state.key, state.key.local) {
        return Reason::AddressNotOwned;
    }
    if stays {
        return refusal;
    }
    if sent_early(ctx) {
        return Reason::FastOpen;
    }
    let client = state.flags & FLAG_CLIENT != 0;
    if client && account::is_short(state) {
        return Reason::Short;
    }
    let flow = if client { state.key } else { state.peer };
    let number = match known_cell(&flow) {
        // The client's end comes first: its last word of the handshake goes out after this program ran there. Alone, the server's
        // would pay for nothing. Where both dialled, either may come first.
        None if state.flags & (FLAG_CLIENT | FLAG_BOTH_DIALLED) == 0 => {
            return Reason::PeerNotJoined;
        }
        None => new_cell(&flow),
        known => known,
    };
    let Some(number) = number else {
        return Reason::FlowTableFull;
    };
    let Some(cell) = CELLS.get_ptr_mut(number) else {
        return Reason::FlowTableFull;
    };
    let refusal = insert(ctx, &mut state.key);
    if refusal != Reason::None {
        teardown::leave(&flow, client, number);
        return refusal;
    }
    state.flags |= FLAG_MEMBER;
    state.cell = number;
    let first_in = state.key.irs.wrapping_add(1);
    state.last_copied = first_in;
    // SAFETY: a live cell of this flow; this end writes its own half only.
    let cell = unsafe { &mut *cell };
    if !client && cell.client.agent != 0 {
        state.flags |= FLAG_PEER_AGENT;
    }
    let mine = if client {
        &mut cell.client
    } else {
        &mut cell.server
    };
    mine.agent = u64::from(state.flags & FLAG_AGENT != 0);
    mine.tcp_sent = state.key.iss.wrapping_add(1);
    mine.tcp_read = tcp_read(state.key.iss, first_in);
    Reason::None
}

/// Returns whether only the other end's workload stands against redirect, and it is not that workload but the agent that has joined
/// at that end.
#[inline(always)]
fn agent_joined(state: &mut SockState) -> bool {
    if state.flags & FLAG_CLIENT != 0 {
        return false;
    }
    let cell = known_cell(&state.peer).and_then(|number| CELLS.get_ptr(number));
    let Some(cell) = cell else { return false };
    // SAFETY: a slot of the array; read once.
    if unsafe { (*cell).client.agent } == 0 {
        return false;
    }
    state.flags |= FLAG_PEER_AGENT;
    observe::refusal(state) as u32 == Reason::None as u32
}

/// Puts the socket into the socket map, or returns why the kernel did not take it.
#[inline(always)]
fn insert(ctx: &SockOpsContext, key: &mut SockKey) -> Reason {
    // SAFETY: the map and the key are valid; the context is the kernel's own.
    let ret = unsafe {
        bpf_sock_hash_update(
            ctx.ops,
            core::ptr::from_ref(&SOCKETS).cast_mut().cast(),
            core::ptr::from_mut(key).cast(),
            u64::from(BPF_NOEXIST),
        )
    };
    match ret {
        0 => Reason::None,
        E2BIG => Reason::SocketMapFull,
        EEXIST => Reason::KeyTaken,
        EOPNOTSUPP => Reason::NotSupported,
        error => {
            // The kernel's other reasons are not foreseen, or another program's socket map has the socket (EBUSY).
            warn!(
                ctx,
                "a socket could not join the socket map: error {}", error
            );
            Reason::InsertFailed
        }
    }
}

/// Clears all that is known of a socket but its options, which outlast its connections, and what it has just dialled.
#[inline(always)]
fn forget(state: &mut SockState) {
    let behaviours = state.behaviours;
    let words = core::ptr::from_mut(state).cast::<u64>();
    let mut i = offset_of!(SockState, key) / 8;
    while i < size_of::<SockState>() / 8 {
        // SAFETY: inside the value, whose size is a multiple of eight.
        let word = unsafe { words.add(i) };
        // SAFETY: as above. Volatile, or the compiler calls `memset`, which goes byte by byte.
        unsafe { word.write_volatile(0) };
        i += 1;
    }
    state.behaviours = behaviours;
}

#[inline(always)]
pub(crate) fn socket_cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is valid.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Returns the number of the flow's cell, if an end has taken one.
#[inline(always)]
fn known_cell(flow: &SockKey) -> Option<u32> {
    // SAFETY: copied at once; the number of a flow never changes.
    unsafe { FLOWS.get(flow) }.copied()
}

/// Takes a free cell for the flow, and returns its number.
#[inline(always)]
fn new_cell(flow: &SockKey) -> Option<u32> {
    let number = FREE_CELLS.pop().ok()??;
    // SAFETY: no program writes an end's half before that end has found the number.
    unsafe { *CELLS.get_ptr_mut(number)? = FlowCell::default() };
    if FLOWS.insert(flow, number, u64::from(BPF_NOEXIST)).is_ok() {
        return Some(number);
    }
    // The table is full, or the other end was faster by this much.
    FREE_CELLS.push(number, 0).ok();
    known_cell(flow)
}

/// Returns the other end's owner: the same namespace for loopback and for an own address, else the registry's word.
#[inline(always)]
fn peer(key: &SockKey, me: u32) -> Option<AddrEntry> {
    if key.remote.is_loopback() {
        return Some(AddrEntry {
            netns: key.netns,
            id: me,
            _pad: 0,
        });
    }
    // SAFETY: copied at once; the agent replaces entries as a whole.
    unsafe { ADDRESSES.get(key.remote) }.copied()
}

/// Returns whether the registry says that `address` belongs to the namespace of `key`.
#[inline(always)]
fn owned(key: &SockKey, address: Addr) -> bool {
    if address.is_loopback() {
        return true;
    }
    // SAFETY: as above.
    unsafe { ADDRESSES.get(address) }.is_some_and(|entry| entry.netns == key.netns)
}

#[inline(always)]
pub(crate) fn observed(id: u32) -> bool {
    ADMISSIONS
        .get(id)
        .is_some_and(|admission| admission.observed != 0)
}

/// Returns whether data passed before the handshake ended (TCP Fast Open): then the sequence numbers are not the initial ones.
#[inline(always)]
fn sent_early(ctx: &SockOpsContext) -> bool {
    // SAFETY: fields of the context.
    let out = unsafe { (*ctx.ops).data_segs_out };
    // SAFETY: fields of the context.
    let received = unsafe { (*ctx.ops).bytes_received };
    out != 0 || received != 0
}

/// Returns the other end's address.
#[inline(always)]
pub(crate) fn remote(ctx: &SockOpsContext) -> Place {
    let address = if ctx.family() == AF_INET {
        Addr::v4(ctx.remote_ip4().to_ne_bytes())
    } else {
        // SAFETY: fields of the context.
        kernel::addr6(unsafe { &raw const (*ctx.ops).remote_ip6 })
    };
    Place {
        address,
        // The context has it in network order, in the upper half on little-endian machines.
        port: PortBe((ctx.remote_port() >> 16) as u16),
    }
}

/// Returns the socket's own view of the connection. Its sequence numbers are the initial ones once established.
#[inline(always)]
pub(crate) fn key(ctx: &SockOpsContext, netns: u64) -> SockKey {
    let (local, remote) = if ctx.family() == AF_INET {
        (
            Addr::v4(ctx.local_ip4().to_ne_bytes()),
            Addr::v4(ctx.remote_ip4().to_ne_bytes()),
        )
    } else {
        // SAFETY: fields of the context.
        let local = unsafe { &raw const (*ctx.ops).local_ip6 };
        // SAFETY: fields of the context.
        let remote = unsafe { &raw const (*ctx.ops).remote_ip6 };
        (kernel::addr6(local), kernel::addr6(remote))
    };
    // SAFETY: fields of the context.
    let next_out = unsafe { (*ctx.ops).snd_nxt };
    // SAFETY: fields of the context.
    let next_in = unsafe { (*ctx.ops).rcv_nxt };
    SockKey {
        netns,
        local,
        remote,
        local_port: PortBe::new(ctx.local_port() as u16),
        // The context has it in network order, in the upper half on little-endian machines.
        remote_port: PortBe((ctx.remote_port() >> 16) as u16),
        iss: next_out.wrapping_sub(1),
        irs: next_in.wrapping_sub(1),
        _pad: 0,
    }
}

#[inline(always)]
pub(crate) fn ask_for_state_changes(ctx: &SockOpsContext) {
    // Other tools may have asked for more on the same socket.
    let flags = ctx.cb_flags();
    if flags & BPF_SOCK_OPS_STATE_CB_FLAG == 0 {
        let flags = flags | BPF_SOCK_OPS_STATE_CB_FLAG;
        ctx.set_cb_flags(flags as i32).ok();
    }
}

#[inline(always)]
pub(crate) fn netns_cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is valid.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
pub(crate) fn socket(ctx: &SockOpsContext) -> Option<*mut c_void> {
    // SAFETY: a field of the context.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    kernel::full(sk)
}
