//! Every map: who writes it, who reads it, what happens when it is full.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, HashMap, PerCpuArray, PerCpuHashMap, Queue, RingBuf, SkStorage, SockHash,
};
use aya_ebpf::macros::btf_map;
use mesh_common::addr::Addr;
use mesh_common::flow::{FlowCell, FlowRecord};
use mesh_common::limits;
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::sock::{SockKey, SockState};
use mesh_common::stats;
use mesh_common::workload::{AddrEntry, Admission, Control, NetnsEntry};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// Settings. Written by the agent, read by all.
#[btf_map]
pub(crate) static CONTROL: Array<Control, 1> = Array::new();

/// Network namespace cookie to workload. Written by the agent, read by sock_ops and the observer. Full: the agent says
/// so and the workload stays unknown.
#[btf_map]
pub(crate) static WORKLOADS: HashMap<u64, NetnsEntry, { limits::WORKLOADS }, ON_DEMAND> =
    HashMap::new();

/// Address to workload. As [`WORKLOADS`].
#[btf_map]
pub(crate) static ADDRESSES: HashMap<Addr, AddrEntry, { limits::ADDRESSES }, ON_DEMAND> =
    HashMap::new();

/// Handle to admission. Written by the agent; programs set behaviour bits and count reads.
#[btf_map]
pub(crate) static ADMISSIONS: Array<Admission, { limits::WORKLOADS }> = Array::new();

/// State of each workload's socket. Written by the programs that run for it. Freed with the socket.
#[btf_map]
pub(crate) static SOCK_STATES: SkStorage<SockState> = SkStorage::new();

/// Sockets that take part in redirect. Written by sock_ops, entries leave with their socket. Full: the socket stays on
/// TCP, `Reason::SocketMapFull`.
#[btf_map]
pub(crate) static SOCKETS: SockHash<SockKey, { limits::SOCKETS }> = SockHash::new();

/// A client's key to the number of the flow's cell. Made by the end that joins first, deleted by the one that finishes
/// last. Full: the flow stays on TCP, `Reason::FlowTableFull`.
#[btf_map]
pub(crate) static FLOWS: HashMap<SockKey, u32, { limits::FLOWS }, ON_DEMAND> = HashMap::new();

/// What both ends of a connection share; each writes its own half. An array, since every message looks here: no hash, no
/// comparison of keys, and page-aligned (which is what the flag is for), so that each half has its own cache line.
#[btf_map]
pub(crate) static CELLS: Array<FlowCell, { limits::FLOWS }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Numbers of cells that are free. Filled by the agent that makes it.
#[btf_map]
pub(crate) static FREE_CELLS: Queue<u32, { limits::FLOWS }> = Queue::new();

/// Counters by pair. Written when a flow opens, ends or is reported. Full: counted in [`PairKey::OVERFLOW`].
#[btf_map]
pub(crate) static PAIRS: PerCpuHashMap<PairKey, PairCounters, { limits::PAIRS }, ON_DEMAND> =
    PerCpuHashMap::new();

/// Counters of the node, `mesh_common::stats`.
#[btf_map]
pub(crate) static STATS: PerCpuArray<u64, { stats::SLOTS as usize }> = PerCpuArray::new();

/// Records of flows that ended. Full: the record is lost and counted.
#[btf_map]
pub(crate) static RECORDS: RingBuf<FlowRecord, { limits::RECORDS_BYTES }> = RingBuf::new();

/// Room to put a record together: it would fill half the stack.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<FlowRecord, 1> = PerCpuArray::new();

/// Adds `n` to a slot of [`STATS`].
#[inline(always)]
pub(crate) fn count(slot: u32, n: u64) {
    if let Some(counter) = STATS.get_ptr_mut(slot) {
        // SAFETY: a per-CPU slot, so no other CPU writes it; the helper returned it as valid.
        unsafe { *counter += n };
    }
}
