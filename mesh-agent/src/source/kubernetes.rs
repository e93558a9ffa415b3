//! A Kubernetes API server, watched.
//!
//! A thread of its own follows every kind that is read, by `follow`, and finds out which kinds there are, by `kinds`. What they
//! tell is kept by `store` and becomes the same plain objects that manifests become, each as a file of its own: what counts, and
//! what stays in force when an object is not valid, is said in `config::resolve`. While the server is away, what it said last
//! holds; and so it does after a restart, from `disk`.
//!
//! A thousand agents that start together ask a server for all objects a thousand times, so: lists are streamed from the
//! server's memory and never read from its disk; they begin at random moments, and those of the whole cluster last; an agent
//! that has its objects on disk takes five times as long; and whoever is refused comes back later, at random, and not before
//! the time that the server asked for. In steady state an agent sends about twenty requests an hour.

#![forbid(unsafe_code)]

pub mod agents;
mod backoff;
mod client;
mod discovery;
mod disk;
mod engine;
mod event;
mod follow;
mod keep;
mod kinds;
mod limits;
mod lines;
mod references;
mod report;
mod store;
mod target;
mod trouble;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use tokio::sync::{Notify, watch};

use crate::model::api::ApiStatus;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Acceleration;
use crate::source::Loaded;

use client::Api;
use engine::Engine;

/// What the source is to know.
#[derive(Clone, Debug)]
pub struct KubernetesSettings {
    /// Says where the API server is and how to be let in. `None`: the files of `KUBECONFIG`, or else the service account of the
    /// pod that the agent runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Name of the agent's node.
    pub node: String,
    /// Directory for what outlives the agent.
    pub state_dir: PathBuf,
    /// Mode of workloads that neither they nor their namespace give one.
    pub acceleration: Acceleration,
}

/// An API server that is being watched. Dropping it ends the watching and writes to disk what is not there yet.
#[derive(Debug)]
pub struct KubernetesSource {
    loaded: watch::Receiver<Loaded>,
    status: watch::Receiver<Arc<ApiStatus>>,
    /// Generation that `next` returned last.
    seen: u64,
    wake: Arc<Notify>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread hands over once it is ready.
type Handles = (watch::Receiver<Loaded>, watch::Receiver<Arc<ApiStatus>>);

impl KubernetesSource {
    /// Begins to watch. The first snapshot is what was kept on disk, if anything was; else it is of generation 0 until every
    /// kind was told.
    ///
    /// # Errors
    ///
    /// When nothing says where the API server is, or the thread cannot be had. That the server does not answer is none.
    pub fn start(settings: KubernetesSettings) -> anyhow::Result<Self> {
        let (stop, stopping) = watch::channel(false);
        let wake = Arc::new(Notify::new());
        let (ready, is_ready) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to make a runtime for the API server")?;
        let waking = wake.clone();
        let thread = thread::Builder::new()
            .name("kubernetes".to_owned())
            .spawn(move || {
                runtime.block_on(run(settings, waking, stopping, ready));
                // Requests on their way are nobody's any more.
                runtime.shutdown_background();
            })
            .context("failed to start the thread that watches the API server")?;
        let handles: anyhow::Result<Handles> = is_ready
            .recv()
            .context("the thread that watches the API server ended")?;
        let (loaded, status) = handles?;
        let seen = loaded.borrow().snapshot.generation;
        Ok(Self {
            loaded,
            status,
            seen,
            wake,
            stop,
            thread: Some(thread),
        })
    }

    /// Returns the latest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.loaded.borrow().snapshot.clone()
    }

    /// Waits for a snapshot that this method has not returned yet, and that was not there at the start. Safe to cancel.
    pub async fn next(&mut self) -> Arc<Snapshot> {
        super::next(&mut self.loaded, &mut self.seen).await
    }

    /// Returns a handle to the latest outcome.
    pub fn subscribe(&self) -> watch::Receiver<Loaded> {
        self.loaded.clone()
    }

    /// Returns a handle to how the API server stands.
    pub fn status(&self) -> watch::Receiver<Arc<ApiStatus>> {
        self.status.clone()
    }

    /// Ends all pauses: what failed is tried again now.
    pub fn retry(&self) {
        self.wake.notify_waiters();
    }
}

impl Drop for KubernetesSource {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watches the API server had panicked");
        }
    }
}

async fn run(
    settings: KubernetesSettings,
    wake: Arc<Notify>,
    stopping: watch::Receiver<bool>,
    ready: mpsc::Sender<anyhow::Result<Handles>>,
) {
    let api = match Api::infer(settings.kubeconfig.as_deref()).await {
        Ok(api) => Arc::new(api),
        Err(error) => {
            // Whoever waits may be gone.
            ready.send(Err(error)).ok();
            return;
        }
    };
    let engine = Engine::new(api, settings, wake);
    ready.send(Ok(engine.handles())).ok();
    engine.run(stopping).await;
}
