//! What the whole cluster shares: settings, and how much is in flight against its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::Now;
use super::budget::Budget;
use super::gradient::Gradient;
use super::policy::ClusterPolicy;
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
        }
    }

    /// Takes a policy; returns whether it is another one.
    pub(super) fn set_policy(&self, policy: ClusterPolicy) -> bool {
        let before = self.settings.load();
        if before.policy == policy {
            return false;
        }
        self.settings
            .store(Arc::new(Settings::new(policy, Some(&before))));
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
        let limit = shared.settings.load().policy.breaker.connections;
        InFlight::enter(shared, Kind::Connections, limit, Overflow::Connections)
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
        self.shared.gauge(self.gauge).fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts one more unless that exceeds the limit.
fn enter(gauge: &AtomicU32, limit: u32) -> bool {
    if gauge.fetch_add(1, Ordering::AcqRel) < limit {
        return true;
    }
    // Others may see it one too high meanwhile, and refuse: the limit holds at any time.
    gauge.fetch_sub(1, Ordering::AcqRel);
    false
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
        assert!(shared.set_policy(ClusterPolicy {
            panic_percent: 10,
            ..policy.clone()
        }));
        assert!(!shared.set_policy(ClusterPolicy {
            panic_percent: 10,
            ..policy
        }));
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
