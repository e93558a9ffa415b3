//! The endpoints of one family: as they are now, and what is kept of them over changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use super::breaker::Shared;
use super::common::Core;
use super::endpoint::{Endpoint, Picked};
use super::outlier::Rules;
use super::policy::ClusterPolicy;
use super::view::View;
use super::{Ask, Now};
use crate::chance::Chance;
use crate::model::balanced::{Candidate, Target};

/// The endpoints of one family.
#[derive(Debug)]
pub(super) struct Group {
    core: Arc<Core>,
    view: ArcSwap<View>,
}

impl Group {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            core: Arc::new(Core::new(shared)),
            view: ArcSwap::default(),
        }
    }

    /// Takes these as the endpoints from now on, in the order of their levels and there of their addresses, and each once. One call
    /// at a time.
    pub(super) fn set(&self, listed: &[Candidate], now: Now, chance: &mut Chance) {
        let before = self.view.load_full();
        let endpoint = |target: &Target| match before.known(target) {
            Some(endpoint) => endpoint.clone(),
            None => Arc::new(Endpoint::new(target, &self.core)),
        };
        let settings = self.core.shared.settings();
        let policy = &settings.policy;
        let view = View::new(
            listed,
            endpoint,
            policy.algorithm,
            policy.panic_percent,
            chance,
        );
        let view = Arc::new(view);
        self.view.store(view.clone());
        let hosts = u32::try_from(view.len()).unwrap_or(u32::MAX);
        let is_there = |address| view.find(address).is_some();
        self.core.keep(hosts, is_there, now);
        self.look(&view, policy, now);
    }

    /// Returns whether it has these endpoints, in this order, with these weights.
    pub(super) fn is_of(&self, listed: &[Candidate]) -> bool {
        self.view.load().is_of(listed)
    }

    pub(super) fn listed(&self) -> Vec<Candidate> {
        self.view.load().listed().collect()
    }

    /// Returns how many endpoints are ejected, and how many ejections there have been.
    pub(super) fn ejections(&self, now: Now) -> (usize, u64) {
        self.core.ejections(now)
    }

    pub(super) fn len(&self) -> usize {
        self.view.load().len()
    }

    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.view.load().find(address).is_some()
    }

    /// Returns whether every endpoint is among these; also where there is none.
    pub(super) fn is_tried(&self, tried: &[SocketAddr]) -> bool {
        let view = self.view.load();
        let mut members = view.members();
        // Told by their number mostly: the first attempt has tried none.
        tried.len() >= view.len() && members.all(|it| tried.contains(&it.endpoint.address))
    }

    pub(super) fn pick(&self, ask: &Ask<'_>, chance: &mut Chance, now: Now) -> Option<Picked> {
        let view = self.view.load();
        if now >= self.core.wake.load(Ordering::Relaxed) {
            self.look(&view, &self.core.shared.settings().policy, now);
        }
        let (endpoint, is_bounded) = view.pick(ask, &self.core, chance, now)?;
        Some(Picked::new(endpoint.clone(), is_bounded))
    }

    fn look(&self, view: &View, policy: &ClusterPolicy, now: Now) {
        let rules = policy.outlier.as_ref().map(|outlier| Rules {
            policy: outlier,
            panic_percent: policy.panic_percent,
        });
        let endpoints = view.members().map(|member| &*member.endpoint);
        self.core.look(endpoints, rules, now);
    }
}

#[cfg(test)]
impl Group {
    /// Attempts in flight, as all counters say.
    pub(super) fn in_flight(&self) -> u32 {
        let view = self.view.load();
        let active = view
            .members()
            .map(|it| it.endpoint.active.load(Ordering::Relaxed));
        active.sum::<u32>() + self.core.bounded.load(Ordering::Relaxed)
    }

    /// Endpoints that are ejected.
    pub(super) fn ejected(&self, now: Now) -> Vec<SocketAddr> {
        let view = self.view.load();
        let ejected = view.members().filter(|it| it.endpoint.is_ejected(now));
        ejected.map(|it| it.endpoint.address).collect()
    }

    /// Entries of the ring that this algorithm would make.
    pub(super) fn table(&self, algorithm: super::policy::Algorithm) -> usize {
        self.view.load().table(algorithm)
    }
}
