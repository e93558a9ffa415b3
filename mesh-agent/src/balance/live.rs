//! The balancer of a running agent: one thread passes, others look.
#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::balance::Balancer;
use crate::model::endpoint::EndpointState;
use crate::model::service::ServiceName;

/// A balancer that several threads share, and the clock that it goes by.
#[derive(Debug)]
pub struct Live {
    balancer: Mutex<Balancer>,
    started: Instant,
}

impl Live {
    /// Shares a balancer.
    pub fn new(balancer: Balancer) -> Self {
        Self {
            balancer: Mutex::new(balancer),
            started: Instant::now(),
        }
    }

    /// Calls `work` with the balancer and the time. A pass over everything takes some 50 ms, others microseconds.
    pub fn with<T>(&self, work: impl FnOnce(&mut Balancer, Duration) -> T) -> T {
        let balancer = self.balancer.lock();
        let mut balancer = balancer.unwrap_or_else(PoisonError::into_inner);
        work(&mut balancer, self.started.elapsed())
    }

    /// Returns every endpoint of this service, or of all, as it stands. Those of 10,000 services are some 50 MB: for all, only on
    /// somebody's word.
    pub fn states(&self, service: Option<&ServiceName>) -> Vec<EndpointState> {
        self.with(|balancer, now| balancer.states(now, service))
    }
}
