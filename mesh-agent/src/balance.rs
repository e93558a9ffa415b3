//! Decides who answers for each service port, and with what share: from configuration, health, what the kernel counted, and
//! time. No I/O.
//!
//! Of a port's endpoints of one family, in this order: `candidates` leaves out whom Kubernetes' rules leave out and tells near
//! from far; endpoints that active checks or passive signs (`outlier`) speak against count as unhealthy; `level` spreads the
//! load over priorities and, within each, from near to far; `weigh` makes whole weights of it, smaller ones for endpoints that
//! start slowly. Whatever health says, a port with candidates has somebody who answers: where too few are healthy, all get
//! connections (panic).
//!
//! [`Balancer::pass`] costs a pointer compare for each service, and the work for those that changed.
#![forbid(unsafe_code)]

mod candidates;
pub mod live;
mod outlier;
mod port;
mod report;
pub mod split;
#[cfg(test)]
pub(crate) mod tests;
mod watching;
mod weigh;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::balance::port::{Checks, HeldPort};
use crate::chance::Chance;
use crate::model::balanced::{
    BackendCounters, Balanced, ClientFlow, PortCounters, PortId, Unbalanced,
};
use crate::model::endpoint::Health;
use crate::model::service::{Service, ServiceKind, ServiceName, Services};

/// Every service port as the kernel is to balance it.
pub type Ports = BTreeMap<PortId, Arc<Balanced>>;

/// A service port, and the counters of its endpoints.
pub type CountedPort = (Arc<PortId>, Vec<(SocketAddr, BackendCounters)>);

/// What balances: the kernel, and a small stand-in in tests.
pub trait Balancing: Send + Sync + std::fmt::Debug {
    /// Balances these ports from now on, and no others; returns those that are not balanced as is wanted, which keep what they had.
    ///
    /// # Errors
    ///
    /// Where the maps cannot be written; what was in force stays, as far as it can.
    fn balance(&self, ports: &Ports) -> anyhow::Result<Vec<Unbalanced>>;

    /// Takes these as the addresses of nodes, at which node ports are dialled.
    ///
    /// # Errors
    ///
    /// Where the maps cannot be written.
    fn set_node_addresses(&self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()>;

    /// Returns whether node ports are balanced at this address.
    fn is_node_address(&self, address: IpAddr) -> bool;

    /// Returns where on this node it is known that nobody listens any more, by TCP. While others answer, who is there gets no
    /// connections.
    fn closed(&self) -> HashSet<SocketAddr>;

    /// Returns what was counted of each endpoint that is listed and was ever a target.
    fn backend_counters(&self) -> Vec<CountedPort>;

    /// Returns what was counted of a service port, and of each of its endpoints that is listed and was ever a target; `None` when
    /// the port is not balanced.
    fn counted(&self, id: &PortId) -> Option<(PortCounters, Vec<(SocketAddr, BackendCounters)>)>;

    /// Returns what was counted of each service port.
    fn port_counters(&self) -> Vec<(Arc<PortId>, PortCounters)>;

    /// Returns the connections whose time is up, of clients here to endpoints that are not listed any more. Each again at every
    /// call until it is gone.
    ///
    /// # Errors
    ///
    /// Where the maps cannot be read.
    fn flows_to_drain(&self) -> anyhow::Result<Vec<ClientFlow>>;
}

/// Where this agent is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Here {
    /// Name of the node.
    pub node: String,
    /// Its zone, where known.
    pub zone: Option<String>,
    /// Its region, where known.
    pub region: Option<String>,
}

/// What a pass decides by, beside what the kernel counted.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// All services.
    pub services: &'a Services,
    /// What active checks found.
    pub health: &'a Health,
    /// Where this agent is.
    pub here: &'a Here,
    /// Time since some fixed moment.
    pub now: Duration,
}

/// Who answers for each service port, and everything that is known of the endpoints.
#[derive(Debug, Default)]
pub struct Balancer {
    services: BTreeMap<ServiceName, Held>,
    ports: Arc<Ports>,
    here: Here,
    chance: Chance,
}

/// A service with what is known of its endpoints.
#[derive(Debug)]
struct Held {
    service: Arc<Service>,
    checks: Option<Arc<Checks>>,
    ports: Vec<HeldPort>,
    /// When it is to be settled again though nothing changes.
    wake: Option<Duration>,
}

impl Balancer {
    /// Returns a balancer that knows nothing yet.
    pub fn new(chance: Chance) -> Self {
        Self {
            chance,
            ..Self::default()
        }
    }

    /// Decides anew where something changed; returns whether that changes any port. What did not change is the same `Arc` as
    /// before.
    pub fn pass(&mut self, input: &Input<'_>) -> bool {
        let moved = self.here != *input.here;
        if moved {
            self.here = input.here.clone();
        }
        let mut output = Output {
            ports: Arc::make_mut(&mut self.ports),
            changed: false,
        };
        let mut added = Vec::new();
        let mut removed = Vec::new();
        let mut wanted = input.services.values().peekable();
        for (name, held) in &mut self.services {
            while let Some(new) = wanted.next_if(|new| new.name < *name) {
                added.push(new);
            }
            let Some(service) = wanted.next_if(|new| new.name == *name) else {
                removed.push(name.clone());
                continue;
            };
            let checks = checks(service, input.health);
            let is_due = held.wake.is_some_and(|wake| wake <= input.now);
            let is_same = Arc::ptr_eq(service, &held.service) && same(checks, held.checks.as_ref());
            if moved || is_due || !is_same {
                held.take(service, &mut output);
                held.checks = checks.cloned();
                held.settle(input, false, &mut output);
            }
        }
        added.extend(wanted);
        for name in removed {
            if let Some(held) = self.services.remove(&name) {
                held.ports.iter().for_each(|port| output.remove(&port.id));
            }
        }
        for service in added {
            let mut held = Held {
                service: service.clone(),
                checks: checks(service, input.health).cloned(),
                ports: Held::ports(service, Vec::new(), service),
                wake: None,
            };
            held.settle(input, true, &mut output);
            self.services.insert(service.name.clone(), held);
        }
        output.changed
    }

    /// Returns every port as the last pass left it. To be dropped before the next one, which otherwise copies them all.
    pub fn ports(&self) -> Arc<Ports> {
        self.ports.clone()
    }

    /// Returns when time alone changes something.
    pub fn wake(&self) -> Option<Duration> {
        self.services.values().filter_map(|held| held.wake).min()
    }
}

/// The ports, and whether any is different from before.
struct Output<'a> {
    ports: &'a mut Ports,
    changed: bool,
}

impl Output<'_> {
    fn remove(&mut self, id: &PortId) {
        self.changed |= self.ports.remove(id).is_some();
    }

    fn put(&mut self, id: &PortId, balanced: &Arc<Balanced>) {
        let before = self.ports.get_mut(id);
        match before {
            Some(before) if Arc::ptr_eq(before, balanced) => return,
            Some(before) => *before = balanced.clone(),
            None => drop(self.ports.insert(id.clone(), balanced.clone())),
        }
        self.changed = true;
    }
}

impl Held {
    /// Takes over another version of the service; what is known of endpoints that stay is kept.
    fn take(&mut self, service: &Arc<Service>, output: &mut Output<'_>) {
        if Arc::ptr_eq(service, &self.service) {
            return;
        }
        let before = std::mem::take(&mut self.ports);
        let ids: Vec<PortId> = before.iter().map(|port| port.id.clone()).collect();
        self.ports = Self::ports(service, before, &self.service);
        self.service = service.clone();
        for id in ids {
            if self.ports.iter().all(|port| port.id != id) {
                output.remove(&id);
            }
        }
    }

    /// Returns the ports of a service that are balanced.
    fn ports(service: &Service, mut before: Vec<HeldPort>, old: &Service) -> Vec<HeldPort> {
        if let ServiceKind::ExternalName(_) = service.kind {
            return Vec::new();
        }
        let mut ports: Vec<HeldPort> = Vec::with_capacity(service.ports.len());
        for (index, port) in service.ports.iter().enumerate() {
            let id = PortId {
                service: service.name.clone(),
                port: port.number,
                protocol: port.protocol,
            };
            if ports.iter().any(|port| port.id == id) {
                // The first of two counts.
                continue;
            }
            let known = before.iter().position(|port| port.id == id);
            let known = known.map(|at| before.swap_remove(at));
            let known = known.map(|it| (old.ports[it.index].endpoints.as_slice(), it));
            let known = known.map(|(endpoints, it)| (it, endpoints));
            ports.push(HeldPort::new(service, index, id, known));
        }
        ports
    }

    fn settle(&mut self, input: &Input<'_>, is_first: bool, output: &mut Output<'_>) {
        self.wake = None;
        for port in &mut self.ports {
            let checks = self.checks.as_deref();
            port.settle(&self.service, checks, input.here, input.now, is_first);
            self.wake = self.wake.into_iter().chain(port.wake).min();
            output.put(&port.id, &port.balanced);
        }
    }
}

fn checks<'a>(service: &Service, health: &'a Health) -> Option<&'a Arc<Checks>> {
    service.balance.health_check.as_ref()?;
    health.get(&service.name)
}

fn same(one: Option<&Arc<Checks>>, other: Option<&Arc<Checks>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}
