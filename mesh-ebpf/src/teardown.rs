//! The end of a flow.
//!
//! A flow ends once TCP has closed *and* its owner has closed the descriptor: the last bytes may be read after the first,
//! and the last segments go after the second. Whichever comes later reports it.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::programs::{SockContext, SockOpsContext};
use mesh_common::close::CloseReason;
use mesh_common::path::Path;
use mesh_common::reason::Reason;
use mesh_common::service::UDP;
use mesh_common::sock::{
    FLAG_CAPTURED, FLAG_CLIENT, FLAG_CLOSED_FIRST, FLAG_ESTABLISHED, FLAG_MEMBER,
    FLAG_PEER_CLOSED_FIRST, FLAG_REPORTER, SockKey, SockState,
};
use mesh_common::stats;

use crate::kernel::TcpSock;
use crate::maps::{CELLS, FLOWS, FREE_CELLS, count};
use crate::sockaddr::SOCK_STREAM;
use crate::{
    account, atomic, brief, capture, dials, established, kernel, listener, record, service,
};

// `enum tcp_state`, include/net/tcp_states.h.
const SYN_RECV: u32 = 3;
const FIN_WAIT1: u32 = 4;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;

const EPIPE: u32 = 32;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;

/// TCP's state changed.
#[inline(never)]
pub(crate) fn state_changed(ctx: &SockOpsContext) {
    // SAFETY: a field of the context.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    let Some(sk) = kernel::full(sk) else { return };
    if ctx.arg(0) == listener::LISTEN {
        return listener::closed(sk);
    }
    let now = ctx.arg(1);
    if !matches!(now, FIN_WAIT1 | CLOSE_WAIT | CLOSE) {
        return;
    }
    let Some(state) = kernel::state(sk) else {
        if now == CLOSE && capture::is_agent(&established::remote(ctx)) {
            brief::closed(ctx);
        }
        return;
    };
    if ctx.arg(0) == SYN_RECV && state.cookie != established::socket_cookie(ctx) {
        // A connection that closes before it was established: it has a copy of its listener's.
        return;
    }
    let neither = state.flags & (FLAG_CLOSED_FIRST | FLAG_PEER_CLOSED_FIRST) == 0;
    match now {
        FIN_WAIT1 if neither => state.flags |= FLAG_CLOSED_FIRST,
        CLOSE_WAIT if neither => state.flags |= FLAG_PEER_CLOSED_FIRST,
        CLOSE => tcp_closed(state, sk),
        _ => {}
    }
}

/// The owner closed its last descriptor.
#[inline(always)]
pub(crate) fn released(ctx: &SockContext) {
    listener::released(ctx);
    // This hook's context is the socket.
    let sk = ctx.as_ptr();
    // SAFETY: a field of the socket.
    let kind = unsafe { (&raw const (*sk.cast::<bpf_sock>()).type_).read_volatile() };
    if kind != SOCK_STREAM {
        if let Some(dial) = dials::of(sk, UDP) {
            dials::closed(dial);
        }
        return;
    }
    let Some(state) = kernel::state(sk) else {
        return;
    };
    dials::ended(&mut state.dial);
    if state.flags & FLAG_ESTABLISHED == 0 {
        return;
    }
    raise(&mut state.released);
    if state.tcp_closed != 0 {
        finish(state);
    }
}

#[inline(always)]
fn tcp_closed(state: &mut SockState, sk: *mut c_void) {
    dials::closed(&mut state.dial);
    if state.flags & FLAG_CAPTURED != 0 {
        capture::closed(state);
    }
    let Some(tcp) = TcpSock::of(sk) else { return };
    state.srtt_us = tcp.srtt_us();
    state.retransmits = tcp.retransmits();
    account::settle(state, tcp);
    if state.flags & FLAG_ESTABLISHED == 0 {
        return connect_failed(state, tcp.error());
    }
    state.close = how(state, tcp.error()) as u32;
    raise(&mut state.tcp_closed);
    // Without an owner it was released, or never accepted.
    if state.released != 0 || !tcp.has_owner() {
        finish(state);
    }
}

/// Reports the flow for the last time. Runs once: the two that may come last are told apart by an atomic exchange.
#[inline(always)]
fn finish(state: &mut SockState) {
    if !raise(&mut state.finished) {
        return;
    }
    // Before the record, which may be waited for.
    if state.flags & FLAG_CLIENT != 0 && state.peer_id != 0 {
        account::remember(state);
    }
    if state.flags & FLAG_REPORTER != 0 {
        account::flush(state, state.retransmits);
        let path = account::path(state);
        if let Some(row) = account::row(state, path) {
            // SAFETY: this CPU's own row.
            let row = unsafe { &mut *row };
            row.closed += 1;
            row.rtt_sum_us += u64::from(state.srtt_us);
            row.rtt_samples += 1;
        }
        count_ended(path, account::reason(state));
        backend_ended(state);
        record::ended(state);
    }
    if state.flags & FLAG_MEMBER != 0 {
        let client = state.flags & FLAG_CLIENT != 0;
        let flow = if client { &state.key } else { &state.peer };
        leave(flow, client, state.cell);
    }
}

/// Ends the flow of a socket that is about to dial anew: TCP has closed, and what was not read is lost.
#[inline(always)]
pub(crate) fn dissolved(state: &mut SockState) {
    if state.flags & FLAG_ESTABLISHED != 0 {
        finish(state);
    }
}

/// Takes an end off the flow's cell, or one that did not come to join it; the last one frees it.
///
/// Both may be the last at the same moment; only the one whose deletion succeeds frees the cell. An end that joins in this
/// very moment may be left with a cell that another flow gets: the tag in `Progress::tcp_read` keeps the two apart.
#[inline(always)]
pub(crate) fn leave(flow: &SockKey, client: bool, number: u32) {
    let Some(cell) = CELLS.get_ptr_mut(number) else {
        return;
    };
    // SAFETY: a slot of the array; only `closed` is written.
    let cell = unsafe { &mut *cell };
    let (mine, theirs) = if client {
        (&mut cell.client, &cell.server)
    } else {
        (&mut cell.server, &cell.client)
    };
    raise(&mut mine.closed);
    if theirs.closed == 0 && theirs.tcp_read != 0 {
        return;
    }
    if FLOWS.remove(flow).is_ok() {
        FREE_CELLS.push(number, 0).ok();
    }
}

#[inline(always)]
fn connect_failed(state: &mut SockState, error: u32) {
    let close = match error {
        ECONNREFUSED | ECONNRESET => CloseReason::Refused,
        // Given up by its owner before any answer came: no error is pending.
        0 | ETIMEDOUT => CloseReason::ConnectTimedOut,
        _ => CloseReason::ConnectFailed,
    };
    state.close = close as u32;
    // One that its owner gave up at once says nothing about the backend.
    if (error != 0 || state.retransmits != 0)
        && let Some(backend) = service::entry(state.backend, state.backend_generation)
    {
        // SAFETY: a slot of the array.
        unsafe { atomic::add32(&raw mut (*backend).failed, 1) };
    }
    if let Some(row) = account::row(state, Path::Tcp) {
        // SAFETY: this CPU's own row.
        unsafe { (*row).failed += 1 };
    }
    record::ended(state);
    state.start_ns = 0;
}

/// Counts for the backend how an established flow to it went.
#[inline(always)]
fn backend_ended(state: &SockState) {
    let Some(backend) = service::entry(state.backend, state.backend_generation) else {
        return;
    };
    let broken = [
        CloseReason::DestinationReset as u32,
        CloseReason::TimedOut as u32,
    ];
    if broken.contains(&state.close) {
        // SAFETY: a slot of the array.
        unsafe { atomic::add32(&raw mut (*backend).reset, 1) };
    }
    // SAFETY: a slot of the array.
    unsafe {
        atomic::add(
            &raw mut (*backend).retransmits,
            u64::from(state.retransmits),
        )
    };
}

#[inline(always)]
fn how(state: &SockState, error: u32) -> CloseReason {
    let client = state.flags & FLAG_CLIENT != 0;
    match error {
        ETIMEDOUT => return CloseReason::TimedOut,
        ECONNABORTED => return CloseReason::Destroyed,
        ECONNRESET | EPIPE => {
            return if client {
                CloseReason::DestinationReset
            } else {
                CloseReason::SourceReset
            };
        }
        _ => {}
    }
    let first = state.flags & FLAG_CLOSED_FIRST != 0;
    if state.flags & (FLAG_CLOSED_FIRST | FLAG_PEER_CLOSED_FIRST) == 0 {
        // No FIN either way and no error: the owner reset it (unread data, or linger 0).
        return if client {
            CloseReason::SourceReset
        } else {
            CloseReason::DestinationReset
        };
    }
    if first == client {
        CloseReason::SourceClosed
    } else {
        CloseReason::DestinationClosed
    }
}

#[inline(always)]
fn count_ended(path: Path, reason: u8) {
    let slot = stats::FLOWS_ENDED
        + u32::from(path as u8) * mesh_common::reason::REASON_SLOTS
        + u32::from(reason);
    count(slot, 1);
}

/// Raises a flag; returns whether it was down. A full memory barrier on every machine.
#[inline(always)]
fn raise(flag: &mut u64) -> bool {
    // SAFETY: a word of socket storage or of a map value.
    unsafe { atomic::compare_exchange(core::ptr::from_mut(flag), 0, 1) == 0 }
}

/// The reason is read back as a number here; it must fit its slots.
const _: () = assert!((Reason::Short as u32) < mesh_common::reason::REASON_SLOTS);
