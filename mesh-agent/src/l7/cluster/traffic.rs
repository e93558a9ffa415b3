//! What a `TrafficPolicy` says of a cluster, on top of the defaults.

use std::time::Duration;

use crate::l7::cluster::policy::{
    Algorithm, BudgetPolicy, ClusterPolicy, ConcurrencyPolicy, OutlierPolicy, SuccessRate,
};
use crate::model::traffic::{self, Traffic};

impl ClusterPolicy {
    /// Returns the policy of a service port; without settings, the defaults.
    pub fn of(traffic: Option<&Traffic>) -> Self {
        let mut policy = Self::default();
        let Some(traffic) = traffic else {
            return policy;
        };
        if let Some(balancing) = &traffic.balancing {
            policy.algorithm = algorithm(balancing.algorithm);
        }
        if let Some(outlier) = &traffic.outlier {
            policy.outlier = Some(detection(outlier));
        }
        if let Some(said) = &traffic.breaker {
            let breaker = &mut policy.breaker;
            breaker.connections = said.connections.unwrap_or(breaker.connections);
            breaker.pending = said.pending.unwrap_or(breaker.pending);
            breaker.requests = said.requests.unwrap_or(breaker.requests);
            breaker.retries = said.retries.unwrap_or(breaker.retries);
        }
        policy.budget = traffic.budget.map(|budget| BudgetPolicy {
            percent: budget.percent,
            interval_ns: nanoseconds(budget.interval),
            min_count: budget.min_count,
            min_interval_ns: nanoseconds(budget.min_interval),
        });
        policy.concurrency = traffic.adaptive.map(|adaptive| {
            let default = ConcurrencyPolicy::default();
            ConcurrencyPolicy {
                min: adaptive.min.unwrap_or(default.min),
                max: adaptive.max.unwrap_or(default.max),
                ..default
            }
        });
        policy
    }
}

fn algorithm(said: traffic::Algorithm) -> Algorithm {
    match said {
        traffic::Algorithm::PeakEwma => Algorithm::default(),
        traffic::Algorithm::LeastRequest => Algorithm::LeastRequest { bias: 1.0 },
        traffic::Algorithm::RoundRobin => Algorithm::RoundRobin,
        traffic::Algorithm::WeightedRandom => Algorithm::WeightedRandom,
        traffic::Algorithm::Random => Algorithm::Random,
        traffic::Algorithm::RingHash => Algorithm::RING_HASH,
        traffic::Algorithm::Maglev => Algorithm::MAGLEV,
        traffic::Algorithm::Rendezvous => Algorithm::Rendezvous { bound: None },
    }
}

fn detection(said: &traffic::OutlierDetection) -> OutlierPolicy {
    let default = OutlierPolicy::default();
    let interval = said.interval.map(nanoseconds);
    let ejection = said.ejection.map(nanoseconds);
    OutlierPolicy {
        consecutive_5xx: said.consecutive.or(default.consecutive_5xx),
        interval_ns: interval.unwrap_or(default.interval_ns),
        ejection_ns: ejection.unwrap_or(default.ejection_ns),
        max_percent: said.max_percent.unwrap_or(default.max_percent),
        success_rate: said.success_rate.then(SuccessRate::default),
        ..default
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::traffic::{AdaptiveConcurrency, Balancing, CircuitBreaker};

    #[test]
    fn what_is_said_counts_and_the_rest_is_the_default() {
        assert_eq!(ClusterPolicy::of(None), ClusterPolicy::default());
        let traffic = Traffic {
            balancing: Some(Balancing {
                algorithm: traffic::Algorithm::RoundRobin,
                hash: None,
            }),
            breaker: Some(CircuitBreaker {
                requests: Some(7),
                ..CircuitBreaker::default()
            }),
            adaptive: Some(AdaptiveConcurrency {
                min: None,
                max: Some(40),
            }),
            ..Traffic::default()
        };
        let policy = ClusterPolicy::of(Some(&traffic));
        assert_eq!(policy.algorithm, Algorithm::RoundRobin);
        assert_eq!(
            (policy.breaker.requests, policy.breaker.connections),
            (7, 1024)
        );
        let concurrency = policy.concurrency.unwrap();
        assert_eq!((concurrency.min, concurrency.max), (3, 40));
        assert_eq!(policy.outlier, ClusterPolicy::default().outlier);
    }
}
