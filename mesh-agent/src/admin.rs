//! What the agent tells about itself: JSON over a unix socket for its own command line, metrics and health over TCP.
//!
//! Bind first ([`server::bind`]), so that errors surface at start; then [`server::Bound::run`].

#![forbid(unsafe_code)]

pub mod pages;
pub mod readiness;
pub mod server;
pub mod socket;
pub mod types;

mod api;
mod balancing;
mod error;
mod explain;
mod flows;
mod losses;
mod pairs;
mod requests;
mod routes;
mod services;
mod status;

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};

pub use crate::admin::balancing::ServiceSources;
use crate::admin::losses::Losses;
use crate::admin::readiness::Readiness;
use crate::model::api::ApiStatus;
use crate::model::observed::KernelView;
use crate::model::snapshot::Snapshot;
use crate::policy::PolicyTables;
use crate::source::registered::RegisteredSource;
use crate::telemetry::applied::ApplyTimes;
use crate::telemetry::data_path::DataPathState;
use crate::telemetry::dns::DnsCounters;
use crate::telemetry::http::Http;
use crate::telemetry::hub::FlowHub;
use crate::telemetry::metrics::{MetricSources, Metrics};

/// What the admin API can change.
///
/// Two implementations: the agent, and a small one in tests.
pub trait Control: Send + Sync + std::fmt::Debug {
    /// Returns whether messages may be redirected, as far as the operator is concerned.
    fn redirect_allowed(&self) -> bool;
    /// Allows redirect, or stops it at once for live flows too.
    fn allow_redirect(&self, allowed: bool) -> anyhow::Result<()>;
}

/// What the admin API is made from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The kernel's counters and state.
    pub kernel: Arc<dyn KernelView>,
    /// The configuration that was read last.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Services that programs registered.
    pub registered: Arc<RegisteredSource>,
    /// How services are balanced.
    pub services: ServiceSources,
    /// What policy says.
    pub policies: Arc<ArcSwap<PolicyTables>>,
    /// Ended flows.
    pub hub: Arc<FlowHub>,
    /// Ended requests, and what is counted of them.
    pub http: Arc<Http>,
    /// The kill switch.
    pub control: Arc<dyn Control>,
    /// How long the configuration took to reach the kernel.
    pub times: Arc<ApplyTimes>,
    /// What became of name queries.
    pub dns: Arc<DnsCounters>,
    /// How the data path stands.
    pub data_path: Arc<DataPathState>,
    /// What still has to happen before the agent is ready.
    pub readiness: Readiness,
    /// How the API server stands, where the configuration comes from one.
    pub api: Option<watch::Receiver<Arc<ApiStatus>>>,
    /// Name of the node.
    pub node: String,
}

/// Walks over every socket that may run at once. Each takes a core while it runs, and a second one tells the same.
const READS_AT_ONCE: usize = 1;

/// Followers of the flow stream at once: half the connections, so that there is always room for `status`.
const FOLLOWERS_MAX: usize = server::CONNECTIONS_MAX / 2;

/// The state behind both listeners.
#[derive(Debug)]
pub struct Admin {
    sources: Sources,
    metrics: Metrics,
    started: Timestamp,
    losses: Mutex<Losses>,
    reads: Semaphore,
    followers: Arc<Semaphore>,
}

impl Admin {
    /// Returns the state behind both listeners.
    ///
    /// # Errors
    ///
    /// When the table of metrics contradicts itself, which its tests rule out.
    pub fn new(sources: Sources) -> Result<Arc<Self>, prometheus::Error> {
        let control = sources.control.clone();
        let services = sources.services.clone();
        let metrics = Metrics::new(MetricSources {
            kernel: sources.kernel.clone(),
            snapshot: sources.snapshot.clone(),
            hub: sources.hub.clone(),
            http: sources.http.clone(),
            services: Box::new(move || balancing::samples(&services)),
            times: sources.times.clone(),
            dns: sources.dns.clone(),
            redirect_allowed: Box::new(move || control.redirect_allowed()),
            node: sources.node.clone(),
        })?;
        Ok(Arc::new(Self {
            sources,
            metrics,
            started: Timestamp::now(),
            losses: Mutex::default(),
            reads: Semaphore::new(READS_AT_ONCE),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        }))
    }

    /// Runs `f`, which reads the kernel's maps, where blocking is allowed.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, error::ApiError> {
        let _permit = self.reads.acquire().await?;
        let admin = self.clone();
        Ok(tokio::task::spawn_blocking(move || f(&admin)).await?)
    }
}

#[cfg(test)]
pub(crate) mod tests;
