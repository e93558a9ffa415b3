//! Active health checks: asks endpoints that nobody else looks after whether they answer.
//!
//! A check of a workload of this node is made in the workload's own network namespace, to the endpoint's own address, and so
//! depends on nothing but the workload. A check of an endpoint elsewhere is made from where a client of this node would dial:
//! the namespace of some workload of the node, or the node's own if it has none. A loopback address is the node's own.
//!
//! One task follows the configuration and keeps the score (`score`); each endpoint has a task that asks (`probe`) and sleeps.
#![forbid(unsafe_code)]

mod dial;
mod grpc;
mod http;
mod probe;
mod score;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::chance::Chance;
use crate::health::score::Score;
use crate::locate::inside::{Place, Places};
use crate::model::endpoint::Health;
use crate::model::service::{Endpoint, HealthCheck, Protocol, Service, ServiceName, Services};
use crate::model::workload::WorkloadName;

/// Checks in progress at once, each with a socket and, while it enters a namespace, a thread: with time-outs of a second, 64 a
/// second for endpoints that hang, and thousands for those that answer.
const AT_ONCE: usize = 64;

/// Endpoints that are checked: as many as a node has workloads, twice over. Those beyond count as the configuration says. 2 kB each.
const ENDPOINTS_MAX: usize = 8192;

/// Results that wait for the task that keeps the score, which takes microseconds for each.
const RESULTS: usize = AT_ONCE;

/// How long the first check waits for a workload to be found that may be one of this node: two looks at the machine, and some.
const PLACE_PATIENCE: Duration = Duration::from_secs(2);

/// Part of the interval by which one is shorter or longer than it, so that checks do not move in step.
const JITTER: f64 = 0.1;

/// What the checks depend on.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Name of this node.
    pub node: String,
    /// All services.
    pub services: watch::Receiver<Arc<Services>>,
    /// Where workloads are; `None` before the first look.
    pub places: watch::Receiver<Option<Arc<Places>>>,
}

/// Checks endpoints and publishes what it finds, for as long as it is polled.
pub async fn run(mut inputs: Inputs, published: watch::Sender<Arc<Health>>) {
    if inputs.places.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let (results, mut incoming) = mpsc::channel(RESULTS);
    let mut checker = Checker {
        services: BTreeMap::new(),
        health: published.borrow().clone(),
        asking: Asking {
            node: inputs.node.into(),
            places: inputs.places.clone(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            results,
        },
    };
    loop {
        let services = inputs.services.borrow_and_update().clone();
        let mut changed = checker.follow(&services);
        loop {
            if changed {
                published.send_replace(checker.health.clone());
            }
            tokio::select! {
                () = changed_or_never(&mut inputs.services) => break,
                Some(result) = incoming.recv() => changed = checker.take(result),
            }
        }
    }
}

/// Waits for another value; for ever when there will be none.
pub async fn changed_or_never<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One answer, or why there was none.
#[derive(Debug)]
struct CheckResult {
    service: ServiceName,
    address: SocketAddr,
    outcome: Result<(), String>,
}

/// What every asking task needs.
#[derive(Clone, Debug)]
struct Asking {
    node: Arc<str>,
    places: watch::Receiver<Option<Arc<Places>>>,
    slots: Arc<Semaphore>,
    results: mpsc::Sender<CheckResult>,
}

/// All endpoints that are checked.
#[derive(Debug)]
struct Checker {
    services: BTreeMap<ServiceName, Watched>,
    health: Arc<Health>,
    asking: Asking,
}

/// A service whose endpoints are checked.
#[derive(Debug)]
struct Watched {
    service: Arc<Service>,
    check: HealthCheck,
    endpoints: BTreeMap<SocketAddr, Asked>,
}

/// An endpoint that is checked.
#[derive(Debug)]
struct Asked {
    workload: Option<Arc<WorkloadName>>,
    score: Score,
    _task: Task,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Checker {
    /// Takes over another configuration; returns whether that changes what is known of health.
    fn follow(&mut self, services: &Services) -> bool {
        let mut before = std::mem::take(&mut self.services);
        let mut room = ENDPOINTS_MAX;
        for (name, service) in services {
            let Some(check) = &service.balance.health_check else {
                continue;
            };
            let watched = match before.remove(name) {
                Some(watched) if Arc::ptr_eq(&watched.service, service) => watched,
                known => self.watch(service, check, known, room),
            };
            room = room.saturating_sub(watched.endpoints.len());
            self.services.insert(name.clone(), watched);
        }
        if room == 0 {
            tracing::warn!(
                max = ENDPOINTS_MAX,
                "too many endpoints to check; the others count as the configuration says"
            );
        }
        let names: Vec<ServiceName> = before
            .into_keys()
            .chain(self.services.keys().cloned())
            .collect();
        let changes = names.iter().filter(|name| self.publish(name)).count();
        changes > 0
    }

    /// Returns a service whose endpoints are asked from now on; what was known of them is kept.
    fn watch(
        &self,
        service: &Arc<Service>,
        check: &HealthCheck,
        known: Option<Watched>,
        room: usize,
    ) -> Watched {
        let same_check = known.as_ref().is_some_and(|known| known.check == *check);
        let mut known = known.map(|known| known.endpoints).unwrap_or_default();
        let mut endpoints = BTreeMap::new();
        for endpoint in checked(service) {
            let address = SocketAddr::new(endpoint.address, endpoint.port);
            if endpoints.len() == room {
                break;
            }
            let asked = match known.remove(&address) {
                Some(asked) if same_check && asked.workload == endpoint.workload => asked,
                known => Asked {
                    workload: endpoint.workload.clone(),
                    score: known.map(|asked| asked.score.clone()).unwrap_or_default(),
                    _task: self.asking.spawn(service, endpoint, check),
                },
            };
            endpoints.insert(address, asked);
        }
        Watched {
            service: service.clone(),
            check: check.clone(),
            endpoints,
        }
    }

    /// Takes in a result; returns whether it changes what is known.
    fn take(&mut self, result: CheckResult) -> bool {
        let CheckResult {
            service,
            address,
            outcome,
        } = result;
        let Some(watched) = self.services.get_mut(&service) else {
            return false;
        };
        let Some(asked) = watched.endpoints.get_mut(&address) else {
            return false;
        };
        let was = asked.score.checked().map(|checked| checked.healthy);
        asked.score.take(outcome, &watched.check);
        if let Some(checked) = asked.score.checked()
            && was != Some(checked.healthy)
        {
            let error = checked.error.as_deref();
            tracing::info!(%service, endpoint = %address, healthy = checked.healthy, error, "health changed");
        }
        self.publish(&service)
    }

    /// Brings what is known of a service up to date; returns whether it changed.
    fn publish(&mut self, name: &ServiceName) -> bool {
        let endpoints = self
            .services
            .get(name)
            .map(|watched| watched.endpoints.iter());
        let known = endpoints.into_iter().flatten();
        let known: BTreeMap<_, _> = known
            .filter_map(|(address, asked)| Some((*address, asked.score.checked()?)))
            .collect();
        let before = self.health.get(name);
        if before.map_or(known.is_empty(), |before| **before == known) {
            return false;
        }
        let health = Arc::make_mut(&mut self.health);
        match known.is_empty() {
            true => health.remove(name),
            false => health.insert(name.clone(), Arc::new(known)),
        };
        true
    }
}

/// Returns the endpoints of a service that are checked here.
fn checked(service: &Service) -> impl Iterator<Item = &Endpoint> {
    let ports = service
        .ports
        .iter()
        .filter(|port| port.protocol == Protocol::Tcp);
    let endpoints = ports.flat_map(|port| &port.endpoints);
    endpoints.filter(|endpoint| !endpoint.checked_elsewhere)
}

impl Asking {
    fn spawn(&self, service: &Service, endpoint: &Endpoint, check: &HealthCheck) -> Task {
        let mut asking = self.clone();
        let may_be_here = endpoint.node.as_deref().is_none_or(|it| *it == *self.node);
        let service = service.name.clone();
        let address = SocketAddr::new(endpoint.address, endpoint.port);
        let workload = endpoint.workload.clone();
        let check = check.clone();
        Task(tokio::spawn(async move {
            let mut chance = Chance::random();
            // At once, and then anywhere in the first interval: those that came together do not stay together.
            let mut pause = check.interval.mul_f64(chance.unit());
            if let Some(workload) = workload.as_deref().filter(|_| may_be_here) {
                asking.wait_for_place(workload).await;
            }
            loop {
                let outcome = asking.ask(workload.as_deref(), address, &check).await;
                let result = CheckResult {
                    service: service.clone(),
                    address,
                    outcome,
                };
                if asking.results.send(result).await.is_err() {
                    return;
                }
                sleep(pause).await;
                pause = jittered(check.interval, &mut chance);
            }
        }))
    }

    /// Waits for a while until it is known where a workload is: from anywhere else it might not answer.
    async fn wait_for_place(&mut self, workload: &WorkloadName) {
        let is_known = |places: &Option<Arc<Places>>| {
            places.as_ref().is_some_and(|it| it.contains_key(workload))
        };
        let known = timeout(PLACE_PATIENCE, self.places.wait_for(is_known)).await;
        if !matches!(known, Ok(Ok(_))) {
            tracing::debug!(%workload, "not found on this node: checked from elsewhere");
        }
    }

    async fn ask(
        &self,
        workload: Option<&WorkloadName>,
        address: SocketAddr,
        check: &HealthCheck,
    ) -> Result<(), String> {
        // Never closed.
        let _slot = self.slots.acquire().await;
        let places = self.places.borrow().clone().unwrap_or_default();
        let place = match address.ip().is_loopback() {
            true => None,
            false => place_for(&places, workload, address.ip()),
        };
        probe::probe(place, address, check).await
    }
}

/// Returns where an endpoint is dialled from: its own place, by name or by address, else that of some client.
fn place_for<'a>(
    places: &'a Places,
    workload: Option<&WorkloadName>,
    address: IpAddr,
) -> Option<&'a Place> {
    let by_name = workload.and_then(|name| places.get(name));
    let mut all = places.values();
    by_name
        .or_else(|| all.find(|place| place.addresses.contains(&address)))
        .or_else(|| places.values().next())
}

fn jittered(interval: Duration, chance: &mut Chance) -> Duration {
    interval.mul_f64(1.0 + JITTER * (2.0 * chance.unit() - 1.0))
}
