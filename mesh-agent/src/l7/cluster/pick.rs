//! The algorithms, each as what it keeps between picks.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Now;
use super::common::Core;
use super::consistent::Consistent;
use super::edf::Edf;
use super::policy::Algorithm;
use super::sampler::Sampler;
use super::view::{Allowed, Member};
use crate::chance::Chance;

/// How often something else is drawn where what was drawn may not be picked. Seldom more than a tenth may not.
const DRAWS: u32 = 4;

/// Turns that may be passed over at a time.
const TURNS: usize = 64;

/// What an algorithm keeps between picks from one set of endpoints.
#[derive(Debug)]
pub(super) enum Picker {
    /// The cheaper of two.
    PeakEwma { sampler: Sampler, decay_ns: u64 },
    /// The one with fewer requests in flight of two.
    LeastRequest(Sampler),
    /// In turn by weight, less often with requests in flight.
    Weighted { turns: Edf, bias: f64 },
    /// Each in turn.
    Turn(AtomicU64),
    /// At random.
    Random(Sampler),
    /// By hash.
    Consistent(Consistent),
}

impl Default for Picker {
    fn default() -> Self {
        Self::Random(Sampler::new(&[]))
    }
}

impl Picker {
    pub(super) fn new(
        algorithm: Algorithm,
        members: &[Member],
        weights: &[u32],
        chance: &mut Chance,
    ) -> Self {
        if let Some(table) = Consistent::new(algorithm, members) {
            return Self::Consistent(table);
        }
        let is_even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let sampler = Sampler::new(weights);
        let mut weighted = |bias| Self::Weighted {
            turns: Edf::new(members.iter().map(|member| member.burden), chance),
            bias,
        };
        match algorithm {
            Algorithm::PeakEwma(policy) => Self::PeakEwma {
                sampler,
                decay_ns: policy.decay_ns,
            },
            Algorithm::LeastRequest { .. } if is_even => Self::LeastRequest(sampler),
            Algorithm::LeastRequest { bias } => weighted(bias),
            Algorithm::RoundRobin if is_even => Self::Turn(AtomicU64::new(chance.bits() >> 1)),
            Algorithm::RoundRobin => weighted(0.0),
            Algorithm::Random => Self::Random(Sampler::new(&vec![1; members.len()])),
            Algorithm::WeightedRandom
            | Algorithm::RingHash { .. }
            | Algorithm::Maglev { .. }
            | Algorithm::Rendezvous { .. } => Self::Random(sampler),
        }
    }

    /// Whether picks count for bounded load.
    pub(super) fn is_bounded(&self) -> bool {
        matches!(self, Self::Consistent(table) if table.is_bounded())
    }

    /// Returns the index of a member that may be picked, unless it finds none.
    pub(super) fn pick(
        &self,
        members: &[Member],
        hash: Option<u64>,
        allowed: Allowed<'_>,
        core: &Core,
        chance: &mut Chance,
    ) -> Option<usize> {
        let may = |at: &usize| allowed.has(&members[*at]);
        match self {
            Self::PeakEwma { sampler, decay_ns } => {
                let one = draw(|| sampler.sample(chance), may)?;
                let Some(other) = draw(|| sampler.another(one, chance), may) else {
                    return Some(one);
                };
                let load = |at: usize| cost(&members[at], allowed.now(), *decay_ns);
                Some(if load(other) < load(one) { other } else { one })
            }
            Self::LeastRequest(sampler) => {
                let one = draw(|| sampler.sample(chance), may)?;
                let other = draw(|| sampler.sample(chance), may)?;
                let is_less = active(&members[other]) < active(&members[one]);
                Some(if is_less { other } else { one })
            }
            Self::Weighted { turns, bias } => {
                let step = |at: usize| {
                    let member = &members[at];
                    member.burden * (active(member) + 1.0).powf(*bias)
                };
                turns.next(TURNS, step, |at| may(&at))
            }
            Self::Turn(turn) => {
                let mut row = (0..members.len().min(TURNS)).map(|_| {
                    let turn = turn.fetch_add(1, Ordering::Relaxed);
                    usize::try_from(turn % members.len() as u64).unwrap_or(0)
                });
                row.find(may)
            }
            Self::Random(sampler) => draw(|| sampler.sample(chance), may),
            Self::Consistent(table) => {
                let hash = hash.unwrap_or_else(|| chance.bits());
                table.pick(members, hash, allowed, core)
            }
        }
    }
}

fn draw(mut sample: impl FnMut() -> usize, may: impl FnMut(&usize) -> bool) -> Option<usize> {
    (0..DRAWS).map(|_| sample()).find(may)
}

fn active(member: &Member) -> f64 {
    f64::from(member.endpoint.active.load(Ordering::Relaxed))
}

/// Peak EWMA's load, with as many requests in flight as an endpoint of mean weight would have in this one's place: what is drawn by
/// weight is then compared apart from it.
fn cost(member: &Member, now: Now, decay_ns: u64) -> f64 {
    let pending = active(member) * member.burden;
    member.endpoint.ewma.load(pending, now, decay_ns)
}
