//! Discovery in the running agent: what is registered, beside what the manifests say.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;

use crate::model::service::Services;
use crate::model::snapshot::Snapshot;
use crate::settings::discovery::DiscoverySettings;
use crate::source::registered::{RegisteredSource, merge};

/// Keeps registered services and manifests in line with each other.
#[derive(Debug)]
pub(super) struct Discovery {
    registered: Arc<RegisteredSource>,
    changes: watch::Receiver<Arc<Services>>,
    /// As the manifests have it.
    latest: Arc<Snapshot>,
}

impl Discovery {
    /// Starts the registry with what an earlier agent kept. `snapshot` is the first one.
    pub(super) fn start(
        settings: &DiscoverySettings,
        snapshot: Arc<Snapshot>,
    ) -> anyhow::Result<Self> {
        let registered = RegisteredSource::start(&settings.state_dir, settings.service_range)
            .context("failed to start the thread of the registry")?;
        Ok(Self {
            changes: registered.changed(),
            registered: Arc::new(registered),
            latest: snapshot,
        })
    }

    /// Returns the registry.
    pub(super) fn registered(&self) -> Arc<RegisteredSource> {
        self.registered.clone()
    }

    /// Takes over another snapshot; returns it with a message for each registered service that does not count because of it.
    pub(super) fn take(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.registered.set_manifests(snapshot.services.clone());
        self.latest = snapshot;
        self.told()
    }

    /// Waits until what is registered changes; returns the snapshot with the messages that hold now. Safe to cancel.
    pub(super) async fn changed(&mut self) -> Arc<Snapshot> {
        // The sender is in `registered`, which lives as long as this.
        if self.changes.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.told()
    }

    fn told(&mut self) -> Arc<Snapshot> {
        let registered = self.changes.borrow_and_update().clone();
        let (_, warnings) = merge(&self.latest.services, &registered);
        if warnings.is_empty() {
            return self.latest.clone();
        }
        let mut snapshot = Snapshot::clone(&self.latest);
        snapshot.errors.extend(warnings);
        Arc::new(snapshot)
    }
}
