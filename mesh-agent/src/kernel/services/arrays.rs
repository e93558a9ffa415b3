//! The maps that services are kept in, and how their words are written.

use std::io;

use mesh_common::addr::Addr;
use mesh_common::service::{BackendEntry, CaptureKey, Chunk, Frontend, ServiceEntry};

use crate::kernel::maps::{Maps, Shared};
use crate::kernel::services::pool::Region;
use crate::kernel::services::table::Place;
use crate::kernel::sys;

/// Words of a [`ServiceEntry`]: `set` and `flags`; `affinity_ns`; what programs add to.
const SET: std::ops::Range<usize> = 0..1;
const AFFINITY: std::ops::Range<usize> = 1..2;
const TURNS: std::ops::Range<usize> = 2..4;
const _: () = assert!(std::mem::offset_of!(ServiceEntry, affinity_ns) == 8 * AFFINITY.start);
const _: () = assert!(std::mem::offset_of!(ServiceEntry, turn) == 8 * TURNS.start);

/// Words of a [`BackendEntry`]: `address`; `port`, `usable` and `generation`; `service` and `weight`; counters.
const ADDRESS: std::ops::Range<usize> = 0..2;
const STATE: std::ops::Range<usize> = 2..3;
const OWNER: std::ops::Range<usize> = 3..4;
const COUNTERS: std::ops::Range<usize> = 4..8;
const _: () = assert!(std::mem::offset_of!(BackendEntry, port) == 8 * STATE.start);
const _: () = assert!(std::mem::offset_of!(BackendEntry, service) == 8 * OWNER.start);
const _: () = assert!(std::mem::offset_of!(BackendEntry, open) == 8 * COUNTERS.start);

/// What is more than memory: kernel calls.
pub(super) trait Calls {
    /// Makes these frontends lead to these numbers; returns how many of them, in order, and why not all.
    fn put_frontends(&self, frontends: &[Frontend], numbers: &[u32]) -> (usize, io::Result<()>);

    /// Removes frontends.
    fn remove_frontends(&self, frontends: &[Frontend]) -> io::Result<()>;

    /// Returns every frontend and where it leads.
    fn frontends(&self) -> io::Result<Vec<(Frontend, u32)>>;

    /// Returns the addresses of nodes.
    fn node_addresses(&self) -> io::Result<Vec<Addr>>;

    /// Makes connections from these namespaces go to the agent; returns how many of them, in order, and why not all.
    fn put_captures(&self, keys: &[CaptureKey]) -> (usize, io::Result<()>);

    /// Removes such.
    fn remove_captures(&self, keys: &[CaptureKey]) -> io::Result<()>;

    /// Returns all of them.
    fn captures(&self) -> io::Result<Vec<CaptureKey>>;

    /// Waits until every program that runs now has ended.
    fn grace_period(&self) -> io::Result<()>;
}

impl Calls for Maps {
    fn put_frontends(&self, frontends: &[Frontend], numbers: &[u32]) -> (usize, io::Result<()>) {
        self.frontends.set_all(frontends, numbers)
    }

    fn remove_frontends(&self, frontends: &[Frontend]) -> io::Result<()> {
        self.frontends.remove_all(frontends)
    }

    fn frontends(&self) -> io::Result<Vec<(Frontend, u32)>> {
        let mut all = Vec::new();
        self.frontends.for_each(|frontend, numbers| {
            all.extend(numbers.first().map(|number| (*frontend, *number)));
        })?;
        Ok(all)
    }

    fn node_addresses(&self) -> io::Result<Vec<Addr>> {
        let mut all = Vec::new();
        self.node_addresses
            .for_each(|address, _| all.push(*address))?;
        Ok(all)
    }

    fn put_captures(&self, keys: &[CaptureKey]) -> (usize, io::Result<()>) {
        if keys.is_empty() {
            return (0, Ok(()));
        }
        self.captures.set_all(keys, &vec![1; keys.len()])
    }

    fn remove_captures(&self, keys: &[CaptureKey]) -> io::Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        self.captures.remove_all(keys)
    }

    fn captures(&self) -> io::Result<Vec<CaptureKey>> {
        let mut all = Vec::new();
        self.captures.for_each(|key, _| all.push(*key))?;
        Ok(all)
    }

    fn grace_period(&self) -> io::Result<()> {
        sys::rcu_grace_period()
    }
}

/// Everything that is written to.
#[derive(Clone, Copy)]
pub(super) struct Arrays<'a> {
    pub(super) services: &'a Shared<ServiceEntry>,
    pub(super) backends: &'a Shared<BackendEntry>,
    pub(super) chunks: &'a Shared<Chunk>,
    pub(super) calls: &'a dyn Calls,
}

impl<'a> Arrays<'a> {
    /// Returns those of the kernel.
    pub(super) fn of(maps: &'a Maps) -> Self {
        Self {
            services: &maps.services,
            backends: &maps.backends,
            chunks: &maps.chunks,
            calls: maps,
        }
    }

    /// Returns where a backend is.
    pub(super) fn place(&self, backend: u32) -> Place {
        let entry = self.backends.get(backend).unwrap_or_default();
        (entry.address, entry.port)
    }

    /// Clears a service port's entry for a new owner.
    pub(super) fn clear_service(&self, number: u32) {
        self.services.write(number, &ServiceEntry::default(), 0..4);
    }

    /// Names a service port's table, after everything else that is to be seen with it.
    pub(super) fn name_table(&self, number: u32, set: u32, flags: u32, affinity_ns: u64) {
        let entry = ServiceEntry {
            set,
            flags,
            affinity_ns,
            ..ServiceEntry::default()
        };
        self.services.write(number, &entry, AFFINITY);
        self.services.write(number, &entry, SET);
    }

    /// Gives a backend's number to an owner. Nobody may use it until all of it is written.
    pub(super) fn give_backend(&self, number: u32, service: u32, place: Place, weight: u32) {
        let before = self.backends.get(number).unwrap_or_default();
        let generation = before.generation.wrapping_add(1);
        let entry = BackendEntry {
            address: place.0,
            port: place.1,
            usable: 0,
            generation,
            service,
            weight,
            ..BackendEntry::default()
        };
        self.backends.write(number, &entry, STATE);
        self.backends.write(number, &entry, COUNTERS);
        self.backends.write(number, &entry, ADDRESS);
        self.backends.write(number, &entry, OWNER);
        self.backends
            .write(number, &BackendEntry { usable: 1, ..entry }, STATE);
    }

    /// Sets a backend's weight, where it is another.
    pub(super) fn set_weight(&self, number: u32, weight: u32) {
        let entry = self.backends.get(number).unwrap_or_default();
        if entry.weight != weight {
            self.backends
                .write(number, &BackendEntry { weight, ..entry }, OWNER);
        }
    }

    /// Says whether tables may name a backend.
    pub(super) fn set_usable(&self, number: u32, usable: bool) {
        let entry = self.backends.get(number).unwrap_or_default();
        let usable = u16::from(usable);
        if entry.usable != usable {
            self.backends
                .write(number, &BackendEntry { usable, ..entry }, STATE);
        }
    }

    /// Takes a backend's number back. Its generation stays.
    pub(super) fn free_backend(&self, number: u32) {
        self.backends.write(number, &BackendEntry::default(), OWNER);
    }

    /// Writes a table that nobody names yet.
    pub(super) fn write_table(&self, region: Region, table: &[Chunk]) {
        for (index, chunk) in (region.start..).zip(table) {
            self.chunks.write(index, chunk, 0..2);
        }
    }

    /// Returns whether this table lies there already.
    pub(super) fn has_table(&self, region: Region, table: &[Chunk]) -> bool {
        region.start != 0
            && region.chunks as usize == table.len()
            && (region.start..)
                .zip(table)
                .all(|(index, chunk)| self.chunks.get(index) == Some(*chunk))
    }
}
