//! How each endpoint stands and why, for people.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::balance::port::{HeldPort, Out, Standing, Track, address};
use crate::balance::{Balancer, Held};
use crate::model::endpoint::{EndpointHealth, EndpointState, Sign, Why};
use crate::model::service::{Endpoint, ServiceName};

impl Balancer {
    /// Returns every endpoint of this service, or of all, as the last pass left it.
    pub fn states(&self, now: Duration, service: Option<&ServiceName>) -> Vec<EndpointState> {
        let mut states = Vec::new();
        let wanted: Box<dyn Iterator<Item = &Held>> = match service {
            Some(name) => Box::new(self.services.get(name).into_iter()),
            None => Box::new(self.services.values()),
        };
        for held in wanted {
            for port in &held.ports {
                states_of(held, port, now, &mut states);
            }
        }
        states
    }
}

fn states_of(held: &Held, port: &HeldPort, now: Duration, states: &mut Vec<EndpointState>) {
    let endpoints = &held.service.ports[port.index].endpoints;
    let sum = |v4: bool| -> u64 {
        let pairs = endpoints.iter().zip(&port.tracks);
        let family = pairs.filter(|(endpoint, _)| endpoint.address.is_ipv4() == v4);
        family.map(|(_, track)| u64::from(weight(track))).sum()
    };
    let sums = [sum(false), sum(true)];
    for (endpoint, track) in endpoints.iter().zip(&port.tracks) {
        let sum = sums[usize::from(endpoint.address.is_ipv4())];
        let weight = weight(track);
        states.push(EndpointState {
            service: held.service.name.clone(),
            port: port.id.port,
            protocol: port.id.protocol,
            address: address(endpoint),
            workload: endpoint.workload.as_ref().map(ToString::to_string),
            node: endpoint.node.as_deref().map(str::to_owned),
            zone: endpoint.zone.as_deref().map(str::to_owned),
            priority: endpoint.priority,
            health: health(held, endpoint, track, now),
            weight,
            share: share(weight, sum),
            slow_start: track.grows(),
            panic: matches!(track.standing, Standing::In { panic: true, .. }),
            why: why(held, endpoint, track, now),
        });
    }
}

fn weight(track: &Track) -> u32 {
    match track.standing {
        Standing::In { weight, .. } => weight,
        Standing::Out(_) => 0,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sums of weights are below 2^52: 100,000 endpoints of at most 2^32"
)]
fn share(weight: u32, sum: u64) -> f64 {
    match sum {
        0 => 0.0,
        sum => f64::from(weight) / sum as f64,
    }
}

fn health(held: &Held, endpoint: &Endpoint, track: &Track, now: Duration) -> EndpointHealth {
    let checks = held.checks.as_ref();
    let checked = checks.and_then(|checks| checks.get(&address(endpoint)));
    if endpoint.terminating {
        EndpointHealth::Terminating
    } else if !endpoint.ready && !held.service.publish_not_ready {
        EndpointHealth::NotReady
    } else if checked.is_some_and(|checked| !checked.healthy) {
        EndpointHealth::Unhealthy
    } else if ejection(track, now).is_some() {
        EndpointHealth::Ejected
    } else if checked.is_some() {
        EndpointHealth::Healthy
    } else {
        EndpointHealth::Ready
    }
}

fn ejection(track: &Track, now: Duration) -> Option<(Sign, Duration)> {
    track.passive.as_ref()?.ejected(now)
}

fn why(held: &Held, endpoint: &Endpoint, track: &Track, now: Duration) -> Option<Why> {
    let Standing::Out(out) = track.standing else {
        return None;
    };
    Some(match out {
        Out::NotReady => Why::NotReady,
        Out::Terminating => Why::Terminating,
        Out::Unhealthy => {
            let checks = held.checks.as_ref();
            let checked = checks.and_then(|checks| checks.get(&address(endpoint)));
            let error = checked.and_then(|checked| checked.error.as_deref());
            Why::Unhealthy {
                error: error.unwrap_or("no answer").to_owned(),
            }
        }
        Out::Ejected => {
            let (sign, until) = ejection(track, now).unwrap_or((Sign::ConnectFailures, now));
            Why::Ejected {
                sign,
                for_s: (until.saturating_sub(now)).as_secs(),
            }
        }
        Out::OtherNode => Why::OtherNode,
        Out::OtherZone => Why::OtherZone,
        Out::LowerPriority => Why::LowerPriority,
        Out::WeightZero => Why::WeightZero,
        Out::OtherFamily => Why::OtherFamily,
    })
}
