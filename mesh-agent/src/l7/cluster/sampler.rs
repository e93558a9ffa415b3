//! Random picks by weight in constant time: Vose's alias method.

use crate::chance::Chance;

/// What random picks go by.
#[derive(Debug)]
pub(super) enum Sampler {
    /// All alike: how many.
    Even(u32),
    /// By weight: one slot for each.
    Alias(Box<[Slot]>),
}

/// A number below the threshold picks the slot's own index, any other the alias.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    threshold: u32,
    alias: u32,
}

impl Sampler {
    pub(super) fn new(weights: &[u32]) -> Self {
        let count = u32::try_from(weights.len()).unwrap_or(u32::MAX);
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Even(count);
        }
        Self::Alias(slots(weights, count))
    }

    /// Returns an index; 0 where there are no weights.
    pub(super) fn sample(&self, chance: &mut Chance) -> usize {
        match self {
            Self::Even(count) => chance.below(*count) as usize,
            Self::Alias(slots) => {
                let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
                let at = chance.below(count);
                let Slot { threshold, alias } = slots[at as usize];
                let own = chance.bits() >> 32 < u64::from(threshold);
                (if own { at } else { alias }) as usize
            }
        }
    }

    /// Returns an index besides this one; where weights differ it may be the same again, since a second draw of light ones alone
    /// would give them more than their weight.
    pub(super) fn another(&self, than: usize, chance: &mut Chance) -> usize {
        match self {
            Self::Even(count) => {
                let at = chance.below(count.saturating_sub(1)) as usize;
                if at < than || *count < 2 { at } else { at + 1 }
            }
            Self::Alias(_) => self.sample(chance),
        }
    }
}

/// Shares are whole numbers of `sum`, so that nothing is lost in between: each slot holds `sum`, each weight has `weight * count`.
fn slots(weights: &[u32], count: u32) -> Box<[Slot]> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let mut shares: Vec<u128> = weights
        .iter()
        .map(|weight| u128::from(*weight) * u128::from(count))
        .collect();
    let full = |index| Slot {
        threshold: u32::MAX,
        alias: index,
    };
    let mut slots: Vec<Slot> = (0..count).map(full).collect();
    let indices = 0..shares.len();
    let (mut poor, mut rich): (Vec<usize>, Vec<usize>) =
        indices.partition(|index| shares[*index] < sum);
    while let (Some(small), Some(large)) = (poor.pop(), rich.last().copied()) {
        let threshold = (shares[small] << 32) / sum.max(1);
        slots[small] = Slot {
            threshold: u32::try_from(threshold).unwrap_or(u32::MAX),
            alias: u32::try_from(large).unwrap_or(u32::MAX),
        };
        shares[large] -= sum - shares[small];
        if shares[large] < sum {
            rich.pop();
            poor.push(large);
        }
    }
    slots.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns each index' exact share of the slots.
    fn shares(sampler: &Sampler) -> Vec<f64> {
        let slots = match sampler {
            Sampler::Even(count) => return vec![1.0 / f64::from(*count); *count as usize],
            Sampler::Alias(slots) => slots,
        };
        let mut shares = vec![0.0; slots.len()];
        for (own, slot) in slots.iter().enumerate() {
            let part = f64::from(slot.threshold) / 4_294_967_296.0;
            shares[own] += part / slots.len() as f64;
            shares[slot.alias as usize] += (1.0 - part) / slots.len() as f64;
        }
        shares
    }

    proptest! {
        #[test]
        fn each_weight_has_its_share(weights in prop::collection::vec(1..100_000u32, 1..60)) {
            let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (share, weight) in shares(&Sampler::new(&weights)).iter().zip(&weights) {
                prop_assert!((share - f64::from(*weight) / sum).abs() < 1e-7);
            }
        }
    }

    #[test]
    fn samples_have_these_shares() {
        let sampler = Sampler::new(&[1, 2, 7]);
        let mut chance = Chance::seeded(1);
        let mut counts = [0.0f64; 3];
        for _ in 0..100_000 {
            counts[sampler.sample(&mut chance)] += 1.0 / 100_000.0;
        }
        for (count, share) in counts.iter().zip([0.1, 0.2, 0.7]) {
            assert!((count - share).abs() < 0.01, "{counts:?}");
        }
    }
}
