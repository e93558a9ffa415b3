//! Takes in what the kernel counted, and ejects.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::balance::outlier::{INTERVAL, Passive, may_eject, outliers};
use crate::balance::port::{HeldPort, Track};
use crate::balance::{Balancer, CountedPort};
use crate::chance::Chance;
use crate::model::balanced::BackendCounters;
use crate::model::endpoint::Sign;
use crate::model::service::Port;

impl Balancer {
    /// Takes in what the kernel counted since the last time; the next pass acts on it. Meant for once a second.
    pub fn observe(&mut self, now: Duration, counters: &[CountedPort]) {
        for (id, counters) in counters {
            let Some(held) = self.services.get_mut(&id.service) else {
                continue;
            };
            if !held.service.balance.outlier_detection {
                continue;
            }
            let Some(port) = held.ports.iter_mut().find(|port| port.id == **id) else {
                continue;
            };
            let configured = &held.service.ports[port.index];
            let mut suspects = Vec::new();
            for (address, counters) in counters {
                let Some(place) = port.place(configured, *address) else {
                    continue;
                };
                let Some(passive) = begun(&mut port.tracks[place], now, *counters) else {
                    continue;
                };
                if passive.look(now, *counters) {
                    suspects.push((place, Sign::ConnectFailures));
                }
            }
            suspects.extend(compare(port, now));
            for (place, sign) in suspects {
                if eject(port, configured, place, sign, now, &mut self.chance) {
                    tracing::warn!(service = %id.service, port = id.port, endpoint = %configured.endpoints[place].address, "ejected: {sign}");
                    held.wake = Some(now);
                }
            }
        }
    }
}

/// Returns the passive signs of an endpoint. It has none while nothing is counted of it: most endpoints of a large cluster are
/// never dialled from here, and these would be most of what is kept of them.
fn begun(track: &mut Track, now: Duration, counters: BackendCounters) -> Option<&mut Passive> {
    let was_quiet = track.quiet;
    if track.passive.is_none() {
        track.quiet = counters == BackendCounters::default();
        if track.quiet {
            return None;
        }
    }
    // Without an earlier look nobody knows when what is counted happened.
    let from = if was_quiet {
        BackendCounters::default()
    } else {
        counters
    };
    let begin = || Box::new(Passive::new(now, from));
    Some(track.passive.get_or_insert_with(begin))
}

/// Compares the endpoints with each other when the interval is over.
fn compare(port: &mut HeldPort, now: Duration) -> Vec<(usize, Sign)> {
    let end = *port.interval_end.get_or_insert(now + INTERVAL);
    if now < end {
        return Vec::new();
    }
    port.interval_end = Some(now + INTERVAL);
    let mut interval = |track: &mut Track| {
        let interval = track.passive.as_mut()?.end_interval();
        track.is_usable().then_some(interval)
    };
    let intervals: Vec<_> = port.tracks.iter_mut().map(&mut interval).collect();
    outliers(&intervals)
}

/// Ejects an endpoint if it gets connections and enough others are left; returns whether it did.
fn eject(
    port: &mut HeldPort,
    configured: &Port,
    place: usize,
    sign: Sign,
    now: Duration,
    chance: &mut Chance,
) -> bool {
    let is_v4 = configured.endpoints[place].address.is_ipv4();
    let (mut candidates, mut usable, mut ejected) = (0, 0, 0);
    for (endpoint, track) in configured.endpoints.iter().zip(&port.tracks) {
        if endpoint.address.is_ipv4() == is_v4 && track.candidate {
            let is_ejected = track
                .passive
                .as_ref()
                .is_some_and(|it| it.ejected(now).is_some());
            candidates += 1;
            ejected += usize::from(is_ejected);
            usable += usize::from(track.is_usable() && !is_ejected);
        }
    }
    let track = &mut port.tracks[place];
    let is_usable = track.is_usable();
    match &mut track.passive {
        Some(passive) if is_usable && may_eject(candidates, usable, ejected) => {
            passive.eject(now, sign, chance.unit());
            true
        }
        Some(_) | None => false,
    }
}
