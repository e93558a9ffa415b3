//! What the whole cluster shares: settings, and how much is in flight against its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::Now;
use super::budget::Budget;
use super::gradient::Gradient;
use super::policy::ClusterPolicy;
use super::queue::Queue;
use super::report::{Kind, Usage};

/// Why something was not admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Overflow {
    /// [`super::policy::BreakerPolicy::connections`].
    #[error("too many connections to the service")]
    Connections,
    /// [`super::policy::BreakerPolicy::pending`].
    #[error("too many requests wait for a connection to the service")]
    Pending,
    /// [`super::policy::BreakerPolicy::requests`].
    #[error("too many requests to the service in flight")]
    Requests,
    /// [`super::policy::BreakerPolicy::retries`].
    #[error("too many retries to the service in flight")]
    Retries,
    /// [`ClusterPolicy::budget`].
    #[error("the service's retry budget is used up")]
    Budget,
    /// [`ClusterPolicy::concurrency`].
    #[error("as many requests are in flight as the service answers in good time")]
    Concurrency,
}

/// Policy, and what is kept for it.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) policy: ClusterPolicy,
    pub(super) gradient: Option<Arc<Gradient>>,
    budget: Option<Arc<Budget>>,
}

impl Settings {
    /// What is kept stays where its part of the policy does.
    fn new(policy: ClusterPolicy, before: Option<&Self>) -> Self {
        let gradient = before.and_then(|before| before.gradient.clone());
        let gradient = gradient.filter(|it| Some(it.policy) == policy.concurrency);
        let budget = before.and_then(|before| before.budget.clone());
        let budget = budget.filter(|it| Some(it.policy) == policy.budget);
        Self {
            gradient: gradient.or_else(|| Some(Arc::new(Gradient::new(policy.concurrency?)))),
            budget: budget.or_else(|| Some(Arc::new(Budget::new(policy.budget?)))),
            policy,
        }
    }
}

/// What the whole cluster shares.
#[derive(Debug)]
pub(super) struct Shared {
    settings: ArcSwap<Settings>,
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    /// Times that each limit said no.
    overflows: [AtomicU64; Kind::ALL.len()],
    /// Who waits for one of `connections`.
    pub(super) queue: Queue,
    /// Told when there may be room for another one, for who does not wait for that alone.
    pub(super) room: Notify,
}

impl Shared {
    pub(super) fn new(policy: ClusterPolicy) -> Self {
        Self {
            settings: ArcSwap::from_pointee(Settings::new(policy, None)),
            connections: AtomicU32::default(),
            pending: AtomicU32::default(),
            requests: AtomicU32::default(),
            retries: AtomicU32::default(),
            overflows: Default::default(),
            queue: Queue::default(),
            room: Notify::new(),
        }
    }

    /// Takes a policy; returns whether it is another one.
    pub(super) fn set_policy(shared: &Arc<Self>, policy: ClusterPolicy) -> bool {
        let before = shared.settings.load();
        if before.policy == policy {
            return false;
        }
        shared
            .settings
            .store(Arc::new(Settings::new(policy, Some(&before))));
        Self::hand_out(shared);
        shared.room.notify_waiters();
        true
    }

    pub(super) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    pub(super) fn admit(shared: &Arc<Self>, now: Now) -> Result<Admission, Overflow> {
        let settings = shared.settings.load();
        let limit = settings.policy.breaker.requests;
        let adaptive = settings.gradient.as_ref().map(|gradient| gradient.limit());
        let (limit, overflow) = match adaptive {
            Some(adaptive) if adaptive < limit => (adaptive, Overflow::Concurrency),
            Some(_) | None => (limit, Overflow::Requests),
        };
        let requests = InFlight::enter(shared, Kind::Requests, limit, overflow)?;
        // What is refused is not sent, and allows no retry.
        if let Some(budget) = &settings.budget {
            budget.deposit(now);
        }
        Ok(Admission {
            _requests: requests,
        })
    }

    pub(super) fn admit_retry(shared: &Arc<Self>, now: Now) -> Result<InFlight, Overflow> {
        let settings = shared.settings.load();
        let Some(budget) = &settings.budget else {
            let limit = settings.policy.breaker.retries;
            return InFlight::enter(shared, Kind::Retries, limit, Overflow::Retries);
        };
        if !budget.withdraw(now) {
            shared.overflowed(Kind::Retries);
            return Err(Overflow::Budget);
        }
        InFlight::enter(shared, Kind::Retries, u32::MAX, Overflow::Retries)
    }

    pub(super) fn admit_pending(shared: &Arc<Self>) -> Result<InFlight, Overflow> {
        let limit = shared.settings.load().policy.breaker.pending;
        InFlight::enter(shared, Kind::Pending, limit, Overflow::Pending)
    }

    pub(super) fn admit_connection(shared: &Arc<Self>) -> Result<InFlight, Overflow> {
        // Nobody passes by those who wait.
        let limit = match shared.queue.is_empty() {
            true => shared.settings.load().policy.breaker.connections,
            false => 0,
        };
        InFlight::enter(shared, Kind::Connections, limit, Overflow::Connections)
    }

    pub(super) fn count_connection(shared: &Arc<Self>) -> InFlight {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        InFlight {
            shared: Arc::clone(shared),
            gauge: Kind::Connections,
        }
    }

    /// Gives places among the connections that are free to those who wait for one.
    pub(super) fn hand_out(shared: &Arc<Self>) {
        let place = || {
            let limit = shared.settings.load().policy.breaker.connections;
            enter(&shared.connections, limit).then(|| InFlight {
                shared: Arc::clone(shared),
                gauge: Kind::Connections,
            })
        };
        while let Some((to, place)) = shared.queue.serve(place) {
            // Who has just gone passes it on, by dropping it.
            to.send(place).unwrap_or_else(drop);
        }
    }

    /// Returns how much of a limit is used.
    pub(super) fn usage(&self, kind: Kind) -> Usage {
        let settings = self.settings.load();
        let breaker = &settings.policy.breaker;
        let adaptive = settings.gradient.as_ref().map(|it| it.limit());
        Usage {
            used: self.gauge(kind).load(Ordering::Relaxed),
            limit: match kind {
                Kind::Connections => breaker.connections,
                Kind::Pending => breaker.pending,
                Kind::Requests => adaptive.map_or(breaker.requests, |it| it.min(breaker.requests)),
                Kind::Retries => breaker.retries,
            },
            overflows: self.overflows[kind as usize].load(Ordering::Relaxed),
        }
    }

    fn overflowed(&self, kind: Kind) {
        self.overflows[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn gauge(&self, gauge: Kind) -> &AtomicU32 {
        match gauge {
            Kind::Connections => &self.connections,
            Kind::Pending => &self.pending,
            Kind::Requests => &self.requests,
            Kind::Retries => &self.retries,
        }
    }
}

/// An admitted request. In flight until it is dropped.
#[derive(Debug)]
#[must_use = "it counts as ended when it is dropped"]
pub struct Admission {
    _requests: InFlight,
}

/// Something admitted. In flight until it is dropped.
#[derive(Debug)]
#[must_use = "it counts as ended when it is dropped"]
pub struct InFlight {
    shared: Arc<Shared>,
    gauge: Kind,
}

impl InFlight {
    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// Returns whether somebody waits for the place of this connection.
    pub fn is_wanted(&self) -> bool {
        !self.shared.queue.is_empty()
    }

    /// Returns since when, for whoever waits longest.
    pub fn wanted_since(&self) -> Option<Instant> {
        self.shared.queue.first()
    }

    fn enter(
        shared: &Arc<Shared>,
        gauge: Kind,
        limit: u32,
        overflow: Overflow,
    ) -> Result<Self, Overflow> {
        if !enter(shared.gauge(gauge), limit) {
            shared.overflowed(gauge);
            return Err(overflow);
        }
        Ok(Self {
            shared: shared.clone(),
            gauge,
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.gauge(self.gauge).fetch_sub(1, Ordering::SeqCst);
        // In this order, as who waits looks at the gauge after it has come to the queue: one of both sees the other.
        if self.gauge == Kind::Connections {
            if self.is_wanted() {
                Shared::hand_out(&self.shared);
            }
            self.shared.room.notify_waiters();
        }
    }
}

/// Counts one more unless that exceeds the limit. Never is the count too high for a moment: a place that became free then would
/// be nobody's.
fn enter(gauge: &AtomicU32, limit: u32) -> bool {
    let more = |used: u32| (used < limit).then_some(used + 1);
    let entered = gauge.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
    entered.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::cluster::policy::{BreakerPolicy, BudgetPolicy, ConcurrencyPolicy};

    const S: u64 = 1_000_000_000;

    fn shared(breaker: BreakerPolicy) -> Arc<Shared> {
        Arc::new(Shared::new(ClusterPolicy {
            breaker,
            ..ClusterPolicy::default()
        }))
    }

    #[test]
    fn the_defaults_are_as_documented() {
        let shared = shared(BreakerPolicy::default());
        let requests: Vec<_> = (0..1024)
            .map(|_| Shared::admit(&shared, S).unwrap())
            .collect();
        assert_eq!(Shared::admit(&shared, S).unwrap_err(), Overflow::Requests);
        let retries: Vec<_> = (0..3)
            .map(|_| Shared::admit_retry(&shared, S).unwrap())
            .collect();
        assert_eq!(
            Shared::admit_retry(&shared, S).unwrap_err(),
            Overflow::Retries
        );
        let pending: Vec<_> = (0..1024)
            .map(|_| Shared::admit_pending(&shared).unwrap())
            .collect();
        assert_eq!(
            Shared::admit_pending(&shared).unwrap_err(),
            Overflow::Pending
        );
        let open: Vec<_> = (0..1024)
            .map(|_| Shared::admit_connection(&shared).unwrap())
            .collect();
        assert_eq!(
            Shared::admit_connection(&shared).unwrap_err(),
            Overflow::Connections
        );
        drop((requests, retries, pending, open));
        for gauge in [
            &shared.requests,
            &shared.retries,
            &shared.pending,
            &shared.connections,
        ] {
            assert_eq!(gauge.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn guards_give_back_when_they_are_dropped() {
        let shared = shared(BreakerPolicy {
            requests: 1,
            ..BreakerPolicy::default()
        });
        for _ in 0..10 {
            let request = Shared::admit(&shared, S).unwrap();
            assert_eq!(Shared::admit(&shared, S).unwrap_err(), Overflow::Requests);
            drop(request);
        }
    }

    #[test]
    fn a_budget_takes_the_place_of_the_limit_on_retries_and_outlives_other_changes() {
        let budget = Some(BudgetPolicy {
            min_count: 0,
            ..BudgetPolicy::default()
        });
        let policy = ClusterPolicy {
            budget,
            ..ClusterPolicy::default()
        };
        let shared = Arc::new(Shared::new(policy.clone()));
        for _ in 0..50 {
            drop(Shared::admit(&shared, S).unwrap());
        }
        assert!(Shared::set_policy(
            &shared,
            ClusterPolicy {
                panic_percent: 10,
                ..policy.clone()
            }
        ));
        assert!(!Shared::set_policy(
            &shared,
            ClusterPolicy {
                panic_percent: 10,
                ..policy
            }
        ));
        let retries: Vec<_> = (0..10)
            .map(|_| Shared::admit_retry(&shared, S).unwrap())
            .collect();
        assert_eq!(retries.len(), 10);
        assert_eq!(
            Shared::admit_retry(&shared, S).unwrap_err(),
            Overflow::Budget
        );
    }

    #[test]
    fn adaptive_concurrency_bounds_requests_below_the_breaker() {
        let concurrency = Some(ConcurrencyPolicy::default());
        let shared = Arc::new(Shared::new(ClusterPolicy {
            concurrency,
            ..ClusterPolicy::default()
        }));
        let requests: Vec<_> = (0..3).map(|_| Shared::admit(&shared, S).unwrap()).collect();
        assert_eq!(
            Shared::admit(&shared, S).unwrap_err(),
            Overflow::Concurrency
        );
        drop(requests);
        Shared::admit(&shared, S).map(drop).unwrap();
    }

    #[test]
    fn threads_never_exceed_a_limit_and_leave_nothing_behind() {
        let shared = shared(BreakerPolicy {
            requests: 3,
            ..BreakerPolicy::default()
        });
        let inside = AtomicU32::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let Ok(request) = Shared::admit(&shared, S) else {
                            continue;
                        };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(request);
                    }
                });
            }
        });
        assert_eq!(shared.requests.load(Ordering::Relaxed), 0);
    }
}
