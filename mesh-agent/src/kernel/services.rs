//! Keeps what the kernel balances in line with what is wanted: frontends, service ports, backends and their tables.
//!
//! `wanted` and `table` are pure, `state` keeps count, `publish` writes. A program sees a service's old table or its new one,
//! whole: tables are written where nobody looks, then named by one store. What is not named any more is `retired`, and used again
//! after a grace period. A new service is whole before a frontend leads to it; one that goes is left by its frontends first.

mod adopt;
mod arrays;
mod captures;
mod names;
mod numbers;
mod pool;
mod publish;
mod retired;
mod state;
mod table;
mod view;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use mesh_common::addr::Addr;
use mesh_common::flow::FlowRecord;
use mesh_common::limits;
use mesh_common::service::OpenDial;

use crate::kernel::maps::Maps;
use crate::kernel::services::adopt::Room;
use crate::kernel::services::arrays::{Arrays, Calls as _};
pub(super) use crate::kernel::services::names::Names;
pub(super) use crate::kernel::services::state::State;
pub(super) use crate::kernel::services::view::BackendNumber;
use crate::kernel::{Kernel, lock};
use crate::model::balanced::{Balanced, ClientFlow, PortId, Unbalanced};
use crate::model::service::Protocol;

/// Starts from what an earlier agent left.
///
/// # Errors
///
/// The kernel's.
pub(super) fn adopt(maps: &Maps) -> io::Result<State> {
    let room = |limit: usize| u32::try_from(limit).map_err(io::Error::other);
    let room = Room {
        services: room(limits::SERVICES)?,
        backends: room(limits::BACKENDS)?,
        chunks: room(limits::CHUNKS)?,
    };
    State::adopt(Arrays::of(maps), room)
}

impl Kernel {
    /// Brings the kernel's balancing in line with `wanted`, in which each entry stands under its own name; returns what could not
    /// be. What is the same by pointer as at the last call is left alone.
    ///
    /// # Errors
    ///
    /// The kernel's; what was written stays, and the next call goes on from there.
    fn balance_ports(
        &self,
        wanted: &BTreeMap<PortId, Arc<Balanced>>,
    ) -> io::Result<Vec<Unbalanced>> {
        let mut state = lock(&self.services);
        let outcome = state.balance(Arrays::of(&self.maps), wanted, Instant::now());
        if outcome.is_err() {
            // What is in the maps is known again after reading them.
            let names = std::mem::take(&mut state.names);
            *state = adopt(&self.maps)?;
            state.names = names;
        }
        drop(state);
        self.set_node_ports(node_ports(wanted))?;
        outcome
    }

    /// Makes these the addresses that node ports are dialled at.
    ///
    /// # Errors
    ///
    /// Where the table is full: then those of the rest are not; the kernel's otherwise.
    fn take_node_addresses(&self, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        let mut state = lock(&self.services);
        let wanted: BTreeSet<Addr> = addresses
            .iter()
            .map(|address| Addr::from(*address))
            .collect();
        let gone: Vec<Addr> = state.node_addresses.difference(&wanted).copied().collect();
        self.maps.node_addresses.remove_all(&gone)?;
        gone.iter().for_each(|address| {
            state.node_addresses.remove(address);
        });
        let new: Vec<Addr> = wanted.difference(&state.node_addresses).copied().collect();
        let present = vec![1; new.len()];
        let (done, outcome) = self.maps.node_addresses.set_all(&new, &present);
        state.node_addresses.extend(new.into_iter().take(done));
        outcome.map_err(|error| match error.raw_os_error() {
            Some(libc::E2BIG) => io::Error::new(
                error.kind(),
                format!(
                    "more than {} addresses of nodes: node ports are not balanced at the rest",
                    limits::NODE_ADDRESSES
                ),
            ),
            _ => error,
        })
    }

    /// Returns the connections to be closed: those of clients here to targets that were removed, and whose time is over. A
    /// flow is returned again at each call until it is gone.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn flows_whose_time_is_up(&self, now: Instant) -> io::Result<Vec<ClientFlow>> {
        let mut state = lock(&self.services);
        let arrays = Arrays::of(&self.maps);
        let due = |protocol| state.due(arrays, now, protocol);
        let (streams, datagrams) = (due(Protocol::Tcp), due(Protocol::Udp));
        let look = state.looks_at_dials(now) || !datagrams.is_empty();
        drop(state);
        let mut found = Vec::new();
        if !streams.is_empty() {
            let drains = |flow: &FlowRecord| {
                let place = (flow.destination, flow.destination_port);
                flow.from_source == 1 && streams.contains(&(flow.service, place))
            };
            let live = self.live()?.into_iter().filter(drains);
            found.extend(live.map(|flow| client_flow(&flow)));
        }
        if look {
            let drains = |OpenDial { dial, .. }: &OpenDial| {
                datagrams.contains(&(dial.service, (dial.backend, dial.backend_port)))
            };
            let dials = self.iterators.dials_to_leave(&self.maps)?;
            found.extend(dials.iter().filter(|dial| drains(dial)).map(connected));
        }
        Ok(found)
    }

    /// Frees what services no longer use, once no program can hold it.
    pub(super) fn reclaim_services(&self, now: Instant) -> io::Result<()> {
        let epoch = lock(&self.services).retired.end_epoch(now);
        let passed = match epoch.map(|epoch| (epoch, self.maps.grace_period())) {
            None => None,
            Some((epoch, Ok(()))) => Some(epoch),
            Some((_, Err(error))) if error.kind() == io::ErrorKind::Unsupported => None,
            Some((_, Err(error))) => return Err(error),
        };
        let mut state = lock(&self.services);
        match passed {
            Some(epoch) => state.retired.passed(epoch),
            None => state.retired.aged(now),
        }
        state.reclaim(Arrays::of(&self.maps));
        Ok(())
    }
}

/// Returns the first and the last node port of all; zeros where there is none.
fn node_ports(wanted: &BTreeMap<PortId, Arc<Balanced>>) -> [u16; 2] {
    let all = || wanted.values().filter_map(|port| port.node_port);
    [all().min().unwrap_or(0), all().max().unwrap_or(0)]
}

fn client_flow(flow: &FlowRecord) -> ClientFlow {
    ClientFlow {
        netns: flow.netns,
        cookie: flow.cookie,
        local: SocketAddr::new(flow.source.into(), flow.source_port.number()),
        remote: SocketAddr::new(flow.destination.into(), flow.destination_port.number()),
        protocol: Protocol::Tcp,
        interface: 0,
    }
}

fn connected(open: &OpenDial) -> ClientFlow {
    ClientFlow {
        netns: open.netns,
        cookie: open.cookie,
        local: SocketAddr::new(open.local.into(), open.local_port.number()),
        remote: SocketAddr::new(open.dial.backend.into(), open.dial.backend_port.number()),
        protocol: Protocol::Udp,
        interface: open.interface,
    }
}

#[cfg(test)]
mod tests;
