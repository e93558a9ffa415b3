//! Which service port is dialled, and which of its backends gets the connection.
//!
//! Fails open where nothing is known: the call goes where the application said.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use mesh_common::balance::{self, Algorithm, Draw, GOLDEN, Pool};
use mesh_common::service::{
    AffinityEntry, AffinityKey, BackendEntry, Chunk, Frontend, SERVICE_DROPS,
};

use crate::maps::{AFFINITIES, BACKENDS, CHUNKS, CONTROL, FRONTENDS, NODE_ADDRESSES, SERVICES};
use crate::sockaddr::{Caller, Place};
use crate::{atomic, listener};

/// A backend that was picked.
#[derive(Clone, Copy)]
pub(crate) struct Backend {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) place: Place,
}

impl Backend {
    /// Returns what stands for a place that is no backend.
    #[inline(always)]
    pub(crate) fn none(place: Place) -> Self {
        Self {
            number: 0,
            generation: 0,
            place,
        }
    }

    /// Returns the backend with this number.
    #[inline(always)]
    fn of(number: u32, entry: &BackendEntry) -> Self {
        Self {
            number,
            generation: entry.generation,
            place: Place {
                address: entry.address,
                port: entry.port,
            },
        }
    }
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
    frontend.address = Frontend::node(&dialled.address);
    // SAFETY: copied at once.
    unsafe { FRONTENDS.get(frontend) }.copied()
}

/// Puts the backend that the service port `number` picks for the caller into `to`, which holds the place that was dialled.
/// Returns whether the call may go on: to the backend, or as dialled where the service drops or has just gone. With `listening`,
/// only a backend that nobody is known to have closed, while there is one.
///
/// `to` is always whole, and not an `Option`: "R5 !read_ok" where the compiler moves what it does not need to be.
#[inline(always)]
pub(crate) fn choose(number: u32, caller: &Caller, listening: bool, to: &mut Backend) -> bool {
    let Some(service) = SERVICES.get_ptr_mut(number) else {
        return true;
    };
    // SAFETY: a slot of the array.
    let turn = unsafe { atomic::fetch_add(&raw mut (*service).turn, 1) };
    // SAFETY: a slot of the array; the agent writes it.
    let affinity_ns = unsafe { (&raw const (*service).affinity_ns).read_volatile() };
    let hash = caller.workload.uid_hash;
    let mut picking = Picking {
        number,
        client: (hash ^ (hash >> 32)) as u32,
        turn,
        listening,
        found: false,
        good: false,
        weight: 0,
        open: 0,
        to: *to,
    };
    // Two look-ups less where there is nobody else to pick.
    if let Some(Chunk([_, 1, ..])) = Tables.chunk(picking.set()) {
        picking.listening = false;
    }
    let mut stuck = 0;
    if affinity_ns != 0 {
        stuck = stuck_to(number, affinity_ns, caller);
    }
    let first = if stuck == 0 {
        balance::pick(&Tables, picking.set(), picking.draw(0)).unwrap_or(0)
    } else {
        stuck
    };
    picking.take(first, false);
    if !picking.good {
        // SAFETY: `again` takes what is passed here, which outlives the call.
        unsafe {
            bpf_loop(
                PICKS - 1,
                again as *mut c_void,
                (&raw mut picking).cast(),
                0,
            )
        };
    }
    if picking.found && picking.to.place.address.is_v4() == to.place.address.is_v4() {
        *to = picking.to;
        if affinity_ns != 0 && to.number != stuck {
            stick(number, caller, to);
        }
        return true;
    }
    // SAFETY: a slot of the array.
    unsafe { atomic::add(&raw mut (*service).refused, 1) };
    // SAFETY: as above; the agent writes it.
    let flags = unsafe { (&raw const (*service).flags).read_volatile() };
    flags & SERVICE_DROPS != 0
}

/// Returns the number of the backend that the client sticks to, which may be used; 0 when there is none.
#[inline(always)]
fn stuck_to(number: u32, affinity_ns: u64, caller: &Caller) -> u32 {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(stuck) = AFFINITIES.get_ptr_mut(affinity(number, caller)) else {
        return 0;
    };
    // SAFETY: an element of the map, which stays in place while the program runs.
    let entry = unsafe { *stuck };
    if now.saturating_sub(entry.used_ns) > affinity_ns
        || usable(entry.backend, number, Some(entry.generation)).is_none()
    {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*stuck).used_ns = now };
    entry.backend
}

/// The client sticks to `to` from now on. Without room its next connect is balanced anew.
#[inline(always)]
fn stick(number: u32, caller: &Caller, to: &Backend) {
    let stuck = AffinityEntry {
        // SAFETY: no arguments.
        used_ns: unsafe { bpf_ktime_get_ns() },
        backend: to.number,
        generation: to.generation,
    };
    AFFINITIES.insert(affinity(number, caller), stuck, 0).ok();
}

#[inline(always)]
fn affinity(number: u32, caller: &Caller) -> AffinityKey {
    AffinityKey {
        client: caller.netns,
        service: number,
        _pad: 0,
    }
}

/// Picks by draw, with the first: shares stay what they are among those that are left.
const DRAWS: u32 = 4;

/// Picks in all. What comes after [`DRAWS`] walks through the table, so that of up to 16 backends the one that is left is found.
const PICKS: u32 = DRAWS + 16;

/// A pick in progress.
struct Picking {
    /// The service port.
    number: u32,
    /// Hash of the client.
    client: u32,
    /// Whose turn it is.
    turn: u64,
    /// Whether only a backend will do that nobody is known to have closed.
    listening: bool,
    /// Whether `to` is a backend.
    found: bool,
    /// Whether `to` will do.
    good: bool,
    /// Its weight.
    weight: u32,
    /// Its open flows.
    open: u64,
    /// The best that was found: the first that will do; else the last that may be used; else one that could be a moment ago, when
    /// the table was read that is just being replaced.
    to: Backend,
}

/// Picks once more; returns 1 when that was enough. Called by the kernel: as a loop of our own "BPF program is too large".
extern "C" fn again(i: u64, picking: *mut Picking) -> u64 {
    // SAFETY: `choose` passes its own.
    let picking = unsafe { &mut *picking };
    let i = i as u32 + 1;
    // Read each time: the agent may have named a new table.
    let set = picking.set();
    let Some(Chunk([algorithm, ..])) = Tables.chunk(set) else {
        return 1;
    };
    let least = algorithm == Algorithm::LeastConnections as u32;
    let draw = picking.draw(i);
    if i >= DRAWS {
        // Of these, the least loaded.
        picking.take(
            balance::nth(&Tables, set, draw.turn as u32).unwrap_or(0),
            least,
        );
    } else if !least {
        picking.take(balance::by_draw(&Tables, set, draw).unwrap_or(0), false);
    }
    u64::from(picking.good && !least)
}

impl Picking {
    /// Returns the table; 0, which is empty, where nobody answers.
    #[inline(always)]
    fn set(&self) -> u32 {
        let Some(service) = SERVICES.get_ptr(self.number) else {
            return 0;
        };
        // SAFETY: a slot of the array.
        unsafe { (&raw const (*service).set).read_volatile() }
    }

    /// Returns what pick `i` depends on.
    #[inline(always)]
    fn draw(&self, i: u32) -> Draw {
        Draw {
            // SAFETY: no arguments.
            random: unsafe { bpf_get_prandom_u32() },
            turn: self.turn.wrapping_add(u64::from(i)),
            client: self.client.wrapping_add(i.wrapping_mul(GOLDEN)),
        }
    }

    /// Takes the backend that was picked if it is better than what was found so far. With `least`, of two that will do the one with
    /// less load is.
    #[inline(always)]
    fn take(&mut self, number: u32, least: bool) {
        let Some(entry) = BACKENDS.get(number) else {
            return;
        };
        if entry.service != self.number {
            return;
        }
        let backend = Backend::of(number, entry);
        let is_usable = entry.usable != 0;
        let is_good = is_usable && !(self.listening && listener::is_closed(&backend.place));
        if self.good {
            let is_less = balance::is_less(entry.open, entry.weight, self.open, self.weight);
            if !is_good || !least || !is_less {
                return;
            }
        } else if self.found && !is_usable {
            return;
        }
        self.found = true;
        self.good = is_good;
        self.open = entry.open;
        self.weight = entry.weight;
        self.to = backend;
    }
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
    Some(Backend::of(backend, entry))
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
