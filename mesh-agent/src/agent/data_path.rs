//! The data threads in the running agent: started at once, and led to only while a service port needs them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::requests::Requests;
use crate::agent::session_key;
use crate::kernel::Kernel;
use crate::locate::carried::connections_to;
use crate::locate::inside::Place;
use crate::locate::registry::Registry;
use crate::model::balanced::ProxiedPorts;
use crate::model::workload::{Workload, WorkloadName};
use crate::proxy::exchange::Config;
use crate::proxy::homes::{Homes, Reception};
use crate::proxy::listener::{Home, Listeners, PORT};
use crate::proxy::worker::{self, Outside, Workers};
use crate::settings::Settings;
use crate::telemetry::data_path::DataPathState;
use crate::telemetry::http::{Http, View};

/// Time between two looks at workloads that were let go.
const LOOK: Duration = Duration::from_secs(2);

/// How long clients may go on to use connections of an agent that ends, before those that are idle are closed.
const GRACE: Duration = Duration::from_secs(1);

/// How long requests in flight may take then. An orchestrator waits for 30 s.
const LAST: Duration = Duration::from_secs(20);

/// By what the balancing of services leads the data path.
#[derive(Debug)]
pub(super) struct Guide {
    /// Told: which service ports need the agent.
    pub(super) proxied: watch::Sender<Arc<ProxiedPorts>>,
    /// Whether workloads have listeners.
    pub(super) listening: watch::Receiver<bool>,
    /// What requests go by.
    pub(super) requests: Requests,
}

/// Keeps listeners in workloads while they are needed.
#[derive(Debug)]
pub(super) struct DataPath {
    // Before the threads that they are of.
    listeners: Listeners,
    workers: Arc<Workers>,
    proxied: watch::Receiver<Arc<ProxiedPorts>>,
    listening: watch::Sender<bool>,
    kernel: Arc<Kernel>,
    /// How it stands, for those that look.
    standing: Arc<DataPathState>,
    /// Whether the kernel knows the port.
    is_told: bool,
    /// When workloads that were let go were looked at.
    looked: Instant,
}

impl DataPath {
    /// Starts the data threads.
    ///
    /// # Errors
    ///
    /// When threads cannot be had.
    pub(super) fn start(
        settings: &Settings,
        kernel: &Arc<Kernel>,
        http: &Arc<Http>,
        standing: &Arc<DataPathState>,
    ) -> anyhow::Result<(Self, Guide)> {
        let config = Arc::<ArcSwap<Config>>::default();
        let epoch = Instant::now();
        let homes = Homes::start(kernel.clone(), kernel.clone());
        let homes = Arc::new(homes.context("failed to start the threads that make sockets")?);
        let observer = {
            let http = http.clone();
            Arc::new(move || http.observer())
        };
        let outside = Outside {
            config: config.clone(),
            sockets: homes.clone(),
            observer,
            sessions: session_key::load(&settings.discovery.state_dir),
            epoch,
        };
        let mut data = worker::Settings::default();
        data.threads.count = settings.data_threads;
        let workers = Workers::start(&data, &outside);
        let workers = Arc::new(workers.context("failed to start the data threads")?);
        standing.set_threads(workers.threads());
        http.show(view(config.clone(), workers.clone(), epoch));
        let reception = Arc::new(Reception::new(&workers, homes));
        let (proxied, proxied_seen) = watch::channel(Arc::default());
        let (listening, listening_seen) = watch::channel(false);
        let data_path = Self {
            listeners: Listeners::new(PORT, reception, kernel.clone()),
            workers,
            proxied: proxied_seen,
            listening,
            kernel: kernel.clone(),
            standing: standing.clone(),
            is_told: false,
            looked: Instant::now(),
        };
        let guide = Guide {
            proxied,
            listening: listening_seen,
            requests: Requests::new(config, epoch),
        };
        Ok((data_path, guide))
    }

    /// Opens and closes listeners as workloads come and go. Blocking.
    ///
    /// Those of a workload that was let go while it runs stay until nothing goes through them any more; the kernel leads nothing new
    /// there.
    pub(super) fn step(&mut self, registry: &mut Registry) {
        let needed = !self.proxied.borrow_and_update().is_empty();
        self.let_go(registry);
        let homes = if needed { homes(registry) } else { Vec::new() };
        let released = registry.released();
        let released = released.map(|(workload, _, place)| home(workload, place));
        let wanted: Vec<Arc<Home>> = match needed {
            true => homes.iter().cloned().chain(released).collect(),
            false => Vec::new(),
        };
        let open: BTreeSet<u64> = self.listeners.set(&wanted);
        if needed && !self.is_told {
            let told = self.kernel.set_proxy_port(self.listeners.port());
            self.is_told = told.is_ok();
            let problem = told.err().map(|error| format!("{error:#}"));
            if self.standing.set_problem(problem.clone())
                && let Some(error) = problem
            {
                tracing::error!(%error, "no connection can be led to the agent: service ports that need it fail as they are configured to");
            }
        }
        if !needed {
            // Nobody is to be led there.
            self.standing.set_problem(None);
        }
        self.standing.set_listening(open.len());
        let listening = needed && self.is_told && (homes.is_empty() || !open.is_empty());
        self.listening
            .send_if_modified(|known| std::mem::replace(known, listening) != listening);
    }

    /// Forgets workloads that were let go and that nothing of goes through the agent any more. Looks now and then: it takes a thread for
    /// each.
    fn let_go(&mut self, registry: &mut Registry) {
        if registry.released().next().is_none() || self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let port = self.listeners.port();
        // What was accepted by the kernel when it was let go is in the agent's hands a moment later.
        let old = registry.released().filter(|(_, since, _)| *since >= LOOK);
        let is_done = |place: &Place| !matches!(connections_to(place, port), Ok(1..));
        let done = old.filter(|(_, _, place)| is_done(place));
        let done: Vec<WorkloadName> = done.map(|(workload, ..)| workload.name.clone()).collect();
        for name in done {
            tracing::info!(workload = %name, "nothing of a workload that was let go goes through the agent any more");
            registry.forget_released(&name);
        }
    }

    /// Ends: requests in flight may end, for some time. Blocking.
    pub(super) fn stop(self) {
        self.workers.drain(GRACE, LAST);
    }
}

/// What telemetry sees of the data path.
fn view(config: Arc<ArcSwap<Config>>, workers: Arc<Workers>, epoch: Instant) -> View {
    View {
        clusters: Box::new(move || {
            let config = config.load();
            let destinations = config.destinations.values();
            destinations.map(|it| it.cluster.clone()).collect()
        }),
        now: Box::new(move || u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)),
        connections: Box::new(move || workers.connections()),
    }
}

fn homes(registry: &Registry) -> Vec<Arc<Home>> {
    let places = registry.places();
    let located = registry.located().iter();
    let homes = located.filter_map(|located| {
        let place = places.get(&located.workload.name)?.clone();
        Some(home(&located.workload, place))
    });
    homes.collect()
}

fn home(workload: &Arc<Workload>, place: Place) -> Arc<Home> {
    let workload = workload.clone();
    Arc::new(Home { workload, place })
}
