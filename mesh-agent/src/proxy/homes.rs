//! The workloads whose connections the data threads have: where they run, and how sockets are made there.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::model::balanced::Upstream;
use crate::model::workload::WorkloadName;
use crate::proxy::handover::{Handovers, Marks};
use crate::proxy::listener::{Home, Intake};
use crate::proxy::record::Client;
use crate::proxy::socket::{Asked, Maker, Sockets};
use crate::proxy::worker::{Introduce, Workers};

/// What the data path knows of workloads.
pub struct Homes {
    maker: Maker,
    marks: Arc<dyn Marks>,
    handovers: Arc<dyn Handovers>,
    homes: RwLock<HashMap<u64, Arc<Home>>>,
}

impl Homes {
    /// Returns none yet.
    ///
    /// # Errors
    ///
    /// Where helper threads cannot be had.
    pub fn start(marks: Arc<dyn Marks>, handovers: Arc<dyn Handovers>) -> io::Result<Self> {
        Ok(Self {
            maker: Maker::start()?,
            marks,
            handovers,
            homes: RwLock::default(),
        })
    }

    fn add(&self, home: &Arc<Home>) {
        let mut homes = self.homes.write().unwrap_or_else(PoisonError::into_inner);
        homes.insert(home.place.netns_cookie, home.clone());
    }

    fn remove(&self, netns: u64) {
        let mut homes = self.homes.write().unwrap_or_else(PoisonError::into_inner);
        homes.remove(&netns);
        drop(homes);
        self.maker.forget(netns);
    }

    fn of(&self, netns: u64) -> Option<Arc<Home>> {
        let homes = self.homes.read().unwrap_or_else(PoisonError::into_inner);
        homes.get(&netns).cloned()
    }
}

impl std::fmt::Debug for Homes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Homes").finish_non_exhaustive()
    }
}

impl Sockets for Homes {
    fn stream(&self, netns: u64, v6: bool) -> Asked {
        match self.of(netns) {
            Some(home) => self.maker.stream(&home, v6),
            None => Asked::done(Err(io::ErrorKind::NotFound.into())),
        }
    }

    fn mark(&self, socket: BorrowedFd<'_>, upstream: &Upstream<'_>) -> io::Result<()> {
        self.marks.upstream(socket, upstream)
    }
}

/// The data threads, as listeners are opened and closed for them.
#[derive(Debug)]
pub struct Reception {
    workers: Weak<Workers>,
    threads: usize,
    homes: Arc<Homes>,
}

impl Reception {
    /// Returns the reception of these data threads.
    pub fn new(workers: &Arc<Workers>, homes: Arc<Homes>) -> Self {
        Self {
            workers: Arc::downgrade(workers),
            threads: workers.threads(),
            homes,
        }
    }
}

impl Intake for Reception {
    fn threads(&self) -> usize {
        self.threads
    }

    fn open(&self, thread: usize, home: &Arc<Home>, listener: TcpListener) {
        self.homes.add(home);
        let visitors = Visitors {
            netns: home.place.netns_cookie,
            workload: Arc::new(home.workload.name.clone()),
            addresses: home.workload.addresses.clone(),
            homes: self.homes.clone(),
        };
        if let Some(workers) = self.workers.upgrade() {
            workers.listen(thread, listener, Arc::new(visitors));
        }
    }

    fn close(&self, netns_cookie: u64) {
        self.homes.remove(netns_cookie);
        if let Some(workers) = self.workers.upgrade() {
            workers.close(netns_cookie);
        }
    }
}

/// Who comes to the listeners of one workload: itself.
struct Visitors {
    netns: u64,
    workload: Arc<WorkloadName>,
    addresses: Vec<IpAddr>,
    homes: Arc<Homes>,
}

impl Visitors {
    /// Returns the client's address as it sees it itself: a socket that is led here has a loopback one, unless it was bound.
    fn seen(&self, peer: SocketAddr) -> SocketAddr {
        let mut own = self.addresses.iter();
        let same_family = |address: &&IpAddr| address.is_ipv4() == peer.is_ipv4();
        match own.find(same_family) {
            Some(address) if peer.ip().is_loopback() => SocketAddr::new(*address, peer.port()),
            _ => peer,
        }
    }
}

impl Introduce for Visitors {
    fn netns(&self) -> u64 {
        self.netns
    }

    fn client(&self, peer: SocketAddr) -> Option<Client> {
        let handover = self.homes.handovers.take(self.netns, peer)?;
        Some(Client {
            workload: self.workload.clone(),
            netns: self.netns,
            address: self.seen(peer),
            port: handover.port,
            dialled: handover.dialled,
        })
    }
}
