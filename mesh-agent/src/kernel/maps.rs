//! Typed access to the pinned maps. Reads and writes go through borrowed descriptors, so all threads share one.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Pod;
use mesh_common::addr::Addr;
use mesh_common::flow::FlowCell;
use mesh_common::handover::{Brief, CaptureCounters, Handover, HandoverKey};
use mesh_common::limits;
use mesh_common::listener::{ListenerKey, Listeners, Listening};
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::policy::{Prefix, Range, RangeList, RuleHits, VerdictKey};
use mesh_common::service::{
    AffinityEntry, AffinityKey, BackendEntry, CaptureKey, Chunk, Dial, Frontend, ServiceEntry,
};
use mesh_common::sock::{SockKey, SockState};
use mesh_common::workload::{AddrEntry, Admission, Control, NetnsEntry};

use crate::kernel::sys;
use crate::kernel::words::SharedWords;

/// Elements read by one batch call: 256 pair rows of two CPUs are 250 kB.
const BATCH: u32 = 256;

/// A map with keys `K` and values `V`.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    /// CPUs that the kernel keeps a value for; 1 where values are shared.
    cpus: usize,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> Map<K, V> {
    fn open(dir: &Path, name: &str, cpus: usize) -> io::Result<Self> {
        Ok(Self {
            fd: sys::open_pinned(&dir.join(name))?,
            cpus,
            types: PhantomData,
        })
    }

    /// Returns the map's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Returns the value of `key` (of the first CPU), or `None`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        Ok(self
            .get_all(key)?
            .and_then(|values| values.first().copied()))
    }

    /// Returns the value of `key` on every CPU, or `None`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn get_all(&self, key: &K) -> io::Result<Option<Vec<V>>> {
        let mut values = vec![V::zeroed(); self.cpus];
        match sys::map_lookup(
            self.fd(),
            bytemuck::bytes_of(key),
            bytemuck::cast_slice_mut(&mut values),
        ) {
            Ok(()) => Ok(Some(values)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the value of `key` out, or returns `None`. For hash maps with one value for all CPUs.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn take(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::zeroed();
        let (key, bytes) = (bytemuck::bytes_of(key), bytemuck::bytes_of_mut(&mut value));
        match sys::map_take(self.fd(), key, bytes) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores `value` under `key`, on every CPU.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn set(&self, key: &K, value: &V) -> io::Result<()> {
        self.set_cpus(key, &vec![*value; self.cpus])
    }

    /// Stores a value for each CPU under `key`.
    fn set_cpus(&self, key: &K, values: &[V]) -> io::Result<()> {
        sys::map_update(
            self.fd(),
            bytemuck::bytes_of(key),
            bytemuck::cast_slice(values),
        )
    }

    /// Stores these entries by one call; returns how many of them, in order, and why not all. For maps with one value for all CPUs.
    pub fn set_all(&self, keys: &[K], values: &[V]) -> (usize, io::Result<()>) {
        let count = keys.len().min(values.len());
        let (keys, values) = (bytemuck::cast_slice(keys), bytemuck::cast_slice(values));
        sys::map_update_batch(self.fd(), keys, values, count)
    }

    /// Deletes these keys by one call, or one for each that is not there.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn remove_all(&self, mut keys: &[K]) -> io::Result<()> {
        loop {
            let bytes = bytemuck::cast_slice(keys);
            match sys::map_delete_batch(self.fd(), bytes, keys.len()) {
                (done, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                    keys = keys.get(done + 1..).unwrap_or_default();
                }
                (_, outcome) => return outcome,
            }
        }
    }

    /// Deletes `key`; fine when it is not there.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn remove(&self, key: &K) -> io::Result<()> {
        match sys::map_delete(self.fd(), bytemuck::bytes_of(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Calls `visit` with every key and its value of every CPU, read in batches.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &[V])) -> io::Result<()> {
        let mut count = BATCH;
        let mut cursor = None;
        loop {
            let mut keys = vec![K::zeroed(); count as usize];
            let mut values = vec![V::zeroed(); count as usize * self.cpus];
            let before = cursor;
            let batch = sys::map_lookup_batch(
                self.fd(),
                &mut cursor,
                bytemuck::cast_slice_mut(&mut keys),
                bytemuck::cast_slice_mut(&mut values),
                count,
            );
            let (read, done) = match batch {
                Ok(batch) => batch,
                // One bucket holds more than the batch: again from the same place with more room.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && count < 64 * BATCH => {
                    (cursor, count) = (before, count * 2);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (key, values) in keys
                .iter()
                .zip(values.chunks_exact(self.cpus))
                .take(read as usize)
            {
                visit(key, values);
            }
            if done {
                return Ok(());
            }
        }
    }

    /// Returns all keys, one by one: for maps whose batches go on from a key and not from a bucket.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn keys(&self) -> io::Result<Vec<K>> {
        let mut keys: Vec<K> = Vec::new();
        let mut next = K::zeroed();
        while sys::map_next_key(
            self.fd(),
            keys.last().map(bytemuck::bytes_of),
            bytemuck::bytes_of_mut(&mut next),
        )? {
            keys.push(next);
        }
        Ok(keys)
    }

    /// Returns the number of entries.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn count(&self) -> io::Result<u64> {
        let mut entries = 0;
        self.for_each(|_, _| entries += 1)?;
        Ok(entries)
    }
}

/// A queue of `V`.
#[derive(Debug)]
pub struct Queue<V> {
    fd: OwnedFd,
    types: PhantomData<fn() -> V>,
}

impl<V: Pod> Queue<V> {
    fn open(dir: &Path, name: &str) -> io::Result<Self> {
        Ok(Self {
            fd: sys::open_pinned(&dir.join(name))?,
            types: PhantomData,
        })
    }

    /// Takes the oldest element out, or returns `None` when there is none.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn pop(&self) -> io::Result<Option<V>> {
        let mut value = V::zeroed();
        match sys::queue_pop(self.fd.as_fd(), bytemuck::bytes_of_mut(&mut value)) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Appends an element.
    ///
    /// # Errors
    ///
    /// `E2BIG` where it is full; the kernel's otherwise.
    pub fn push(&self, value: &V) -> io::Result<()> {
        sys::queue_push(self.fd.as_fd(), bytemuck::bytes_of(value))
    }
}

/// An array that this process shares with the kernel. Each word is read and written by itself.
#[derive(Debug)]
pub struct Shared<V> {
    words: SharedWords,
    types: PhantomData<fn() -> V>,
}

impl<V: Pod> Shared<V> {
    /// Words of one element.
    const STRIDE: usize = size_of::<V>() / 8;

    fn open(dir: &Path, name: &str, entries: usize) -> io::Result<Self> {
        Self::map(sys::open_pinned(&dir.join(name))?.as_fd(), entries)
    }

    fn map(map: BorrowedFd<'_>, entries: usize) -> io::Result<Self> {
        const { assert!(size_of::<V>().is_multiple_of(8), "the kernel rounds up") };
        Ok(Self {
            words: SharedWords::map(map, entries * Self::STRIDE, Self::STRIDE)?,
            types: PhantomData,
        })
    }

    /// Returns the element at `index`, or `None` beyond the last.
    pub fn get(&self, index: u32) -> Option<V> {
        let mut value = V::zeroed();
        let bytes = bytemuck::bytes_of_mut(&mut value).chunks_exact_mut(8);
        for (to, from) in bytes.zip(self.element(index)?) {
            to.copy_from_slice(&from.load(Ordering::Relaxed).to_ne_bytes());
        }
        Some(value)
    }

    /// Writes these words of `value` to the element at `index`, in order. Who reads one of them sees all that was written before.
    pub(crate) fn write(&self, index: u32, value: &V, words: std::ops::Range<usize>) {
        let from = bytemuck::bytes_of(value).as_chunks::<8>().0;
        let to = self.element(index).and_then(|to| to.get(words.clone()));
        let Some((to, from)) = to.zip(from.get(words)) else {
            return;
        };
        for (to, from) in to.iter().zip(from) {
            to.store(u64::from_ne_bytes(*from), Ordering::Release);
        }
    }

    /// Adds `n` to a word of the element at `index`, which programs add to as well.
    pub(crate) fn add(&self, index: u32, word: usize, n: u64) {
        if let Some(word) = self.element(index).and_then(|words| words.get(word)) {
            word.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Gives back the memory that looking at all of it took.
    pub(crate) fn let_go(&mut self) {
        self.words.let_go();
    }

    /// Makes an array that no kernel knows of, for tests.
    #[cfg(test)]
    pub(crate) fn private(entries: usize) -> io::Result<Self> {
        Ok(Self {
            words: SharedWords::private(entries * Self::STRIDE, Self::STRIDE)?,
            types: PhantomData,
        })
    }

    pub(super) fn element(&self, index: u32) -> Option<&[AtomicU64]> {
        let first = usize::try_from(index).ok()?.checked_mul(Self::STRIDE)?;
        self.words.element(first, Self::STRIDE)
    }
}

impl Shared<Admission> {
    /// Writes what the agent decided. What programs have seen stays.
    pub fn decide(&self, id: u32, admission: u32, observed: u32) {
        let decided = Admission {
            admission,
            observed,
            ..Admission::default()
        };
        let bytes = bytemuck::bytes_of(&decided);
        if let (Some([word, ..]), Some(first)) = (self.element(id), bytes.first_chunk()) {
            word.store(u64::from_ne_bytes(*first), Ordering::Relaxed);
        }
    }

    /// Adds to what was seen of a workload.
    pub fn note(&self, id: u32, behaviours: u64) {
        if let Some([_, seen, ..]) = self.element(id) {
            seen.fetch_or(behaviours, Ordering::Relaxed);
        }
    }

    /// Forgets everything of a handle.
    pub fn clear(&self, id: u32) {
        for word in self.element(id).unwrap_or_default() {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl Shared<Range> {
    /// Writes one range, at one stroke.
    pub fn store(&self, index: u32, range: u64) {
        if let Some([word]) = self.element(index) {
            word.store(range, Ordering::Relaxed);
        }
    }
}

/// The words of an admission are where [`Shared`] writes them.
const _: () = assert!(std::mem::offset_of!(Admission, behaviours) == 8);

/// All pinned maps that user space reads or writes.
#[derive(Debug)]
pub struct Maps {
    /// Settings.
    pub control: Map<u32, Control>,
    /// Workloads by the cookie of their namespace.
    pub workloads: Map<u64, NetnsEntry>,
    /// Owners of addresses.
    pub addresses: Map<Addr, AddrEntry>,
    /// Admission by handle.
    pub admissions: Shared<Admission>,
    /// Numbers of cells by the client's key.
    pub flows: Map<SockKey, u32>,
    /// What both ends of a flow share, by number.
    cells: OwnedFd,
    /// Counters by pair.
    pub pairs: Map<PairKey, PairCounters>,
    /// Counters of the node, `mesh_common::stats`.
    pub stats: Map<u32, u64>,
    /// Numbers of free cells.
    pub free_cells: Queue<u32>,
    /// State of each workload's socket, by a descriptor of the socket.
    pub sock_states: Map<i32, SockState>,
    /// The socket map; only attached to.
    pub sockets: OwnedFd,
    /// Numbers of service ports by what is dialled.
    pub frontends: Map<Frontend, u32>,
    /// Service ports by number.
    pub services: Shared<ServiceEntry>,
    /// Endpoints by number.
    pub backends: Shared<BackendEntry>,
    /// The pool of tables of backends.
    pub chunks: Shared<Chunk>,
    /// Backends that clients stick to.
    pub affinities: Map<AffinityKey, AffinityEntry>,
    /// Namespaces whose clients' connections to a service port go to the agent.
    pub captures: Map<CaptureKey, u32>,
    /// Connections that go through the agent.
    pub captured: Map<u32, CaptureCounters>,
    /// What captured clients dialled.
    pub handovers: Map<HandoverKey, Handover>,
    /// Captured clients' sockets without a state.
    pub briefs: Shared<Brief>,
    /// Addresses that node ports are dialled at.
    pub node_addresses: Map<Addr, u32>,
    /// Ports that workloads listen on, or did.
    pub listeners: Map<ListenerKey, Listeners>,
    /// What is known of a listening socket, by a descriptor of the socket.
    pub listening: Map<i32, Listening>,
    /// What a connected socket dialled, by a descriptor of the socket.
    pub dials: Map<i32, Dial>,
    /// Addresses to classes of peers; its batches would go on from a key.
    pub prefixes: Map<Prefix, u32>,
    /// Verdict lists.
    pub verdicts: Map<VerdictKey, RangeList>,
    /// The pool of port ranges.
    pub ranges: Shared<Range>,
    /// What each rule decided.
    pub rule_hits: Map<u32, RuleHits>,
    /// This machine's own addresses.
    pub host_addresses: Map<Addr, u32>,
}

impl Maps {
    /// Opens the maps pinned in `dir`, and makes the rows that the programs rely on.
    ///
    /// # Errors
    ///
    /// Where one is missing or cannot be written.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let cpus = possible_cpus()?;
        let maps = Self {
            control: Map::open(dir, "CONTROL", 1)?,
            workloads: Map::open(dir, "WORKLOADS", 1)?,
            addresses: Map::open(dir, "ADDRESSES", 1)?,
            admissions: Shared::open(dir, "ADMISSIONS", limits::WORKLOADS)?,
            flows: Map::open(dir, "FLOWS", 1)?,
            cells: sys::open_pinned(&dir.join("CELLS"))?,
            pairs: Map::open(dir, "PAIRS", cpus)?,
            stats: Map::open(dir, "STATS", cpus)?,
            free_cells: Queue::open(dir, "FREE_CELLS")?,
            sock_states: Map::open(dir, "SOCK_STATES", 1)?,
            sockets: sys::open_pinned(&dir.join("SOCKETS"))?,
            frontends: Map::open(dir, "FRONTENDS", 1)?,
            services: Shared::open(dir, "SERVICES", limits::SERVICES)?,
            backends: Shared::open(dir, "BACKENDS", limits::BACKENDS)?,
            chunks: Shared::open(dir, "CHUNKS", limits::CHUNKS)?,
            affinities: Map::open(dir, "AFFINITIES", 1)?,
            captures: Map::open(dir, "CAPTURES", 1)?,
            captured: Map::open(dir, "CAPTURED", 1)?,
            handovers: Map::open(dir, "HANDOVERS", 1)?,
            briefs: Shared::open(dir, "BRIEFS", limits::BRIEFS)?,
            node_addresses: Map::open(dir, "NODE_ADDRESSES", 1)?,
            listeners: Map::open(dir, "LISTENERS", 1)?,
            listening: Map::open(dir, "LISTENING", 1)?,
            dials: Map::open(dir, "DIALS", 1)?,
            prefixes: Map::open(dir, "PREFIXES", 1)?,
            verdicts: Map::open(dir, "VERDICTS", 1)?,
            ranges: Shared::open(dir, "RANGES", limits::RANGES)?,
            rule_hits: Map::open(dir, "RULE_HITS", cpus)?,
            host_addresses: Map::open(dir, "HOST_ADDRESSES", 1)?,
        };
        // Written last by whoever makes the maps; an agent that died before that leaves them to be filled anew.
        if maps.pairs.get(&PairKey::OVERFLOW)?.is_none() {
            maps.fill_free_cells()?;
            maps.pairs.set(&PairKey::OVERFLOW, &PairCounters::ZERO)?;
        }
        Ok(maps)
    }

    /// Puts every cell's number into the queue of free ones, once each. Nothing is attached yet.
    fn fill_free_cells(&self) -> io::Result<()> {
        while self.free_cells.pop()?.is_some() {}
        let limit = u32::try_from(limits::FLOWS).map_err(io::Error::other)?;
        (0..limit).try_for_each(|number| self.free_cells.push(&number))
    }

    /// Returns one counter of the node, all CPUs together.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn stat(&self, slot: u32) -> io::Result<u64> {
        Ok(self.stats.get_all(&slot)?.unwrap_or_default().iter().sum())
    }

    /// Adds one to a counter of the node that no program writes. Not to be called by two threads at once.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn count(&self, slot: u32) -> io::Result<()> {
        let mut cpus = self.stats.get_all(&slot)?.unwrap_or_default();
        if let Some(first) = cpus.first_mut() {
            *first += 1;
        }
        self.stats.set_cpus(&slot, &cpus)
    }

    /// Returns the socket map.
    pub(crate) fn sockets(&self) -> BorrowedFd<'_> {
        self.sockets.as_fd()
    }

    /// Returns the cells, as they are at each look. Mapped for that only: they are 4 MB.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn cells(&self) -> io::Result<Shared<FlowCell>> {
        Shared::map(self.cells.as_fd(), limits::FLOWS)
    }

    /// Returns every flow that takes part in redirect, its cell's number, and the cell.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn flow_cells(&self) -> io::Result<Vec<(SockKey, u32, FlowCell)>> {
        let mut cells = Vec::new();
        let shared = self.cells()?;
        self.flows.for_each(|flow, number| {
            let number = number.first();
            let cell = number.and_then(|number| Some((*flow, *number, shared.get(*number)?)));
            cells.extend(cell);
        })?;
        Ok(cells)
    }

    /// Returns name, entries and limit of every map whose fill says something.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn fill(&self, sockets: u64) -> io::Result<Vec<(&'static str, u64, u64)>> {
        Ok(vec![
            (
                "workloads",
                self.workloads.count()?,
                limits::WORKLOADS as u64,
            ),
            (
                "addresses",
                self.addresses.count()?,
                limits::ADDRESSES as u64,
            ),
            ("sockets", sockets, limits::SOCKETS as u64),
            ("flows", self.flows.count()?, limits::FLOWS as u64),
            ("pairs", self.pairs.count()?, limits::PAIRS as u64),
        ])
    }
}

/// Returns the number of CPUs that per-CPU maps keep a value for (`/sys/devices/system/cpu/possible`).
fn possible_cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map_err(|(_, error)| error)
}
