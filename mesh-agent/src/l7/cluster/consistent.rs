//! Consistent picks: equal hashes get equal endpoints, and keep them when others come or go.
//!
//! Each kind yields a row of candidates for a hash. The first that may be picked, and that has not more than its bounded load, is
//! taken, so that a hash whose endpoint is ejected always goes to the same other one.

use std::sync::atomic::Ordering;

use super::common::Core;
use super::hash::{mix, of_address};
use super::policy::{Algorithm, BoundedLoad};
use super::view::{Allowed, Member};

/// Slots of a Maglev table: Envoy's, a prime. 128 kB.
const SLOTS: u32 = 65_537;

/// Ring entries at most. 16 B each; Envoy allows eight times as many, which would take a second to sort at each update. Only weights
/// more than a hundred thousand times apart ask for more.
const RING_MAX: u32 = 1 << 20;

/// Candidates that are looked at: far more than are ever passed over.
const CANDIDATES: usize = 1024;

/// A table, and the bound on load.
#[derive(Debug)]
pub(super) struct Consistent {
    table: Table,
    /// Percent of the mean.
    bound: Option<u32>,
    /// Sum of all weights.
    sum: u64,
}

#[derive(Debug)]
enum Table {
    /// Hashes in order, and whose they are.
    Ring(Box<[(u64, u32)]>),
    /// Whose each slot is.
    Maglev(Box<[u16]>),
    /// Hashes of endpoints, and whether all weigh the same.
    Rendezvous(Box<[u64]>, bool),
}

impl Consistent {
    /// Returns the table of an algorithm by hash; `None` for all others.
    pub(super) fn new(algorithm: Algorithm, members: &[Member]) -> Option<Self> {
        let (table, bound) = match algorithm {
            Algorithm::RingHash { min_size, bound } => (ring(members, min_size), bound),
            Algorithm::Maglev { bound } => (maglev(members), bound),
            Algorithm::Rendezvous { bound } => (rendezvous(members), bound),
            Algorithm::PeakEwma(_)
            | Algorithm::LeastRequest { .. }
            | Algorithm::RoundRobin
            | Algorithm::WeightedRandom
            | Algorithm::Random => return None,
        };
        Some(Self {
            table,
            bound: bound.map(|BoundedLoad { percent }| percent.max(100)),
            sum: members.iter().map(|member| u64::from(member.weight)).sum(),
        })
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.bound.is_some()
    }

    /// Returns the index of the hash's member.
    pub(super) fn pick(
        &self,
        members: &[Member],
        hash: u64,
        allowed: Allowed<'_>,
        core: &Core,
    ) -> Option<usize> {
        let total = u64::from(core.bounded.load(Ordering::Relaxed));
        let may = |at: usize| allowed.has(&members[at]);
        let has_room = |at: usize| self.has_room(&members[at], total);
        match &self.table {
            Table::Ring(ring) => {
                let start = ring.partition_point(|(entry, _)| *entry < hash);
                let row = ring[start..].iter().chain(&ring[..start]);
                first(row.map(|(_, at)| *at as usize), may, has_room)
            }
            Table::Maglev(slots) => {
                let row = slots_of(hash).map(|slot| usize::from(slots[slot]));
                first(row, may, has_room)
            }
            Table::Rendezvous(hashes, is_even) => {
                let best = |may: &dyn Fn(usize) -> bool| {
                    let all = members.iter().zip(hashes).enumerate();
                    let those = all.filter(|(at, _)| may(*at));
                    let scored = those.map(|(at, (member, own))| {
                        let u = unit(hash ^ own);
                        (if *is_even { u } else { score(member, u) }, at)
                    });
                    let best = scored.max_by(|one, other| one.0.total_cmp(&other.0));
                    best.map(|(_, at)| at)
                };
                let with_room = |at: usize| may(at) && has_room(at);
                best(&with_room).or_else(|| best(&may))
            }
        }
    }

    /// Returns whether one more request keeps a member within its share of the bound, of `total` others in flight. One always may.
    fn has_room(&self, member: &Member, total: u64) -> bool {
        let Some(percent) = self.bound else {
            return true;
        };
        let active = u64::from(member.endpoint.active.load(Ordering::Relaxed));
        active < capacity(percent, member.weight, self.sum, total)
    }
}

/// Returns how many requests a member may have in flight where `total + 1` are.
fn capacity(percent: u32, weight: u32, sum: u64, total: u64) -> u64 {
    let share = u128::from(percent) * u128::from(weight) * u128::from(total + 1);
    let capacity = share.div_ceil(u128::from(sum.max(1)) * 100);
    u64::try_from(capacity).unwrap_or(u64::MAX).max(1)
}

/// Returns the first of a row that may and has room; where none has room, the first that may.
fn first(
    row: impl Iterator<Item = usize>,
    may: impl Fn(usize) -> bool,
    has_room: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut full = None;
    for at in row.take(CANDIDATES).filter(|at| may(*at)) {
        if has_room(at) {
            return Some(at);
        }
        full = full.or(Some(at));
    }
    full
}

/// Entries in proportion to weights, the lightest member with at least one and all together with at least `min_size`.
fn ring(members: &[Member], min_size: u32) -> Table {
    let sum: f64 = members.iter().map(|member| f64::from(member.weight)).sum();
    let share = |member: &Member| f64::from(member.weight) / sum;
    let least = members.iter().map(share).fold(1.0, f64::min);
    let scale = (least * f64::from(min_size)).ceil().max(1.0) / least;
    let scale = scale.min(f64::from(RING_MAX));
    let mut ring = Vec::new();
    let (mut wanted, mut made) = (0.0, 0.0);
    for (member, index) in members.iter().zip(0..) {
        wanted += share(member) * scale;
        let mut seed = 0;
        // Sums of fractions are not exact: who has ten entries has ten whoever else is there.
        while made + 1e-6 < wanted {
            ring.push((of_address(member.endpoint.address, seed), index));
            seed += 1;
            made += 1.0;
        }
    }
    ring.sort_unstable();
    Table::Ring(ring.into_boxed_slice())
}

/// Eisenbud et al., NSDI 2016: in turn, each member takes the next free slot of its own permutation. A member of half the largest
/// weight takes one every other turn.
fn maglev(members: &[Member]) -> Table {
    struct Turn {
        slot: u32,
        skip: u32,
        weight: u64,
        target: u64,
    }
    let below = |hash: u64, limit: u32| u32::try_from(hash % u64::from(limit)).unwrap_or(0);
    let turn = |member: &Member| Turn {
        slot: below(of_address(member.endpoint.address, 0), SLOTS),
        skip: below(of_address(member.endpoint.address, 1), SLOTS - 1) + 1,
        weight: u64::from(member.weight),
        target: 0,
    };
    // A table has no room for more.
    let indices = 0..u16::MAX;
    let mut turns: Vec<(Turn, u16)> = members.iter().map(turn).zip(indices).collect();
    let heaviest = turns.iter().map(|(turn, _)| turn.weight).max().unwrap_or(0);
    let mut slots = vec![u16::MAX; SLOTS as usize];
    let mut left = if turns.is_empty() { 0 } else { SLOTS };
    let mut iteration = 0;
    while left > 0 {
        iteration += 1;
        for (turn, index) in &mut turns {
            if iteration * turn.weight < turn.target || left == 0 {
                continue;
            }
            turn.target += heaviest;
            while slots[turn.slot as usize] != u16::MAX {
                turn.slot = (turn.slot + turn.skip) % SLOTS;
            }
            slots[turn.slot as usize] = *index;
            left -= 1;
        }
    }
    Table::Maglev(slots.into_boxed_slice())
}

/// The slots of a hash: its own, and further ones as Envoy's retries choose them.
fn slots_of(hash: u64) -> impl Iterator<Item = usize> {
    (0u64..)
        .scan(hash, |hash, attempt| {
            if attempt > 0 {
                *hash ^= u64::MAX - attempt + 1;
            }
            Some(*hash)
        })
        .map(|hash| usize::try_from(hash % u64::from(SLOTS)).unwrap_or(0))
}

fn rendezvous(members: &[Member]) -> Table {
    let hash = |member: &Member| of_address(member.endpoint.address, 0);
    let is_even = members
        .windows(2)
        .all(|pair| pair[0].weight == pair[1].weight);
    Table::Rendezvous(members.iter().map(hash).collect(), is_even)
}

/// Returns the hash as a number between 0 and 1, and neither.
fn unit(hash: u64) -> f64 {
    ((mix(hash) >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// Returns `-weight / ln(u)`: the highest is each member's in its share of hashes. Of equal weights, the highest `u` has it.
fn score(member: &Member, u: f64) -> f64 {
    -f64::from(member.weight) / u.ln()
}

#[cfg(test)]
impl Consistent {
    pub(super) fn ring_entries(&self) -> usize {
        match &self.table {
            Table::Ring(ring) => ring.len(),
            Table::Maglev(_) | Table::Rendezvous(..) => 0,
        }
    }
}

#[cfg(test)]
mod tests;
