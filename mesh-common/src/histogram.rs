//! The log2 histogram of durations.

/// Number of buckets: bucket `i` counts durations below `2^i` microseconds that no lower bucket counts.
///
/// 24 reach from below 1 us to above 4.19 s (the last takes all the rest): shorter is below what a clock read costs,
/// longer is a time-out, not a latency.
pub const BUCKETS: usize = 24;

/// Returns the bucket of a duration of `us` microseconds.
#[inline(always)]
pub const fn bucket(us: u64) -> usize {
    let bits = (u64::BITS - us.leading_zeros()) as usize;
    if bits < BUCKETS { bits } else { BUCKETS - 1 }
}

/// Returns the upper bound of a bucket in microseconds (exclusive), or `None` for the last, which has none.
pub const fn upper_bound_us(bucket: usize) -> Option<u64> {
    if bucket + 1 < BUCKETS {
        Some(1 << bucket)
    } else {
        None
    }
}

/// Returns the `q`-quantile (`0.0..=1.0`) in microseconds, by linear interpolation inside its bucket as Prometheus'
/// `histogram_quantile` does, or `None` when nothing was counted. The last bucket answers with its lower bound.
#[cfg(feature = "user")]
#[expect(clippy::cast_precision_loss, clippy::allow_attributes_without_reason)]
pub fn quantile_us(counts: &[u64], q: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = q * total as f64;
    let mut below = 0u64;
    for (i, count) in counts.iter().enumerate() {
        let reached = below + count;
        if *count > 0 && reached as f64 >= rank {
            let low = if i == 0 {
                0.0
            } else {
                (1u64 << (i - 1)) as f64
            };
            let Some(high) = upper_bound_us(i) else {
                return Some(low);
            };
            let share = ((rank - below as f64) / *count as f64).clamp(0.0, 1.0);
            return Some(low + (high as f64 - low) * share);
        }
        below = reached;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_duration_lies_within_its_bucket(us in any::<u64>()) {
            let i = bucket(us);
            if let Some(high) = upper_bound_us(i) {
                prop_assert!(us < high);
            }
            if i > 0 {
                prop_assert!(us >= 1 << (i - 1));
            }
        }

        /// Against the plain meaning of the words: the sorted durations, and the bucket of the one at that rank.
        #[cfg(feature = "user")]
        #[test]
        fn a_quantile_lies_in_the_bucket_of_its_rank(
            mut durations in proptest::collection::vec(0..1u64 << 25, 1..200),
            percent in 0..=100u32,
        ) {
            let mut counts = [0u64; BUCKETS];
            durations.iter().for_each(|us| counts[bucket(*us)] += 1);
            durations.sort_unstable();
            let q = f64::from(percent) / 100.0;
            let found = quantile_us(&counts, q).expect("not empty");
            let count = u32::try_from(durations.len()).expect("few");
            // The first duration at or above the rank; at least the first of all.
            let at = (0..durations.len())
                .find(|at| u32::try_from(at + 1).is_ok_and(|reached| f64::from(reached) >= q * f64::from(count)))
                .expect("the last at the latest");
            let i = bucket(durations[at]);
            let low = if i == 0 { 0 } else { 1u64 << (i - 1) };
            let high = upper_bound_us(i).unwrap_or(low);
            let within = |bound: u64| u32::try_from(bound).map(f64::from).expect("small");
            prop_assert!(within(low) <= found && found <= within(high), "{found} not in {low}..={high}");
        }

        #[cfg(feature = "user")]
        #[test]
        fn quantiles_rise_with_their_rank(counts in proptest::collection::vec(0..1000u64, BUCKETS)) {
            let all: Vec<Option<f64>> = (0..=20).map(|n| quantile_us(&counts, f64::from(n) / 20.0)).collect();
            prop_assert!(all.windows(2).all(|two| two[0] <= two[1]), "{all:?}");
            prop_assert_eq!(all[0].is_none(), counts.iter().all(|count| *count == 0));
        }
    }
}
