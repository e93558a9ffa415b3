//! Each message of a joined socket: straight to the other end's socket, or by TCP. Fails open, to TCP.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_F_INGRESS, bpf_sock, sk_action::SK_PASS};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_msg_redirect_hash;
use aya_ebpf::programs::SkMsgContext;
use mesh_common::reason::Reason;
use mesh_common::redirect::{LEAVE_UNANSWERED_BYTES, is_bulk, refusal};
use mesh_common::sock::{FLAG_CLIENT, FLAG_MEMBER, SockState};
use mesh_common::stats;

use crate::kernel::TcpSock;
use crate::maps::{CELLS, SOCKETS, count};
use crate::{kernel, observe, record, wake};

// `enum tcp_state`, include/net/tcp_states.h: the states in which a socket may send.
const ESTABLISHED: u32 = 1;
const CLOSE_WAIT: u32 = 8;

/// Redirects the message where that is safe.
#[inline(always)]
pub(crate) fn message(ctx: &SkMsgContext) {
    // SAFETY: a field of the context; never null for a message.
    let sk: *mut c_void = unsafe { (*ctx.msg).__bindgen_anon_3.sk }.cast();
    let Some(state) = kernel::state(sk) else {
        return;
    };
    if state.flags & FLAG_MEMBER == 0 || has_finished(sk) {
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
    let takes_over = state.last_redirected != 0;
    if takes_over && reason as u32 == Reason::InFlightBound as u32 {
        count(stats::DEMOTIONS, 1);
    }
    state.last_redirected = 0;
    tell_sent(ctx, state, sk);
    if takes_over {
        // Not before it is told that there is something of TCP to read: whoever finds nothing does not look again.
        wake::ask(state);
    }
    if state.message_reason == Reason::None as u32 {
        state.message_reason = reason as u32;
        tell_reason(state, reason);
    }
}

/// Returns whether the sender has closed its direction (or the connection is gone): TCP answers with `EPIPE`, and redirect
/// would take the bytes.
#[inline(always)]
fn has_finished(sk: *mut c_void) -> bool {
    let sk: *const bpf_sock = sk.cast_const().cast();
    // SAFETY: the context's socket.
    let field = unsafe { &raw const (*sk).state };
    // SAFETY: as above. Volatile, so that it stays a read of four bytes.
    let tcp = unsafe { field.read_volatile() };
    tcp != ESTABLISHED && tcp != CLOSE_WAIT
}

/// Tells the other end, which may be the one that reports the flow. Once for each socket.
#[inline(always)]
fn tell_reason(state: &SockState, reason: Reason) {
    if let Some(cell) = CELLS.get_ptr_mut(state.cell) {
        // SAFETY: a cell of this flow; this end writes its own half only.
        let cell = unsafe { &mut *cell };
        let client = state.flags & FLAG_CLIENT != 0;
        let mine = if client {
            &mut cell.client
        } else {
            &mut cell.server
        };
        mine.reason = reason as u64;
    }
}

/// Tells the agent's stall guard how much this end has given to TCP by now, the message included.
///
/// Too much where the call is broken off; the guard asks TCP before it acts.
#[inline(always)]
fn tell_sent(ctx: &SkMsgContext, state: &SockState, sk: *mut c_void) {
    let Some(tcp) = TcpSock::of(sk) else { return };
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
    mine.tcp_sent = tcp.write_seq().wrapping_add(ctx.size());
}

#[inline(always)]
fn send(ctx: &SkMsgContext, state: &mut SockState, sk: *mut c_void) -> Reason {
    let standing = observe::refusal(state);
    if standing != Reason::None {
        return standing;
    }
    let size = ctx.size();
    let unanswered = state.tx_bytes - state.answered_tx_bytes;
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
    // Not behind redirected bytes that are unread, whose reader would have to be woken.
    if is_bulk(size, unanswered)
        && unanswered < LEAVE_UNANSWERED_BYTES
        && state.window.is_read(theirs)
    {
        return Reason::Bulk;
    }
    if unanswered >= LEAVE_UNANSWERED_BYTES && mine.leaving == 0 {
        mine.leaving = 1;
        record::leaves(state);
    }
    if mine.leaving | theirs.leaving != 0 {
        return Reason::Bulk;
    }
    if let Some(reason) = refusal(tcp.write_seq(), state.key.irs, theirs, &mut state.window) {
        let waits_for_nobody = reason as u32 == Reason::InFlightBound as u32
            && !wake::is_served()
            && state.window.admits_unserved(theirs.redirect_read);
        if !waits_for_nobody {
            return reason;
        }
    }
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
