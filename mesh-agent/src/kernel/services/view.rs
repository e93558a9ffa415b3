//! What health checks, telemetry and the admin API see of services.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mesh_common::limits;
use mesh_common::service::BackendEntry;

use crate::kernel::services::arrays::Arrays;
use crate::kernel::services::state::State;
use crate::kernel::services::table::Place;
use crate::kernel::services::wanted::socket_address;
use crate::kernel::{Kernel, lock};
use crate::model::balanced::{BackendCounters, PortCounters, PortId};

impl State {
    /// Returns every backend that is listed, with its counters.
    pub(super) fn backend_counters(
        &self,
        arrays: Arrays<'_>,
    ) -> Vec<(Arc<PortId>, SocketAddr, BackendCounters)> {
        let mut all = Vec::new();
        for (id, port) in &self.ports {
            for number in port
                .families
                .iter()
                .flatten()
                .flat_map(|family| &family.backends)
            {
                let entry = arrays.backends.get(*number).unwrap_or_default();
                let address = socket_address((entry.address, entry.port));
                all.push((id.clone(), address, counters(&entry)));
            }
        }
        all
    }

    /// Returns what was counted of every service port, both families together.
    pub(super) fn port_counters(&self, arrays: Arrays<'_>) -> Vec<(Arc<PortId>, PortCounters)> {
        let sum = |(id, port): (&Arc<PortId>, &crate::kernel::services::state::Port)| {
            let mut sum = PortCounters::default();
            for family in port.families.iter().flatten() {
                let entry = arrays.services.get(family.number).unwrap_or_default();
                sum.picks += entry.turn;
                sum.refused += entry.refused;
            }
            (id.clone(), sum)
        };
        self.ports.iter().map(sum).collect()
    }

    /// Returns name, entries and limit of every map of services.
    pub(in crate::kernel) fn fill(&self) -> [(&'static str, u64, u64); 5] {
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
        ]
    }

    /// Returns the backends that were removed, by their services' numbers, whose connections are to be closed by now.
    pub(super) fn due(&self, arrays: Arrays<'_>, now: Instant) -> HashSet<(u32, Place)> {
        let open = |number| arrays.backends.get(number).map_or(0, |entry| entry.open);
        self.retired
            .backends()
            .filter(|(.., leaving)| leaving.closed_at.is_some_and(|at| at <= now))
            .filter(|(.., leaving)| open(leaving.number) > 0)
            .map(|(service, place, _)| (service, place))
            .collect()
    }
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

impl Kernel {
    /// Returns what the kernel counted of every endpoint that is listed and was ever a target.
    pub fn backend_counters(&self) -> Vec<(Arc<PortId>, SocketAddr, BackendCounters)> {
        lock(&self.services).backend_counters(Arrays::of(&self.maps))
    }

    /// Returns what the kernel counted of every service port.
    pub fn port_counters(&self) -> Vec<(Arc<PortId>, PortCounters)> {
        lock(&self.services).port_counters(Arrays::of(&self.maps))
    }

    /// Returns the service port behind a number; after it was removed, until the number is given to another.
    pub fn service_name(&self, number: u32) -> Option<Arc<PortId>> {
        lock(&self.services).names.get(&number).cloned()
    }
}
