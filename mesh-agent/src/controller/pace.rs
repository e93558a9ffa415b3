//! How fast is written: buckets of tokens, and pauses after failures. Pure.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::Instant;

use crate::chance::Chance;

/// A bucket of tokens: so many at once, and then one after each time.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    most: u32,
    every: Duration,
    left: u32,
    /// When the token after those that are left came or comes.
    next: Instant,
}

impl Bucket {
    pub(super) fn new(most: u32, every: Duration, now: Instant) -> Self {
        Self {
            most,
            every,
            left: most,
            next: now + every,
        }
    }

    /// Takes a token, or returns when there will be one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        while self.next <= now && self.left < self.most {
            self.left += 1;
            self.next += self.every;
        }
        if self.left == 0 {
            return Err(self.next);
        }
        if self.left == self.most {
            // A full bucket fills no further: time counts from here on.
            self.next = now + self.every;
        }
        self.left -= 1;
        Ok(())
    }

    /// Returns whether it is as full as a new one.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        let missing = self.most - self.left;
        missing == 0 || now >= self.next + self.every * (missing - 1)
    }
}

/// Returns the pause after so many failures in a row: from half to the whole of a time that doubles up to `most`.
pub(super) fn pause(
    failures: u32,
    first: Duration,
    most: Duration,
    chance: &mut Chance,
) -> Duration {
    let whole = first.saturating_mul(1 << failures.min(16)).min(most);
    whole.mul_f64(0.5 + 0.5 * chance.unit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_many_at_once_and_then_one_at_a_time() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = Bucket::new(3, second, start);
        let late = start + 100 * second;
        for _ in 0..3 {
            assert_eq!(bucket.take(late), Ok(()));
        }
        assert_eq!(bucket.take(late), Err(late + second));
        assert!(!bucket.is_full(late + 2 * second));
        assert_eq!(bucket.take(late + second), Ok(()));
        assert_eq!(bucket.take(late + second), Err(late + 2 * second));
        assert!(bucket.is_full(late + 4 * second));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut chance = Chance::seeded(1);
        let (first, most) = (Duration::from_millis(200), Duration::from_secs(30));
        for failures in 0..40 {
            let whole = first.saturating_mul(1 << failures.min(16)).min(most);
            let pause = pause(failures, first, most, &mut chance);
            assert!((whole / 2..=whole).contains(&pause), "{pause:?}");
        }
    }
}
