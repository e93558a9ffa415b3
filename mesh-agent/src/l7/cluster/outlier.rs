//! Outlier detection: which endpoints their answers speak against, by Envoy's rules.
//!
//! Rows of failures eject at once; once in an interval, endpoints are compared with each other. However bad endpoints are, not
//! more than `max_percent` of them are ejected (but one may be), and never so many that the cluster would panic. Other agents
//! do not hear of it: each judges by its own requests.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Now;
use super::common::{Core, Ejections};
use super::endpoint::{Endpoint, Outcome};
use super::policy::OutlierPolicy;

/// What an endpoint's answers were.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Failures in a row, by kind.
    server: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
    /// Requests of this interval in the upper half, failures in the lower.
    interval: AtomicU64,
    /// The same of the interval that has ended, for the comparison.
    compared: AtomicU64,
    /// Ejections that are not forgotten yet.
    times: AtomicU32,
    /// When the last of them was over, or one was forgotten.
    good_since: AtomicU64,
}

/// One request, in [`Record::interval`].
const REQUEST: u64 = 1 << 32;

impl Record {
    fn count(&self, is_failure: bool) {
        let one = REQUEST + u64::from(is_failure);
        self.interval.fetch_add(one, Ordering::Relaxed);
    }

    fn compared(&self) -> Option<(u32, u32)> {
        let both = self.compared.load(Ordering::Relaxed);
        let total = u32::try_from(both >> 32).ok()?;
        let failed = u32::try_from(both & (REQUEST - 1)).ok()?;
        Some((total, failed))
    }

    /// Forgets the rows, so that one row ejects once.
    fn restart(&self) {
        for row in [&self.server, &self.gateway, &self.local] {
            row.store(0, Ordering::Relaxed);
        }
    }
}

/// Counts a row of failures on, or ends it; returns whether it is as long as `limit`.
fn row(counter: &AtomicU32, is_failure: bool, limit: Option<u32>) -> bool {
    if is_failure {
        let length = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        return limit.is_some_and(|limit| length >= limit);
    }
    // Most rows are over already: reading leaves the line shared between threads.
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
    false
}

/// What decides besides the endpoint.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) policy: &'a OutlierPolicy,
    pub(super) panic_percent: u32,
}

impl Core {
    /// Takes in an answer, and ejects the endpoint where it ends a row.
    pub(super) fn judge(&self, endpoint: &Endpoint, outcome: Outcome, rules: Rules<'_>, now: Now) {
        let Some(status) = outcome.status() else {
            return;
        };
        let policy = rules.policy;
        let record = &endpoint.record;
        let compares = policy.success_rate.is_some() || policy.failure_percentage.is_some();
        let split = policy.split_local;
        if compares && !(split && outcome.is_local()) {
            record.count(status >= 500);
        }
        let is_over = if split && outcome.is_local() {
            row(&record.local, true, policy.consecutive_local)
        } else {
            let server = row(&record.server, status >= 500, policy.consecutive_5xx);
            let is_gateway = matches!(status, 502..=504);
            let gateway = row(&record.gateway, is_gateway, policy.consecutive_gateway);
            row(&record.local, false, None);
            server || gateway
        };
        if is_over && !endpoint.is_ejected(now) {
            record.restart();
            let mut ejections = self.lock();
            self.eject(&mut ejections, endpoint, rules, now);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ejections> {
        // A list of ejections is whole at any time.
        self.ejections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn eject(&self, ejections: &mut Ejections, endpoint: &Endpoint, rules: Rules<'_>, now: Now) {
        if endpoint.is_ejected(now) {
            return;
        }
        ejections.list.retain(|(_, until)| *until > now);
        let ejected = ejections.list.len() as u64 + 1;
        let hosts = u64::from(self.hosts.load(Ordering::Relaxed));
        if !is_allowed(ejected, hosts, rules) {
            return;
        }
        let record = &endpoint.record;
        let times = record.times.load(Ordering::Relaxed).saturating_add(1);
        record.times.store(times, Ordering::Relaxed);
        let until = now + time(rules.policy, times, endpoint.address, now);
        record.good_since.store(until, Ordering::Relaxed);
        endpoint.ejected_until.store(until, Ordering::Relaxed);
        ejections.list.push((endpoint.address, until));
        ejections.count += 1;
        self.settle(ejections, now);
    }

    /// Brings what picks read in line with the list.
    fn settle(&self, ejections: &mut Ejections, now: Now) {
        ejections.list.retain(|(_, until)| *until > now);
        let ejected = u32::try_from(ejections.list.len()).unwrap_or(u32::MAX);
        self.ejected.store(ejected, Ordering::Relaxed);
        let until = ejections.list.iter().map(|(_, until)| *until).min();
        let wake = until.unwrap_or(Now::MAX).min(ejections.sweep_at);
        self.wake.store(wake, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Returns how many endpoints are ejected, and how many ejections there have been.
    pub(super) fn ejections(&self, now: Now) -> (usize, u64) {
        let ejections = self.lock();
        let ejected = ejections.list.iter().filter(|(_, until)| *until > now);
        (ejected.count(), ejections.count)
    }

    /// Forgets the ejections of endpoints that are gone, and takes the number of those that are there.
    pub(super) fn keep(&self, hosts: u32, is_there: impl Fn(SocketAddr) -> bool, now: Now) {
        let mut ejections = self.lock();
        self.hosts.store(hosts, Ordering::Relaxed);
        ejections.list.retain(|(address, _)| is_there(*address));
        self.settle(&mut ejections, now);
    }

    /// Does what is due: ends ejections, and compares the endpoints once in an interval. Another thread may be at it.
    pub(super) fn look<'a>(
        &self,
        endpoints: impl Iterator<Item = &'a Endpoint> + Clone,
        rules: Option<Rules<'_>>,
        now: Now,
    ) {
        let Ok(mut ejections) = self.ejections.try_lock() else {
            return;
        };
        let Some(rules) = rules else {
            ejections.sweep_at = Now::MAX;
            ejections.list.clear();
            for endpoint in endpoints {
                endpoint.ejected_until.store(0, Ordering::Relaxed);
            }
            self.settle(&mut ejections, now);
            return;
        };
        let interval = rules.policy.interval_ns;
        // The first look begins the first interval; so does one after a policy without outlier detection.
        let is_first = ejections.sweep_at == 0 || ejections.sweep_at == Now::MAX;
        if is_first || ejections.sweep_at <= now {
            ejections.sweep_at = now.saturating_add(interval);
            if !is_first {
                self.compare(&mut ejections, endpoints, rules, now);
            }
        }
        self.settle(&mut ejections, now);
    }

    /// Ends the interval: forgives, and ejects those that are worse than the others.
    fn compare<'a>(
        &self,
        ejections: &mut Ejections,
        endpoints: impl Iterator<Item = &'a Endpoint> + Clone,
        rules: Rules<'_>,
        now: Now,
    ) {
        let interval = rules.policy.interval_ns;
        for endpoint in endpoints.clone() {
            let record = &endpoint.record;
            let counts = record.interval.swap(0, Ordering::Relaxed);
            if endpoint.is_ejected(now) {
                record.compared.store(0, Ordering::Relaxed);
                continue;
            }
            record.compared.store(counts, Ordering::Relaxed);
            let times = record.times.load(Ordering::Relaxed);
            let good_since = record.good_since.load(Ordering::Relaxed);
            if times > 0 && good_since.saturating_add(interval) <= now {
                record.times.store(times - 1, Ordering::Relaxed);
            }
        }
        if let Some(policy) = rules.policy.success_rate {
            let rates = endpoints
                .clone()
                .filter_map(|endpoint| success(&endpoint.record, policy.min_requests));
            if let Some(threshold) = threshold(rates, policy.min_hosts, policy.deviations) {
                for endpoint in endpoints.clone() {
                    let rate = success(&endpoint.record, policy.min_requests);
                    if rate.is_some_and(|rate| rate < threshold) {
                        self.eject(ejections, endpoint, rules, now);
                    }
                }
            }
        }
        if let Some(policy) = rules.policy.failure_percentage {
            let rate = |endpoint: &Endpoint| success(&endpoint.record, policy.min_requests);
            let hosts = endpoints.clone().filter(|one| rate(one).is_some()).count();
            if hosts as u64 >= u64::from(policy.min_hosts) {
                for endpoint in endpoints {
                    let failed = rate(endpoint).map(|rate| 100.0 - rate);
                    if failed.is_some_and(|failed| failed >= f64::from(policy.threshold)) {
                        self.eject(ejections, endpoint, rules, now);
                    }
                }
            }
        }
    }
}

/// Returns an endpoint's successes in a hundred, where it had enough requests.
fn success(record: &Record, min_requests: u32) -> Option<f64> {
    let (total, failed) = record.compared()?;
    if total == 0 || total < min_requests {
        return None;
    }
    Some(100.0 * f64::from(total.saturating_sub(failed)) / f64::from(total))
}

/// Returns the success rate below which an endpoint is an outlier; `None` where there are too few to say.
fn threshold(
    rates: impl Iterator<Item = f64> + Clone,
    min_hosts: u32,
    deviations: f64,
) -> Option<f64> {
    let hosts = u32::try_from(rates.clone().count()).unwrap_or(u32::MAX);
    if hosts == 0 || hosts < min_hosts {
        return None;
    }
    let hosts = f64::from(hosts);
    let mean = rates.clone().sum::<f64>() / hosts;
    let variance = rates.map(|rate| (rate - mean).powi(2)).sum::<f64>() / hosts;
    Some(mean - deviations * variance.sqrt())
}

/// Returns whether so many of the hosts may be ejected.
fn is_allowed(ejected: u64, hosts: u64, rules: Rules<'_>) -> bool {
    let max = hosts * u64::from(rules.policy.max_percent) / 100;
    let left = hosts.saturating_sub(ejected);
    ejected <= max.max(1) && left * 100 >= hosts * u64::from(rules.panic_percent)
}

/// Returns how long the `times`-th ejection is.
fn time(policy: &OutlierPolicy, times: u32, address: SocketAddr, now: Now) -> u64 {
    let longest = policy.ejection_max_ns.max(policy.ejection_ns);
    let time = policy
        .ejection_ns
        .saturating_mul(u64::from(times))
        .min(longest);
    let spread = super::hash::of_address(address, now);
    time.saturating_add(spread % policy.jitter_max_ns.saturating_add(1))
}

#[cfg(test)]
mod tests;
