//! The data threads in the running agent: started at once, and led to only while a service port needs them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::kernel::Kernel;
use crate::l7::session::SessionKey;
use crate::locate::registry::Registry;
use crate::model::balanced::ProxiedPorts;
use crate::proxy::exchange::Config;
use crate::proxy::homes::{Homes, Reception};
use crate::proxy::listener::{Home, Listeners, PORT};
use crate::proxy::worker::{Outside, Settings, Workers};
use crate::telemetry::data_path::DataPathState;
use crate::telemetry::http::{Http, View};

/// How long clients may go on to use connections of an agent that ends, before those that are idle are closed.
const GRACE: Duration = Duration::from_secs(1);

/// How long requests in flight may take then. An orchestrator waits for 30 s.
const LAST: Duration = Duration::from_secs(20);

/// Whether the data path is needed, and whether it is there.
#[derive(Debug)]
pub(super) struct Demand {
    /// Told by who balances: which service ports need the agent.
    pub(super) proxied: watch::Receiver<Arc<ProxiedPorts>>,
    /// Told to it: whether workloads have listeners.
    pub(super) listening: watch::Sender<bool>,
    /// Told: how all of it stands.
    pub(super) standing: Arc<DataPathState>,
}

/// Keeps listeners in workloads while they are needed.
#[derive(Debug)]
pub(super) struct DataPath {
    // Before the threads that they are of.
    listeners: Listeners,
    workers: Arc<Workers>,
    demand: Demand,
    kernel: Arc<Kernel>,
    /// Whether the kernel knows the port.
    is_told: bool,
}

impl DataPath {
    /// Starts the data threads.
    ///
    /// # Errors
    ///
    /// When threads cannot be had.
    pub(super) fn start(
        threads: usize,
        kernel: Arc<Kernel>,
        config: Arc<ArcSwap<Config>>,
        http: &Arc<Http>,
        sessions: Option<SessionKey>,
        epoch: Instant,
        demand: Demand,
    ) -> anyhow::Result<Self> {
        let clusters = config.clone();
        let homes = Homes::start(kernel.clone(), kernel.clone());
        let homes = Arc::new(homes.context("failed to start the threads that make sockets")?);
        let mut settings = Settings::default();
        settings.threads.count = threads;
        let outside = Outside {
            config,
            sockets: homes.clone(),
            observer: {
                let http = http.clone();
                Arc::new(move || http.observer())
            },
            sessions,
            epoch,
        };
        let workers = Workers::start(&settings, &outside);
        let workers = Arc::new(workers.context("failed to start the data threads")?);
        demand.standing.set_threads(workers.threads());
        let pools = workers.clone();
        http.show(View {
            clusters: Box::new(move || {
                let config = clusters.load();
                let destinations = config.destinations.values();
                destinations.map(|it| it.cluster.clone()).collect()
            }),
            now: Box::new(move || u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            connections: Box::new(move || pools.connections()),
        });
        let reception = Arc::new(Reception::new(&workers, homes));
        Ok(Self {
            listeners: Listeners::new(PORT, reception, kernel.clone()),
            workers,
            demand,
            kernel,
            is_told: false,
        })
    }

    /// Opens and closes listeners as workloads come and go. Blocking.
    pub(super) fn step(&mut self, registry: &Registry) {
        let needed = !self.demand.proxied.borrow_and_update().is_empty();
        let homes = if needed { homes(registry) } else { Vec::new() };
        let open: BTreeSet<u64> = self.listeners.set(&homes);
        if needed && !self.is_told {
            let told = self.kernel.set_proxy_port(self.listeners.port());
            self.is_told = told.is_ok();
            let problem = told.err().map(|error| format!("{error:#}"));
            if self.demand.standing.set_problem(problem.clone())
                && let Some(error) = problem
            {
                tracing::error!(%error, "no connection can be led to the agent: service ports that need it fail as they are configured to");
            }
        }
        if !needed {
            // Nobody is to be led there.
            self.demand.standing.set_problem(None);
        }
        self.demand.standing.set_listening(open.len());
        let listening = needed && self.is_told && (homes.is_empty() || !open.is_empty());
        self.demand
            .listening
            .send_if_modified(|known| std::mem::replace(known, listening) != listening);
    }

    /// Ends: requests in flight may end, for some time. Blocking.
    pub(super) fn stop(self) {
        // Listeners first, so that nothing new comes.
        self.workers.drain(GRACE, LAST);
    }
}

fn homes(registry: &Registry) -> Vec<Arc<Home>> {
    let places = registry.places();
    let located = registry.located().iter();
    let home = located.filter_map(|located| {
        let place = places.get(&located.workload.name)?.clone();
        Some(Arc::new(Home {
            workload: located.workload.clone(),
            place,
        }))
    });
    home.collect()
}
