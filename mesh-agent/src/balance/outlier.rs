//! Passive outlier detection: which endpoints what the kernel counted speaks against. Numbers are Envoy's defaults where it has
//! the same thing.
//!
//! The kernel tells sums, not the outcome of each connect: a connect that has not failed may have succeeded, or may still be
//! waiting. [`Passive::look`] takes up to a few of them for waiting, so that a dead endpoint is found although there is always
//! one on its way.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::model::balanced::BackendCounters;
use crate::model::endpoint::Sign;

/// Connects that fail one after the other until an endpoint is ejected.
const CONSECUTIVE: u32 = 5;

/// Connects that have not failed, after which some must have succeeded: more than are mostly on their way to one endpoint.
const UNDECIDED: u64 = 5;

/// A connect that has not failed for so long has succeeded. Most programs give up earlier than that, which counts as failed.
const DECIDED: Duration = Duration::from_secs(10);

/// How long endpoints are compared with each other, and after which time without ejection one ejection is forgotten.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// The first ejection of an endpoint; the n-th is n times as long.
const EJECTION: Duration = Duration::from_secs(30);

/// No ejection is longer.
const EJECTION_MAX: Duration = Duration::from_secs(300);

/// Up to this part of an ejection is added by chance, so that those ejected together do not come back together.
const JITTER: f64 = 0.1;

/// Share of a port's endpoints of one family that may be ejected at a time; one always may.
const EJECTED_PERCENT_MAX: usize = 10;

/// Endpoints that are compared, each with this many new connections in an interval: fewer say nothing.
const COMPARED_MIN: usize = 5;
const CONNECTIONS_MIN: u64 = 100;

/// Standard deviations below the mean of all.
const DEVIATIONS: f64 = 1.9;

/// An endpoint whose share of failures is not at least this much above the mean is like the others, however alike those are.
const DIFFERENCE: f64 = 0.05;

/// Segments sent again to an endpoint in an interval until it is a burst, and how many times as many for each connection as to
/// the others on average: a congested path shows up at all endpoints behind it.
const BURST_MIN: u64 = 100;
const BURST_TIMES: f64 = 10.0;

/// What is known of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Passive {
    last: BackendCounters,
    /// Where the row of failures begins.
    row: BackendCounters,
    /// Since when connects are undecided that count against the row.
    undecided_since: Option<Duration>,
    /// Counters at the beginning of the interval.
    interval: BackendCounters,
    /// Ejections that are not forgotten yet.
    times: u32,
    ejected: Option<(Sign, Duration)>,
    /// Since when it has not been ejected, or when the last ejection was forgotten.
    good_since: Duration,
}

/// What one endpoint did in an interval.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Interval {
    /// New connections.
    pub(super) picked: u64,
    /// Connections that failed or were reset.
    pub(super) bad: u64,
    /// Segments sent again.
    pub(super) retransmits: u64,
}

impl Passive {
    /// Begins with these counters; what happened before does not count.
    pub(super) fn new(now: Duration, counters: BackendCounters) -> Self {
        Self {
            last: counters,
            row: counters,
            undecided_since: None,
            interval: counters,
            times: 0,
            ejected: None,
            good_since: now,
        }
    }

    /// Returns why it is ejected and until when, if it is.
    pub(super) fn ejected(&self, now: Duration) -> Option<(Sign, Duration)> {
        self.ejected.filter(|(_, until)| now < *until)
    }

    /// Takes in new counters; returns whether its connects fail one after the other.
    pub(super) fn look(&mut self, now: Duration, counters: BackendCounters) -> bool {
        if counters.picked < self.last.picked {
            // They count from the beginning again.
            self.last = counters;
            self.interval = counters;
            self.restart(counters);
        }
        let nothing_new = counters == self.last;
        self.last = counters;
        if let Some((_, until)) = self.ejected {
            // What still fails was dialled before.
            self.restart(counters);
            if now >= until {
                self.ejected = None;
                self.good_since = now;
            }
            return false;
        }
        if self.times > 0 && now.saturating_sub(self.good_since) >= INTERVAL {
            self.times -= 1;
            self.good_since = now;
        }
        if nothing_new && self.undecided_since.is_none() {
            return false;
        }
        let failed = counters.failed.wrapping_sub(self.row.failed);
        if failed == 0 {
            self.restart(counters);
            return false;
        }
        let picked = counters.picked - self.row.picked;
        let undecided = picked.saturating_sub(u64::from(failed));
        // One of six connects may be on its way when the row is judged.
        if undecided <= u64::from((failed - 1) / CONSECUTIVE) {
            self.undecided_since = None;
            return failed >= CONSECUTIVE;
        }
        let since = *self.undecided_since.get_or_insert(now);
        if undecided >= UNDECIDED || now.saturating_sub(since) >= DECIDED {
            self.restart(counters);
        }
        false
    }

    fn restart(&mut self, counters: BackendCounters) {
        self.row = counters;
        self.undecided_since = None;
    }

    /// Ends the interval and returns what happened in it.
    pub(super) fn end_interval(&mut self) -> Interval {
        let (from, to) = (self.interval, self.last);
        self.interval = to;
        let failed = to.failed.wrapping_sub(from.failed);
        let reset = to.reset.wrapping_sub(from.reset);
        Interval {
            picked: to.picked.saturating_sub(from.picked),
            bad: u64::from(failed) + u64::from(reset),
            retransmits: to.retransmits.saturating_sub(from.retransmits),
        }
    }

    /// Ejects it; `chance` is between 0 and 1.
    pub(super) fn eject(&mut self, now: Duration, sign: Sign, chance: f64) {
        self.times = self.times.saturating_add(1);
        let time = EJECTION.saturating_mul(self.times).min(EJECTION_MAX);
        let time = time.mul_f64(1.0 + JITTER * chance).min(EJECTION_MAX);
        self.ejected = Some((sign, now + time));
        self.restart(self.last);
    }
}

/// Returns whether one more of `candidates` endpoints may be ejected, of which `usable` are healthy and `ejected` are ejected.
///
/// Never the last one, and never so many that what is left would be taken for panic.
pub(super) fn may_eject(candidates: usize, usable: usize, ejected: usize) -> bool {
    let allowed = (candidates * EJECTED_PERCENT_MAX / 100).max(1);
    let left = usable.saturating_sub(1);
    ejected < allowed && left > 0 && left * 2 >= candidates
}

/// Returns those that do worse than the others, with the sign. `None` stands for an endpoint that is not to be judged.
pub(super) fn outliers(intervals: &[Option<Interval>]) -> Vec<(usize, Sign)> {
    let judged = || {
        let all = intervals.iter().enumerate();
        let known = all.filter_map(|(place, interval)| Some((place, (*interval)?)));
        known.filter(|(_, interval)| interval.picked >= CONNECTIONS_MIN)
    };
    let count = judged().count();
    if count < COMPARED_MIN {
        return Vec::new();
    }
    let bad = |it: &Interval| ratio(it.bad, it.picked).min(1.0);
    let mean = judged().map(|(_, it)| bad(&it)).sum::<f64>() / float(count as u64);
    let variance = judged()
        .map(|(_, it)| (bad(&it) - mean).powi(2))
        .sum::<f64>();
    let deviation = (variance / float(count as u64)).sqrt();
    let bound = mean + (DEVIATIONS * deviation).max(DIFFERENCE);
    let again = |it: &Interval| ratio(it.retransmits, it.picked);
    let sum = judged().map(|(_, it)| again(&it)).sum::<f64>();
    let sign = |(place, it): (usize, Interval)| {
        let others = (sum - again(&it)) / float(count as u64 - 1);
        if bad(&it) > bound {
            Some((place, Sign::Resets))
        } else if it.retransmits >= BURST_MIN && again(&it) > BURST_TIMES * others {
            Some((place, Sign::Retransmits))
        } else {
            None
        }
    };
    judged().filter_map(sign).collect()
}

fn ratio(part: u64, total: u64) -> f64 {
    match total {
        0 => 0.0,
        total => float(part) / float(total),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one interval, far below 2^52"
)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
