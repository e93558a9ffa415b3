//! From shares to the whole numbers that the kernel balances by, and the growing share of an endpoint that is new.
#![forbid(unsafe_code)]

use std::time::Duration;

/// The smallest share becomes this many, so that rounding moves none by more than half a percent of itself.
const UNITS: f64 = 100.0;

/// The sum of weights stays below this, so that it fits a `u32` with one more for each endpoint.
const SUM_MAX: f64 = 2_147_483_648.0;

/// A new endpoint gets at least this share of its weight: enough to become warm at all (Envoy's default).
const SLOW_START_MIN: f64 = 0.1;

/// How steeply the share of a new endpoint grows; 1 is a straight line (Envoy's default).
const AGGRESSION: f64 = 1.0;

/// Returns the part of its weight that an endpoint gets `age` after it became healthy.
pub(super) fn slow_start(age: Duration, window: Duration) -> f64 {
    if age >= window {
        return 1.0;
    }
    let age = age.max(Duration::from_millis(1)).as_secs_f64();
    let part = (age / window.as_secs_f64()).powf(1.0 / AGGRESSION);
    part.clamp(SLOW_START_MIN, 1.0)
}

/// Returns whole weights in these proportions. Each share is above 0, and so is each weight.
pub(super) fn integers(shares: &[f64]) -> Vec<u32> {
    let sum: f64 = shares.iter().sum();
    let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
    let scale = (UNITS / least).min(SUM_MAX / sum);
    let whole = |share: &f64| whole(share * scale);
    let mut weights: Vec<u32> = shares.iter().map(whole).collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter_mut().for_each(|weight| *weight /= divisor);
    weights
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 1 and SUM_MAX by the line before"
)]
fn whole(value: f64) -> u32 {
    value.round().clamp(1.0, SUM_MAX) as u32
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_endpoint_grows_along_a_line_from_a_tenth() {
        let window = Duration::from_secs(10);
        let at = |seconds| slow_start(Duration::from_millis(seconds), window);
        assert_eq!(at(0), 0.1);
        assert_eq!(at(500), 0.1);
        assert_eq!(at(2_000), 0.2);
        assert_eq!(at(5_000), 0.5);
        assert_eq!(at(10_000), 1.0);
        assert_eq!(slow_start(Duration::ZERO, Duration::ZERO), 1.0);
    }

    #[test]
    fn equal_shares_weigh_one() {
        assert_eq!(integers(&[0.2; 5]), [1; 5]);
        assert_eq!(integers(&[0.5, 0.25, 0.25]), [2, 1, 1]);
        assert_eq!(integers(&[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn shares_stay_within_one_percent(shares in prop::collection::vec(0.001f64..1000.0, 1..50)) {
            let weights = integers(&shares);
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            let sum: f64 = shares.iter().sum();
            prop_assert!(total <= f64::from(u32::MAX));
            for (weight, share) in weights.iter().zip(&shares) {
                let (got, wanted) = (f64::from(*weight) / total, share / sum);
                prop_assert!((got - wanted).abs() <= wanted * 0.0101, "{got} instead of {wanted}");
            }
        }
    }
}
