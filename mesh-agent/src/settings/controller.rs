//! Settings of the controller.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::chance::Chance;
use crate::cli::controller::ControllerArgs;
use crate::settings::{LOG_LEVEL, LogSettings};

/// Namespace of everything that belongs to the mesh.
pub const NAMESPACE: &str = "underpass-system";

/// Where metrics are served: beside the agent's, which may run on the same machine.
pub const METRICS_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15021);

/// The times of Kubernetes' own controllers.
pub const LEASE: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry: Duration::from_secs(2),
};

/// The times of an election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseTimes {
    /// How long others wait for a leader that says nothing.
    pub duration: Duration,
    /// How long a leader tries to renew before it gives up; shorter than `duration`.
    pub renew_deadline: Duration,
    /// Time between two tries.
    pub retry: Duration,
}

/// Settings of a running controller, all valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControllerSettings {
    /// How to reach the API server; `None` is as `kubectl` does, or a pod.
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the agents' pods and of the lease.
    pub namespace: String,
    /// Where metrics are served; `None` is nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// What is logged, and how.
    pub log: LogSettings,
    /// The times of the election.
    pub lease: LeaseTimes,
    /// What tells this controller from others.
    pub identity: String,
}

/// Times with which two controllers could lead at once, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LeaseTimesError {
    /// Leases count whole seconds.
    #[error("`lease-duration` must be whole seconds, at least one")]
    Duration,
    /// A leader must give up before others take over.
    #[error("`lease-renew-deadline` must be shorter than `lease-duration`")]
    Deadline,
    /// A leader must be able to try more than once.
    #[error(
        "`lease-retry-period` must be longer than zero, and shorter than half of `lease-renew-deadline`"
    )]
    Retry,
}

impl ControllerSettings {
    /// Returns the settings.
    ///
    /// # Errors
    ///
    /// When the times of the lease make no sense together.
    pub fn new(args: ControllerArgs) -> Result<Self, LeaseTimesError> {
        let address = args.metrics_address;
        let filter = args.log_level.unwrap_or_else(|| LOG_LEVEL.to_owned());
        let lease = LeaseTimes {
            duration: args.lease_duration.unwrap_or(LEASE.duration),
            renew_deadline: args.lease_renew_deadline.unwrap_or(LEASE.renew_deadline),
            retry: args.lease_retry_period.unwrap_or(LEASE.retry),
        };
        // A pod's host name is its own; and another process in its place is another candidate.
        let number = Chance::random().bits();
        Ok(Self {
            kubeconfig: args.kubeconfig,
            namespace: args.namespace.unwrap_or_else(|| NAMESPACE.to_owned()),
            metrics_address: address.map_or(Some(METRICS_ADDRESS), |address| address.0),
            log: LogSettings {
                filter,
                format: args.log_format.unwrap_or_default(),
            },
            lease: lease.checked()?,
            identity: format!("{}_{number:016x}", super::host()),
        })
    }
}

impl LeaseTimes {
    fn checked(self) -> Result<Self, LeaseTimesError> {
        if self.duration.is_zero() || self.duration.subsec_nanos() != 0 {
            return Err(LeaseTimesError::Duration);
        }
        if self.renew_deadline >= self.duration {
            return Err(LeaseTimesError::Deadline);
        }
        if self.retry.is_zero() || self.retry >= self.renew_deadline / 2 {
            return Err(LeaseTimesError::Retry);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_make_no_sense_are_refused() {
        let times = |duration, deadline, retry| {
            let [duration, renew_deadline, retry] =
                [duration, deadline, retry].map(Duration::from_millis);
            let times = LeaseTimes {
                duration,
                renew_deadline,
                retry,
            };
            times.checked().err()
        };
        assert_eq!(LEASE.checked(), Ok(LEASE));
        assert_eq!(times(3000, 2000, 500), None);
        assert_eq!(times(3500, 2000, 500), Some(LeaseTimesError::Duration));
        assert_eq!(times(3000, 3000, 500), Some(LeaseTimesError::Deadline));
        assert_eq!(times(3000, 2000, 1000), Some(LeaseTimesError::Retry));
        assert_eq!(times(3000, 2000, 0), Some(LeaseTimesError::Retry));
    }
}
