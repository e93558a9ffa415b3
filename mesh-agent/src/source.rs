//! Where the configuration comes from. Each source yields one valid [`Snapshot`] after the other.

#![forbid(unsafe_code)]

mod kept_file;
pub mod kubernetes;
pub mod manifests;
mod outcome;
pub mod registered;

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::problem::Problem;
use crate::model::api::ApiStatus;
use crate::model::service::Services;
use crate::model::snapshot::Snapshot;

use kubernetes::KubernetesSource;
use manifests::ManifestSource;

/// The latest outcome of reading the objects.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration. Generation 0: nothing is known yet, and what runs is to be left as it is.
    pub snapshot: Arc<Snapshot>,
    /// Everything worth saying, notes and warnings included; `snapshot.errors` has the errors only.
    pub problems: Arc<[Problem]>,
}

/// Where the configuration comes from.
#[derive(Debug)]
pub enum Source {
    /// A directory of manifests.
    Manifests(ManifestSource),
    /// A Kubernetes API server.
    Kubernetes(KubernetesSource),
}

impl Source {
    /// Returns the latest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        match self {
            Self::Manifests(source) => source.snapshot(),
            Self::Kubernetes(source) => source.snapshot(),
        }
    }

    /// Waits for a snapshot that this method has not returned yet, and that was not there at the start. Only the latest: what
    /// came and went between two calls is never seen. Safe to cancel.
    pub async fn next(&mut self) -> Arc<Snapshot> {
        match self {
            Self::Manifests(source) => source.next().await,
            Self::Kubernetes(source) => source.next().await,
        }
    }

    /// Returns a handle to the latest outcome.
    pub fn subscribe(&self) -> watch::Receiver<Loaded> {
        match self {
            Self::Manifests(source) => source.subscribe(),
            Self::Kubernetes(source) => source.subscribe(),
        }
    }

    /// Returns a handle to how the API server stands, if there is one.
    pub fn api(&self) -> Option<watch::Receiver<Arc<ApiStatus>>> {
        match self {
            Self::Manifests(_) => None,
            Self::Kubernetes(source) => Some(source.status()),
        }
    }

    /// Tells which services programs registered from now on: routes and policies may name them.
    pub fn set_registered(&self, registered: Arc<Services>) {
        match self {
            Self::Manifests(source) => source.set_registered(registered),
            Self::Kubernetes(source) => source.set_registered(registered),
        }
    }

    /// Reads everything again now: the directory as if it had changed, the API server without waiting for the end of a pause.
    pub fn reload(&self) {
        match self {
            Self::Manifests(source) => source.reload(),
            Self::Kubernetes(source) => source.retry(),
        }
    }
}

/// Waits for a snapshot of another generation than `seen`, and notes it there. Safe to cancel.
async fn next(loaded: &mut watch::Receiver<Loaded>, seen: &mut u64) -> Arc<Snapshot> {
    // Notes may change without the snapshot.
    let is_new = |loaded: &Loaded| loaded.snapshot.generation != *seen;
    let found = loaded.wait_for(is_new).await;
    let snapshot = found.map(|loaded| loaded.snapshot.clone());
    let Ok(snapshot) = snapshot else {
        // The thread only ends with its source. Should it have died, nothing new will come.
        return std::future::pending().await;
    };
    *seen = snapshot.generation;
    snapshot
}
