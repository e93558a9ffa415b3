//! Adaptive concurrency: as many requests in flight as the cluster answers without queueing, found from latencies alone (Envoy's
//! gradient controller).
//!
//! From time to time the limit goes down to its least for a few requests, whose median latency is taken for the least there is.
//! In between, the limit follows the ratio of that to the median of each short window.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Now;
use super::hash::mix;
use super::policy::ConcurrencyPolicy;

/// Windows in a row at the least limit, after which the least latency is not believed any more.
const AT_MIN: u32 = 5;

/// The limit, and what it follows from.
#[derive(Debug)]
pub(super) struct Gradient {
    pub(super) policy: ConcurrencyPolicy,
    limit: AtomicU32,
    /// When the window ends; [`Now::MAX`] while the least latency is measured.
    due: AtomicU64,
    /// Requests that were sent earlier say nothing.
    epoch: AtomicU64,
    samples: AtomicU32,
    latencies: Latencies,
    phase: Mutex<Phase>,
}

#[derive(Debug)]
struct Phase {
    /// The limit to go back to, while the least latency is measured.
    deferred: Option<u32>,
    min_rtt_ns: u64,
    /// When the least latency is measured next.
    measure_at: Now,
    at_min: u32,
}

impl Gradient {
    /// Begins by measuring the least latency.
    pub(super) fn new(policy: ConcurrencyPolicy) -> Self {
        Self {
            limit: AtomicU32::new(policy.min),
            due: AtomicU64::new(Now::MAX),
            epoch: AtomicU64::default(),
            samples: AtomicU32::default(),
            latencies: Latencies::default(),
            phase: Mutex::new(Phase {
                deferred: Some(policy.min),
                min_rtt_ns: 0,
                measure_at: Now::MAX,
                at_min: 0,
            }),
            policy,
        }
    }

    /// Returns how many requests may be in flight.
    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes in the latency of a request that was answered.
    pub(super) fn observe(&self, latency_ns: u64, now: Now) {
        if now.saturating_sub(latency_ns) < self.epoch.load(Ordering::Relaxed) {
            return;
        }
        let due = self.due.load(Ordering::Relaxed);
        if now >= due {
            // Of this window's samples, this is not one.
            self.end_window(now);
            if self.due.load(Ordering::Relaxed) == Now::MAX {
                // It was sent before the measurement began.
                return;
            }
        }
        self.latencies.add(latency_ns);
        let samples = self.samples.fetch_add(1, Ordering::Relaxed) + 1;
        if due == Now::MAX && samples >= self.policy.min_rtt_requests {
            self.end_measurement(now);
        }
    }

    fn end_window(&self, now: Now) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if now < self.due.load(Ordering::Relaxed) {
            // Another thread was first.
            return;
        }
        if let Some(sample_ns) = self.latencies.median() {
            let limit = next(self.limit(), phase.min_rtt_ns, sample_ns, &self.policy);
            let is_least = limit == self.policy.min;
            phase.at_min = if is_least { phase.at_min + 1 } else { 0 };
            self.limit.store(limit, Ordering::Relaxed);
        }
        if now >= phase.measure_at || phase.at_min >= AT_MIN {
            phase.at_min = 0;
            phase.deferred = Some(self.limit());
            self.limit.store(self.policy.min, Ordering::Relaxed);
            self.epoch.store(now, Ordering::Relaxed);
            self.begin(Now::MAX);
        } else {
            self.begin(now.saturating_add(self.policy.update_ns));
        }
    }

    fn end_measurement(&self, now: Now) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(limit) = phase.deferred.take() else {
            return;
        };
        phase.min_rtt_ns = self.latencies.median().unwrap_or(0);
        let interval = self.policy.min_rtt_interval_ns;
        let jitter = interval / 100 * u64::from(self.policy.jitter_percent);
        let jitter = mix(now) % jitter.saturating_add(1);
        phase.measure_at = now.saturating_add(interval).saturating_add(jitter);
        self.limit.store(limit, Ordering::Relaxed);
        self.begin(now.saturating_add(self.policy.update_ns));
    }

    fn begin(&self, due: Now) {
        self.latencies.clear();
        self.samples.store(0, Ordering::Relaxed);
        self.due.store(due, Ordering::Relaxed);
    }
}

/// Returns the limit after a window of this median latency: `limit * gradient + sqrt(limit * gradient)`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to a range of `u32` before"
)]
fn next(limit: u32, min_rtt_ns: u64, sample_ns: u64, policy: &ConcurrencyPolicy) -> u32 {
    let buffered = min_rtt_ns as f64 * (1.0 + f64::from(policy.buffer_percent) / 100.0);
    let gradient = (buffered / sample_ns.max(1) as f64).clamp(0.5, 2.0);
    let limit = f64::from(limit) * gradient;
    let headroom = limit.sqrt();
    let most = f64::from(policy.max.max(policy.min));
    (limit + headroom).clamp(f64::from(policy.min), most) as u32
}

/// Bits of a latency that its bucket tells exactly, below the highest: to 3 percent.
const EXACT: u32 = 5;

/// Buckets: those below 2^EXACT, and as many for each further power of two.
const BUCKETS: usize = (64 - EXACT as usize + 1) << EXACT;

/// A histogram of latencies.
#[derive(Debug)]
struct Latencies(Box<[AtomicU32]>);

impl Default for Latencies {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU32::default()).collect())
    }
}

impl Latencies {
    fn add(&self, latency_ns: u64) {
        self.0[bucket(latency_ns)].fetch_add(1, Ordering::Relaxed);
    }

    fn clear(&self) {
        for bucket in &self.0 {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    fn median(&self) -> Option<u64> {
        let counts = || self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let total: u64 = counts().map(u64::from).sum();
        let mut seen = 0;
        let at = counts().position(|count| {
            seen += u64::from(count);
            seen * 2 >= total.max(1)
        });
        at.map(lowest)
    }
}

fn bucket(latency_ns: u64) -> usize {
    let shift = (64 - EXACT - 1).saturating_sub(latency_ns.leading_zeros());
    let power = if latency_ns >> EXACT == 0 {
        0
    } else {
        shift + 1
    };
    let rest = (latency_ns >> power.saturating_sub(1)) & ((1 << EXACT) - 1);
    (power as usize) << EXACT | usize::try_from(rest).unwrap_or(0)
}

/// Returns the lowest latency of a bucket.
fn lowest(bucket: usize) -> u64 {
    let rest = (bucket & ((1 << EXACT) - 1)) as u64;
    match bucket >> EXACT {
        0 => rest,
        power => (rest | 1 << EXACT) << (power - 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const S: u64 = 1_000 * MS;

    /// The lowest of the bucket: what the controller takes a latency for.
    fn rounded(latency_ns: u64) -> u64 {
        lowest(bucket(latency_ns))
    }

    /// A controller that has measured this least latency, at 1 s.
    fn measured(min_rtt: u64, policy: ConcurrencyPolicy) -> Gradient {
        let gradient = Gradient::new(policy);
        for _ in 0..50 {
            assert_eq!(gradient.limit(), policy.min);
            gradient.observe(min_rtt, S);
        }
        assert_eq!(gradient.due.load(Ordering::Relaxed), S + policy.update_ns);
        gradient
    }

    /// Lets a window of this latency end; returns the time.
    fn window(gradient: &Gradient, latency: u64, now: Now) -> Now {
        gradient.observe(latency, now);
        let end = gradient.due.load(Ordering::Relaxed);
        gradient.observe(latency, end);
        end
    }

    #[test]
    fn follows_the_formula_step_by_step() {
        let policy = ConcurrencyPolicy::default();
        let gradient = measured(10 * MS, policy);
        let mut now = S;
        let mut limit = 3.0f64;
        for latency in [10, 10, 12, 14, 20, 30, 100, 9, 8].map(|ms| ms * MS) {
            // The first sample of a window is that which ended the one before: all of one are alike.
            gradient.begin(gradient.due.load(Ordering::Relaxed));
            now = window(&gradient, latency, now);
            let ratio = 1.25 * rounded(10 * MS) as f64 / rounded(latency) as f64;
            let scaled = limit.floor() * ratio.clamp(0.5, 2.0);
            limit = (scaled + scaled.sqrt()).clamp(3.0, 1000.0);
            assert_eq!(f64::from(gradient.limit()), limit.floor(), "{latency}");
        }
    }

    #[test]
    fn settles_where_latency_begins_to_grow() {
        let gradient = measured(10 * MS, ConcurrencyPolicy::default());
        let mut now = S;
        for _ in 0..200 {
            // A service of 100 requests at a time: more of them wait.
            let latency = (10 * MS).max(u64::from(gradient.limit()) * MS / 10);
            now = window(&gradient, latency, now);
        }
        assert!(
            (110..180).contains(&gradient.limit()),
            "{}",
            gradient.limit()
        );
    }

    #[test]
    fn never_leaves_its_bounds() {
        let policy = ConcurrencyPolicy::default();
        assert_eq!(next(1000, 10, 1, &policy), 1000);
        assert_eq!(next(3, 10, 1_000, &policy), 3);
        assert_eq!(next(100, 100, 125, &policy), 110);
    }

    #[test]
    fn measures_again_after_the_interval_and_takes_its_limit_up_again() {
        let policy = ConcurrencyPolicy {
            jitter_percent: 0,
            ..ConcurrencyPolicy::default()
        };
        let gradient = measured(10 * MS, policy);
        let mut now = S;
        while gradient.due.load(Ordering::Relaxed) != Now::MAX {
            now = window(&gradient, 10 * MS, now);
        }
        assert!((61 * S..62 * S).contains(&now), "{now}");
        assert_eq!(gradient.limit(), 3);
        // Sent before: does not count.
        (0..100).for_each(|_| gradient.observe(20 * MS, now + 10 * MS));
        assert_eq!(gradient.limit(), 3);
        (0..50).for_each(|_| gradient.observe(20 * MS, now + 30 * MS));
        assert_eq!(gradient.limit(), 1000);
        assert_eq!(gradient.phase.lock().unwrap().min_rtt_ns, rounded(20 * MS));
    }

    #[test]
    fn five_windows_at_the_least_limit_make_it_measure_again() {
        let gradient = measured(10 * MS, ConcurrencyPolicy::default());
        let mut now = S;
        for _ in 0..4 {
            now = window(&gradient, 100 * MS, now);
            assert_ne!(gradient.due.load(Ordering::Relaxed), Now::MAX);
        }
        now = window(&gradient, 100 * MS, now);
        assert_eq!(gradient.due.load(Ordering::Relaxed), Now::MAX);
        (0..50).for_each(|_| gradient.observe(100 * MS, now + S));
        window(&gradient, 100 * MS, now + S);
        assert!(gradient.limit() > 3);
    }

    #[test]
    fn threads_keep_it_within_its_bounds() {
        let gradient = Gradient::new(ConcurrencyPolicy::default());
        std::thread::scope(|scope| {
            for thread in 1..=4u64 {
                let gradient = &gradient;
                scope.spawn(move || {
                    for i in 0..20_000 {
                        gradient.observe(thread * MS, S + i * 2 * MS);
                        assert!((3..=1000).contains(&gradient.limit()));
                    }
                });
            }
        });
        assert_ne!(gradient.phase.lock().unwrap().min_rtt_ns, 0);
    }

    proptest! {
        #[test]
        fn a_bucket_is_within_a_thirtieth(latency in any::<u64>()) {
            let low = rounded(latency);
            prop_assert!(low <= latency && latency - low <= latency / 32);
            prop_assert!(bucket(latency) < BUCKETS);
        }
    }
}
