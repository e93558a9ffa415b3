//! What a service port means in one address family. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mesh_common::addr::{Addr, PortBe};
use mesh_common::service::{
    Frontend, SERVICE_DROPS, SERVICE_FAILS_CLOSED, SERVICE_PROXIED, SERVICE_PROXIED_SOME,
};

use crate::kernel::services::table::Place;
use crate::model::balanced::{Balanced, Clients, Fail};
use crate::model::service::Drain;

/// The address families, in the order in which a port keeps them.
pub(super) const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    fn has(self, address: &SocketAddr) -> bool {
        Addr::from(address.ip()).is_v4() == (self == Self::V4)
    }

    /// The address that stands for all of a node's.
    fn node(self) -> Addr {
        match self {
            Self::V4 => Frontend::NODE_V4,
            Self::V6 => Frontend::NODE_V6,
        }
    }
}

/// An endpoint of one family. Weight 0: it rests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) weight: u32,
}

/// Returns what leads to the service port in this family, in order; nothing where it has no such family.
///
/// A node port stands for the families of the service's addresses, or for both where it has none.
pub(super) fn frontends(wanted: &Balanced, family: IpFamily) -> Vec<Frontend> {
    let protocol = wanted.id.protocol.number();
    let frontend = |address, port| Frontend {
        address,
        port: PortBe::new(port),
        protocol,
        _pad: 0,
    };
    let own = wanted.frontends.iter().filter(|own| family.has(own));
    let mut all: Vec<Frontend> = own
        .map(|own| frontend(own.ip().into(), own.port()))
        .collect();
    if !all.is_empty() || wanted.frontends.is_empty() {
        all.extend(wanted.node_port.map(|port| frontend(family.node(), port)));
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Returns the endpoints in this family, in the order of their places, each once. One that is a target and rests is a target.
pub(super) fn members(wanted: &Balanced, family: IpFamily) -> Vec<Member> {
    let member = |address: SocketAddr, weight| Member {
        place: (address.ip().into(), PortBe::new(address.port())),
        weight,
    };
    let targets = wanted
        .targets
        .iter()
        .map(|target| (target.address, target.weight));
    let resting = wanted.resting.iter().map(|address| (*address, 0));
    let own = targets
        .chain(resting)
        .filter(|(address, _)| family.has(address));
    let mut all: Vec<Member> = own
        .map(|(address, weight)| member(address, weight))
        .collect();
    all.sort_unstable_by_key(|member| (member.place, std::cmp::Reverse(member.weight)));
    all.dedup_by_key(|member| member.place);
    all
}

/// Returns `SERVICE_*` of a service port.
pub(super) fn flags(wanted: &Balanced) -> u32 {
    let drops = if wanted.drops { SERVICE_DROPS } else { 0 };
    let Some(proxied) = &wanted.proxied else {
        return drops;
    };
    let whose = match proxied.clients {
        Clients::All => SERVICE_PROXIED,
        Clients::Namespaces(_) => SERVICE_PROXIED_SOME,
    };
    let fails = match proxied.when_agent_is_away {
        Fail::Closed => SERVICE_FAILS_CLOSED,
        Fail::Open => 0,
    };
    drops | whose | fails
}

/// Returns how long a client sticks to its backend.
pub(super) fn affinity_ns(wanted: &Balanced) -> u64 {
    let nanos = wanted.affinity.as_ref().map_or(0, Duration::as_nanos);
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Returns when connections to a target that is removed now are to be closed.
pub(super) fn closed_at(drain: Drain, now: Instant) -> Option<Instant> {
    match drain {
        Drain::Keep => None,
        Drain::After(patience) => now.checked_add(patience),
        Drain::Now => Some(now),
    }
}

/// Returns where a place is, as user space has it.
pub(super) fn socket_address((address, port): Place) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address), port.number())
}
