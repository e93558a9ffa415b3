//! `/metrics`: everything the node counted, in Prometheus' text format.

#![forbid(unsafe_code)]

pub mod table;

mod collector;
pub mod controller;
pub(in crate::telemetry) mod istio;
pub(in crate::telemetry) mod page;
mod policies;
mod process;
mod series;
pub mod services;

use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};

use crate::model::observed::KernelView;
use crate::model::snapshot::Snapshot;
use crate::telemetry::applied::ApplyTimes;
use crate::telemetry::dns::DnsCounters;
use crate::telemetry::http::{Http, HttpCollector};
use crate::telemetry::hub::FlowHub;
use crate::telemetry::metrics::services::ServiceSample;

/// What metrics are made from.
pub struct MetricSources {
    /// The kernel's counters.
    pub kernel: Arc<dyn KernelView>,
    /// The configuration in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The flow hub, for what its followers lost.
    pub hub: Arc<FlowHub>,
    /// Returns every service with an address of its own, by name.
    pub services: Box<dyn Fn() -> Vec<ServiceSample> + Send + Sync>,
    /// How long the configuration took to reach the kernel.
    pub times: Arc<ApplyTimes>,
    /// What became of name queries.
    pub dns: Arc<DnsCounters>,
    /// What is seen of requests.
    pub http: Arc<Http>,
    /// Says whether the kill switch lets messages be redirected.
    pub redirect_allowed: Box<dyn Fn() -> bool + Send + Sync>,
    /// Name of this node.
    pub node: String,
}

impl std::fmt::Debug for MetricSources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricSources").finish_non_exhaustive()
    }
}

/// The agent's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Content type of what [`Metrics::render`] returns.
    pub const CONTENT_TYPE: &'static str = TEXT_FORMAT;

    /// Returns metrics that read `sources` at each scrape.
    ///
    /// # Errors
    ///
    /// When the table of metrics contradicts itself, which its tests rule out.
    pub fn new(sources: MetricSources) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let (http, snapshot) = (sources.http.clone(), sources.snapshot.clone());
        registry.register(Box::new(HttpCollector::new(http, snapshot)?))?;
        registry.register(Box::new(collector::KernelCollector::new(sources)?))?;
        registry.register(Box::new(process::ProcessCollector::new()?))?;
        Ok(Self { registry })
    }

    /// Returns every metric as text. Reads the kernel's maps: call it where blocking is allowed.
    ///
    /// # Errors
    ///
    /// When a metric has no name or no value, which the collectors rule out.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests;
