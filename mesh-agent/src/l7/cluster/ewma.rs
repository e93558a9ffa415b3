//! The peak-sensitive moving average of an endpoint's latency (Finagle's Peak EWMA), without a lock.
//!
//! One thing is added to its formula: an average is believed for as long as it has been borne out. Finagle's is left alone for minutes
//! after a single slow answer, since nobody asks again who could say that it was the only one. Here what one answer alone says is
//! forgotten eight times as fast; what eight in a row have said, as the formula has it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Now;

/// What an endpoint with requests in flight but no answer yet costs: more than any latency.
const UNKNOWN: f64 = (u64::MAX >> 16) as f64;

/// Latencies in a row that have to be alike for the average to be believed in full.
const SURE: u32 = 8;

/// Latencies are alike where neither is more than this many times the other.
const ALIKE: f64 = 2.0;

/// Goes up to a higher latency at once, and down exponentially with time.
#[derive(Debug, Default)]
pub(super) struct Ewma {
    /// Bits of an `f64` of nanoseconds; 0 before the first latency.
    cost: AtomicU64,
    /// When a latency last came in.
    stamp: AtomicU64,
    /// Latencies in a row that were alike, up to [`SURE`].
    row: AtomicU32,
}

impl Ewma {
    /// Takes in a latency.
    pub(super) fn observe(&self, latency_ns: u64, now: Now, decay_ns: u64) {
        // Each caller takes the time since the one before, so that none of it is counted twice.
        let before = self.stamp.fetch_max(now, Ordering::AcqRel);
        let keep = self.keep(now.saturating_sub(before), decay_ns);
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
        let known = self
            .cost
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        // Always `Some`, so this always succeeds.
        let known = known.map_or(0.0, f64::from_bits);
        let is_alike = latency <= known * ALIKE && known <= latency * ALIKE;
        // A count that another thread's answer is missing from is as good.
        let row = self.row.load(Ordering::Relaxed);
        let next = if is_alike { (row + 1).min(SURE) } else { 1 };
        if next != row {
            self.row.store(next, Ordering::Relaxed);
        }
    }

    /// Returns the average at this time; 0 before the first latency.
    pub(super) fn cost(&self, now: Now, decay_ns: u64) -> f64 {
        let cost = f64::from_bits(self.cost.load(Ordering::Acquire));
        let age = now.saturating_sub(self.stamp.load(Ordering::Acquire));
        cost * self.keep(age, decay_ns)
    }

    /// Returns the part of the average that is left after this time.
    fn keep(&self, age_ns: u64, decay_ns: u64) -> f64 {
        let row = u64::from(self.row.load(Ordering::Relaxed));
        keep(age_ns, decay_ns / u64::from(SURE) * row.max(1))
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

    /// One that has been borne out at this latency, at 1 s.
    fn sure(latency: u64) -> Ewma {
        let ewma = Ewma::default();
        (0..SURE).for_each(|_| ewma.observe(latency, S, DECAY));
        ewma
    }

    #[test]
    fn follows_the_formula() {
        let ewma = Ewma::default();
        assert_eq!(ewma.cost(S, DECAY), 0.0);
        ewma.observe(100, S, DECAY);
        near(ewma.cost(S, DECAY), 100.0);
        let ewma = sure(100);
        // Lower: a part of it, by time.
        ewma.observe(50, 3 * S, DECAY);
        let keep = (-0.2f64).exp();
        let expected = 100.0 * keep + 50.0 * (1.0 - keep);
        near(ewma.cost(3 * S, DECAY), expected);
        // Higher, be it by little: all of it, at once.
        ewma.observe(92, 3 * S, DECAY);
        assert!((85.0..92.0).contains(&expected), "{expected}");
        near(ewma.cost(3 * S, DECAY), 92.0);
        // No time has gone by: a lower latency changes nothing.
        ewma.observe(50, 3 * S, DECAY);
        near(ewma.cost(3 * S, DECAY), 92.0);
        // Time alone lets it fall, to 1/e after `DECAY`.
        near(ewma.cost(13 * S, DECAY), 92.0 / std::f64::consts::E);
    }

    #[test]
    fn what_one_latency_alone_says_is_forgotten_sooner() {
        let ewma = sure(100);
        ewma.observe(1000, S, DECAY);
        near(ewma.cost(S, DECAY), 1000.0);
        near(
            ewma.cost(S + DECAY / 8, DECAY),
            1000.0 / std::f64::consts::E,
        );
        // Each that bears it out makes it last.
        for row in 2..=10 {
            ewma.observe(1000, S, DECAY);
            let part = DECAY / 8 * u64::from(SURE.min(row));
            near(ewma.cost(S + part, DECAY), 1000.0 / std::f64::consts::E);
        }
        // What is far lower is news, too.
        ewma.observe(499, S, DECAY);
        near(ewma.cost(S, DECAY), 1000.0);
        near(
            ewma.cost(S + DECAY / 8, DECAY),
            1000.0 / std::f64::consts::E,
        );
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
        (0..SURE).for_each(|_| ewma.observe(100, 10 * S, DECAY));
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
