//! Which service port is dialled, and which of its backends gets the connection.
//!
//! Fails open where nothing is known: the call goes where the application said.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use mesh_common::balance::{self, Draw, Pool};
use mesh_common::service::{
    AffinityEntry, AffinityKey, BackendEntry, Chunk, Frontend, SERVICE_DROPS, ServiceEntry,
};

use crate::atomic;
use crate::maps::{AFFINITIES, BACKENDS, CHUNKS, CONTROL, FRONTENDS, NODE_ADDRESSES, SERVICES};
use crate::sockaddr::{Caller, Place};

/// A backend that was picked.
#[derive(Clone, Copy)]
pub(crate) struct Backend {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) place: Place,
}

/// Who answers for a service port.
pub(crate) enum Choice {
    Backend(Backend),
    /// Nobody; the call is to be refused.
    Nobody,
    /// Nobody; the call is to be left unanswered.
    Unanswered,
}

/// Returns the number of the service port that stands behind `dialled`.
#[inline(always)]
pub(crate) fn number(dialled: &Place, protocol: u8) -> Option<u32> {
    let mut frontend = Frontend {
        address: dialled.address,
        port: dialled.port,
        protocol,
        _pad: 0,
    };
    // SAFETY: copied at once; the agent replaces entries as a whole.
    if let Some(number) = unsafe { FRONTENDS.get(frontend) }.copied() {
        return Some(number);
    }
    let [first, last] = CONTROL.get(0)?.node_ports;
    let port = dialled.port.number();
    if first == 0 || port < first || port > last {
        return None;
    }
    // SAFETY: only its being there counts.
    unsafe { NODE_ADDRESSES.get(dialled.address) }?;
    frontend.address = if dialled.address.is_v4() {
        Frontend::NODE_V4
    } else {
        Frontend::NODE_V6
    };
    // SAFETY: copied at once.
    unsafe { FRONTENDS.get(frontend) }.copied()
}

/// Returns who answers for the service port `number`; `None` where it has just gone.
#[inline(always)]
pub(crate) fn choose(number: u32, caller: &Caller, v4: bool) -> Option<Choice> {
    let service = SERVICES.get_ptr_mut(number)?;
    // SAFETY: a slot of the array.
    let turn = unsafe { atomic::fetch_add(&raw mut (*service).turn, 1) };
    // SAFETY: a slot of the array; the agent writes it word by word, and kernel programs only its counters.
    let entry = unsafe { &*service };
    if let Some(backend) = backend(number, entry, caller, turn)
        && backend.place.address.is_v4() == v4
    {
        return Some(Choice::Backend(backend));
    }
    // SAFETY: a slot of the array.
    unsafe { atomic::add(&raw mut (*service).refused, 1) };
    Some(if entry.flags & SERVICE_DROPS != 0 {
        Choice::Unanswered
    } else {
        Choice::Nobody
    })
}

#[inline(always)]
fn backend(number: u32, entry: &ServiceEntry, caller: &Caller, turn: u64) -> Option<Backend> {
    if entry.set == 0 {
        return None;
    }
    if entry.affinity_ns == 0 {
        return picked(number, entry, caller, turn);
    }
    let key = AffinityKey {
        client: caller.netns,
        service: number,
        _pad: 0,
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(stuck) = AFFINITIES.get_ptr_mut(key) {
        // SAFETY: an element of the map, which stays in place while the program runs.
        let entry_now = unsafe { *stuck };
        if now.saturating_sub(entry_now.used_ns) <= entry.affinity_ns
            && let Some(backend) = usable(entry_now.backend, number, Some(entry_now.generation))
        {
            // SAFETY: as above.
            unsafe { (*stuck).used_ns = now };
            return Some(backend);
        }
    }
    let backend = picked(number, entry, caller, turn)?;
    let stuck = AffinityEntry {
        used_ns: now,
        backend: backend.number,
        generation: backend.generation,
    };
    // Without room the next connect is balanced anew.
    AFFINITIES.insert(key, stuck, 0).ok();
    Some(backend)
}

#[inline(always)]
fn picked(number: u32, entry: &ServiceEntry, caller: &Caller, turn: u64) -> Option<Backend> {
    let hash = caller.workload.uid_hash;
    let draw = Draw {
        // SAFETY: no arguments.
        random: unsafe { bpf_get_prandom_u32() },
        turn,
        client: (hash ^ (hash >> 32)) as u32,
    };
    usable(balance::pick(&Tables, entry.set, draw)?, number, None)
}

/// Returns the backend with this number if the service port may still send to it; with `generation`, if it is the same as then.
#[inline(always)]
pub(crate) fn usable(backend: u32, service: u32, generation: Option<u32>) -> Option<Backend> {
    let entry = BACKENDS.get(backend)?;
    if entry.usable == 0
        || entry.service != service
        || generation.is_some_and(|then| then != entry.generation)
    {
        return None;
    }
    Some(Backend {
        number: backend,
        generation: entry.generation,
        place: Place {
            address: entry.address,
            port: entry.port,
        },
    })
}

/// Counts a pick that came into effect.
#[inline(always)]
pub(crate) fn count_pick(backend: &Backend) {
    if let Some(entry) = BACKENDS.get_ptr_mut(backend.number) {
        // SAFETY: a slot of the array.
        unsafe { atomic::add(&raw mut (*entry).picked, 1) };
    }
}

/// Returns the backend's entry while it still is the one of that time.
#[inline(always)]
pub(crate) fn entry(backend: u32, generation: u32) -> Option<*mut BackendEntry> {
    if backend == 0 {
        return None;
    }
    let entry = BACKENDS.get_ptr_mut(backend)?;
    // SAFETY: a slot of the array.
    let now = unsafe { (&raw const (*entry).generation).read_volatile() };
    if now == generation { Some(entry) } else { None }
}

/// The tables in the kernel's maps.
struct Tables;

impl Pool for Tables {
    #[inline(always)]
    fn chunk(&self, index: u32) -> Option<Chunk> {
        CHUNKS.get(index).copied()
    }

    #[inline(always)]
    fn open(&self, backend: u32) -> u64 {
        let Some(entry) = BACKENDS.get_ptr(backend) else {
            return 0;
        };
        // SAFETY: a slot of the array.
        unsafe { (&raw const (*entry).open).read_volatile() }
    }
}
