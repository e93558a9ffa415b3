//! The record of a flow: of one that lives, to whoever iterates; of one that ended, to the ring buffer.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_ringbuf_query, bpf_seq_write};
use mesh_common::addr::{Addr, PortBe};
use mesh_common::close::CloseReason;
use mesh_common::flow::FlowRecord;
use mesh_common::histogram::BUCKETS;
use mesh_common::limits::RECORDS_BYTES;
use mesh_common::pair::PairKey;
use mesh_common::path::Path;
use mesh_common::sock::{FLAG_CLIENT, FLAG_ESTABLISHED, FLAG_REPORTER, RULE_WOULD_DENY, SockState};
use mesh_common::stats;

use crate::iterator::StorageIter;
use crate::kernel::TcpSock;
use crate::maps::{RECORDS, SCRATCH, count};
use crate::sockaddr::Place;
use crate::{account, kernel};

/// The agent drains the ring four times a second; earlier when a quarter is full.
const WAKE_BYTES: u64 = RECORDS_BYTES as u64 / 4;
/// `BPF_RB_AVAIL_DATA`.
const AVAILABLE: u64 = 0;

/// Reports a live flow, and brings the counters of its pair up to date.
#[inline(always)]
pub(crate) fn live(ctx: &StorageIter) {
    let sk = ctx.socket();
    if sk.is_null() {
        return;
    }
    let Some(state) = kernel::state(sk) else {
        return;
    };
    if state.flags & (FLAG_REPORTER | FLAG_ESTABLISHED) != FLAG_REPORTER | FLAG_ESTABLISHED
        || state.finished != 0
    {
        return;
    }
    let Some(tcp) = TcpSock::of(sk) else {
        return;
    };
    let retransmits = tcp.retransmits();
    account::settle(state, tcp);
    account::flush(state, retransmits);
    let Some(record) = SCRATCH.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own scratch; an iterator program is not interrupted by itself.
    let record = unsafe { &mut *record };
    fill(
        record,
        state,
        CloseReason::Open as u8,
        0,
        [tcp.srtt_us(), retransmits],
    );
    let bytes = core::ptr::from_ref(record).cast_mut().cast();
    // SAFETY: the sequence file of the context, and a record's bytes. On overflow the kernel calls again with more room.
    let _ = unsafe { bpf_seq_write(ctx.sequence(), bytes, size_of::<FlowRecord>() as u32) };
}

/// Hands over the record of a flow that ended, or counts it as lost.
#[inline(always)]
pub(crate) fn ended(state: &SockState) {
    let Some(mut entry) = RECORDS.reserve(0) else {
        return count(stats::RECORDS_LOST, 1);
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: reserved memory of a record's size; `fill` writes every field before anyone reads it.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    fill(
        record,
        state,
        state.close as u8,
        now,
        [state.srtt_us, state.retransmits],
    );
    let map = core::ptr::from_ref(&RECORDS).cast_mut().cast();
    // SAFETY: the ring buffer.
    let waiting = unsafe { bpf_ringbuf_query(map, AVAILABLE) };
    let wake = if waiting >= WAKE_BYTES {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    entry.submit(u64::from(wake));
}

/// A connection that was never tried.
pub(crate) struct Attempt {
    /// The socket's cookie.
    pub(crate) cookie: u64,
    /// Cookie of its network namespace.
    pub(crate) netns: u64,
    /// Handle of the workload that dialled.
    pub(crate) workload: u32,
    /// The socket's own address, as far as it has one.
    pub(crate) own: Place,
    /// What was dialled.
    pub(crate) dialled: Place,
    /// Number of the service port; 0 when it was none.
    pub(crate) service: u32,
    /// Number of the policy rule that decided; 0 when none did.
    pub(crate) rule: u32,
    /// `service::TCP` or `service::UDP`.
    pub(crate) protocol: u8,
}

/// Reports a connection that was never tried, and counts it as failed.
#[inline(always)]
pub(crate) fn failed(attempt: &Attempt, close: CloseReason) {
    let pair = PairKey {
        source_id: attempt.workload,
        destination_id: 0,
        service: attempt.service,
        destination_port: attempt.dialled.port,
        path: Path::Tcp as u8,
        requests: 0,
    };
    if let Some(row) = account::row_of(pair) {
        // SAFETY: this CPU's own row.
        unsafe { (*row).failed += 1 };
    }
    let Some(mut entry) = RECORDS.reserve(0) else {
        return count(stats::RECORDS_LOST, 1);
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: reserved memory of a record's size, every field of which is written before anyone reads it.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    clear(record);
    record.cookie = attempt.cookie;
    record.netns = attempt.netns;
    record.start_ns = now;
    record.end_ns = now;
    record.source = attempt.own.address;
    record.source_port = attempt.own.port;
    record.destination = attempt.dialled.address;
    record.destination_port = attempt.dialled.port;
    record.source_id = attempt.workload;
    record.close = close as u8;
    record.from_source = 1;
    record.service = attempt.service;
    record.rule = attempt.rule;
    record.protocol = attempt.protocol;
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// A connection that a policy denied before it was one.
pub(crate) struct Denial {
    /// Socket cookie of the source; 0 where its socket is not of this node.
    pub(crate) cookie: u64,
    /// The namespace where it was denied.
    pub(crate) netns: u64,
    /// Its ends.
    pub(crate) source: Place,
    pub(crate) destination: Place,
    /// Handles of its ends; 0 where one is not a workload of this node.
    pub(crate) source_id: u32,
    pub(crate) destination_id: u32,
    /// Number of the service port that was dialled, or 0.
    pub(crate) service: u32,
    /// Number of the rule that denied it, or 0.
    pub(crate) rule: u32,
    pub(crate) protocol: u8,
    /// 1 where the source's end was stopped.
    pub(crate) from_source: u8,
}

/// Hands over the record of a connection that was denied, or counts it as lost.
#[inline(always)]
pub(crate) fn denied(denial: &Denial) {
    let Some(mut entry) = RECORDS.reserve(0) else {
        return count(stats::RECORDS_LOST, 1);
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: reserved memory of a record's size, every field of which is written before anyone reads it.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    clear(record);
    record.cookie = denial.cookie;
    record.netns = denial.netns;
    record.start_ns = now;
    record.end_ns = now;
    record.source = denial.source.address;
    record.source_port = denial.source.port;
    record.destination = denial.destination.address;
    record.destination_port = denial.destination.port;
    record.source_id = denial.source_id;
    record.destination_id = denial.destination_id;
    record.close = CloseReason::Denied as u8;
    record.from_source = denial.from_source;
    record.service = denial.service;
    record.rule = denial.rule;
    record.protocol = denial.protocol;
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// Makes a record all zeros. Volatile, or the compiler calls `memset`, which goes byte by byte.
#[inline(always)]
fn clear(record: &mut FlowRecord) {
    let words = core::ptr::from_mut(record).cast::<u64>();
    let mut i = 0;
    while i < size_of::<FlowRecord>() / 8 {
        // SAFETY: inside the record, whose size is a multiple of eight.
        let word = unsafe { words.add(i) };
        // SAFETY: as above.
        unsafe { word.write_volatile(0) };
        i += 1;
    }
}

/// Asks the agent to take a live flow out of the socket map. If the ring is full, it stays.
#[inline(always)]
pub(crate) fn leaves(state: &SockState) {
    let Some(mut entry) = RECORDS.reserve(0) else {
        return;
    };
    // SAFETY: reserved memory of a record's size; `fill` writes every field before anyone reads it.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    fill(record, state, CloseReason::Open as u8, 0, [0, 0]);
    entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
}

#[inline(always)]
fn fill(
    record: &mut FlowRecord,
    state: &SockState,
    close: u8,
    end_ns: u64,
    [srtt_us, retransmits]: [u32; 2],
) {
    record.cookie = state.cookie;
    record.netns = state.key.netns;
    record.start_ns = state.start_ns;
    record.end_ns = end_ns;
    record.turn_sum_us = state.turn_sum_us;
    record.connect_us = state.connect_us;
    record.srtt_us = srtt_us;
    record.retransmits = retransmits;
    record.turns = state.turns;
    record.turn_max_us = state.turn_max_us;
    record.path = account::path(state) as u8;
    record.reason = account::reason(state);
    record.close = close;
    record.cell = state.cell;
    record.service = state.service;
    record.rule = state.rule & !RULE_WOULD_DENY;
    record.would_deny = u8::from(state.rule & RULE_WOULD_DENY != 0);
    record.protocol = mesh_common::service::TCP;
    record._pad = [0; 2];
    record._pad2 = 0;
    let own = End {
        bytes: state.tx_bytes,
        messages: state.tx_messages,
        redirect_bytes: state.redirect_tx_bytes,
        address: &state.key.local,
        port: state.key.local_port,
        id: state.self_id,
    };
    let other = End {
        bytes: state.rx_bytes,
        messages: state.rx_messages,
        redirect_bytes: state.redirect_rx_bytes,
        address: &state.key.remote,
        port: state.key.remote_port,
        id: state.peer_id,
    };
    let client = state.flags & FLAG_CLIENT != 0;
    record.from_source = u8::from(client);
    if client {
        ends(record, &own, &other);
    } else {
        ends(record, &other, &own);
    }
    let mut i = 0;
    while i < BUCKETS {
        record.turn_histogram[i] = state.turn_histogram[i] as u32;
        i += 1;
    }
}

/// One end of a flow, and what it sent.
struct End<'a> {
    bytes: u64,
    messages: u64,
    redirect_bytes: u64,
    address: &'a Addr,
    port: PortBe,
    id: u32,
}

#[inline(always)]
fn ends(record: &mut FlowRecord, source: &End<'_>, destination: &End<'_>) {
    record.tx_bytes = source.bytes;
    record.rx_bytes = destination.bytes;
    record.tx_messages = source.messages;
    record.rx_messages = destination.messages;
    record.redirect_tx_bytes = source.redirect_bytes;
    record.redirect_rx_bytes = destination.redirect_bytes;
    record.source = *source.address;
    record.destination = *destination.address;
    record.source_port = source.port;
    record.destination_port = destination.port;
    record.source_id = source.id;
    record.destination_id = destination.id;
}
