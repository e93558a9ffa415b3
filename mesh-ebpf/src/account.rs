//! From a socket's totals to the counters of its pair.
//!
//! Two may flush the same socket at once, the iterator and the program that ends the flow; each total is claimed by
//! compare-and-exchange, so every byte is counted once.

use core::arch::asm;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_map_update_elem;
use mesh_common::histogram::{self, BUCKETS};
use mesh_common::history::History;
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::path::Path;
use mesh_common::reason::{REASON_SLOTS, Reason};
use mesh_common::service::DIAL_UPSTREAM;
use mesh_common::sock::{FLAG_AGENT, FLAG_CLIENT, FLAG_MEMBER, SockState};
use mesh_common::stats;

use crate::atomic;
use crate::kernel::TcpSock;
use crate::maps::{CELLS, CONTROL, HISTORIES, PAIRS, count};

/// What a new row starts from; too large for the stack.
static ZERO: PairCounters = PairCounters::ZERO;

/// Adds what is new since the last time to the counters of the socket's pair: first of all that the flow was opened, which is not
/// counted then, since whoever dials would wait for the look-up.
#[inline(always)]
pub(crate) fn flush(state: &mut SockState, retransmits: u32) {
    let redirect_tx = state.redirect_tx_bytes;
    let redirect_rx = state.redirect_rx_bytes;
    let tcp_tx = claim(
        &mut state.flushed.tcp_tx_bytes,
        state.tx_bytes.saturating_sub(redirect_tx),
    );
    let tcp_rx = claim(
        &mut state.flushed.tcp_rx_bytes,
        state.rx_bytes.saturating_sub(redirect_rx),
    );
    let tcp_tx_messages = claim(
        &mut state.flushed.tcp_tx_messages,
        state.tx_messages.saturating_sub(state.redirect_tx_messages),
    );
    let tcp_rx_messages = claim(
        &mut state.flushed.tcp_rx_messages,
        state.rx_messages.saturating_sub(state.redirect_rx_messages),
    );
    let retransmits = claim(&mut state.flushed.retransmits, u64::from(retransmits));
    let opened = claim(&mut state.flushed.opened, 1);
    if opened | tcp_tx | tcp_rx | tcp_tx_messages | tcp_rx_messages | retransmits != 0
        && let Some(row) = add(
            state,
            Path::Tcp,
            [tcp_tx, tcp_rx, tcp_tx_messages, tcp_rx_messages],
        )
    {
        row.retransmits += retransmits;
        if opened != 0 {
            count_opened(state, row);
        }
    }
    let tx = claim(&mut state.flushed.redirect_tx_bytes, redirect_tx);
    let rx = claim(&mut state.flushed.redirect_rx_bytes, redirect_rx);
    let tx_messages = claim(
        &mut state.flushed.redirect_tx_messages,
        state.redirect_tx_messages,
    );
    let rx_messages = claim(
        &mut state.flushed.redirect_rx_messages,
        state.redirect_rx_messages,
    );
    if tx | rx | tx_messages | rx_messages != 0 {
        add(state, Path::Redirect, [tx, rx, tx_messages, rx_messages]);
    }
    turns(state);
}

#[inline(always)]
fn count_opened(state: &SockState, row: &mut PairCounters) {
    row.opened += 1;
    if state.flags & FLAG_CLIENT != 0 {
        let us = u64::from(state.connect_us);
        row.connect_sum_us += us;
        bump(&mut row.connect_histogram, us);
    }
}

/// Remembers how long the flow was, for those to come. To be called once, when it has ended, at the end that dialled.
#[inline(always)]
pub(crate) fn remember(state: &SockState) {
    let key = pair_key(state, Path::Tcp);
    let messages = state.tx_messages + state.rx_messages;
    if let Some(word) = HISTORIES.get_ptr_mut(key) {
        // SAFETY: a word of a map value, read at one stroke.
        let history = History::of(unsafe { word.read_volatile() });
        // SAFETY: as above, and stored at one stroke. What another CPU stores meanwhile is lost, which is one flow.
        unsafe { word.write_volatile(history.with(messages).word()) };
    } else {
        let history = History::default().with(messages);
        HISTORIES.insert(key, history.word(), 0).ok();
    }
}

/// Returns whether the flow that this socket dialled is too short to gain, to go by those before it.
#[inline(always)]
pub(crate) fn is_short(state: &SockState) -> bool {
    is_pair_short(pair_key(state, Path::Tcp))
}

/// As [`is_short`], for a flow to come between this pair.
#[inline(always)]
pub(crate) fn is_pair_short(pair: PairKey) -> bool {
    let Some(word) = HISTORIES.get_ptr_mut(pair) else {
        return false;
    };
    // SAFETY: a word of a map value, read at one stroke.
    History::of(unsafe { word.read_volatile() }).is_short()
}

/// Takes TCP's own totals where no program counts calls (kernels before 6.3). Nothing is redirected there, so they are all.
#[inline(always)]
pub(crate) fn settle(state: &mut SockState, tcp: TcpSock) {
    if CONTROL
        .get(0)
        .is_some_and(|control| control.counts_calls == 0)
    {
        state.tx_bytes = tcp.bytes_sent();
        state.rx_bytes = tcp.bytes_received();
    }
}

/// Returns this CPU's row of the socket's pair on `path`, made if it was missing, or the overflow row.
#[inline(always)]
pub(crate) fn row(state: &SockState, path: Path) -> Option<*mut PairCounters> {
    row_of(pair_key(state, path))
}

/// Returns this CPU's row of `key`, as [`row`] does.
#[inline(always)]
pub(crate) fn row_of(key: PairKey) -> Option<*mut PairCounters> {
    if let Some(row) = PAIRS.get_ptr_mut(key) {
        return Some(row);
    }
    let map = core::ptr::from_ref(&PAIRS).cast_mut().cast();
    let key_ptr = core::ptr::from_ref(&key).cast_mut().cast();
    let zero = core::ptr::from_ref(&ZERO).cast_mut().cast();
    // SAFETY: the map, a key of its type and a value of its type.
    let _ = unsafe { bpf_map_update_elem(map, key_ptr, zero, u64::from(BPF_NOEXIST)) };
    if let Some(row) = PAIRS.get_ptr_mut(key) {
        return Some(row);
    }
    count(stats::PAIRS_OVERFLOWED, 1);
    // The agent makes this row before anything is attached.
    PAIRS.get_ptr_mut(PairKey::OVERFLOW)
}

/// Returns the way that the flow's bytes have gone so far.
#[inline(always)]
pub(crate) fn path(state: &SockState) -> Path {
    let redirect = state.redirect_tx_bytes + state.redirect_rx_bytes;
    Path::of(
        redirect,
        (state.tx_bytes + state.rx_bytes).saturating_sub(redirect),
    )
}

/// Returns why not all of the flow was redirected.
#[inline(always)]
pub(crate) fn reason(state: &SockState) -> u8 {
    if state.reason != Reason::None as u32 {
        return state.reason as u8;
    }
    if state.message_reason != Reason::None as u32 {
        return state.message_reason as u8;
    }
    let theirs = told_reason(state);
    if theirs != Reason::None as u8 {
        return theirs;
    }
    if state.tx_bytes + state.rx_bytes == 0 {
        Reason::Idle as u8
    } else {
        Reason::None as u8
    }
}

/// Returns why the other end's first message by TCP was not redirected.
#[inline(always)]
fn told_reason(state: &SockState) -> u8 {
    if state.flags & FLAG_MEMBER == 0 {
        return Reason::None as u8;
    }
    let Some(cell) = CELLS.get_ptr(state.cell) else {
        return Reason::None as u8;
    };
    // SAFETY: a slot of the array; read once.
    let cell = unsafe { &*cell };
    let client = state.flags & FLAG_CLIENT != 0;
    let theirs = if client { &cell.server } else { &cell.client };
    // A number beyond the slots of its counter would be one that no program writes.
    (theirs.reason % u64::from(REASON_SLOTS)) as u8
}

#[inline(always)]
fn pair_key(state: &SockState, path: Path) -> PairKey {
    let (source_id, destination_id, destination_port) = if state.flags & FLAG_CLIENT != 0 {
        (state.self_id, state.peer_id, state.key.remote_port)
    } else {
        (state.peer_id, state.self_id, state.key.local_port)
    };
    PairKey {
        source_id,
        destination_id,
        service: state.service,
        destination_port,
        path: path as u8,
        requests: u8::from(state.flags & FLAG_AGENT != 0 && state.dial.kind == DIAL_UPSTREAM),
    }
}

/// Adds `[sent bytes, received bytes, sent messages, received messages]`, as the reporter sees them, and returns the row.
#[inline(always)]
fn add(
    state: &SockState,
    path: Path,
    [sent, received, sent_messages, received_messages]: [u64; 4],
) -> Option<&'static mut PairCounters> {
    let row = row(state, path)?;
    // SAFETY: this CPU's own row.
    let row = unsafe { &mut *row };
    if state.flags & FLAG_CLIENT != 0 {
        row.tx_bytes += sent;
        row.rx_bytes += received;
        row.tx_messages += sent_messages;
        row.rx_messages += received_messages;
    } else {
        row.tx_bytes += received;
        row.rx_bytes += sent;
        row.tx_messages += received_messages;
        row.rx_messages += sent_messages;
    }
    Some(row)
}

/// Adds the turn-arounds since the last time.
#[inline(always)]
fn turns(state: &mut SockState) {
    if claim(&mut state.flushed.turns, u64::from(state.turns)) == 0 {
        return;
    }
    let sum = claim(&mut state.flushed.turn_sum_us, state.turn_sum_us);
    let Some(row) = row(state, path(state)) else {
        return;
    };
    // SAFETY: this CPU's own row.
    let row = unsafe { &mut *row };
    row.turn_sum_us += sum;
    let mut i = 0;
    while i < BUCKETS {
        row.turn_histogram[i] += claim(&mut state.turn_flushed[i], state.turn_histogram[i]);
        i += 1;
    }
}

/// Counts a duration in its bucket.
///
/// The compiler knows that a bucket is in range and drops the check; the verifier does not: "math between map_value pointer
/// and register with unbounded min value is not allowed". So the number is hidden from the compiler, then checked.
#[inline(always)]
pub(crate) fn bump(counts: &mut [u64; BUCKETS], us: u64) {
    let mut index = histogram::bucket(us);
    // SAFETY: a move of a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) index) };
    if let Some(bucket) = counts.get_mut(index) {
        *bucket += 1;
    }
}

/// Takes what `total` has grown by since the last claim; 0 when another claims it at this moment.
#[inline(always)]
fn claim(flushed: &mut u64, total: u64) -> u64 {
    let old = *flushed;
    if total <= old {
        return 0;
    }
    // SAFETY: a word of this socket's storage.
    let was = unsafe { atomic::compare_exchange(core::ptr::from_mut(flushed), old, total) };
    if was == old { total - old } else { 0 }
}
