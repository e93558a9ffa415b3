//! The thread with a small kernel.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::*;
use crate::admin::readiness::Readiness;
use crate::balance::tests::{endpoint, service};
use crate::balance::{Balancer, CountedPort};
use crate::chance::Chance;
use crate::l7::route::AppProtocol;
use crate::model::balanced::{BackendCounters, ClientFlow, PortCounters, PortId};
use crate::model::endpoint::Checked;
use crate::model::service::{HealthCheck, Probe, Service, ServiceKind};
use crate::model::snapshot::Node;
use crate::model::traffic::Traffic;
use crate::proxy::exchange::{Config, Speaks};

/// Longer than anything here takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct FakeKernel {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ports: Ports,
    addresses: BTreeSet<IpAddr>,
    counters: Vec<CountedPort>,
    /// Looks at the counters so far.
    looks: u32,
    /// Calls of `balance` that are to fail.
    failures: u32,
    /// Calls of it that are to leave every port as it was.
    refusals: u32,
}

impl FakeKernel {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        result
    }

    /// Waits until `is_so`, and returns how long that took.
    fn wait_for(&self, what: &str, is_so: impl Fn(&State) -> bool) -> Duration {
        let start = Instant::now();
        let state = self.state.lock().unwrap();
        let waited = self
            .changed
            .wait_timeout_while(state, DEADLINE, |state| !is_so(state));
        assert!(!waited.unwrap().1.timed_out(), "waited in vain for {what}");
        start.elapsed()
    }
}

impl Balancing for FakeKernel {
    fn balance(&self, ports: &Ports) -> anyhow::Result<Vec<Unbalanced>> {
        self.change(|state| {
            if state.failures > 0 {
                state.failures -= 1;
                anyhow::bail!("no room");
            }
            if state.refusals > 0 {
                state.refusals -= 1;
                let refused = |id: &PortId| Unbalanced {
                    id: Arc::new(id.clone()),
                    why: "no room".into(),
                };
                return Ok(ports.keys().map(refused).collect());
            }
            state.ports = ports.clone();
            Ok(Vec::new())
        })
    }

    fn set_node_addresses(&self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        self.change(|state| state.addresses = addresses.clone());
        Ok(())
    }

    fn is_node_address(&self, address: IpAddr) -> bool {
        self.change(|state| state.addresses.contains(&address))
    }

    fn closed(&self) -> HashSet<SocketAddr> {
        HashSet::new()
    }

    fn backend_counters(&self) -> Vec<CountedPort> {
        self.change(|state| {
            state.looks += 1;
            state.counters.clone()
        })
    }

    fn counted(&self, _: &PortId) -> Option<(PortCounters, Vec<(SocketAddr, BackendCounters)>)> {
        None
    }

    fn port_counters(&self) -> Vec<(Arc<PortId>, PortCounters)> {
        Vec::new()
    }

    fn flows_to_drain(&self) -> anyhow::Result<Vec<ClientFlow>> {
        Ok(Vec::new())
    }
}

/// The thread with everything that it follows.
struct World {
    kernel: Arc<FakeKernel>,
    live: Arc<Live>,
    manifests: watch::Sender<Loaded>,
    registered: watch::Sender<Arc<Services>>,
    health: watch::Sender<Arc<Health>>,
    services: watch::Receiver<Arc<Services>>,
    proxied: watch::Receiver<Arc<ProxiedPorts>>,
    /// What the data path goes by.
    requests: Arc<ArcSwap<Config>>,
    readiness: Readiness,
    thread: BalancingThread,
}

impl World {
    fn new(kernel: FakeKernel) -> Self {
        let kernel = Arc::new(kernel);
        let live = Arc::new(Live::new(Balancer::new(Chance::seeded(1))));
        let readiness = Readiness::default();
        let (manifests, manifests_rx) = watch::channel(loaded([]));
        let (registered, registered_rx) = watch::channel(Arc::default());
        let (health, health_rx) = watch::channel(Arc::default());
        let (services_tx, services) = watch::channel(Arc::default());
        let (proxied_tx, proxied) = watch::channel(Arc::default());
        let (_, places) = watch::channel(None);
        let channels = Channels {
            manifests: manifests_rx,
            registered: registered_rx,
            health: health_rx,
            places,
            services: services_tx,
            unbalanced: watch::channel(Vec::new()).0,
            proxied: proxied_tx,
            listening: watch::channel(false).1,
            times: Arc::default(),
        };
        let here = Here {
            node: "n1".into(),
            ..Here::default()
        };
        let block = readiness.block("services");
        let published = Arc::<ArcSwap<Config>>::default();
        let requests = Requests::new(published.clone(), tokio::time::Instant::now());
        let thread = BalancingThread::start(
            kernel.clone(),
            live.clone(),
            here,
            channels,
            requests,
            block,
        )
        .unwrap();
        Self {
            kernel,
            live,
            manifests,
            registered,
            health,
            services,
            proxied,
            requests: published,
            readiness,
            thread,
        }
    }

    /// Waits until the data path goes by something that is so.
    fn until(&self, what: &str, is_so: impl Fn(&Config) -> bool) {
        let start = Instant::now();
        while !is_so(&self.requests.load()) {
            assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
            thread::yield_now();
        }
    }
}

fn loaded(services: impl IntoIterator<Item = Service>) -> Loaded {
    let services = services
        .into_iter()
        .map(|it| (it.name.clone(), Arc::new(it)));
    let node = Node {
        zone: Some("a".into()),
        addresses: vec![[192, 0, 2, 7].into()],
        ..Node::default()
    };
    Loaded {
        snapshot: Arc::new(Snapshot {
            generation: 1,
            services: Arc::new(services.collect()),
            nodes: Arc::new([("n1".into(), node)].into()),
            ..Snapshot::default()
        }),
        problems: Arc::new([]),
    }
}

fn targets(state: &State) -> usize {
    state.ports.values().map(|port| port.targets.len()).sum()
}

#[test]
fn a_change_reaches_the_kernel_without_waiting_for_a_tick() {
    let world = World::new(FakeKernel::default());
    world
        .kernel
        .wait_for("the first tick", |state| state.looks > 0);
    let mut quickest = DEADLINE;
    for count in 1..=5 {
        let service = service((1..=count).map(endpoint).collect());
        world.manifests.send_replace(loaded([service]));
        let took = world.kernel.wait_for("the endpoints", |state| {
            targets(state) == usize::from(count)
        });
        quickest = quickest.min(took);
    }
    println!("from snapshot to kernel: {quickest:?}");
    assert!(quickest < Duration::from_millis(20), "{quickest:?}");
    assert!(world.readiness.pending().is_empty());
    let known: BTreeSet<IpAddr> = world.kernel.change(|state| state.addresses.clone());
    assert!(known.contains(&IpAddr::from([192, 0, 2, 7])));
    assert!(!known.contains(&IpAddr::from([127, 0, 0, 1])));
    world.thread.stop();
}

#[test]
fn registrations_health_and_counters_act() {
    let world = World::new(FakeKernel::default());
    let mut registered = service((1..=4).map(endpoint).collect());
    registered.balance.health_check = Some(HealthCheck {
        probe: Probe::Tcp,
        interval: DEADLINE,
        timeout: DEADLINE,
        unhealthy: 1,
        healthy: 1,
    });
    let name = registered.name.clone();
    let services = Services::from([(name.clone(), Arc::new(registered))]);
    world.registered.send_replace(Arc::new(services));
    world
        .kernel
        .wait_for("the registration", |state| targets(state) == 4);
    assert!(world.services.borrow().contains_key(&name));

    let ill = Checked {
        healthy: false,
        error: Some("refused".into()),
    };
    let at = |number: u8| SocketAddr::from(([10, 0, 0, number], 8080));
    let health = Health::from([(name, Arc::new([(at(1), ill)].into()))]);
    world.health.send_replace(Arc::new(health));
    world
        .kernel
        .wait_for("the health", |state| targets(state) == 3);
    world.health.send_replace(Arc::default());
    world
        .kernel
        .wait_for("the health", |state| targets(state) == 4);

    let looks = world.kernel.change(|state| {
        let id = state.ports.keys().next().unwrap().clone();
        state.counters = vec![(Arc::new(id), vec![(at(2), BackendCounters::default())])];
        state.looks
    });
    world
        .kernel
        .wait_for("a look", |state| state.looks > looks + 1);
    world.kernel.change(|state| {
        state.counters[0].1[0].1.picked = 9;
        state.counters[0].1[0].1.failed = 9;
    });
    world
        .kernel
        .wait_for("the ejection", |state| targets(state) == 3);
    let ejected = world
        .live
        .states(None)
        .into_iter()
        .filter(|it| it.why.is_some());
    assert_eq!(ejected.map(|it| it.address).collect::<Vec<_>>(), [at(2)]);
    world.thread.stop();
}

#[test]
fn the_manifests_win_and_a_failed_write_is_tried_again() {
    let failing = FakeKernel::default();
    failing.state.lock().unwrap().failures = 1;
    failing.state.lock().unwrap().refusals = 2;
    let world = World::new(failing);
    assert_eq!(world.readiness.pending(), ["services"]);
    let registered = service((1..=4).map(endpoint).collect());
    let registered = Services::from([(registered.name.clone(), Arc::new(registered))]);
    world.registered.send_replace(Arc::new(registered));
    world
        .manifests
        .send_replace(loaded([service(vec![endpoint(9)])]));
    world
        .kernel
        .wait_for("the manifests", |state| targets(state) == 1);
    world.manifests.send_replace(loaded([]));
    world
        .kernel
        .wait_for("the registered", |state| targets(state) == 4);
    world.thread.stop();
}

#[test]
fn another_protocol_of_a_port_reaches_the_data_path_by_itself() {
    let world = World::new(FakeKernel::default());
    let one = |said: Option<&str>| {
        let mut one = service(vec![endpoint(1)]);
        one.ports[0].app_protocol = said.map(str::to_owned);
        one
    };
    let id = PortId {
        service: one(None).name,
        port: one(None).ports[0].number,
        protocol: one(None).ports[0].protocol,
    };
    let traffic: Arc<TrafficPolicies> =
        Arc::new([(id.clone(), Arc::new(Traffic::default()))].into());
    let (routes, tls) = (
        Arc::<Routes>::default(),
        Arc::<BackendTlsPolicies>::default(),
    );
    // What says who is routed stays the very same.
    let tell = |services: Vec<Service>| {
        let mut loaded = loaded(services);
        let snapshot = Arc::make_mut(&mut loaded.snapshot);
        snapshot.traffic = traffic.clone();
        snapshot.routes = routes.clone();
        snapshot.backend_tls = tls.clone();
        world.manifests.send_replace(loaded);
    };
    let speaks = |config: &Config, said| {
        let destination = config.destinations.get(&id);
        destination.is_some_and(|it| it.speaks == said)
    };
    for (said, expected) in [
        (None, Speaks::AsClient),
        (Some("kubernetes.io/h2c"), Speaks::Http2),
        (Some("http"), Speaks::Http1),
    ] {
        tell(vec![one(said)]);
        world.until("the protocol", |config| {
            let table = config.tables.port(&id);
            speaks(config, expected)
                && table.is_some_and(|it| it.protocol == AppProtocol::of(&one(said).ports[0]))
        });
    }
    // A port that comes later than what is said of it.
    tell(Vec::new());
    world.until("the end of the port", |config| {
        config.tables.port(&id).is_none()
    });
    tell(vec![one(Some("grpc"))]);
    world.until("the port", |config| config.tables.port(&id).is_some());
    // And endpoints alone compile nothing.
    let number = world.requests.load().number;
    let mut more = one(Some("grpc"));
    more.ports[0].endpoints.push(endpoint(2));
    tell(vec![more]);
    world.until("the endpoint", |config| {
        config.destinations[&id].cluster.endpoints() == 2
    });
    assert_eq!(world.requests.load().number, number);
    world.thread.stop();
}

#[test]
fn what_nobody_dials_needs_no_agent() {
    let world = World::new(FakeKernel::default());
    let one = service(vec![endpoint(1)]);
    let id = PortId {
        service: one.name.clone(),
        port: one.ports[0].number,
        protocol: one.ports[0].protocol,
    };
    let traffic = Traffic {
        request_metrics: true,
        ..Traffic::default()
    };
    let traffic: Arc<TrafficPolicies> = Arc::new([(id.clone(), Arc::new(traffic))].into());
    let (routes, tls) = (
        Arc::<Routes>::default(),
        Arc::<BackendTlsPolicies>::default(),
    );
    let mut headless = one.clone();
    headless.kind = ServiceKind::Headless;
    headless.addresses.clear();
    // Its policy stays the very same.
    for (service, count) in [(headless.clone(), 0), (one, 1), (headless, 0)] {
        let kind = service.kind.clone();
        let mut loaded = loaded([service]);
        let snapshot = Arc::make_mut(&mut loaded.snapshot);
        snapshot.traffic = traffic.clone();
        snapshot.routes = routes.clone();
        snapshot.backend_tls = tls.clone();
        world.manifests.send_replace(loaded);
        // They are told before the data path is.
        world.until("the port as a backend", |config| {
            config.destinations.contains_key(&id)
                && world.services.borrow().values().all(|it| it.kind == kind)
                && world.proxied.borrow().len() == count
        });
    }
    world.thread.stop();
}

#[test]
fn the_kernel_has_what_is_dialled() {
    let port = |frontends: &[&str], node_port| {
        let id = PortId {
            service: service(Vec::new()).name,
            port: u16::try_from(frontends.len()).unwrap() + node_port,
            protocol: crate::model::service::Protocol::Tcp,
        };
        let balanced = Balanced {
            id: id.clone(),
            frontends: frontends.iter().map(|it| it.parse().unwrap()).collect(),
            node_port: (node_port > 0).then_some(node_port),
            algorithm: mesh_common::balance::Algorithm::Random,
            affinity: None,
            proxied: None,
            drops: false,
            drain: crate::model::service::Drain::Keep,
            targets: Vec::new(),
            resting: Vec::new(),
            candidates: Vec::new(),
        };
        (id, Arc::new(balanced))
    };
    let (one, node) = (port(&["10.96.0.1:80"], 0), port(&[], 30_000));
    let both = Arc::new(Ports::from([one.clone(), node.clone()]));
    assert!(Arc::ptr_eq(&dialled(both.clone()), &both));
    let all = Arc::new(Ports::from([one, port(&[], 0), node]));
    assert_eq!(dialled(all), both);
}
