//! Every map: who writes it, who reads it, what happens when it is full.

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, Queue, RingBuf, SockHash};
use aya_ebpf::macros::btf_map;
use mesh_common::addr::Addr;
use mesh_common::flow::{FlowCell, FlowRecord};
use mesh_common::limits;
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::sock::{SockKey, SockState};
use mesh_common::stats;
use mesh_common::workload::{AddrEntry, Admission, Control, NetnsEntry};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
const MAPPED: usize = BPF_F_MMAPABLE as usize;
const INHERITED: usize = (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize;

/// Socket storage that an accepted socket gets a copy of from its listener, as it gets its options; aya's own has no flags.
#[repr(C)]
pub(crate) struct InheritedSkStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; INHERITED],
}

// SAFETY: the pointers are null and stand for types only.
unsafe impl<T> Sync for InheritedSkStorage<T> {}

impl<T> InheritedSkStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }
}

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

/// Handle to admission. Mapped into the agent, so that it and the programs each write their own words only.
#[btf_map]
pub(crate) static ADMISSIONS: Array<Admission, { limits::WORKLOADS }, MAPPED> = Array::new();

/// State of each workload's socket. Written by the programs that run for it. Freed with the socket.
#[btf_map]
pub(crate) static SOCK_STATES: InheritedSkStorage<SockState> = InheritedSkStorage::new();

/// Sockets that take part in redirect. Written by sock_ops, entries leave with their socket. Full: the socket stays on
/// TCP, `Reason::SocketMapFull`.
#[btf_map]
pub(crate) static SOCKETS: SockHash<SockKey, { limits::SOCKETS }> = SockHash::new();

/// A client's key to the number of the flow's cell. Made by the end that joins first, deleted by the one that finishes
/// last. Full: the flow stays on TCP, `Reason::FlowTableFull`.
#[btf_map]
pub(crate) static FLOWS: HashMap<SockKey, u32, { limits::FLOWS }, ON_DEMAND> = HashMap::new();

/// What both ends of a connection share; each writes its own half. An array, since every message looks here: no hash, no
/// comparison of keys, and page-aligned, so that each half has its own cache line; and mapped into the agent, which looks at all of them.
#[btf_map]
pub(crate) static CELLS: Array<FlowCell, { limits::FLOWS }, MAPPED> = Array::new();

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
