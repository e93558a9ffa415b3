//! The endpoints of one family at one time, by level, and picking among them.
//!
//! A level is what is used before the next: a priority, or what is near. As in Envoy, endpoints that are ejected count as unhealthy
//! for that, so that load spills over to the next level as more of them are than the others have room for ([`level`](crate::level)).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use super::common::Core;
use super::endpoint::Endpoint;
use super::hash::mix;
use super::pick::Picker;
use super::policy::Algorithm;
use super::{Ask, Now};
use crate::chance::Chance;
use crate::level::{self, Load};
use crate::model::balanced::{Candidate, Target};

/// The endpoints at one time. Never changed, but for what is known of their levels.
#[derive(Debug, Default)]
pub(super) struct View {
    levels: Box<[Level]>,
    panic_percent: u32,
    /// How load spreads over levels, where there are several.
    spread: ArcSwap<Spread>,
}

/// Endpoints that are used alike.
#[derive(Debug)]
pub(super) struct Level {
    number: u16,
    /// By address.
    pub(super) members: Box<[Member]>,
    picker: Picker,
}

/// An endpoint and its weight.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weight: u32,
    /// The mean weight by its own: how much a request in flight weighs here.
    pub(super) burden: f64,
    /// Whether nothing but its answers may speak against it.
    is_healthy: bool,
}

/// What each level gets.
#[derive(Debug, Default)]
struct Spread {
    /// [`Core::changes`] that it is of.
    of: u64,
    loads: Box<[Load]>,
}

/// Which members may be picked.
#[derive(Clone, Copy)]
pub(super) struct Allowed<'a> {
    tried: &'a [SocketAddr],
    now: Now,
    /// Whether health and ejections count.
    heeds: bool,
}

impl Allowed<'_> {
    pub(super) fn now(&self) -> Now {
        self.now
    }

    pub(super) fn has(&self, member: &Member) -> bool {
        let endpoint = &*member.endpoint;
        let is_out = self.heeds && !member.is_well(self.now);
        !is_out && !self.tried.contains(&endpoint.address)
    }
}

impl Member {
    fn is_well(&self, now: Now) -> bool {
        self.is_healthy && !self.endpoint.is_ejected(now)
    }
}

impl View {
    /// Returns one of these endpoints, which are in the order of their levels and there of their addresses, each once.
    pub(super) fn new(
        listed: &[Candidate],
        endpoint: impl Fn(&Target) -> Arc<Endpoint>,
        algorithm: Algorithm,
        panic_percent: u32,
        chance: &mut Chance,
    ) -> Self {
        let levels = listed.chunk_by(|one, other| one.level == other.level);
        let levels = levels.map(|listed| {
            let weights: Vec<u32> = listed.iter().map(|it| it.target.weight.max(1)).collect();
            let sum: f64 = weights.iter().copied().map(f64::from).sum();
            let mean = sum / weights.len().max(1) as f64;
            let members = listed.iter().zip(&weights).map(|(it, weight)| Member {
                endpoint: endpoint(&it.target),
                weight: *weight,
                burden: mean / f64::from(*weight),
                is_healthy: it.is_healthy,
            });
            let members: Box<[Member]> = members.collect();
            Level {
                number: listed.first().map_or(0, |it| it.level),
                picker: Picker::new(algorithm, &members, &weights, chance),
                members,
            }
        });
        Self {
            levels: levels.collect(),
            panic_percent,
            spread: ArcSwap::default(),
        }
    }

    /// Returns all endpoints, as they were listed.
    pub(super) fn listed(&self) -> impl Iterator<Item = Candidate> {
        let of = |level: &'_ Level, member: &Member| Candidate {
            target: Target {
                address: member.endpoint.address,
                workload: member.endpoint.workload.clone(),
                weight: member.weight,
            },
            level: level.number,
            is_healthy: member.is_healthy,
        };
        let levels = self.levels.iter();
        levels.flat_map(move |level| level.members.iter().map(move |it| of(level, it)))
    }

    /// Returns whether it has these endpoints, in this order.
    pub(super) fn is_of(&self, listed: &[Candidate]) -> bool {
        let levels = self.levels.iter();
        let mut members =
            levels.flat_map(|level| level.members.iter().map(move |it| (level.number, it)));
        let is_same = |it: &Candidate| {
            members.next().is_some_and(|(level, member)| {
                member.endpoint.is_of(&it.target)
                    && member.weight == it.target.weight
                    && member.is_healthy == it.is_healthy
                    && level == it.level
            })
        };
        self.len() == listed.len() && listed.iter().all(is_same)
    }

    /// Returns the endpoint that this was so far: at its address, and of its workload.
    pub(super) fn known(&self, target: &Target) -> Option<&Arc<Endpoint>> {
        let endpoint = &self.find(target.address)?.1.endpoint;
        endpoint.is_of(target).then_some(endpoint)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> + Clone {
        self.levels.iter().flat_map(|level| &level.members)
    }

    pub(super) fn len(&self) -> usize {
        self.levels.iter().map(|level| level.members.len()).sum()
    }

    /// Returns the level of an endpoint, and its place there.
    pub(super) fn find(&self, address: SocketAddr) -> Option<(usize, &Member)> {
        let by = |member: &Member| member.endpoint.address.cmp(&address);
        let mut levels = self.levels.iter().enumerate();
        levels.find_map(|(at, level)| {
            let found = level.members.binary_search_by(by).ok()?;
            Some((at, &level.members[found]))
        })
    }

    /// Returns an endpoint, and whether it counts for bounded load; `None`: there is none.
    pub(super) fn pick(
        &self,
        ask: &Ask<'_>,
        core: &Core,
        chance: &mut Chance,
        now: Now,
    ) -> Option<(&Arc<Endpoint>, bool)> {
        let first = self.levels.first()?;
        if self.levels.len() == 1 {
            let allowed = Allowed {
                tried: ask.tried,
                now,
                heeds: !panics(core, self.panic_percent),
            };
            let session = ask.session.and_then(|address| self.find(address));
            let session = session.map(|it| it.1).filter(|it| allowed.has(it));
            let member = session.unwrap_or_else(|| first.pick(ask.hash, allowed, core, chance));
            return Some((&member.endpoint, first.picker.is_bounded()));
        }
        let spread = self.spread(core, now);
        let allowed = |at: usize| Allowed {
            tried: ask.tried,
            now,
            heeds: !spread.loads.get(at).is_some_and(|load| load.panic),
        };
        let session = ask.session.and_then(|address| self.find(address));
        if let Some((at, member)) = session.filter(|(at, it)| allowed(*at).has(it)) {
            return Some((&member.endpoint, self.levels[at].picker.is_bounded()));
        }
        // The same hash has the same level, for as long as it gets as much.
        let unit = match ask.hash {
            Some(hash) => Chance::seeded(mix(hash)).unit(),
            None => chance.unit(),
        };
        let at = spread.level(unit);
        let level = &self.levels[at];
        let mut others = (0..self.levels.len()).filter(|it| *it != at);
        let member = level
            .find(ask.hash, allowed(at), core, chance)
            // Better elsewhere than where it failed.
            .or_else(|| others.find_map(|at| self.levels[at].any(allowed(at), chance)))
            .unwrap_or_else(|| level.again(allowed(at), chance));
        Some((&member.endpoint, level.picker.is_bounded()))
    }

    /// Returns what each level gets now.
    fn spread(&self, core: &Core, now: Now) -> arc_swap::Guard<Arc<Spread>> {
        // Before endpoints are looked at: what changes meanwhile is looked at again.
        let changes = core.changes.load(Ordering::Acquire);
        let known = self.spread.load();
        if known.of == changes && !known.loads.is_empty() {
            return known;
        }
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let levels = self.levels.iter().map(|level| level::Level {
            total: count(level.members.len()),
            healthy: count(level.members.iter().filter(|it| it.is_well(now)).count()),
        });
        let levels: Vec<level::Level> = levels.collect();
        let loads = level::loads(&levels, u64::from(self.panic_percent));
        self.spread.store(Arc::new(Spread {
            of: changes,
            loads: loads.into(),
        }));
        self.spread.load()
    }
}

impl Spread {
    /// Returns the level that a number from 0 to below 1 falls to.
    fn level(&self, unit: f64) -> usize {
        let mut left = unit;
        let mut loads = self.loads.iter();
        let at = loads.position(|load| {
            left -= load.share;
            left < 0.0
        });
        // Shares that are rounded may end a little early.
        let last = || self.loads.iter().rposition(|load| load.share > 0.0);
        at.or_else(last).unwrap_or(0)
    }
}

impl Level {
    /// Returns a member, of which there is at least one.
    fn pick(
        &self,
        hash: Option<u64>,
        allowed: Allowed<'_>,
        core: &Core,
        chance: &mut Chance,
    ) -> &Member {
        let found = self.find(hash, allowed, core, chance);
        found.unwrap_or_else(|| self.again(allowed, chance))
    }

    /// Returns a member that may be picked, if there is one: the algorithm's, or where that found none the first in a row from
    /// anywhere.
    fn find(
        &self,
        hash: Option<u64>,
        allowed: Allowed<'_>,
        core: &Core,
        chance: &mut Chance,
    ) -> Option<&Member> {
        let at = self.picker.pick(&self.members, hash, allowed, core, chance);
        match at {
            Some(at) => Some(&self.members[at]),
            None => self.any(allowed, chance),
        }
    }

    /// Returns the first in a row from anywhere that may be picked.
    fn any(&self, allowed: Allowed<'_>, chance: &mut Chance) -> Option<&Member> {
        let start = self.anywhere(chance);
        let (before, behind) = self.members.split_at(start);
        let mut row = behind.iter().chain(before);
        row.find(|member| allowed.has(member))
    }

    /// Returns a member that is not ejected though it was tried; else any.
    fn again(&self, allowed: Allowed<'_>, chance: &mut Chance) -> &Member {
        let retry = Allowed {
            tried: &[],
            ..allowed
        };
        let found = self.any(retry, chance);
        found.unwrap_or_else(|| &self.members[self.anywhere(chance)])
    }

    fn anywhere(&self, chance: &mut Chance) -> usize {
        chance.below(u32::try_from(self.members.len()).unwrap_or(u32::MAX)) as usize
    }
}

/// Returns whether so many endpoints are ejected that it does not count.
fn panics(core: &Core, panic_percent: u32) -> bool {
    let ejected = u64::from(core.ejected.load(Ordering::Relaxed));
    if ejected == 0 {
        return false;
    }
    let hosts = u64::from(core.hosts.load(Ordering::Relaxed));
    hosts.saturating_sub(ejected) * 100 < hosts * u64::from(panic_percent)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
impl View {
    /// Entries of the ring that this algorithm would make.
    pub(super) fn table(&self, algorithm: Algorithm) -> usize {
        let members = &self.levels[0].members;
        let table = super::consistent::Consistent::new(algorithm, members);
        table.map_or(0, |table| table.ring_entries())
    }
}
