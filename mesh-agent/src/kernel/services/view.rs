//! What health checks, telemetry and the admin API see of services.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::addr::{Addr, PortBe};
use mesh_common::limits;
use mesh_common::service::BackendEntry;

use crate::balance::{Balancing, CountedPort, Ports};
use crate::kernel::maps::Maps;
use crate::kernel::services::arrays::Arrays;
use crate::kernel::services::state::{Port, State};
use crate::kernel::services::table::Place;
use crate::kernel::services::wanted::socket_address;
use crate::kernel::{Kernel, lock};
use crate::model::balanced::{BackendCounters, ClientFlow, PortCounters, PortId, Unbalanced};
use crate::model::service::Protocol;

/// Time between two looks for sockets that are connected no more and still count as open. A look takes 0.1 us for each socket that
/// dialled a service and is still there: 10 ms for 100,000 of them.
const DIALS_EVERY: Duration = Duration::from_secs(10);

impl State {
    /// Returns every backend that is listed, with its counters, by service port.
    pub(super) fn backend_counters(&self, arrays: Arrays<'_>) -> Vec<CountedPort> {
        let of_port = |(id, port): (&Arc<PortId>, &Port)| (id.clone(), backends(port, arrays));
        self.ports.iter().map(of_port).collect()
    }

    /// Returns what was counted of one service port and its backends.
    fn counted(&self, arrays: Arrays<'_>, id: &PortId) -> Option<(PortCounters, Counted)> {
        let port = self.ports.get(id)?;
        Some((totals(port, arrays), backends(port, arrays)))
    }

    /// Returns what was counted of every service port, both families together.
    pub(super) fn port_counters(&self, arrays: Arrays<'_>) -> Vec<(Arc<PortId>, PortCounters)> {
        let sum = |(id, port): (&Arc<PortId>, &Port)| (id.clone(), totals(port, arrays));
        self.ports.iter().map(sum).collect()
    }

    /// Returns name, entries and limit of every map of services.
    pub(in crate::kernel) fn fill(&self) -> [(&'static str, u64, u64); 6] {
        let given = |limit: usize, free: u64| (limit as u64 - 1).saturating_sub(free);
        let services = given(limits::SERVICES, self.numbers.free() as u64);
        let backends = given(limits::BACKENDS, self.slots.free() as u64);
        let chunks = given(limits::CHUNKS, self.pool.free());
        let frontends = self.owners.len() as u64;
        let nodes = self.node_addresses.len() as u64;
        [
            ("frontends", frontends, limits::FRONTENDS as u64),
            ("services", services, limits::SERVICES as u64),
            ("backends", backends, limits::BACKENDS as u64),
            ("backend_tables", chunks, limits::CHUNKS as u64),
            ("node_addresses", nodes, limits::NODE_ADDRESSES as u64),
            (
                "captured_namespaces",
                self.captures.count(),
                limits::CAPTURES as u64,
            ),
        ]
    }

    /// Returns the backends of this protocol that were removed, by their services' numbers, whose connections are to be closed by now.
    pub(super) fn due(
        &self,
        arrays: Arrays<'_>,
        now: Instant,
        protocol: Protocol,
    ) -> HashSet<(u32, Place)> {
        let open = |number| arrays.backends.get(number).map_or(0, |entry| entry.open);
        self.retired
            .backends()
            .filter(|(.., leaving)| leaving.closed_at.is_some_and(|at| at <= now))
            .filter(|(service, ..)| {
                let name = self.names.get(*service);
                name.is_none_or(|id| id.protocol == protocol)
            })
            .filter(|(.., leaving)| open(leaving.number) > 0)
            .map(|(service, place, _)| (service, place))
            .collect()
    }

    /// Returns whether it is time to look at what sockets dialled, and takes it that they are looked at now.
    pub(super) fn looks_at_dials(&mut self, now: Instant) -> bool {
        let last = self.dials_looked_at;
        let is_due = last.is_none_or(|at| now.saturating_duration_since(at) >= DIALS_EVERY);
        if is_due {
            self.dials_looked_at = Some(now);
        }
        is_due
    }
}

/// A backend as programs know it; 0 stands for none.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::kernel) struct BackendNumber {
    pub(in crate::kernel) number: u32,
    pub(in crate::kernel) generation: u32,
}

impl State {
    /// Returns the number of a service port's endpoint.
    pub(in crate::kernel) fn listed(
        &self,
        maps: &Maps,
        id: &PortId,
        address: SocketAddr,
    ) -> Option<BackendNumber> {
        let arrays = Arrays::of(maps);
        let place = (address.ip().into(), PortBe::new(address.port()));
        let mut families = self.ports.get(id)?.families.iter().flatten();
        families.find_map(|family| {
            let own = |number: &u32| arrays.place(*number);
            let at = family.backends.binary_search_by_key(&place, own).ok()?;
            let number = *family.backends.get(at)?;
            let generation = arrays.backends.get(number)?.generation;
            Some(BackendNumber { number, generation })
        })
    }
}

/// The backends of a port that are listed, with their counters.
type Counted = Vec<(SocketAddr, BackendCounters)>;

fn backends(port: &Port, arrays: Arrays<'_>) -> Counted {
    let of_backend = |number: &u32| {
        let entry = arrays.backends.get(*number).unwrap_or_default();
        let address = socket_address((entry.address, entry.port));
        (address, counters(&entry))
    };
    let families = port.families.iter().flatten();
    let numbers = families.flat_map(|family| &family.backends);
    numbers.map(of_backend).collect()
}

fn totals(port: &Port, arrays: Arrays<'_>) -> PortCounters {
    let mut sum = PortCounters::default();
    for family in port.families.iter().flatten() {
        let entry = arrays.services.get(family.number).unwrap_or_default();
        sum.picks += entry.turn;
        sum.refused += entry.refused;
    }
    sum
}

fn counters(entry: &BackendEntry) -> BackendCounters {
    BackendCounters {
        open: entry.open,
        picked: entry.picked,
        failed: entry.failed,
        reset: entry.reset,
        retransmits: entry.retransmits,
    }
}

/// Returns the addresses whose last listener is known to have closed, as the kernel's programs look at them.
fn closed(maps: &Maps) -> io::Result<HashSet<SocketAddr>> {
    let mut ports: HashMap<u32, Vec<PortBe>> = HashMap::new();
    maps.listeners.for_each(|key, listeners| {
        if listeners.iter().all(|it| it.open == 0) {
            ports.entry(key.workload).or_default().push(key.port);
        }
    })?;
    let mut closed = HashSet::new();
    if ports.is_empty() {
        return Ok(closed);
    }
    maps.addresses.for_each(|address, owners| {
        let owner = owners.first().and_then(|owner| ports.get(&owner.id));
        let ports = owner.into_iter().flatten();
        closed.extend(ports.map(|port| socket_address((*address, *port))));
    })?;
    Ok(closed)
}

impl Balancing for Kernel {
    fn balance(&self, ports: &Ports) -> anyhow::Result<Vec<Unbalanced>> {
        Ok(self.balance_ports(ports)?)
    }

    fn set_node_addresses(&self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        Ok(self.take_node_addresses(addresses)?)
    }

    fn is_node_address(&self, address: IpAddr) -> bool {
        let state = lock(&self.services);
        state.node_addresses.contains(&Addr::from(address))
    }

    fn closed(&self) -> HashSet<SocketAddr> {
        closed(&self.maps).unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to look who listens: all backends are shown as if they did");
            HashSet::new()
        })
    }

    fn backend_counters(&self) -> Vec<CountedPort> {
        lock(&self.services).backend_counters(Arrays::of(&self.maps))
    }

    fn counted(&self, id: &PortId) -> Option<(PortCounters, Counted)> {
        lock(&self.services).counted(Arrays::of(&self.maps), id)
    }

    fn port_counters(&self) -> Vec<(Arc<PortId>, PortCounters)> {
        lock(&self.services).port_counters(Arrays::of(&self.maps))
    }

    fn flows_to_drain(&self) -> anyhow::Result<Vec<ClientFlow>> {
        Ok(self.flows_whose_time_is_up(Instant::now())?)
    }
}

impl Kernel {
    /// Returns the service port behind a number; after it was removed, until the number is given to another.
    pub fn service_name(&self, number: u32) -> Option<Arc<PortId>> {
        self.names.get(number)
    }
}
