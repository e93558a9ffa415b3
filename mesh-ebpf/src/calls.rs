//! Receive and send calls, by any path: the exact counts, request turn-around, and how far a reader has read.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::BtfTracePointContext;
use mesh_common::behaviour::LONG_SEND_BYTES;
use mesh_common::redirect::{redirected, tcp_read};
use mesh_common::sock::{FLAG_CLIENT, FLAG_MEMBER, FLAG_OBSERVED, SockState};

use crate::kernel::TcpSock;
use crate::maps::CELLS;
use crate::{account, atomic, kernel, observe};

// include/linux/socket.h
const MSG_OOB: u32 = 0x1;
const MSG_PEEK: u32 = 0x2;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_ERRQUEUE: u32 = 0x2000;

const EAGAIN: i32 = 11;

/// A receive call returned (`trace_sock_recv_length(sk, ret, flags)`, Linux 6.3, commit 6e6eda44b939), also in vain.
#[inline(always)]
pub(crate) fn received(ctx: &BtfTracePointContext) {
    let returned: i32 = ctx.arg(1);
    let flags: u32 = ctx.arg(2);
    // The kernel has made `O_NONBLOCK` into `MSG_DONTWAIT`. Urgent data and errors are never waited for.
    let blocking = flags & (MSG_DONTWAIT | MSG_OOB | MSG_ERRQUEUE) == 0;
    let reads = returned > 0 && flags & (MSG_PEEK | MSG_ERRQUEUE) == 0;
    if !blocking && !reads {
        return;
    }
    let sk: *mut c_void = ctx.arg(0);
    let Some(state) = kernel::state(sk) else {
        return;
    };
    if blocking && state.flags & (FLAG_OBSERVED | FLAG_MEMBER) != 0 {
        blocked(state, sk, returned);
    }
    if !reads {
        return;
    }
    let bytes = u64::from(returned as u32);
    // SAFETY: words of this socket's storage; several threads may receive at once.
    unsafe { atomic::add(&raw mut state.rx_bytes, bytes) };
    // SAFETY: as above.
    unsafe { atomic::add(&raw mut state.rx_messages, 1) };
    state.answered_tx_bytes = state.tx_bytes;
    if state.turn_start_ns != 0 {
        turned(state);
    }
    if state.flags & FLAG_OBSERVED != 0 {
        observe::received(state, flags);
    }
    if state.flags & FLAG_MEMBER != 0 {
        tell_progress(state, sk, bytes);
    }
}

/// A send call returned (`trace_sock_send_length(sk, ret, flags)`), or failed.
#[inline(always)]
pub(crate) fn sent(ctx: &BtfTracePointContext) {
    let returned: i32 = ctx.arg(1);
    let sk: *mut c_void = ctx.arg(0);
    let Some(state) = kernel::state(sk) else {
        return;
    };
    if returned > 0 {
        took(state, returned);
    } else if state.last_redirected != 0 {
        state.window.unsure = 1;
    }
    if state.window.unsure != 0 {
        recount(state, sk);
    }
}

/// A send call took bytes.
#[inline(always)]
fn took(state: &mut SockState, returned: i32) {
    // SAFETY: words of this socket's storage; several threads may send at once.
    unsafe { atomic::add(&raw mut state.tx_bytes, u64::from(returned as u32)) };
    // SAFETY: as above.
    unsafe { atomic::add(&raw mut state.tx_messages, 1) };
    if state.last_redirected != 0 {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut state.redirect_tx_messages, 1) };
    } else if state.flags & FLAG_CLIENT != 0 && state.turn_start_ns == 0 {
        // SAFETY: no arguments.
        state.turn_start_ns = unsafe { bpf_ktime_get_ns() };
    }
    if state.flags & FLAG_OBSERVED != 0 {
        observe::sent(state);
    }
}

/// Puts the count of redirected bytes right: a message is counted when it is sent on its way, and the kernel may have no
/// memory to take it.
///
/// While another thread sends, its bytes are missing here until its own call ends. So this repeats for good once it began.
#[inline(always)]
fn recount(state: &mut SockState, sk: *mut c_void) {
    let Some(tcp) = TcpSock::of(sk) else { return };
    let sent = redirected(state.tx_bytes as u32, tcp.write_seq(), state.key.iss);
    // After the sequence number was read: the state changes before the FIN takes one.
    if state.flags & FLAG_MEMBER == 0 || !tcp.may_send() {
        return;
    }
    let excess = (state.redirect_tx_bytes as u32).wrapping_sub(sent) as i32;
    state.redirect_tx_bytes = state
        .redirect_tx_bytes
        .wrapping_sub(i64::from(excess) as u64);
    state.window.sent_bytes = sent;
    let Some(cell) = CELLS.get_ptr_mut(state.cell) else {
        return;
    };
    // SAFETY: a cell of this flow; this end writes its own half only.
    let cell = unsafe { &mut *cell };
    let mine = if state.flags & FLAG_CLIENT != 0 {
        &mut cell.client
    } else {
        &mut cell.server
    };
    mine.redirect_sent = sent;
}

/// A receive call was ready to wait: notes whether a wake-up without data was to be feared, and whether one came.
#[inline(always)]
fn blocked(state: &SockState, sk: *mut c_void, returned: i32) {
    if state.tx_bytes - state.answered_tx_bytes > LONG_SEND_BYTES {
        observe::long_send(state);
    }
    if returned == -EAGAIN
        && state.flags & FLAG_MEMBER != 0
        && TcpSock::of(sk).is_some_and(TcpSock::waits_for_ever)
    {
        observe::spurious_eagain(state);
    }
}

/// The first byte of an answer was read.
#[inline(always)]
fn turned(state: &mut SockState) {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let us = now.saturating_sub(state.turn_start_ns) / 1000;
    state.turn_start_ns = 0;
    state.turns += 1;
    state.turn_sum_us += us;
    if us > u64::from(state.turn_max_us) {
        state.turn_max_us = us as u32;
    }
    account::bump(&mut state.turn_histogram, us);
}

/// Tells the sender how far this end has read, by each path.
#[inline(always)]
fn tell_progress(state: &mut SockState, sk: *mut c_void, bytes: u64) {
    let Some(tcp) = TcpSock::of(sk) else { return };
    let copied_seq = tcp.copied_seq();
    // One call reads from one queue: where TCP's stands still, the bytes were redirected.
    if copied_seq == state.last_copied {
        // SAFETY: words of this socket's storage.
        unsafe { atomic::add(&raw mut state.redirect_rx_bytes, bytes) };
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut state.redirect_rx_messages, 1) };
    }
    state.last_copied = copied_seq;
    let client = state.flags & FLAG_CLIENT != 0;
    let Some(cell) = CELLS.get_ptr_mut(state.cell) else {
        return;
    };
    // SAFETY: a cell of this flow; this end writes its own half only.
    let cell = unsafe { &mut *cell };
    let mine = if client {
        &mut cell.client
    } else {
        &mut cell.server
    };
    mine.redirect_read = redirected(state.rx_bytes as u32, copied_seq, state.key.irs);
    mine.redirect_taken = state.redirect_rx_bytes as u32;
    mine.tcp_read = tcp_read(state.key.iss, copied_seq);
}
