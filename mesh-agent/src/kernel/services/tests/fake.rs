//! Maps in plain memory, and a state that keeps them in line.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mesh_common::addr::{Addr, PortBe};
use mesh_common::balance::{Algorithm, Draw, Pool, pick};
use mesh_common::service::{BackendEntry, CaptureKey, Chunk, Frontend, ServiceEntry, TCP};

use crate::kernel::maps::Shared;
use crate::kernel::services::adopt::Room;
use crate::kernel::services::arrays::{Arrays, Calls};
use crate::kernel::services::state::State;
use crate::model::balanced::{Balanced, PortId, Target};
use crate::model::service::{Drain, Protocol, ServiceName};

pub(super) const ROOM: Room = Room {
    services: 64,
    backends: 256,
    chunks: 4096,
};

/// Maps, and what was done to the one that is no memory.
pub(super) struct Fake {
    pub(super) services: Shared<ServiceEntry>,
    pub(super) backends: Shared<BackendEntry>,
    pub(super) chunks: Shared<Chunk>,
    pub(super) frontends: RefCell<HashMap<Frontend, u32>>,
    pub(super) room: Cell<usize>,
    /// Frontends as they were put (with their number) and removed (with 0), in order.
    pub(super) written: RefCell<Vec<(Frontend, u32)>>,
    pub(super) captures: RefCell<BTreeSet<CaptureKey>>,
    pub(super) captures_room: Cell<usize>,
    pub(super) graces: Cell<u32>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self {
            services: Shared::private(ROOM.services as usize).unwrap(),
            backends: Shared::private(ROOM.backends as usize).unwrap(),
            chunks: Shared::private(ROOM.chunks as usize).unwrap(),
            frontends: RefCell::default(),
            room: Cell::new(64),
            written: RefCell::default(),
            captures: RefCell::default(),
            captures_room: Cell::new(4),
            graces: Cell::new(0),
        }
    }

    pub(super) fn arrays(&self) -> Arrays<'_> {
        Arrays {
            services: &self.services,
            backends: &self.backends,
            chunks: &self.chunks,
            calls: self,
        }
    }

    pub(super) fn number(&self, frontend: &str) -> Option<u32> {
        let frontend = key(frontend.parse().unwrap());
        self.frontends.borrow().get(&frontend).copied()
    }

    /// Returns the addresses that connects to a frontend get.
    pub(super) fn dial(&self, frontend: &str) -> BTreeSet<SocketAddr> {
        let number = self.number(frontend).unwrap();
        let entry = self.services.get(number).unwrap();
        let dial = |turn| {
            let random = u32::try_from(turn).unwrap().wrapping_mul(0x9E37_79B9);
            let draw = Draw {
                random,
                turn,
                client: random,
            };
            let backend = self.backends.get(pick(self, entry.set, draw)?).unwrap();
            assert_eq!((backend.service, backend.usable), (number, 1));
            Some(SocketAddr::new(
                backend.address.into(),
                backend.port.number(),
            ))
        };
        (0..200).filter_map(dial).collect()
    }

    /// Returns the number and the entry of the backend at an address.
    pub(super) fn backend(&self, address: &str) -> (u32, BackendEntry) {
        let address: SocketAddr = address.parse().unwrap();
        let place = (Addr::from(address.ip()), PortBe::new(address.port()));
        let all = (1..ROOM.backends).map(|number| (number, self.backends.get(number).unwrap()));
        let mut own =
            all.filter(|(_, entry)| entry.service != 0 && (entry.address, entry.port) == place);
        own.next().unwrap()
    }

    pub(super) fn set_open(&self, number: u32, open: u64) {
        let entry = self.backends.get(number).unwrap();
        self.backends
            .write(number, &BackendEntry { open, ..entry }, 4..5);
    }
}

impl Pool for Fake {
    fn chunk(&self, index: u32) -> Option<Chunk> {
        self.chunks.get(index)
    }

    fn open(&self, backend: u32) -> u64 {
        self.backends.get(backend).unwrap().open
    }
}

impl Calls for Fake {
    fn put_frontends(&self, frontends: &[Frontend], numbers: &[u32]) -> (usize, io::Result<()>) {
        let mut map = self.frontends.borrow_mut();
        for (done, (frontend, number)) in frontends.iter().zip(numbers).enumerate() {
            if map.len() >= self.room.get() && !map.contains_key(frontend) {
                return (done, Err(io::Error::from_raw_os_error(libc::E2BIG)));
            }
            // Whole before anything leads to it.
            let set = self.services.get(*number).unwrap().set;
            assert!(set == 0 || self.chunks.get(set).unwrap().0[1] > 0);
            map.insert(*frontend, *number);
            self.written.borrow_mut().push((*frontend, *number));
        }
        (frontends.len(), Ok(()))
    }

    fn remove_frontends(&self, frontends: &[Frontend]) -> io::Result<()> {
        for frontend in frontends {
            assert!(self.frontends.borrow_mut().remove(frontend).is_some());
            self.written.borrow_mut().push((*frontend, 0));
        }
        Ok(())
    }

    fn frontends(&self) -> io::Result<Vec<(Frontend, u32)>> {
        let map = self.frontends.borrow();
        Ok(map
            .iter()
            .map(|(frontend, number)| (*frontend, *number))
            .collect())
    }

    fn node_addresses(&self) -> io::Result<Vec<Addr>> {
        Ok(Vec::new())
    }

    fn put_captures(&self, keys: &[CaptureKey]) -> (usize, io::Result<()>) {
        let mut map = self.captures.borrow_mut();
        for (done, key) in keys.iter().enumerate() {
            if map.len() >= self.captures_room.get() && !map.contains(key) {
                return (done, Err(io::Error::from_raw_os_error(libc::E2BIG)));
            }
            map.insert(*key);
        }
        (keys.len(), Ok(()))
    }

    fn remove_captures(&self, keys: &[CaptureKey]) -> io::Result<()> {
        for key in keys {
            assert!(self.captures.borrow_mut().remove(key));
        }
        Ok(())
    }

    fn captures(&self) -> io::Result<Vec<CaptureKey>> {
        Ok(self.captures.borrow().iter().copied().collect())
    }

    fn grace_period(&self) -> io::Result<()> {
        self.graces.set(self.graces.get() + 1);
        Ok(())
    }
}

/// State and maps, and what is wanted of them.
pub(super) struct Bench {
    pub(super) fake: Fake,
    pub(super) state: State,
    pub(super) wanted: BTreeMap<PortId, Arc<Balanced>>,
}

impl Bench {
    pub(super) fn new() -> Self {
        let fake = Fake::new();
        let state = State::adopt(fake.arrays(), ROOM).unwrap();
        Self {
            fake,
            state,
            wanted: BTreeMap::new(),
        }
    }

    pub(super) fn want(&mut self, balanced: Balanced) {
        self.wanted.insert(balanced.id.clone(), Arc::new(balanced));
    }

    pub(super) fn drop(&mut self, name: &str) {
        self.wanted.retain(|id, _| id.service.name != name);
    }

    /// Balances; returns what could not be, by name.
    pub(super) fn balance(&mut self) -> Vec<(String, String)> {
        let outcome = self
            .state
            .balance(self.fake.arrays(), &self.wanted, Instant::now());
        let all = outcome.unwrap().into_iter();
        all.map(|failed| (failed.id.service.name.clone(), failed.why))
            .collect()
    }

    pub(super) fn balanced(&mut self) {
        assert_eq!(self.balance(), []);
    }

    pub(super) fn tick(&mut self) {
        if let Some(epoch) = self.state.retired.end_epoch(Instant::now()) {
            self.state.retired.passed(epoch);
        }
        self.state.reclaim(self.fake.arrays());
    }

    pub(super) fn restart(&mut self) {
        self.state = State::adopt(self.fake.arrays(), ROOM).unwrap();
    }
}

pub(super) fn key(address: SocketAddr) -> Frontend {
    Frontend {
        address: address.ip().into(),
        port: PortBe::new(address.port()),
        protocol: TCP,
        _pad: 0,
    }
}

pub(super) fn balanced(name: &str, frontends: &[&str], targets: &[(&str, u32)]) -> Balanced {
    let target = |(address, weight): &(&str, u32)| Target {
        address: address.parse().unwrap(),
        workload: None,
        weight: *weight,
    };
    Balanced {
        id: PortId {
            service: ServiceName {
                namespace: "default".to_owned(),
                name: name.to_owned(),
            },
            port: 80,
            protocol: Protocol::Tcp,
        },
        frontends: frontends.iter().map(|own| own.parse().unwrap()).collect(),
        node_port: None,
        algorithm: Algorithm::Random,
        affinity: None,
        proxied: None,
        drops: false,
        drain: Drain::Keep,
        targets: targets.iter().map(target).collect(),
        resting: Vec::new(),
        candidates: Vec::new(),
    }
}

pub(super) fn addresses(all: &[&str]) -> BTreeSet<SocketAddr> {
    all.iter().map(|address| address.parse().unwrap()).collect()
}
