//! Wakes readers of what TCP brought behind redirected bytes.
//!
//! A receive call takes redirected bytes or TCP's, never both, so the last one that takes redirected bytes returns less than it might although
//! more is there. Who waits for an edge (`EPOLLET`) may take that for the end, as epoll(7) says; what TCP brought meanwhile has had
//! its edge, and nothing else comes. No program runs when a queue is empty, so the writer's end tells the agent, which
//! passes over the sockets of the reader's network namespace until all is read.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_getsockopt, bpf_seq_write, bpf_setsockopt};
use mesh_common::redirect::{Progress, redirect_unread, tcp_unread};
use mesh_common::sock::{FLAG_CLIENT, FLAG_MEMBER, SockState};

use crate::iterator::TcpIter;
use crate::kernel;
use crate::kernel::{SOCK_COMMON_SKC_STATE, field};
use crate::maps::{CELLS, WAKER, WAKES};

// include/uapi/asm-generic/socket.h
const SOL_SOCKET: i32 = 1;
const SO_RCVLOWAT: i32 = 18;

/// `enum tcp_state`, include/net/tcp_states.h: the states in which a socket may receive, or has bytes yet: established, both of
/// FIN-WAIT, and CLOSE-WAIT. The others are no whole sockets, or have nothing.
const RECEIVING: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8;

/// TCP takes over from redirect: asks the agent to wake the reader, unless that has read all that was redirected.
#[inline(always)]
pub(crate) fn ask(state: &SockState) {
    let Some((_, theirs)) = ends(state) else {
        return;
    };
    if state.window.is_read(theirs) {
        return;
    }
    if let Some(mut entry) = WAKES.reserve(0) {
        entry.write(state.peer.netns);
        entry.submit(0);
    }
}

/// Returns whether an agent runs that wakes readers.
#[inline(always)]
pub(crate) fn is_served() -> bool {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    WAKER.get(0).is_some_and(|until| *until > now)
}

/// Shows a byte for each socket that has bytes of TCP to read, and wakes its reader where these are what comes next.
///
/// `SO_RCVLOWAT`, set to what it is, has TCP say once more that there is something to read (`tcp_set_rcvlowat`).
#[inline(always)]
pub(crate) fn look(ctx: &TcpIter) {
    let sk = ctx.socket();
    if sk.is_null() {
        return;
    }
    let receives = |state: u8| state < 32 && RECEIVING & (1 << state) != 0;
    if !field(sk, &SOCK_COMMON_SKC_STATE).is_some_and(receives) {
        return;
    }
    let Some(state) = kernel::state(sk) else {
        return;
    };
    if state.flags & FLAG_MEMBER == 0 {
        return;
    }
    let Some((mine, theirs)) = ends(state) else {
        return;
    };
    if mine.closed != 0 || tcp_unread(mine, theirs) == 0 {
        return;
    }
    let mark = 1_u8;
    let bytes = core::ptr::from_ref(&mark).cast_mut().cast();
    // SAFETY: the sequence file of the context, and a byte. On overflow the kernel calls again with more room.
    let _ = unsafe { bpf_seq_write(ctx.sequence(), bytes, 1) };
    if redirect_unread(mine, theirs) == 0 {
        announce(sk);
    }
}

#[inline(always)]
fn announce(sk: *mut c_void) {
    let mut low = 0_i32;
    let value = core::ptr::from_mut(&mut low).cast();
    let size = size_of::<i32>() as i32;
    // SAFETY: a whole socket, whose lock the kernel holds, and an int.
    if unsafe { bpf_getsockopt(sk, SOL_SOCKET, SO_RCVLOWAT, value, size) } == 0 {
        // SAFETY: as above.
        let _ = unsafe { bpf_setsockopt(sk, SOL_SOCKET, SO_RCVLOWAT, value, size) };
    }
}

/// Returns what this end of a flow tells, and what the other does.
#[inline(always)]
fn ends(state: &SockState) -> Option<(&'static Progress, &'static Progress)> {
    let cell = CELLS.get_ptr(state.cell)?;
    // SAFETY: an element of an array; the ends write single words.
    let cell = unsafe { &*cell };
    Some(match state.flags & FLAG_CLIENT != 0 {
        true => (&cell.client, &cell.server),
        false => (&cell.server, &cell.client),
    })
}
