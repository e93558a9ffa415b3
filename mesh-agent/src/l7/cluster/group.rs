//! The endpoints of one family as they are now, and picking among them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use super::breaker::Shared;
use super::common::Core;
use super::endpoint::{Endpoint, Picked};
use super::outlier::Rules;
use super::pick::Picker;
use super::policy::ClusterPolicy;
use super::{Ask, Now};
use crate::chance::Chance;
use crate::model::balanced::Target;

/// The endpoints of one family.
#[derive(Debug)]
pub(super) struct Group {
    core: Arc<Core>,
    view: ArcSwap<View>,
}

/// The endpoints at one time. Never changed.
#[derive(Debug, Default)]
pub(super) struct View {
    /// By address.
    pub(super) members: Box<[Member]>,
    picker: Picker,
    panic_percent: u32,
}

/// An endpoint and its weight.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weight: u32,
    /// The mean weight by its own: how much a request in flight weighs here.
    pub(super) burden: f64,
}

/// Which members may be picked.
#[derive(Clone, Copy)]
pub(super) struct Allowed<'a> {
    tried: &'a [SocketAddr],
    now: Now,
    /// Whether ejections count.
    heeds: bool,
}

impl Allowed<'_> {
    pub(super) fn now(&self) -> Now {
        self.now
    }

    pub(super) fn has(&self, member: &Member) -> bool {
        let endpoint = &*member.endpoint;
        let is_out = self.heeds && endpoint.is_ejected(self.now);
        !is_out && !self.tried.contains(&endpoint.address)
    }
}

impl Group {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            core: Arc::new(Core::new(shared)),
            view: ArcSwap::default(),
        }
    }

    /// Takes these as the endpoints from now on, in the order of their addresses and each once. One call at a time.
    pub(super) fn set(&self, targets: &[Target], now: Now, chance: &mut Chance) {
        let before = self.view.load_full();
        let weights: Vec<u32> = targets.iter().map(|target| target.weight.max(1)).collect();
        let sum: f64 = weights.iter().copied().map(f64::from).sum();
        let mean = sum / weights.len().max(1) as f64;
        let members = targets.iter().zip(&weights).map(|(target, weight)| Member {
            endpoint: match before.known(target) {
                Some(endpoint) => endpoint.clone(),
                None => Arc::new(Endpoint::new(target, &self.core)),
            },
            weight: *weight,
            burden: mean / f64::from(*weight),
        });
        let settings = self.core.shared.settings();
        let policy = &settings.policy;
        let members: Box<[Member]> = members.collect();
        let view = Arc::new(View {
            picker: Picker::new(policy.algorithm, &members, &weights, chance),
            members,
            panic_percent: policy.panic_percent,
        });
        self.view.store(view.clone());
        let hosts = u32::try_from(view.members.len()).unwrap_or(u32::MAX);
        let is_there = |address| view.find(address).is_some();
        self.core.keep(hosts, is_there, now);
        self.look(&view, policy, now);
    }

    /// Returns whether it has these endpoints, in this order, with these weights.
    pub(super) fn is_of(&self, targets: &[Target]) -> bool {
        let view = self.view.load();
        let is_same = |(member, target): (&Member, &Target)| {
            member.endpoint.is_of(target) && member.weight == target.weight
        };
        view.members.len() == targets.len() && view.members.iter().zip(targets).all(is_same)
    }

    pub(super) fn targets(&self) -> Vec<Target> {
        let target = |member: &Member| Target {
            address: member.endpoint.address,
            workload: member.endpoint.workload.clone(),
            weight: member.weight,
        };
        self.view.load().members.iter().map(target).collect()
    }

    /// Returns how many endpoints are ejected, and how many ejections there have been.
    pub(super) fn ejections(&self, now: Now) -> (usize, u64) {
        self.core.ejections(now)
    }

    pub(super) fn len(&self) -> usize {
        self.view.load().members.len()
    }

    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.view.load().find(address).is_some()
    }

    /// Returns whether every endpoint is among these; also where there is none.
    pub(super) fn is_tried(&self, tried: &[SocketAddr]) -> bool {
        let view = self.view.load();
        let count = view.members.len();
        let mut members = view.members.iter();
        // Told by their number mostly: the first attempt has tried none.
        tried.len() >= count && members.all(|it| tried.contains(&it.endpoint.address))
    }

    pub(super) fn pick(&self, ask: &Ask<'_>, chance: &mut Chance, now: Now) -> Option<Picked> {
        let view = self.view.load();
        if view.members.is_empty() {
            return None;
        }
        if now >= self.core.wake.load(Ordering::Relaxed) {
            self.look(&view, &self.core.shared.settings().policy, now);
        }
        let allowed = Allowed {
            tried: ask.tried,
            now,
            heeds: !self.panics(view.panic_percent),
        };
        let session = ask.session.and_then(|address| view.find(address));
        let session = session.filter(|at| allowed.has(&view.members[*at]));
        let at = session.unwrap_or_else(|| view.pick(ask.hash, allowed, &self.core, chance));
        let endpoint = view.members[at].endpoint.clone();
        Some(Picked::new(endpoint, view.picker.is_bounded()))
    }

    fn look(&self, view: &View, policy: &ClusterPolicy, now: Now) {
        let rules = policy.outlier.as_ref().map(|outlier| Rules {
            policy: outlier,
            panic_percent: policy.panic_percent,
        });
        let endpoints = view.members.iter().map(|member| &*member.endpoint);
        self.core.look(endpoints, rules, now);
    }

    fn panics(&self, panic_percent: u32) -> bool {
        let ejected = u64::from(self.core.ejected.load(Ordering::Relaxed));
        if ejected == 0 {
            return false;
        }
        let hosts = u64::from(self.core.hosts.load(Ordering::Relaxed));
        hosts.saturating_sub(ejected) * 100 < hosts * u64::from(panic_percent)
    }
}

impl View {
    pub(super) fn find(&self, address: SocketAddr) -> Option<usize> {
        let by = |member: &Member| member.endpoint.address.cmp(&address);
        self.members.binary_search_by(by).ok()
    }

    /// Returns the endpoint that this was so far: at its address, and of its workload.
    fn known(&self, target: &Target) -> Option<&Arc<Endpoint>> {
        let endpoint = &self.members[self.find(target.address)?].endpoint;
        endpoint.is_of(target).then_some(endpoint)
    }

    /// Returns the index of a member, of which there is at least one.
    fn pick(
        &self,
        hash: Option<u64>,
        allowed: Allowed<'_>,
        core: &Core,
        chance: &mut Chance,
    ) -> usize {
        let at = self.picker.pick(&self.members, hash, allowed, core, chance);
        at.unwrap_or_else(|| self.any(allowed, chance))
    }

    /// Returns a member where the algorithm found none: the first in a row from anywhere that may be picked; else one that is not
    /// ejected though it was tried; else any.
    fn any(&self, allowed: Allowed<'_>, chance: &mut Chance) -> usize {
        let count = self.members.len();
        let start = chance.below(u32::try_from(count).unwrap_or(u32::MAX)) as usize;
        let retry = Allowed {
            tried: &[],
            ..allowed
        };
        let find = |allowed: Allowed<'_>| {
            let mut row = (start..count).chain(0..start);
            row.find(|at| allowed.has(&self.members[*at]))
        };
        find(allowed).or_else(|| find(retry)).unwrap_or(start)
    }
}

#[cfg(test)]
impl Group {
    /// Attempts in flight, as all counters say.
    pub(super) fn in_flight(&self) -> u32 {
        let view = self.view.load();
        let active = view
            .members
            .iter()
            .map(|it| it.endpoint.active.load(Ordering::Relaxed));
        active.sum::<u32>() + self.core.bounded.load(Ordering::Relaxed)
    }

    /// Endpoints that are ejected.
    pub(super) fn ejected(&self, now: Now) -> Vec<SocketAddr> {
        let view = self.view.load();
        let ejected = view.members.iter().filter(|it| it.endpoint.is_ejected(now));
        ejected.map(|it| it.endpoint.address).collect()
    }

    /// Entries of the ring that this algorithm would make.
    pub(super) fn table(&self, algorithm: super::policy::Algorithm) -> usize {
        let view = self.view.load();
        let table = super::consistent::Consistent::new(algorithm, &view.members);
        table.map_or(0, |table| table.ring_entries())
    }
}
