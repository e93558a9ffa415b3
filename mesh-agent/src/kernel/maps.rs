//! Typed access to the pinned maps. Reads and writes go through borrowed descriptors, so all threads share one.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use bytemuck::Pod;
use mesh_common::addr::Addr;
use mesh_common::flow::FlowCell;
use mesh_common::limits;
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::sock::{SockKey, SockState};
use mesh_common::workload::{AddrEntry, Admission, Control, NetnsEntry};

use crate::kernel::sys;

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

    /// Stores `value` under `key`, on every CPU.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn set(&self, key: &K, value: &V) -> io::Result<()> {
        let values = vec![*value; self.cpus];
        sys::map_update(
            self.fd(),
            bytemuck::bytes_of(key),
            bytemuck::cast_slice(&values),
        )
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

    /// Returns the number of entries.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn len(&self) -> io::Result<u64> {
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
    pub admissions: Map<u32, Admission>,
    /// Numbers of cells by the client's key.
    pub flows: Map<SockKey, u32>,
    /// What both ends of a flow share, by number.
    pub cells: Map<u32, FlowCell>,
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
            admissions: Map::open(dir, "ADMISSIONS", 1)?,
            flows: Map::open(dir, "FLOWS", 1)?,
            cells: Map::open(dir, "CELLS", 1)?,
            pairs: Map::open(dir, "PAIRS", cpus)?,
            stats: Map::open(dir, "STATS", cpus)?,
            free_cells: Queue::open(dir, "FREE_CELLS")?,
            sock_states: Map::open(dir, "SOCK_STATES", 1)?,
            sockets: sys::open_pinned(&dir.join("SOCKETS"))?,
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

    /// Returns every flow that takes part in redirect, and its cell.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn flow_cells(&self) -> io::Result<Vec<(SockKey, FlowCell)>> {
        let mut numbers = Vec::new();
        self.flows.for_each(|flow, number| {
            numbers.extend(number.first().map(|number| (*flow, *number)))
        })?;
        let cell = |(flow, number)| Ok(self.cells.get(&number)?.map(|cell| (flow, cell)));
        numbers
            .into_iter()
            .filter_map(|found| cell(found).transpose())
            .collect()
    }

    /// Returns name, entries and limit of every map whose fill says something.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn fill(&self, sockets: u64) -> io::Result<Vec<(&'static str, u64, u64)>> {
        Ok(vec![
            ("workloads", self.workloads.len()?, limits::WORKLOADS as u64),
            ("addresses", self.addresses.len()?, limits::ADDRESSES as u64),
            ("sockets", sockets, limits::SOCKETS as u64),
            ("flows", self.flows.len()?, limits::FLOWS as u64),
            ("pairs", self.pairs.len()?, limits::PAIRS as u64),
        ])
    }
}

/// Returns the number of CPUs that per-CPU maps keep a value for (`/sys/devices/system/cpu/possible`).
fn possible_cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map_err(|(_, error)| error)
}
