//! Small random numbers for jitter. Not for secrets.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A row of random numbers (`SplitMix64`, Steele et al., OOPSLA 2014). The same seed gives the same row.
#[derive(Clone, Debug, Default)]
pub struct Chance(u64);

impl Chance {
    /// Returns the row of this seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a row that differs from run to run.
    pub fn random() -> Self {
        Self(RandomState::new().hash_one(0))
    }

    /// Returns the next number, of all 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// Returns the next number, from 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        // 24 bits are exact in any float.
        f64::from(u32::try_from(self.bits() >> 40).unwrap_or(0)) / 16_777_216.0
    }

    /// Returns a duration of about this one, up to a tenth less or more: so that not all end at the same time that began at the same
    /// time.
    pub fn about(&mut self, duration: Duration) -> Duration {
        duration.mul_f64(0.9 + 0.2 * self.unit())
    }

    /// Returns the next number, from 0 to below `limit`; 0 where `limit` is 0. Each is equally likely but for one part in 2^32.
    pub fn below(&mut self, limit: u32) -> u32 {
        let product = (self.bits() >> 32) * u64::from(limit);
        u32::try_from(product >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_over_the_unit() {
        let mut chance = Chance::seeded(1);
        let numbers: Vec<f64> = (0..1000).map(|_| chance.unit()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        let mean = numbers.iter().sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }

    #[test]
    fn durations_are_a_tenth_more_or_less_and_evenly_so() {
        let mut chance = Chance::seeded(1);
        let hour = Duration::from_secs(3600);
        let mut seen = [0; 4];
        for _ in 0..1000 {
            let more = chance.about(hour).as_secs_f64() - 3240.0;
            assert!((0.0..720.0).contains(&more), "{more}");
            seen[(0..4)
                .rfind(|part| more >= f64::from(*part) * 180.0)
                .unwrap() as usize] += 1;
        }
        assert!(
            seen.iter().all(|count| (200..300).contains(count)),
            "{seen:?}"
        );
        assert_eq!(chance.about(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn whole_numbers_stay_below_their_limit_and_reach_all_of_it() {
        let mut chance = Chance::seeded(1);
        let mut seen = [0; 10];
        for _ in 0..1000 {
            seen[chance.below(10) as usize] += 1;
        }
        assert!(
            seen.iter().all(|count| (60..140).contains(count)),
            "{seen:?}"
        );
        assert_eq!((chance.below(1), chance.below(0)), (0, 0));
    }
}
