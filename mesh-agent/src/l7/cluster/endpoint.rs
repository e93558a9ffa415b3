//! What is known of one endpoint, and the guard of an attempt at it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Now;
use super::common::Core;
use super::ewma::Ewma;
use super::outlier::{Record, Rules};
use super::policy::{Algorithm, PeakEwma};
use crate::model::balanced::Target;
use crate::model::workload::WorkloadName;

/// What is known of one endpoint. Kept for as long as its address is listed with the same workload. On cache lines of its own: threads write it all the
/// time.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) workload: Option<Arc<WorkloadName>>,
    /// Attempts in flight.
    pub(super) active: AtomicU32,
    pub(super) ewma: Ewma,
    /// Until when it is ejected.
    pub(super) ejected_until: AtomicU64,
    pub(super) record: Record,
    pub(super) core: Arc<Core>,
}

impl Endpoint {
    pub(super) fn new(target: &Target, core: &Arc<Core>) -> Self {
        Self {
            address: target.address,
            workload: target.workload.clone(),
            active: AtomicU32::default(),
            ewma: Ewma::default(),
            ejected_until: AtomicU64::default(),
            record: Record::default(),
            core: core.clone(),
        }
    }

    pub(super) fn is_of(&self, target: &Target) -> bool {
        self.address == target.address && self.workload == target.workload
    }

    pub(super) fn is_ejected(&self, now: Now) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// With a response of this status.
    Status(u16),
    /// With a gRPC response of this `grpc-status`.
    Grpc(u32),
    /// No connection came about, TLS included.
    ConnectFailed,
    /// The endpoint closed, or broke the protocol, before its response had ended.
    Reset,
    /// It took too long.
    TimedOut,
    /// The client went away, or nothing could be sent for a reason of our own. Says nothing of the endpoint.
    Cancelled,
}

impl Outcome {
    /// Returns the HTTP status that it counts as; `None` where it says nothing.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status),
            // As gRPC's and Envoy's documents map them.
            Self::Grpc(code) => Some(match code {
                0 => 200,
                1 => 499,
                3 | 9 | 11 => 400,
                4 => 504,
                5 => 404,
                6 | 10 => 409,
                7 => 403,
                8 => 429,
                12 => 501,
                14 => 503,
                16 => 401,
                _ => 500,
            }),
            Self::ConnectFailed | Self::Reset => Some(503),
            Self::TimedOut => Some(504),
            Self::Cancelled => None,
        }
    }

    /// Returns whether no endpoint answered.
    pub fn is_local(self) -> bool {
        match self {
            Self::ConnectFailed | Self::Reset | Self::TimedOut => true,
            Self::Status(_) | Self::Grpc(_) | Self::Cancelled => false,
        }
    }

    /// Returns whether it speaks against the endpoint.
    pub fn is_failure(self) -> bool {
        self.status().is_some_and(|status| status >= 500)
    }
}

/// An endpoint that an attempt got. The attempt is in flight until this is dropped.
#[derive(Debug)]
#[must_use = "the attempt counts as ended when it is dropped"]
pub struct Picked {
    endpoint: Arc<Endpoint>,
    /// Whether it counts for bounded load.
    is_bounded: bool,
}

impl Picked {
    pub(super) fn new(endpoint: Arc<Endpoint>, is_bounded: bool) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        if is_bounded {
            endpoint.core.bounded.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            endpoint,
            is_bounded,
        }
    }

    /// Returns where the endpoint is.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// Returns the workload behind it, where known.
    pub fn workload(&self) -> Option<&Arc<WorkloadName>> {
        self.endpoint.workload.as_ref()
    }

    /// Takes in how the attempt went; it stays in flight. To be called when it is known that no response will come, or that this
    /// one is no success: `latency_ns` is the time until then. For others there are [`begun`](Self::begun) and
    /// [`ended`](Self::ended).
    pub fn report(&self, outcome: Outcome, latency_ns: u64, now: Now) {
        self.observe(outcome, latency_ns, now);
        self.judge(outcome, now);
    }

    /// Takes in that the head of a response has come, and after what time. Whether it is a success shows at its end.
    pub fn begun(&self, outcome: Outcome, latency_ns: u64, now: Now) {
        self.observe(outcome, latency_ns, now);
    }

    /// Takes in how a response ended that has [`begun`](Self::begun).
    pub fn ended(&self, outcome: Outcome, now: Now) {
        let policy = &self.endpoint.core.shared.settings().policy;
        if let (true, Algorithm::PeakEwma(it)) = (outcome.is_failure(), policy.algorithm) {
            let ewma = &self.endpoint.ewma;
            ewma.observe(it.penalty_ns, now, it.decay_ns);
        }
        self.judge(outcome, now);
    }

    fn observe(&self, outcome: Outcome, latency_ns: u64, now: Now) {
        let endpoint = &*self.endpoint;
        let settings = endpoint.core.shared.settings();
        if outcome == Outcome::Cancelled {
            return;
        }
        if let Algorithm::PeakEwma(PeakEwma {
            decay_ns,
            penalty_ns,
        }) = settings.policy.algorithm
        {
            let least = if outcome.is_failure() { penalty_ns } else { 0 };
            endpoint.ewma.observe(latency_ns.max(least), now, decay_ns);
        }
        if let (Some(gradient), false) = (&settings.gradient, outcome.is_local()) {
            gradient.observe(latency_ns, now);
        }
    }

    fn judge(&self, outcome: Outcome, now: Now) {
        let endpoint = &*self.endpoint;
        let settings = endpoint.core.shared.settings();
        let policy = &settings.policy;
        if let Some(outlier) = &policy.outlier {
            let rules = Rules {
                policy: outlier,
                panic_percent: policy.panic_percent,
            };
            endpoint.core.judge(endpoint, outcome, rules, now);
        }
    }

    /// Ends the attempt, and takes in how it went.
    pub fn done(self, outcome: Outcome, latency_ns: u64, now: Now) {
        self.report(outcome, latency_ns, now);
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
        if self.is_bounded {
            self.endpoint.core.bounded.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
