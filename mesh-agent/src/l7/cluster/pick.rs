//! The algorithms, each as what it keeps between picks.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Now;
use super::core::Core;
use super::group::{Allowed, Member};
use super::policy::Algorithm;
use super::sampler::Sampler;
use crate::chance::Chance;

/// How often something else is drawn where what was drawn may not be picked. Seldom more than a tenth may not.
const DRAWS: u32 = 4;

/// What an algorithm keeps between picks from one set of endpoints.
#[derive(Debug)]
pub(super) enum Picker {
    /// The cheaper of two.
    PeakEwma { sampler: Sampler, decay_ns: u64 },
    /// The one with fewer requests in flight of two.
    LeastRequest(Sampler),
    /// Each in turn.
    Turn(AtomicU64),
    /// At random.
    Random(Sampler),
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
        match algorithm {
            Algorithm::PeakEwma(policy) => Self::PeakEwma {
                sampler: Sampler::new(weights),
                decay_ns: policy.decay_ns,
            },
            Algorithm::LeastRequest { .. } => Self::LeastRequest(Sampler::new(weights)),
            Algorithm::RoundRobin => Self::Turn(AtomicU64::new(chance.bits() >> 1)),
            Algorithm::Random => Self::Random(Sampler::new(&vec![1; members.len()])),
            Algorithm::WeightedRandom
            | Algorithm::RingHash { .. }
            | Algorithm::Maglev { .. }
            | Algorithm::Rendezvous { .. } => Self::Random(Sampler::new(weights)),
        }
    }

    /// Whether picks count for bounded load.
    pub(super) fn is_bounded(&self) -> bool {
        false
    }

    /// Returns the index of a member that may be picked, unless it finds none.
    pub(super) fn pick(
        &self,
        members: &[Member],
        _hash: Option<u64>,
        allowed: Allowed<'_>,
        _core: &Core,
        chance: &mut Chance,
    ) -> Option<usize> {
        let mut draw = |sampler: &Sampler| {
            let mut draws = (0..DRAWS).map(|_| sampler.sample(chance));
            draws.find(|at| allowed.has(&members[*at]))
        };
        match self {
            Self::PeakEwma { sampler, decay_ns } => {
                let (one, other) = (draw(sampler)?, draw(sampler)?);
                let load = |at: usize| cost(&members[at], allowed.now(), *decay_ns);
                Some(if load(other) < load(one) { other } else { one })
            }
            Self::LeastRequest(sampler) => {
                let (one, other) = (draw(sampler)?, draw(sampler)?);
                let is_less = active(&members[other]) < active(&members[one]);
                Some(if is_less { other } else { one })
            }
            Self::Turn(turn) => {
                let mut row = (0..members.len()).map(|_| {
                    let turn = turn.fetch_add(1, Ordering::Relaxed);
                    usize::try_from(turn % members.len() as u64).unwrap_or(0)
                });
                row.find(|at| allowed.has(&members[*at]))
            }
            Self::Random(sampler) => draw(sampler),
        }
    }
}

/// Returns the requests in flight to a member, as many as an endpoint of mean weight would have.
fn active(member: &Member) -> f64 {
    let active = member.endpoint.active.load(Ordering::Relaxed);
    f64::from(active) * member.burden
}

fn cost(member: &Member, now: Now, decay_ns: u64) -> f64 {
    member.endpoint.ewma.load(active(member), now, decay_ns)
}
