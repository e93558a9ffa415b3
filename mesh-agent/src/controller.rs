//! The controller of a cluster: writes what people see of the mesh, and decides nothing.
//!
//! It reads what agents read, computes the same statuses, and writes them to the objects, while it is the one of several that
//! leads. It says by events what is wrong, and takes the taint from nodes whose agent is ready. The mesh works without it. It is the
//! only part of the project that has the right to write anything.

#![forbid(unsafe_code)]

mod elector;
mod events;
mod features;
mod lease;
mod mesh;
mod news;
mod pace;
mod queue;
mod rights;
mod status;
mod taints;
mod told;
mod work;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::pages::{self, Pages};
use crate::admin::readiness::{Block, Readiness};
use crate::settings::controller::ControllerSettings;
use crate::source::Loaded;
use crate::source::kubernetes::KubernetesSource;
use crate::source::kubernetes::write::{WriteError, Writer};
use crate::telemetry::metrics::controller::{ControllerMetrics, Counts, Outcome};

use elector::Elector;
use rights::Rights;
use told::Told;
use work::{Tools, Worker};

/// Runs a controller until a signal asks to stop (SIGTERM, SIGINT).
///
/// # Errors
///
/// Where the listener cannot be had, or nothing says where the API server is.
pub async fn run(settings: &ControllerSettings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = Running::start(settings).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("the controller stops");
    running.stop().await
}

/// The parts of a running controller, and how each is told to stop.
struct Running {
    source: KubernetesSource,
    working: (watch::Sender<bool>, JoinHandle<()>),
    electing: (watch::Sender<bool>, JoinHandle<()>),
    serving: (watch::Sender<bool>, Option<JoinHandle<()>>),
    sending: JoinHandle<()>,
    waiting: JoinHandle<()>,
}

impl Running {
    async fn start(settings: &ControllerSettings) -> anyhow::Result<Self> {
        let listener = settings.metrics_address.map(listen).transpose()?;
        let writer = Arc::new(Writer::new(settings.kubeconfig.as_deref()).await?);
        let (source, mirror) =
            KubernetesSource::start_controller(settings.kubeconfig.clone(), &settings.namespace)?;
        let counts = Arc::<Counts>::default();
        let told = Arc::<Told>::default();
        let (stop, stopping) = watch::channel(false);
        let (resign, resigning) = watch::channel(false);
        let (down, shutdown) = watch::channel(false);
        let readiness = Readiness::default();
        let block = readiness.block("the first configuration");
        let waiting = tokio::spawn(until_known(source.subscribe(), block));
        let metrics = listener.as_ref().and_then(|it| it.local_addr().ok());
        let rights = Rights::new(told.clone(), counts.clone(), readiness.clone());
        let rights = Arc::new(rights);
        let serving = serve(listener, &counts, readiness, shutdown)?;
        let (elector, leadership) = Elector::new(
            writer.clone(),
            &settings.namespace,
            &settings.identity,
            settings.lease,
            told.clone(),
            rights.clone(),
            counts.clone(),
        );
        let (events, posts) = mpsc::channel(events::WAITING);
        let sender = events::Sender {
            writer: writer.clone(),
            leadership: leadership.clone(),
            posts,
            told: told.clone(),
            rights: rights.clone(),
            counts: counts.clone(),
        };
        let worker = Worker::new(Tools {
            mirror,
            loaded: source.subscribe(),
            writer,
            leadership,
            events,
            told,
            rights,
            counts,
            identity: settings.identity.clone(),
        });
        let metrics = metrics.map(tracing::field::display);
        tracing::info!(identity = settings.identity, metrics, "the controller runs");
        Ok(Self {
            source,
            working: (stop, tokio::spawn(worker.run(stopping))),
            electing: (resign, tokio::spawn(elector.run(resigning))),
            serving: (down, serving),
            sending: tokio::spawn(sender.run()),
            waiting,
        })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.waiting.abort();
        // Who lets the lease go must not write any more.
        let (stop, working) = self.working;
        stop.send_replace(true);
        working.await?;
        self.sending.abort();
        let (resign, electing) = self.electing;
        resign.send_replace(true);
        electing.await?;
        let (down, serving) = self.serving;
        down.send_replace(true);
        if let Some(serving) = serving {
            serving.await?;
        }
        let source = self.source;
        tokio::task::spawn_blocking(move || drop(source)).await?;
        Ok(())
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .with_context(|| format!("failed to listen for metrics on `{address}`"))
}

/// Blocks readiness until there is a configuration.
async fn until_known(mut loaded: watch::Receiver<Loaded>, block: Block) {
    let is_known = |it: &Loaded| it.snapshot.generation > 0;
    if loaded.wait_for(is_known).await.is_err() {
        // The source ended: there will be none.
        std::future::pending::<()>().await;
    }
    drop(block);
}

fn serve(
    listener: Option<TcpListener>,
    counts: &Arc<Counts>,
    readiness: Readiness,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(listener) = listener else {
        return Ok(None);
    };
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let metrics = ControllerMetrics::new(counts.clone())?;
    let pages = Pages {
        metrics: Box::new(move || Ok(metrics.render()?)),
        readiness,
    };
    Ok(Some(tokio::spawn(pages::serve(listener, pages, shutdown))))
}

/// Returns what a failed write is counted as.
fn outcome(error: &WriteError) -> Outcome {
    match error {
        WriteError::Conflict(_) | WriteError::Exists(_) => Outcome::Conflict,
        WriteError::Gone(_) => Outcome::Gone,
        WriteError::Forbidden(_) => Outcome::Forbidden,
        WriteError::Refused(_) => Outcome::Refused,
        WriteError::Later { .. } => Outcome::Failed,
    }
}
