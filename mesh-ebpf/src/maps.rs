//! Every map: who writes it, who reads it, what happens when it is full.

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, Queue, RingBuf, SkStorage,
    SockHash,
};
use aya_ebpf::macros::btf_map;
use mesh_common::addr::Addr;
use mesh_common::flow::{FlowCell, FlowRecord};
use mesh_common::handover::{Brief, BriefDial, CaptureCounters, Handover, HandoverKey};
use mesh_common::limits;
use mesh_common::listener::{ListenerKey, Listeners, Listening};
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::policy::{DenialWindow, Range, RangeList, RuleHits, TableAddress, VerdictKey};
use mesh_common::service::{
    AffinityEntry, AffinityKey, BackendEntry, CaptureKey, Chunk, DatagramDials, Dial, Frontend,
    ServiceEntry,
};
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

/// State of each workload's TCP socket, and what it dialled. Written by the programs that run for it, and by the agent to mark those of its
/// own that dial. Freed with the socket.
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

/// How long a pair's flows are, `mesh_common::history`; path 0. Written when a flow ends. Full: the pair used longest ago goes.
#[btf_map]
pub(crate) static HISTORIES: LruHashMap<PairKey, u64, { limits::HISTORIES }> = LruHashMap::new();

/// Counters of the node, `mesh_common::stats`.
#[btf_map]
pub(crate) static STATS: PerCpuArray<u64, { stats::SLOTS as usize }> = PerCpuArray::new();

/// Records of flows that ended. Full: the record is lost and counted.
#[btf_map]
pub(crate) static RECORDS: RingBuf<FlowRecord, { limits::RECORDS_BYTES }> = RingBuf::new();

/// Cookies of network namespaces in which a reader may have to be woken, `wake.rs`. Full: the agent looks there already, or none runs.
#[btf_map]
pub(crate) static WAKES: RingBuf<u64, { limits::WAKES_BYTES }> = RingBuf::new();

/// Until when (`CLOCK_MONOTONIC`, nanoseconds) an agent reads [`WAKES`]; slot 0. Written by the agent, again and again.
#[btf_map]
pub(crate) static WAKER: Array<u64, 1> = Array::new();

/// What workloads dial to the number of the service port. Written by the agent. Full: the agent says so, and the service is
/// not balanced.
#[btf_map]
pub(crate) static FRONTENDS: HashMap<Frontend, u32, { limits::FRONTENDS }, ON_DEMAND> =
    HashMap::new();

/// Service ports by number. Mapped into the agent, which writes its words; the programs add to theirs.
#[btf_map]
pub(crate) static SERVICES: Array<ServiceEntry, { limits::SERVICES }, MAPPED> = Array::new();

/// Endpoints by number. As [`SERVICES`].
#[btf_map]
pub(crate) static BACKENDS: Array<BackendEntry, { limits::BACKENDS }, MAPPED> = Array::new();

/// The pool of tables of backends. Mapped into the agent, its only writer. Full: the agent says so, and the service keeps its
/// old table.
#[btf_map]
pub(crate) static CHUNKS: Array<Chunk, { limits::CHUNKS }, MAPPED> = Array::new();

/// Backends that clients stick to. Written by connect. Full: the one used longest ago goes.
#[btf_map]
pub(crate) static AFFINITIES: LruHashMap<AffinityKey, AffinityEntry, { limits::AFFINITIES }> =
    LruHashMap::new();

/// Namespaces whose clients' connections to a service port go to the agent. Written by the agent. Full: the agent says so, and the
/// service stays as it was.
#[btf_map]
pub(crate) static CAPTURES: HashMap<CaptureKey, u32, { limits::CAPTURES }, ON_DEMAND> =
    HashMap::new();

/// Connections that go through the agent: their number, which is bounded.
#[btf_map]
pub(crate) static CAPTURED: Array<CaptureCounters, 1> = Array::new();

/// What captured clients dialled, until the agent takes it. Written by sock_ops, which removes it when the client's TCP closes. Never
/// full: what is counted in [`CAPTURED`] has room; beyond that connect refuses.
#[btf_map]
pub(crate) static HANDOVERS: HashMap<HandoverKey, Handover, { limits::CAPTURED }, ON_DEMAND> =
    HashMap::new();

/// Captured clients' sockets without a state. Written by sock_ops, and by the agent where it has taken one; mapped into it. Full: the
/// socket gets a state.
#[btf_map]
pub(crate) static BRIEFS: Array<Brief, { limits::BRIEFS }, MAPPED> = Array::new();

/// What such sockets dialled, between `connect` and SYN. Full: the socket gets a state.
#[btf_map]
pub(crate) static BRIEF_DIALS: Array<BriefDial, { limits::BRIEF_DIALS }> = Array::new();

/// Addresses that node ports are dialled at. Written by the agent. Full: the agent says so; node ports of the rest are not
/// balanced here.
#[btf_map]
pub(crate) static NODE_ADDRESSES: HashMap<Addr, u32, { limits::NODE_ADDRESSES }, ON_DEMAND> =
    HashMap::new();

/// What a connected UDP socket dialled; of TCP it is part of [`SOCK_STATES`]. Written by connect, freed with the socket.
#[btf_map]
pub(crate) static DIALS: SkStorage<Dial> = SkStorage::new();

/// What an unconnected UDP socket dials. Written by sendmsg, freed with the socket.
#[btf_map]
pub(crate) static DATAGRAM_DIALS: SkStorage<DatagramDials> = SkStorage::new();

/// Ports that workloads listen on, or did. Written by sock_ops; the agent removes what is of a workload that has gone. Full: nothing
/// is known of a further port, so it may be picked.
#[btf_map]
pub(crate) static LISTENERS: HashMap<ListenerKey, Listeners, { limits::LISTENERS }, ON_DEMAND> =
    HashMap::new();

/// Where a listening socket is counted, and whether it is the agent's. Written by sock_ops, and by the agent to mark its own; freed with
/// the socket.
#[btf_map]
pub(crate) static LISTENING: SkStorage<Listening> = SkStorage::new();

/// Addresses to classes of peers, by table. Written by the agent. Full: the agent says so, and closes what it cannot tell apart.
#[btf_map]
pub(crate) static PREFIXES: LpmTrie<TableAddress, u32, { limits::PREFIXES }> = LpmTrie::new();

/// Verdict lists. Written by the agent. Full: the agent says so; what is missing is denied.
#[btf_map]
pub(crate) static VERDICTS: HashMap<VerdictKey, RangeList, { limits::VERDICTS }, ON_DEMAND> =
    HashMap::new();

/// The pool of port ranges. Mapped into the agent, its only writer. Full: as [`VERDICTS`].
#[btf_map]
pub(crate) static RANGES: Array<Range, { limits::RANGES }, MAPPED> = Array::new();

/// What each rule decided. Written where a verdict is taken.
#[btf_map]
pub(crate) static RULE_HITS: PerCpuArray<RuleHits, { limits::RULES }> = PerCpuArray::new();

/// This machine's own addresses, whose traffic no workload refuses. Written by the agent. Full: the agent says so, and the rest are
/// judged as anybody.
#[btf_map]
pub(crate) static HOST_ADDRESSES: HashMap<Addr, u32, { limits::HOST_ADDRESSES }, ON_DEMAND> =
    HashMap::new();

/// Denials recorded lately, by handle of the workload. Written where a verdict is taken.
#[btf_map]
pub(crate) static DENIALS: Array<DenialWindow, { limits::WORKLOADS }> = Array::new();

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
