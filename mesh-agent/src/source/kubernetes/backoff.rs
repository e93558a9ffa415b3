//! Pauses between tries, random so that many agents do not come back together.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::limits;
use crate::chance::Chance;

/// A row of pauses.
#[derive(Debug)]
pub(super) struct Backoff {
    chance: Chance,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(chance: Chance) -> Self {
        Self {
            chance,
            failures: 0,
        }
    }

    /// Begins anew.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns how long to wait after another failure; never less than the server asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let whole = limits::PAUSE.saturating_mul(1 << self.failures.min(10));
        let whole = whole.min(limits::PAUSE_AT_MOST);
        self.failures += 1;
        let pause = self.between(whole / 2, whole);
        match asked {
            // All were asked for the same.
            Some(asked) => asked + pause,
            None => pause,
        }
    }

    /// Returns a random time.
    pub(super) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let range = most.saturating_sub(least);
        least + range.mul_f64(self.chance.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_no_two_agents_have_the_same() {
        let mut one = Backoff::new(Chance::seeded(1));
        let mut other = Backoff::new(Chance::seeded(2));
        let mut same = 0;
        for failure in 0..20_u32 {
            let whole = limits::PAUSE * (1 << failure.min(10));
            let whole = whole.min(limits::PAUSE_AT_MOST);
            let (first, second) = (one.next(None), other.next(None));
            assert!((whole / 2..=whole).contains(&first), "{first:?}");
            same += usize::from(first == second);
        }
        assert_eq!(same, 0);
        one.reset();
        assert!(one.next(None) <= limits::PAUSE);
    }

    #[test]
    fn what_the_server_asks_for_is_the_least() {
        let mut backoff = Backoff::new(Chance::seeded(1));
        let asked = Duration::from_secs(7);
        assert!(backoff.next(Some(asked)) > asked);
    }
}
