//! Which endpoints Kubernetes' rules leave, and how near each of them is. What kube-proxy decides is decided here as there.
#![forbid(unsafe_code)]

use crate::balance::Here;
use crate::balance::port::Out;
use crate::model::service::{Distribution, Endpoint, Service};

/// How near an endpoint is; 0 is the nearest. Only used to compare.
pub(super) type Tier = u8;

/// Returns for each endpoint of one family how near it is, or why it gets no connections whatever becomes of the others.
///
/// `ready` says of each whether it is ready.
pub(super) fn candidates(
    service: &Service,
    endpoints: &[&Endpoint],
    ready: &[bool],
    here: &Here,
) -> Vec<Result<Tier, Out>> {
    let is_here = |endpoint: &Endpoint| is(endpoint.node.as_deref(), &here.node);
    let counts = |endpoint: &Endpoint| !service.local_only || is_here(endpoint);
    let mut pairs = endpoints.iter().zip(ready);
    let any_ready = pairs.any(|(endpoint, ready)| *ready && counts(endpoint));
    let nearness = match any_ready && !service.local_only {
        true => Nearness::of(service, endpoints, ready, here),
        // kube-proxy, too, forgets about topology when it falls back to terminating endpoints.
        false => Nearness::Same,
    };
    let candidate = |(endpoint, ready): (&&Endpoint, &bool)| {
        let last_resort = !any_ready && endpoint.serving && endpoint.terminating;
        if !counts(endpoint) {
            Err(Out::OtherNode)
        } else if !ready && !last_resort {
            Err(match endpoint.terminating {
                true => Out::Terminating,
                false => Out::NotReady,
            })
        } else if endpoint.weight == 0 {
            Err(Out::WeightZero)
        } else {
            Ok(nearness.tier(endpoint, here))
        }
    };
    endpoints.iter().zip(ready).map(candidate).collect()
}

/// By what endpoints are told near from far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Nearness {
    /// By nothing.
    Same,
    /// `hints.forNodes` names this node, or does not.
    NodeHints,
    /// `hints.forZones` names this zone, or does not.
    ZoneHints,
    /// Zone, then region.
    Zone,
    /// Node, then zone, then region.
    Node,
}

impl Nearness {
    fn of(service: &Service, endpoints: &[&Endpoint], ready: &[bool], here: &Here) -> Self {
        let pairs = || endpoints.iter().zip(ready);
        let ready = || pairs().filter(|(_, ready)| **ready).map(|(it, _)| *it);
        // Hints count only when every ready endpoint has them and some name this place.
        if ready().all(|it| !it.for_nodes().is_empty()) && ready().any(|it| hints_node(it, here)) {
            return Self::NodeHints;
        }
        if ready().all(|it| !it.for_zones().is_empty()) && ready().any(|it| hints_zone(it, here)) {
            return Self::ZoneHints;
        }
        match service.distribution {
            Distribution::Any => Self::Same,
            Distribution::SameZone => Self::Zone,
            Distribution::SameNode => Self::Node,
        }
    }

    fn tier(self, endpoint: &Endpoint, here: &Here) -> Tier {
        let in_zone = || is_some(here.zone.as_deref(), endpoint.zone.as_deref());
        let in_region = || is_some(here.region.as_deref(), endpoint.region.as_deref());
        match self {
            Self::Same => 0,
            Self::NodeHints => Tier::from(!hints_node(endpoint, here)),
            Self::ZoneHints => Tier::from(!hints_zone(endpoint, here)),
            Self::Node if is(endpoint.node.as_deref(), &here.node) => 0,
            Self::Zone | Self::Node if in_zone() => 1,
            Self::Zone | Self::Node if in_region() => 2,
            Self::Zone | Self::Node => 3,
        }
    }
}

fn hints_node(endpoint: &Endpoint, here: &Here) -> bool {
    endpoint.for_nodes().contains(&here.node)
}

fn hints_zone(endpoint: &Endpoint, here: &Here) -> bool {
    let zone = here.zone.as_ref();
    zone.is_some_and(|zone| endpoint.for_zones().contains(zone))
}

fn is(one: Option<&str>, other: &str) -> bool {
    one == Some(other)
}

/// Returns whether both are known and the same.
fn is_some(one: Option<&str>, other: Option<&str>) -> bool {
    one.is_some() && one == other
}

#[cfg(test)]
mod tests;
