//! The endpoints of one service port, and which of them a request gets.
//!
//! A [`Cluster`] is made once and kept: endpoints and policy change inside it, so that nothing that names it has to be built
//! anew, and what is known of an endpoint outlives updates for as long as its address is listed. A request first is admitted
//! ([`Cluster::admit`]), then picks for each attempt ([`Cluster::pick`]) and says how it went ([`Picked::done`]). Guards count
//! down when they are dropped.
//!
//! Weights already hold what `balance` decided: slow start, and, where all endpoints are on one level, priorities, locality and active
//! health checks. What the answers of endpoints say about them is decided here, from the requests of this agent alone, and so is
//! which level is used where there are several.

mod breaker;
mod budget;
mod common;
mod consistent;
mod edf;
mod endpoint;
mod ewma;
mod gradient;
mod group;
pub mod hash;
mod outlier;
mod pick;
pub mod policy;
mod queue;
mod report;
mod sampler;
mod traffic;
mod view;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::chance::Chance;
use crate::model::balanced::{Candidate, PortId, Target};

pub use self::breaker::{Admission, InFlight, Overflow};
pub use self::endpoint::{Outcome, Picked};
pub use self::policy::ClusterPolicy;
pub use self::queue::Waiting;
pub use self::report::{Kind, Report, Usage};

use self::breaker::Shared;
use self::group::Group;

/// Nanoseconds of a clock that never goes back, since some fixed moment.
pub type Now = u64;

/// The endpoints of one service port.
#[derive(Debug)]
pub struct Cluster {
    /// Which port.
    pub id: Arc<PortId>,
    shared: Arc<Shared>,
    v4: Group,
    v6: Group,
    /// Held while endpoints or policy change.
    update: Mutex<()>,
}

/// What a pick depends on besides the endpoints.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Hash of what consistent algorithms go by; without one they pick at random.
    pub hash: Option<u64>,
    /// The endpoint of the request's session. It is picked whatever its weight, unless it is gone, ejected or was tried.
    pub session: Option<SocketAddr>,
    /// Endpoints that earlier attempts got. They are picked again only when there is no other.
    pub tried: &'a [SocketAddr],
    /// Whether IPv6 endpoints are preferred. The other family answers where this one has no endpoint.
    pub v6: bool,
}

/// The cluster has no endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the service has no endpoint")]
pub struct NoEndpoint;

impl Cluster {
    /// Returns a cluster without endpoints.
    pub fn new(id: Arc<PortId>, policy: ClusterPolicy) -> Self {
        let shared = Arc::new(Shared::new(policy));
        Self {
            id,
            v4: Group::new(&shared),
            v6: Group::new(&shared),
            shared,
            update: Mutex::default(),
        }
    }

    /// Takes these as the endpoints from now on, whatever their order, all on one level.
    pub fn set_endpoints(&self, targets: &[Target], now: Now, chance: &mut Chance) {
        self.set_levels(targets, &[], now, chance);
    }

    /// Takes these as the endpoints from now on, whatever their order: `targets`, or `candidates` for a family that has some. What is
    /// known of those that stay is kept (at an address that another workload has now, nothing is); nothing happens where they are the same
    /// as before.
    ///
    /// Of candidates those of the first level get requests, as far as they are healthy and not ejected here; as more of them fail,
    /// those of the next level get some ([`level`](crate::level)).
    pub fn set_levels(
        &self,
        targets: &[Target],
        candidates: &[Candidate],
        now: Now,
        chance: &mut Chance,
    ) {
        let _update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        for (group, v4) in [(&self.v4, true), (&self.v6, false)] {
            let of_family = |it: &Candidate| it.target.address.is_ipv4() == v4;
            let mut listed: Vec<Candidate> = match candidates.iter().any(of_family) {
                true => candidates
                    .iter()
                    .filter(|it| of_family(it))
                    .cloned()
                    .collect(),
                false => targets.iter().map(on_one_level).filter(of_family).collect(),
            };
            listed.sort_unstable_by_key(|it| (it.target.address, it.level));
            listed.dedup_by_key(|it| it.target.address);
            listed.sort_unstable_by_key(|it| (it.level, it.target.address));
            if !group.is_of(&listed) {
                group.set(&listed, now, chance);
            }
        }
    }

    /// Takes this policy from now on. What is in flight stays counted.
    pub fn set_policy(&self, policy: ClusterPolicy, now: Now, chance: &mut Chance) {
        let _update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        if !Shared::set_policy(&self.shared, policy) {
            return;
        }
        for group in [&self.v4, &self.v6] {
            group.set(&group.listed(), now, chance);
        }
    }

    /// Returns how many endpoints it has, of both families.
    pub fn endpoints(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Returns whether this is the address of one of its endpoints.
    pub fn has(&self, address: SocketAddr) -> bool {
        let group = if address.is_ipv6() {
            &self.v6
        } else {
            &self.v4
        };
        group.has(address)
    }

    /// Admits a request, however many attempts it is going to take, and counts it for the retry budget.
    ///
    /// # Errors
    ///
    /// Where as many requests as are allowed are in flight.
    pub fn admit(&self, now: Now) -> Result<Admission, Overflow> {
        Shared::admit(&self.shared, now)
    }

    /// Admits a retry.
    ///
    /// # Errors
    ///
    /// Where the retry budget, or without one the breaker, says no.
    pub fn admit_retry(&self, now: Now) -> Result<InFlight, Overflow> {
        Shared::admit_retry(&self.shared, now)
    }

    /// Admits a request to the queue of those that wait for a connection.
    ///
    /// # Errors
    ///
    /// Where as many as are allowed wait.
    pub fn admit_pending(&self) -> Result<InFlight, Overflow> {
        Shared::admit_pending(&self.shared)
    }

    /// Admits a connection.
    ///
    /// # Errors
    ///
    /// Where as many as are allowed are open, or others [wait](Self::queue) for one.
    pub fn admit_connection(&self) -> Result<InFlight, Overflow> {
        Shared::admit_connection(&self.shared)
    }

    /// Returns once there may be room for another connection, as from now on. Who goes on after this has no place yet, and those in the
    /// [queue](Self::queue) come first.
    pub fn room(&self) -> impl Future<Output = ()> {
        self.shared.room.notified()
    }

    /// Counts a connection that is made whatever the limit.
    pub fn count_connection(&self) -> InFlight {
        Shared::count_connection(&self.shared)
    }

    /// Returns whether it has admitted this.
    pub fn admitted(&self, this: &InFlight) -> bool {
        this.is_of(&self.shared)
    }

    /// Picks the endpoint of an attempt. Allocates nothing.
    ///
    /// A workload of both families is two endpoints, as `EndpointSlice`s have it. An attempt gets one of the family that is asked
    /// for while there is one that was not tried: another workload is as good as the same one's other address.
    ///
    /// # Errors
    ///
    /// Where the cluster has no endpoint at all.
    pub fn pick(&self, ask: &Ask<'_>, chance: &mut Chance, now: Now) -> Result<Picked, NoEndpoint> {
        let (first, second) = if ask.v6 {
            (&self.v6, &self.v4)
        } else {
            (&self.v4, &self.v6)
        };
        let (first, second) = match first.is_tried(ask.tried) && !second.is_tried(ask.tried) {
            true => (second, first),
            false => (first, second),
        };
        first
            .pick(ask, chance, now)
            .or_else(|| second.pick(ask, chance, now))
            .ok_or(NoEndpoint)
    }
}

fn on_one_level(target: &Target) -> Candidate {
    Candidate {
        target: target.clone(),
        level: 0,
        is_healthy: true,
    }
}

#[cfg(test)]
mod tests;
