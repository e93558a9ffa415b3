//! Puts the rooms together: bind everything, then run.
//!
//! Two things happen beside the admin API's tasks. A thread hands the kernel's records of ended flows to the hub. Twice a
//! second, and whenever the configuration changes, `Follower::step` looks where the workloads are, writes that to the maps
//! and lets the kernel side do what time brings. Bytes of a workload's traffic pass through the data threads alone, where a service
//! port needs more than the kernel can do.

#![forbid(unsafe_code)]

pub mod balancing;
mod captured;
mod data_path;
mod discovery;
mod names;
mod policies;
pub mod requests;
mod services;
mod session_key;
mod wakes;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::admin::readiness::{Block, Readiness};
use crate::admin::{Admin, Control, Sources, server};
use crate::agent::data_path::DataPath;
use crate::agent::discovery::Discovery;
use crate::agent::names::Names;
use crate::agent::policies::Policies;
use crate::agent::services::ServiceController;
use crate::agent::wakes::Waker;
use crate::balance::Here;
use crate::cli::SourceKind;
use crate::health::changed_or_never;
use crate::kernel::{self, Kernel, KernelSettings, Records};
use crate::locate::linux::Linux;
use crate::locate::registry::Registry;
use crate::locate::reset::Connection;
use crate::locate::{Located, Outcome};
use crate::model::enrolment::{Absence, Absent};
use crate::model::observed::KernelView;
use crate::model::service::Services;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Placed;
use crate::settings::Settings;
use crate::source::Source;
use crate::source::kubernetes::{KubernetesSettings, KubernetesSource};
use crate::source::manifests::ManifestSource;
use crate::telemetry::applied::{ApplyTimes, Part};
use crate::telemetry::data_path::DataPathState;
use crate::telemetry::http::Http;
use crate::telemetry::http::otlp::Exporter;
use crate::telemetry::hub::FlowHub;

/// Time between two looks at the machine: workloads that come or go are to be noticed within a second.
const PERIOD: Duration = Duration::from_millis(500);

/// Time between two looks at the ring of flow records, unless it fills up earlier: what `flows --follow` lags behind.
const RECORDS_PERIOD: Duration = Duration::from_millis(250);

/// The same while a pod starts, which is to be found soon after its first process.
const SOON: Duration = Duration::from_millis(100);

/// Why a workload of this node that is not in the mesh is not looked for.
const NOT_ENROLLED: &str =
    "not in the mesh: neither it nor its namespace has the label underpass.dev/mesh=enabled";

/// How long the end waits for the spans of the last requests.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// An agent whose programs are attached and whose listeners are bound; nothing is served or followed yet.
#[derive(Debug)]
pub struct Bound {
    kernel: Arc<Kernel>,
    records: Records,
    source: Source,
    discovery: Discovery,
    services: ServiceController,
    snapshot: Arc<ArcSwap<Snapshot>>,
    hub: Arc<FlowHub>,
    exporter: Option<Exporter>,
    admin: Arc<Admin>,
    listeners: server::Bound,
    follower: Follower,
}

impl Bound {
    /// Returns where metrics will be served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.listeners.metrics_address()
    }
}

/// What failed where namespaces cannot be looked into.
const UNPREPARED: &str = "failed to prepare for looking into namespaces";

/// Starts everything that can fail: listeners first, so that a second agent changes nothing.
///
/// # Errors
///
/// Where a listener, the kernel side or the source cannot be had.
pub fn bind(settings: &Settings) -> anyhow::Result<Bound> {
    let addresses = server::Addresses {
        socket: settings.socket.clone(),
        metrics: settings.metrics_address,
    };
    let listeners = server::bind(&addresses)?;
    kernel::check_rights()?;
    let machine = Linux::new(Some(&settings.cgroup)).context(UNPREPARED)?;
    let mut discovery = Discovery::start(&settings.discovery)?;
    let dns = Arc::default();
    let names = Names::start(&settings.discovery, Arc::clone(&dns))?;
    let (kernel, records) = Kernel::start(&kernel_settings(settings))?;
    let kernel = Arc::new(kernel);
    let source = source(settings, discovery.registered().services())?;
    let snapshot = Arc::new(ArcSwap::new(discovery.take(source.snapshot())));
    let hub = Arc::new(FlowHub::new(kernel.clone()));
    let (http, exporter) = Http::start(&settings.http, &settings.node_name)
        .context("failed to open the access log")?;
    let readiness = Readiness::default();
    let times = Arc::<ApplyTimes>::default();
    let standing = Arc::<DataPathState>::default();
    let (data_path, guide) = DataPath::start(settings, &kernel, &http, &standing)?;
    let from = services::From {
        manifests: source.subscribe(),
        registered: discovery.registered().changed(),
        here: here(settings),
        times: times.clone(),
        guide,
    };
    let block = readiness.block("the first balancing of services");
    let services = ServiceController::start(kernel.clone(), from, block)?;
    let follower = Follower {
        names,
        data_path,
        kernel: kernel.clone(),
        registry: Registry::new(machine, settings.node_name.clone()),
        policies: Policies::new(&kernel, times.clone()),
        times: times.clone(),
        placed: Vec::new(),
        applied: None,
        block: Some(readiness.block("the first look at the workloads")),
    };
    let admin = Admin::new(Sources {
        kernel: kernel.clone(),
        snapshot: snapshot.clone(),
        registered: discovery.registered(),
        services: services.looks(),
        policies: follower.policies.tables(),
        times,
        hub: hub.clone(),
        http,
        control: kernel.clone(),
        dns,
        data_path: standing,
        readiness,
        api: source.api(),
        node: settings.node_name.clone(),
    })?;
    Ok(Bound {
        kernel,
        records,
        source,
        discovery,
        services,
        snapshot,
        hub,
        exporter,
        admin,
        listeners,
        follower,
    })
}

fn source(settings: &Settings, registered: Arc<Services>) -> anyhow::Result<Source> {
    Ok(match settings.source {
        SourceKind::Manifests => Source::Manifests(
            ManifestSource::start_with(&settings.manifests, settings.acceleration, registered)
                .context("failed to start the thread that watches the manifests")?,
        ),
        SourceKind::Kubernetes => {
            let settings = KubernetesSettings {
                kubeconfig: settings.kubeconfig.clone(),
                node: settings.node_name.clone(),
                state_dir: settings.discovery.state_dir.clone(),
                acceleration: settings.acceleration,
            };
            Source::Kubernetes(KubernetesSource::start_with(settings, registered)?)
        }
    })
}

fn kernel_settings(settings: &Settings) -> KernelSettings {
    KernelSettings {
        cgroup: settings.cgroup.clone(),
        bpf_dir: settings.bpf_dir.clone(),
        observation_window: settings.observation_window,
        stall_timeout: settings.stall_timeout,
    }
}

fn here(settings: &Settings) -> Here {
    Here {
        node: settings.node_name.clone(),
        zone: settings.zone.clone(),
        region: settings.region.clone(),
    }
}

impl Bound {
    /// Runs until a signal asks to stop (SIGTERM, SIGINT). What is in the kernel stays there and goes on.
    ///
    /// # Errors
    ///
    /// Where signals or listeners cannot be had from the runtime.
    pub async fn run(self) -> anyhow::Result<()> {
        let (stop, stopping) = watch::channel(false);
        let (last, lasting) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let exporting = self.exporter.map(|it| tokio::spawn(it.run(lasting)));
        let serving = tokio::spawn(self.listeners.run(self.admin, stopping));
        let waker = self.kernel.wakes().map(Waker::start).transpose()?;
        let mut records =
            RecordsThread::Waiting(Box::new(self.records), self.kernel.clone(), self.hub);
        let mut source = self.source;
        let mut discovery = self.discovery;
        let mut services = self.services.looks().services;
        let mut follower = self.follower;
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tracing::info!(level = ?self.kernel.probe().level, "the agent runs");
        loop {
            let mut look = false;
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => source.reload(),
                snapshot = source.next() => self.snapshot.store(discovery.take(snapshot)),
                snapshot = discovery.changed() => {
                    source.set_registered(discovery.registered().services());
                    self.snapshot.store(snapshot);
                }
                () = changed_or_never(&mut services) => {}
                _ = period.tick() => look = true,
                () = tokio::time::sleep(SOON), if follower.registry.awaits_pods() => look = true,
            }
            let snapshot = self.snapshot.load_full();
            let known = services.borrow_and_update().clone();
            let step = move || follower.step(&snapshot, &known, look);
            follower = tokio::task::spawn_blocking(step).await?;
            let places = follower.registry.places();
            if let Some(waker) = &waker {
                waker.set_places(&places);
            }
            self.services.set_places(places);
            if follower.applied.is_some() {
                // Not earlier: what piled up while no agent ran is to have names.
                records = records.start()?;
            }
        }
        tracing::info!("the agent stops; programs and connections in the kernel go on");
        stop.send_replace(true);
        serving.await??;
        tokio::task::spawn_blocking(move || follower.data_path.stop()).await?;
        // Requests that were in flight have ended only now.
        last.send_replace(true);
        if let Some(exporting) = exporting {
            // The collector may be slow; the rest is not to wait for it.
            drop(tokio::time::timeout(LAST_SPANS, exporting).await);
        }
        self.services.stop();
        records.stop();
        waker.map(Waker::stop).unwrap_or_default();
        Ok(())
    }
}

/// Keeps the maps in line with the configuration and the machine.
#[derive(Debug)]
struct Follower {
    names: Names,
    data_path: DataPath,
    kernel: Arc<Kernel>,
    registry: Registry,
    policies: Policies,
    /// What the registry last found, made anew only when it changes: thousands may run elsewhere.
    placed: Vec<Placed>,
    /// Generation that the maps are in line with.
    applied: Option<u64>,
    block: Option<Block>,
    times: Arc<ApplyTimes>,
}

impl Follower {
    /// Brings all in line. Looks at the machine where `look` says so or other workloads are wanted: that takes entering
    /// namespaces, which other changes are not to wait for. Errors are logged and met again at the next look.
    ///
    /// Does nothing before there is a configuration: an earlier agent may have left one in the kernel.
    fn step(mut self, snapshot: &Snapshot, services: &Arc<Services>, look: bool) -> Self {
        if snapshot.generation == 0 {
            return self;
        }
        let changed = (look || !self.registry.knows(snapshot)) && self.registry.refresh(snapshot);
        if changed {
            self.placed = self.registry.located().iter().map(placed).collect();
        }
        // Before the kernel leads a new workload's connections there.
        self.data_path.step(&mut self.registry);
        let placed = &self.placed;
        if changed || self.applied != Some(snapshot.generation) {
            if changed || !self.policies.knows(snapshot) {
                self.policies
                    .close(&self.kernel, &self.registry, snapshot, placed);
            }
            match self.kernel.apply(snapshot.generation, placed) {
                Ok(()) => {
                    self.applied = Some(snapshot.generation);
                    self.times.note(Part::Workloads, snapshot);
                    self.kernel
                        .find_listeners(&|netns| self.registry.open(netns));
                }
                Err(error) => {
                    self.applied = None;
                    tracing::error!(%error, "failed to write the maps; trying again");
                }
            }
        }
        self.names.step(services, &self.registry, &self.kernel);
        self.policies
            .follow(&self.kernel, &self.registry, snapshot, placed);
        if self.applied.is_some() {
            // Every workload that is known was looked for, and what holds for those that were found is in the kernel.
            self.block = None;
        }
        match self.kernel.tick() {
            Ok(stalled) => stalled.iter().for_each(|flow| self.reset(flow)),
            Err(error) => tracing::error!(%error, "failed to look after the maps; trying again"),
        }
        self
    }

    /// Resets a flow whose reader hangs, unless it turns out that it does not.
    fn reset(&self, flow: &kernel::StalledFlow) {
        let key = &flow.reader;
        let connection = Connection {
            local: SocketAddr::new(key.local.into(), key.local_port.number()),
            remote: SocketAddr::new(key.remote.into(), key.remote_port.number()),
        };
        if flow.by_tcp && matches!(self.registry.unread(key.netns, &connection), Ok(0)) {
            // Read in a way that no program sees, such as splice(2).
            return;
        }
        self.kernel.note_stalled(flow);
        let outcome = self.registry.reset(key.netns, &connection);
        match outcome {
            Ok(()) => tracing::warn!(
                reader.addr = %key.local, reader.port = %key.local_port, peer.addr = %key.remote, peer.port = %key.remote_port,
                "bytes lay unread for too long: the flow is reset, and in mode `auto` its reader's workload no longer accelerated"
            ),
            Err(error) => tracing::error!(%error, "failed to reset a flow that hangs"),
        }
    }
}

fn placed(located: &Located) -> Placed {
    let netns = match &located.outcome {
        Outcome::Found { netns_cookie, .. } => Ok(*netns_cookie),
        Outcome::NotFound { reason, why } => Err(Absence::new(*reason, why.as_str())),
        Outcome::NotEnrolled => Err(Absence::new(Absent::NotEnrolled, NOT_ENROLLED)),
    };
    Placed {
        workload: located.workload.clone(),
        netns,
        note: located.note.clone().unwrap_or_default(),
        uncaptured: located.outside.as_deref().map(outside),
    }
}

fn outside(cgroup: &Path) -> Absence {
    let why = format!(
        "its cgroup `{}` is not below the one that the agent is attached to (--cgroup): only what comes in is judged",
        cgroup.display()
    );
    Absence::new(Absent::Outside, why)
}

impl Control for Kernel {
    fn redirect_allowed(&self) -> bool {
        self.redirect_allowed()
    }

    fn allow_redirect(&self, allowed: bool) -> anyhow::Result<()> {
        self.set_redirect(allowed)?;
        tracing::info!(allowed, "the operator set the kill switch");
        Ok(())
    }
}

/// The thread that hands over records of ended flows.
enum RecordsThread {
    Waiting(Box<Records>, Arc<Kernel>, Arc<FlowHub>),
    Running {
        stop: Arc<AtomicBool>,
        thread: JoinHandle<()>,
    },
}

impl RecordsThread {
    /// Starts the thread, unless it runs.
    fn start(self) -> std::io::Result<Self> {
        let Self::Waiting(mut records, kernel, hub) = self else {
            return Ok(self);
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || {
                while !stopping.load(Ordering::Relaxed) {
                    records.drain(RECORDS_PERIOD, |record| {
                        if let Some(ended) = kernel.take(record) {
                            hub.push(ended);
                        }
                    });
                    if let Err(error) = kernel.let_leave() {
                        tracing::debug!(%error, "bulk streams stay in the socket map");
                    }
                }
            })?;
        Ok(Self::Running { stop, thread })
    }

    /// Ends the thread; takes one period at most.
    fn stop(self) {
        let Self::Running { stop, thread } = self else {
            return;
        };
        stop.store(true, Ordering::Relaxed);
        if thread.join().is_err() {
            tracing::error!("the thread of flow records had panicked");
        }
    }
}
