//! The token bucket, as the generic cell rate algorithm (ITU-T I.371): one number says it all, the time at which the bucket would be
//! full again.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Limit, Limited, Now};

/// A token bucket without a lock.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// When it is full: the theoretical arrival time.
    full_at: AtomicU64,
}

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Time for each token.
    every_ns: u64,
    /// Time for all tokens that it holds.
    burst_ns: u64,
}

impl Rate {
    /// Returns the rate of `count` tokens in `per_ns`, of which `burst` may be taken at once. All three count as 1 where they are 0.
    /// A token comes every so many whole nanoseconds: a million in a second are exact to a thousandth.
    pub fn new(count: u32, per_ns: u64, burst: u32) -> Self {
        let every_ns = (per_ns / u64::from(count.max(1))).max(1);
        Self {
            every_ns,
            burst_ns: every_ns.saturating_mul(u64::from(burst.max(1))),
        }
    }

    /// Returns when the bucket is full after one more token is taken.
    fn take(self, full_at: Now, now: Now) -> Result<Now, Limited> {
        let next = full_at.max(now).saturating_add(self.every_ns);
        let latest = now.saturating_add(self.burst_ns);
        if next > latest {
            return Err(Limited {
                wait_ns: next - latest,
            });
        }
        Ok(next)
    }
}

impl Bucket {
    /// Returns a full bucket.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            full_at: AtomicU64::default(),
        }
    }
}

impl Limit for Bucket {
    fn take(&self, now: Now) -> Result<(), Limited> {
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let next = self.rate.take(full_at, now)?;
            match self.full_at.compare_exchange_weak(
                full_at,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_burst_and_then_the_rate() {
        let bucket = Bucket::new(Rate::new(10, S, 3));
        for _ in 0..3 {
            assert_eq!(bucket.take(S), Ok(()));
        }
        assert_eq!(bucket.take(S), Err(Limited { wait_ns: S / 10 }));
        assert_eq!(bucket.take(S + S / 10 - 1), Err(Limited { wait_ns: 1 }));
        assert_eq!(bucket.take(S + S / 10), Ok(()));
        assert!(bucket.take(S + S / 10).is_err());
        // Idle time fills it, but not above the brim.
        let taken = (0..10).filter(|_| bucket.take(100 * S).is_ok()).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn zeros_and_extremes_are_limits_too() {
        let bucket = Bucket::new(Rate::new(0, 0, 0));
        assert_eq!(bucket.take(5), Ok(()));
        assert_eq!(bucket.take(5), Err(Limited { wait_ns: 1 }));
        let bucket = Bucket::new(Rate::new(1, u64::MAX, u32::MAX));
        assert_eq!(bucket.take(u64::MAX), Ok(()));
    }

    #[test]
    fn threads_take_no_more_than_there_is() {
        let bucket = Bucket::new(Rate::new(1000, S, 500));
        let taken: usize = std::thread::scope(|scope| {
            let work = || (0..1000).filter(|_| bucket.take(S).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(taken, 500);
    }

    proptest! {
        /// Against a bucket that counts tokens, in parts of as many as the rate is high.
        #[test]
        fn equals_a_bucket_of_tokens(
            count in 1..50u64,
            burst in 1..20u64,
            pauses in prop::collection::vec(0..500_000_000u64, 1..300),
        ) {
            // Whole nanoseconds for each token, so that the model needs no fractions.
            let every = 1_000_000 * count;
            let bucket = Bucket::new(Rate::new(1, every, u32::try_from(burst).unwrap()));
            let (mut filled_ns, mut now) = (burst * every, S);
            for pause in pauses {
                now += pause;
                filled_ns = (filled_ns + pause).min(burst * every);
                let allowed = filled_ns >= every;
                match bucket.take(now) {
                    Ok(()) => prop_assert!(allowed),
                    Err(Limited { wait_ns }) => prop_assert_eq!(wait_ns + filled_ns, every),
                }
                if allowed {
                    filled_ns -= every;
                }
            }
        }
    }
}
