//! The peak-sensitive moving average of an endpoint's latency (Finagle's Peak EWMA), without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Now;

/// What an endpoint with requests in flight but no answer yet costs: more than any latency.
const UNKNOWN: f64 = (u64::MAX >> 16) as f64;

/// Goes up to a higher latency at once, and down exponentially with time.
#[derive(Debug, Default)]
pub(super) struct Ewma {
    /// Bits of an `f64` of nanoseconds; 0 before the first latency.
    cost: AtomicU64,
    /// When a latency last came in.
    stamp: AtomicU64,
}

impl Ewma {
    /// Takes in a latency.
    pub(super) fn observe(&self, latency_ns: u64, now: Now, decay_ns: u64) {
        // Each caller takes the time since the one before, so that none of it is counted twice.
        let before = self.stamp.fetch_max(now, Ordering::AcqRel);
        let keep = keep(now.saturating_sub(before), decay_ns);
        let latency = float(latency_ns.max(1));
        let next = |bits: u64| {
            let cost = f64::from_bits(bits);
            let next = if bits == 0 || latency > cost {
                latency
            } else {
                cost * keep + latency * (1.0 - keep)
            };
            Some(next.to_bits())
        };
        // Always `Some`, so this always succeeds.
        self.cost
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .ok();
    }

    /// Returns the average at this time; 0 before the first latency.
    pub(super) fn cost(&self, now: Now, decay_ns: u64) -> f64 {
        let cost = f64::from_bits(self.cost.load(Ordering::Acquire));
        let age = now.saturating_sub(self.stamp.load(Ordering::Acquire));
        cost * keep(age, decay_ns)
    }

    /// Returns what one more request costs where `pending` are in flight: a wait for all of them.
    pub(super) fn load(&self, pending: f64, now: Now, decay_ns: u64) -> f64 {
        let cost = self.cost(now, decay_ns);
        if cost == 0.0 && pending > 0.0 {
            return UNKNOWN + pending;
        }
        cost * (pending + 1.0)
    }
}

/// Returns the part of an average that is left after this time.
fn keep(age_ns: u64, decay_ns: u64) -> f64 {
    let ages = float(age_ns) / float(decay_ns.max(1));
    if ages < 1e-3 {
        // The series' first terms, right to ten digits: most endpoints of a busy service answered just now.
        return 1.0 - ages + ages * ages / 2.0;
    }
    (-ages).exp()
}

/// Exact below 104 days.
fn float(ns: u64) -> f64 {
    ns as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const DECAY: u64 = 10 * S;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() <= b.abs() * 1e-12, "{a} instead of {b}");
    }

    #[test]
    fn follows_the_formula() {
        let ewma = Ewma::default();
        assert_eq!(ewma.cost(S, DECAY), 0.0);
        ewma.observe(100, S, DECAY);
        near(ewma.cost(S, DECAY), 100.0);
        // Lower: a part of it, by time.
        ewma.observe(20, 3 * S, DECAY);
        let keep = (-0.2f64).exp();
        let expected = 100.0 * keep + 20.0 * (1.0 - keep);
        near(ewma.cost(3 * S, DECAY), expected);
        // Higher, be it by little: all of it, at once.
        ewma.observe(90, 3 * S, DECAY);
        assert!((85.0..90.0).contains(&expected));
        near(ewma.cost(3 * S, DECAY), 90.0);
        // No time has gone by: a lower latency changes nothing.
        ewma.observe(1, 3 * S, DECAY);
        near(ewma.cost(3 * S, DECAY), 90.0);
        // Time alone lets it fall, to 1/e after `DECAY`.
        near(ewma.cost(13 * S, DECAY), 90.0 / std::f64::consts::E);
    }

    #[test]
    fn load_counts_requests_in_flight_and_an_unknown_endpoint_gets_one() {
        let ewma = Ewma::default();
        assert_eq!(ewma.load(0.0, S, DECAY), 0.0);
        assert_eq!(ewma.load(3.0, S, DECAY), UNKNOWN + 3.0);
        ewma.observe(100, S, DECAY);
        near(ewma.load(0.0, S, DECAY), 100.0);
        near(ewma.load(3.0, S, DECAY), 400.0);
    }

    #[test]
    fn an_earlier_time_does_not_turn_the_clock_back() {
        let ewma = Ewma::default();
        ewma.observe(100, 10 * S, DECAY);
        ewma.observe(50, 9 * S, DECAY);
        near(ewma.cost(9 * S, DECAY), 100.0);
        near(ewma.cost(20 * S, DECAY), 100.0 / std::f64::consts::E);
    }

    #[test]
    fn threads_leave_an_average_between_the_least_and_the_most() {
        let ewma = Ewma::default();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let ewma = &ewma;
                scope.spawn(move || {
                    for i in 0..10_000 {
                        ewma.observe(100 + thread, S + i * 1_000_000, DECAY);
                    }
                });
            }
        });
        let cost = ewma.cost(11 * S, DECAY);
        assert!(
            (100.0 / std::f64::consts::E..=103.0).contains(&cost),
            "{cost}"
        );
    }
}
