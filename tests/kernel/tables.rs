//! Services in the kernel's maps, written as the agent would.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bytemuck::{Pod, bytes_of};
use mesh_agent::kernel::map_dir;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::balance::Algorithm;
use mesh_common::handover::Brief;
use mesh_common::service::{BackendEntry, Chunk, Frontend, ServiceEntry};
use mesh_common::workload::Control;

use crate::ground::Ground;
use crate::sys;

/// The maps, and the next free numbers in them.
#[derive(Debug)]
pub(crate) struct Tables {
    dir: PathBuf,
    chunk: u32,
    backend: u32,
    service: u32,
}

/// A service port: its number and its backends'.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) number: u32,
    pub(crate) backends: Vec<u32>,
    pub(crate) entry: ServiceEntry,
}

impl Tables {
    /// Returns empty ones. This process stands for clients, so it is not to be taken for the agent.
    pub(crate) fn new(ground: &Ground) -> Self {
        let tables = Self {
            dir: map_dir(&ground.node.bpf_directory().unwrap()),
            chunk: 1,
            backend: 1,
            service: 1,
        };
        tables.control(ground, |control| control.agent_tgid = 0);
        tables
    }

    /// Changes the settings of the programs.
    pub(crate) fn control(&self, ground: &Ground, change: impl FnOnce(&mut Control)) {
        let mut control = ground.maps.control.get(&0).unwrap().unwrap();
        change(&mut control);
        ground.maps.control.set(&0, &control).unwrap();
    }

    /// Writes a place of captured sockets without a state.
    pub(crate) fn brief(&self, place: u32, brief: &Brief) {
        sys::put(&self.dir.join("BRIEFS"), bytes_of(&place), bytes_of(brief)).unwrap();
    }

    /// Adds a service port without frontends, whose backends are picked by weight.
    pub(crate) fn serve(&mut self, algorithm: Algorithm, backends: &[(SocketAddr, u32)]) -> Served {
        let number = self.service;
        self.service += 1;
        let mut numbers = Vec::new();
        for (address, weight) in backends {
            let entry = BackendEntry {
                address: Addr::from(address.ip()),
                port: PortBe::new(address.port()),
                usable: 1,
                generation: 1,
                service: number,
                weight: *weight,
                ..BackendEntry::default()
            };
            self.set_backend(self.backend, &entry);
            numbers.push(self.backend);
            self.backend += 1;
        }
        let weights: Vec<u32> = backends.iter().map(|(_, weight)| *weight).collect();
        let entry = ServiceEntry {
            set: self.table(algorithm, &numbers, &weights),
            ..ServiceEntry::default()
        };
        let served = Served {
            number,
            backends: numbers,
            entry,
        };
        self.set_service(&served);
        served
    }

    /// Adds a service port with this frontend and one backend.
    pub(crate) fn serve_at(
        &mut self,
        vip: SocketAddr,
        protocol: u8,
        backend: SocketAddr,
    ) -> Served {
        let served = self.serve(Algorithm::Random, &[(backend, 1)]);
        self.frontend(vip, protocol, served.number);
        served
    }

    /// Makes `vip` lead to a service port.
    pub(crate) fn frontend(&self, vip: SocketAddr, protocol: u8, number: u32) {
        self.raw_frontend(Addr::from(vip.ip()), vip.port(), protocol, number);
    }

    /// Makes a node port lead to a service port.
    pub(crate) fn node_port(&self, port: u16, protocol: u8, number: u32) {
        for address in [Frontend::NODE_V4, Frontend::NODE_V6] {
            self.raw_frontend(address, port, protocol, number);
        }
    }

    /// Makes an address a node's.
    pub(crate) fn node_address(&self, address: IpAddr) {
        self.put("NODE_ADDRESSES", &Addr::from(address).0, &1u32);
    }

    fn raw_frontend(&self, address: Addr, port: u16, protocol: u8, number: u32) {
        let frontend = Frontend {
            address,
            port: PortBe::new(port),
            protocol,
            _pad: 0,
        };
        self.put("FRONTENDS", bytes_of(&frontend), &number);
    }

    /// Writes a service port's entry; its counters start anew.
    pub(crate) fn set_service(&self, served: &Served) {
        self.put("SERVICES", &served.number.to_ne_bytes(), &served.entry);
    }

    /// Writes a backend's entry.
    pub(crate) fn set_backend(&self, number: u32, entry: &BackendEntry) {
        self.put("BACKENDS", &number.to_ne_bytes(), entry);
    }

    /// Writes a table of backends; returns its first chunk.
    pub(crate) fn table(&mut self, algorithm: Algorithm, backends: &[u32], weights: &[u32]) -> u32 {
        let slots = match algorithm {
            Algorithm::Maglev => backends.chunks(4).map(four).collect(),
            Algorithm::Random | Algorithm::RoundRobin | Algorithm::LeastConnections => {
                alias_slots(backends, weights)
            }
        };
        let first = self.chunk;
        let count = u32::try_from(backends.len()).unwrap();
        self.chunk(Chunk([algorithm as u32, count, 0, 0]));
        slots.into_iter().for_each(|slot| self.chunk(slot));
        first
    }

    fn chunk(&mut self, chunk: Chunk) {
        self.put("CHUNKS", &self.chunk.to_ne_bytes(), &chunk);
        self.chunk += 1;
    }

    fn put<V: Pod>(&self, map: &str, key: &[u8], value: &V) {
        sys::put(&self.dir.join(map), key, bytes_of(value)).unwrap();
    }
}

fn four(backends: &[u32]) -> Chunk {
    let mut numbers = [0; 4];
    numbers[..backends.len()].copy_from_slice(backends);
    Chunk(numbers)
}

/// Vose's method: slots that are less than full are filled up from those that are more than full.
fn alias_slots(backends: &[u32], weights: &[u32]) -> Vec<Chunk> {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let count = weights.len() as u64;
    let mut fill: Vec<u64> = weights
        .iter()
        .map(|weight| u64::from(*weight) * count)
        .collect();
    let mut slots: Vec<Option<(u64, u32)>> = vec![None; fill.len()];
    loop {
        let open = |slots: &[Option<_>], wanted: &dyn Fn(u64) -> bool, fill: &[u64]| {
            (0..slots.len()).find(|slot| slots[*slot].is_none() && wanted(fill[*slot]))
        };
        let Some(low) = open(&slots, &|fill| fill < total, &fill) else {
            break;
        };
        let high = open(&slots, &|fill| fill > total, &fill).unwrap();
        slots[low] = Some((fill[low], backends[high]));
        fill[high] -= total - fill[low];
    }
    let mut chunks = Vec::new();
    for (slot, backend) in backends.iter().enumerate() {
        let (threshold, alias) = slots[slot].map_or((u64::from(u32::MAX), 0), |(fill, alias)| {
            ((fill << 32) / total, alias)
        });
        let threshold = u32::try_from(threshold).unwrap();
        chunks.push(Chunk([threshold, *backend, alias, weights[slot]]));
    }
    chunks
}
