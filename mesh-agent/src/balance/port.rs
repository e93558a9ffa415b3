//! One service port: from its endpoints and what is known of each to who gets how much.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::candidates::{Tier, candidates};
use crate::balance::outlier::Passive;
use crate::balance::{Here, weigh};
use crate::level::{Level, PANIC_PERCENT, loads};
use crate::model::balanced::{Balanced, Candidate as Listed, PortId, Target};
use crate::model::endpoint::Checked;
use crate::model::service::{Endpoint, Port, Service, ServiceKind, WithoutBackend};

/// How often shares of endpoints in slow start are brought up to date.
const SLOW_START_STEP: Duration = Duration::from_secs(1);

/// What active checks found of a service's endpoints.
pub(super) type Checks = BTreeMap<SocketAddr, Checked>;

/// Why an endpoint gets no connections: the short form of [`Why`](crate::model::endpoint::Why).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Out {
    NotReady,
    Terminating,
    Unhealthy,
    Ejected,
    OtherNode,
    OtherZone,
    LowerPriority,
    WeightZero,
    OtherFamily,
}

/// What an endpoint gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    In { weight: u32, panic: bool },
    Out(Out),
}

/// Whether an endpoint is healthy and could get connections, and since when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Usable {
    No,
    /// Since this moment.
    Since(Duration),
    /// For long enough not to start slowly.
    Warm,
}

/// What is known of one endpoint of a service port beside the configuration.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) standing: Standing,
    usable: Usable,
    /// Whether Kubernetes' rules leave it.
    pub(super) candidate: bool,
    /// Passive signs, once there was any traffic.
    pub(super) passive: Option<Box<Passive>>,
    /// Whether nothing was counted of it when that was last looked at without passive signs.
    pub(super) quiet: bool,
}

impl Track {
    fn new() -> Self {
        Self {
            standing: Standing::Out(Out::NotReady),
            usable: Usable::No,
            candidate: false,
            passive: None,
            quiet: false,
        }
    }

    /// Returns whether it could get connections and is healthy.
    pub(super) fn is_usable(&self) -> bool {
        self.usable != Usable::No
    }

    /// Returns whether its share still grows.
    pub(super) fn grows(&self) -> bool {
        matches!(self.usable, Usable::Since(_)) && matches!(self.standing, Standing::In { .. })
    }
}

/// A service port as it stands. `tracks` are in the order of the port's endpoints.
#[derive(Debug)]
pub(super) struct HeldPort {
    pub(super) id: PortId,
    /// Which of the service's ports.
    pub(super) index: usize,
    pub(super) tracks: Vec<Track>,
    /// Endpoints by address: places in `tracks`, ordered by it.
    by_address: Vec<u32>,
    /// End of the interval in which endpoints are compared with each other.
    pub(super) interval_end: Option<Duration>,
    pub(super) balanced: Arc<Balanced>,
    /// When time alone changes something.
    pub(super) wake: Option<Duration>,
}

impl HeldPort {
    /// Returns a port whose endpoints keep what was known of them `before`, when the port had the endpoints beside it.
    pub(super) fn new(
        service: &Service,
        index: usize,
        id: PortId,
        before: Option<(Self, &[Endpoint])>,
    ) -> Self {
        let port = &service.ports[index];
        let mut known = HashMap::new();
        let mut interval_end = None;
        let mut balanced = None;
        if let Some((before, endpoints)) = before {
            interval_end = before.interval_end;
            known.extend(endpoints.iter().map(address).zip(before.tracks));
            balanced = Some(before.balanced);
        }
        let track = |endpoint| known.remove(&address(endpoint)).unwrap_or_else(Track::new);
        let tracks = port.endpoints.iter().map(track).collect();
        let places = 0..u32::try_from(port.endpoints.len()).unwrap_or(u32::MAX);
        let mut by_address: Vec<u32> = places.collect();
        by_address.sort_unstable_by_key(|place| address(&port.endpoints[*place as usize]));
        let balanced = balanced.unwrap_or_else(|| Arc::new(frame(service, port, id.clone())));
        Self {
            id,
            index,
            tracks,
            by_address,
            interval_end,
            balanced,
            wake: None,
        }
    }

    /// Returns the place of the endpoint with this address.
    pub(super) fn place(&self, port: &Port, wanted: SocketAddr) -> Option<usize> {
        let key = |place: &u32| address(&port.endpoints[*place as usize]);
        let found = self.by_address.binary_search_by_key(&wanted, key).ok()?;
        Some(self.by_address[found] as usize)
    }

    /// Decides anew who gets how much. `is_first`: nothing was known of the service before, so its endpoints are taken as warm.
    pub(super) fn settle(
        &mut self,
        service: &Service,
        checks: Option<&Checks>,
        here: &Here,
        now: Duration,
        is_first: bool,
    ) {
        let port = &service.ports[self.index];
        let mut balanced = frame(service, port, self.id.clone());
        self.wake = None;
        for v4 in [true, false] {
            let places: Vec<usize> = (0..port.endpoints.len())
                .filter(|place| port.endpoints[*place].address.is_ipv4() == v4)
                .collect();
            if places.is_empty() {
                continue;
            }
            let reachable = match balanced.frontends.is_empty() {
                // Routes lead to its endpoints, of whatever family.
                true if service.kind == ServiceKind::Headless => true,
                true => balanced.node_port.is_some(),
                false => balanced.frontends.iter().any(|it| it.is_ipv4() == v4),
            };
            if !reachable {
                for place in places {
                    self.tracks[place].leave(Out::OtherFamily);
                }
                continue;
            }
            let family = Family {
                service,
                endpoints: places.iter().map(|it| &port.endpoints[*it]).collect(),
                checks,
                here,
                now,
                is_first,
            };
            let (wake, listed) = family.settle(&mut self.tracks, &places);
            self.wake = self.wake.into_iter().chain(wake).min();
            balanced.candidates.extend(listed);
        }
        for (endpoint, track) in port.endpoints.iter().zip(&self.tracks) {
            match track.standing {
                Standing::In { weight, .. } => balanced.targets.push(Target {
                    address: address(endpoint),
                    workload: endpoint.workload.clone(),
                    weight,
                }),
                // Never a target, so there are no connections to it that could go on.
                Standing::Out(Out::OtherFamily | Out::OtherNode) => {}
                Standing::Out(_) => balanced.resting.push(address(endpoint)),
            }
        }
        balanced.targets.shrink_to_fit();
        if balanced != *self.balanced {
            self.balanced = Arc::new(balanced);
        }
    }
}

impl Track {
    fn leave(&mut self, out: Out) {
        self.standing = Standing::Out(out);
        self.usable = Usable::No;
        self.candidate = false;
    }
}

/// The endpoints of one family: clients of the other never get them, so each family is balanced by itself.
struct Family<'a> {
    service: &'a Service,
    endpoints: Vec<&'a Endpoint>,
    checks: Option<&'a Checks>,
    here: &'a Here,
    now: Duration,
    is_first: bool,
}

/// An endpoint that Kubernetes' rules leave.
struct Candidate {
    /// Its place in the port.
    place: usize,
    /// Its priority, then how near it is.
    level: (u32, Tier),
    /// Why it is not healthy.
    ill: Option<Out>,
    weight: u32,
    /// The part of its weight that it gets.
    part: f64,
}

impl Candidate {
    fn weight(&self) -> f64 {
        f64::from(self.weight) * self.part
    }
}

impl Family<'_> {
    /// Settles the tracks at `places`; returns when time alone changes something, and everybody who may answer, where they are of
    /// more than one level.
    fn settle(&self, tracks: &mut [Track], places: &[usize]) -> (Option<Duration>, Vec<Listed>) {
        let mut wake = None;
        let ready: Vec<bool> = self.endpoints.iter().map(|it| self.is_ready(it)).collect();
        let found = candidates(self.service, &self.endpoints, &ready, self.here);
        let mut left = Vec::with_capacity(found.len());
        for ((found, endpoint), &place) in found.into_iter().zip(&self.endpoints).zip(places) {
            let track = &mut tracks[place];
            match found {
                Err(out) => track.leave(out),
                Ok(tier) => left.push(self.candidate(track, place, endpoint, tier, &mut wake)),
            }
        }
        let keys: BTreeSet<(u32, Tier)> = left.iter().map(|it| it.level).collect();
        let keys: Vec<(u32, Tier)> = keys.into_iter().collect();
        spread(tracks, &left, &keys);
        let listed = match keys.len() {
            0 | 1 => Vec::new(),
            2.. => self.listed(&left, places),
        };
        (wake, listed)
    }

    /// Returns everybody by level. Beyond 65,536 levels the last ones are one.
    fn listed(&self, left: &[Candidate], places: &[usize]) -> Vec<Listed> {
        let mut levels: BTreeMap<(u32, Tier), Vec<&Candidate>> = BTreeMap::new();
        for it in left {
            levels.entry(it.level).or_default().push(it);
        }
        let mut listed = Vec::with_capacity(left.len());
        for (level, of) in (0..u16::MAX)
            .chain(std::iter::repeat(u16::MAX))
            .zip(levels.values())
        {
            let weights = match is_plain(of) {
                true => of.iter().map(|it| it.weight).collect(),
                false => weigh::integers(&of.iter().map(|it| it.weight()).collect::<Vec<f64>>()),
            };
            listed.extend(of.iter().zip(weights).filter_map(|(it, weight)| {
                let at = places.binary_search(&it.place).ok()?;
                let target = Target {
                    address: address(self.endpoints[at]),
                    workload: self.endpoints[at].workload.clone(),
                    weight,
                };
                Some(Listed {
                    target,
                    level,
                    is_healthy: it.ill.is_none(),
                })
            }));
        }
        listed
    }

    fn is_ready(&self, endpoint: &Endpoint) -> bool {
        // A good answer does not make ready what the configuration holds back, or whose registration ran out.
        self.service.publish_not_ready || (endpoint.ready && !endpoint.terminating)
    }

    fn check(&self, endpoint: &Endpoint) -> Option<&Checked> {
        self.checks?.get(&address(endpoint))
    }

    fn candidate(
        &self,
        track: &mut Track,
        place: usize,
        endpoint: &Endpoint,
        tier: Tier,
        wake: &mut Option<Duration>,
    ) -> Candidate {
        track.candidate = true;
        let ejected_until = track.passive.as_ref().and_then(|it| it.ejected(self.now));
        let ill = if self.check(endpoint).is_some_and(|check| !check.healthy) {
            Some(Out::Unhealthy)
        } else if self.service.balance.outlier_detection && ejected_until.is_some() {
            Some(Out::Ejected)
        } else {
            None
        };
        let mut at = |moment: Duration| *wake = Some(wake.map_or(moment, |it| it.min(moment)));
        if let Some((_, until)) = ejected_until {
            at(until);
        }
        track.usable = match (ill, track.usable) {
            (Some(_), _) => Usable::No,
            (None, Usable::No) if self.is_first => Usable::Warm,
            (None, Usable::No) => Usable::Since(self.now),
            (None, since) => since,
        };
        let mut part = 1.0;
        if let Usable::Since(since) = track.usable {
            let age = self.now.saturating_sub(since);
            match self.service.balance.slow_start {
                Some(window) if age < window => {
                    part = weigh::slow_start(age, window);
                    at((self.now + SLOW_START_STEP).min(since + window));
                }
                Some(_) | None => track.usable = Usable::Warm,
            }
        }
        Candidate {
            place,
            level: (endpoint.priority, tier),
            ill,
            weight: endpoint.weight,
            part,
        }
    }
}

/// Spreads the load over the candidates, whose levels are these.
fn spread(tracks: &mut [Track], left: &[Candidate], keys: &[(u32, Tier)]) {
    let mut levels = vec![Level::default(); keys.len()];
    let level_of = |it: &Candidate| keys.binary_search(&it.level).unwrap_or_default();
    for it in left {
        let level = &mut levels[level_of(it)];
        level.total += 1;
        level.healthy += u32::from(it.ill.is_none());
    }
    let loads = loads(&levels, PANIC_PERCENT);
    let gets = |it: &Candidate| {
        let load = loads[level_of(it)];
        load.share > 0.0 && (load.panic || it.ill.is_none())
    };
    let (inside, outside): (Vec<&Candidate>, Vec<&Candidate>) =
        left.iter().partition(|it| gets(it));
    let whole: Vec<u32> = if is_plain(&inside) {
        inside.iter().map(|it| it.weight).collect()
    } else {
        let mut sums = vec![0.0; keys.len()];
        for it in &inside {
            sums[level_of(it)] += it.weight();
        }
        let share = |it: &&Candidate| loads[level_of(it)].share * it.weight() / sums[level_of(it)];
        weigh::integers(&inside.iter().map(share).collect::<Vec<f64>>())
    };
    for (it, weight) in inside.into_iter().zip(whole) {
        let panic = loads[level_of(it)].panic;
        tracks[it.place].standing = Standing::In { weight, panic };
    }
    for it in outside {
        let mut used = keys.iter().zip(&loads).filter(|(_, load)| load.share > 0.0);
        let out = match it.ill {
            Some(ill) => ill,
            None if used.any(|(key, _)| key.0 == it.level.0) => Out::OtherZone,
            None => Out::LowerPriority,
        };
        tracks[it.place].standing = Standing::Out(out);
    }
}

/// Returns whether weights hold as they were configured: one level, and nobody who starts slowly.
fn is_plain(inside: &[&Candidate]) -> bool {
    let first = inside.first().map(|it| it.level);
    inside
        .iter()
        .all(|it| it.part >= 1.0 && Some(it.level) == first)
}

/// Returns where an endpoint is.
pub(super) fn address(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.address, endpoint.port)
}

/// Returns a port without endpoints.
fn frame(service: &Service, port: &Port, id: PortId) -> Balanced {
    let mut frontends = Vec::new();
    for address in service.addresses.iter().chain(&service.external_addresses) {
        let frontend = SocketAddr::new(*address, port.number);
        if !frontends.contains(&frontend) {
            frontends.push(frontend);
        }
    }
    Balanced {
        id,
        frontends,
        node_port: port.node_port,
        algorithm: service.balance.algorithm,
        affinity: service.affinity,
        proxied: None,
        drops: service.balance.without_backend == WithoutBackend::Drop,
        drain: service.balance.drain,
        targets: Vec::new(),
        resting: Vec::new(),
        candidates: Vec::new(),
    }
}
