//! What the whole cluster shares: settings, and how much is in flight against its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;

use super::Now;
use super::policy::ClusterPolicy;

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
}

/// What the whole cluster shares.
#[derive(Debug)]
pub(super) struct Shared {
    settings: ArcSwap<Settings>,
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl Shared {
    pub(super) fn new(policy: ClusterPolicy) -> Self {
        Self {
            settings: ArcSwap::from_pointee(Settings { policy }),
            connections: AtomicU32::default(),
            pending: AtomicU32::default(),
            requests: AtomicU32::default(),
            retries: AtomicU32::default(),
        }
    }

    /// Takes a policy; returns whether it is another one.
    pub(super) fn set_policy(&self, policy: ClusterPolicy) -> bool {
        let before = self.settings.load();
        if before.policy == policy {
            return false;
        }
        self.settings.store(Arc::new(Settings { policy }));
        true
    }

    pub(super) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    pub(super) fn admit(shared: &Arc<Self>, _now: Now) -> Result<Admission, Overflow> {
        let limit = shared.settings.load().policy.breaker.requests;
        Ok(Admission {
            _requests: InFlight::enter(shared, Gauge::Requests, limit, Overflow::Requests)?,
        })
    }

    pub(super) fn admit_retry(shared: &Arc<Self>, _now: Now) -> Result<InFlight, Overflow> {
        let limit = shared.settings.load().policy.breaker.retries;
        InFlight::enter(shared, Gauge::Retries, limit, Overflow::Retries)
    }

    pub(super) fn admit_pending(shared: &Arc<Self>) -> Result<InFlight, Overflow> {
        let limit = shared.settings.load().policy.breaker.pending;
        InFlight::enter(shared, Gauge::Pending, limit, Overflow::Pending)
    }

    pub(super) fn admit_connection(shared: &Arc<Self>) -> Result<InFlight, Overflow> {
        let limit = shared.settings.load().policy.breaker.connections;
        InFlight::enter(shared, Gauge::Connections, limit, Overflow::Connections)
    }

    fn gauge(&self, gauge: Gauge) -> &AtomicU32 {
        match gauge {
            Gauge::Connections => &self.connections,
            Gauge::Pending => &self.pending,
            Gauge::Requests => &self.requests,
            Gauge::Retries => &self.retries,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Gauge {
    Connections,
    Pending,
    Requests,
    Retries,
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
    gauge: Gauge,
}

impl InFlight {
    fn enter(
        shared: &Arc<Shared>,
        gauge: Gauge,
        limit: u32,
        overflow: Overflow,
    ) -> Result<Self, Overflow> {
        if !enter(shared.gauge(gauge), limit) {
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
