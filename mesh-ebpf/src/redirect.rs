//! Each message of a joined socket: straight to the other end's socket, or by TCP. Fails open, to TCP.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_F_INGRESS, sk_action::SK_PASS};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_msg_redirect_hash;
use aya_ebpf::programs::SkMsgContext;
use mesh_common::reason::Reason;
use mesh_common::redirect::{Progress, refusal};
use mesh_common::sock::{FLAG_CLIENT, FLAG_MEMBER, SockState};
use mesh_common::stats;

use crate::kernel::TcpSock;
use crate::maps::{CELLS, SOCKETS, count};
use crate::{kernel, observe};

/// Redirects the message where that is safe.
#[inline(always)]
pub(crate) fn message(ctx: &SkMsgContext) {
    // SAFETY: a field of the context; never null for a message.
    let sk: *mut c_void = unsafe { (*ctx.msg).__bindgen_anon_3.sk }.cast();
    let Some(state) = kernel::state(sk) else {
        return;
    };
    if state.flags & FLAG_MEMBER == 0 {
        return;
    }
    // Before the message is on its way, or the answer could come first.
    if state.flags & FLAG_CLIENT != 0 && state.turn_start_ns == 0 {
        // SAFETY: no arguments.
        state.turn_start_ns = unsafe { bpf_ktime_get_ns() };
    }
    let reason = send(ctx, state, sk);
    if reason == Reason::None {
        state.last_redirected = 1;
        return;
    }
    if reason as u32 == Reason::InFlightBound as u32 && state.last_redirected != 0 {
        count(stats::DEMOTIONS, 1);
    }
    state.last_redirected = 0;
    if state.message_reason == Reason::None as u32 {
        state.message_reason = reason as u32;
    }
}

/// Rounds that a sender waits for a reader that is about to catch up, each one clock read (about 30 ns).
///
/// Together some 15 us: what a reader on another CPU needs for its last 64 kB. Going over to TCP and back costs more. The
/// sender of a bulk stream has its CPU to itself with plain TCP too, only busy with segments instead.
const WAIT_ROUNDS: u32 = 500;

/// Messages that are sent without waiting after a wait was in vain: the reader is slow, or has no CPU of its own.
const WAIT_PAUSE_MESSAGES: u64 = 64;

/// Bytes that a reader may lag behind by TCP for a wait to be worth it.
const WAIT_LAG_BYTES: u32 = 128 * 1024;

/// Waits a moment for the reader, so that the flow need not go over to TCP, or can come back from it.
#[inline(always)]
fn reader_catches_up(
    state: &mut SockState,
    tcp: TcpSock,
    theirs: &Progress,
    reason: Reason,
) -> bool {
    if state.tx_messages < state.wait_after {
        return false;
    }
    let worth_it = match reason {
        Reason::InFlightBound => true,
        Reason::TcpOutstanding => {
            tcp.write_seq().wrapping_sub(theirs.tcp_read as u32) < WAIT_LAG_BYTES
        }
        _ => false,
    };
    if !worth_it {
        return false;
    }
    let theirs = core::ptr::from_ref(theirs);
    let mut round = 0;
    while round < WAIT_ROUNDS {
        // SAFETY: no arguments. Only to let time pass.
        let _ = unsafe { bpf_ktime_get_ns() };
        // SAFETY: the other end's half of a live cell, which it may write at any moment.
        let now = unsafe { theirs.read_volatile() };
        if refusal(tcp.write_seq(), state.key.irs, &now, &mut state.window).is_none() {
            return true;
        }
        round += 1;
    }
    state.wait_after = state.tx_messages + WAIT_PAUSE_MESSAGES;
    false
}

#[inline(always)]
fn send(ctx: &SkMsgContext, state: &mut SockState, sk: *mut c_void) -> Reason {
    let standing = observe::refusal(state);
    if standing != Reason::None {
        return standing;
    }
    let Some(tcp) = TcpSock::of(sk) else {
        return Reason::NotSupported;
    };
    let client = state.flags & FLAG_CLIENT != 0;
    let Some(cell) = CELLS.get_ptr_mut(state.cell) else {
        return Reason::PeerNotJoined;
    };
    // SAFETY: a cell of this flow; this end writes its own half only.
    let cell = unsafe { &mut *cell };
    let (mine, theirs) = if client {
        (&mut cell.client, &cell.server)
    } else {
        (&mut cell.server, &cell.client)
    };
    if let Some(reason) = refusal(tcp.write_seq(), state.key.irs, theirs, &mut state.window)
        && !reader_catches_up(state, tcp, theirs, reason)
    {
        return reason;
    }
    let size = ctx.size();
    // SAFETY: the context, the socket map and a key of its type.
    let verdict = unsafe {
        bpf_msg_redirect_hash(
            ctx.msg,
            core::ptr::from_ref(&SOCKETS).cast_mut().cast(),
            core::ptr::from_mut(&mut state.peer).cast(),
            u64::from(BPF_F_INGRESS),
        )
    };
    if verdict != i64::from(SK_PASS) {
        return Reason::PeerNotJoined;
    }
    state.window.sent(size);
    state.redirect_tx_bytes += u64::from(size);
    mine.redirect_sent = state.window.sent_bytes;
    count(stats::MESSAGES_REDIRECTED, 1);
    Reason::None
}
