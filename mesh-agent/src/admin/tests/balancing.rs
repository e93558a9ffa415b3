//! What is told of services, over the real socket.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::admin::types::balancing::{BalancedService, BalancedServices};
use crate::balance::live::Live;
use crate::balance::tests::{endpoint, here, service};
use crate::balance::{Balancer, Balancing, CountedPort, Input, Ports};
use crate::chance::Chance;
use crate::model::balanced::{
    BackendCounters, ClientFlow, Clients, Fail, PortCounters, PortId, Proxied, ProxiedPorts,
    Unbalanced,
};
use crate::model::endpoint::{EndpointHealth, Health, Why};
use crate::model::service::{Protocol, Service, ServiceKind, Services};

/// What the fake kernel counted of a port.
type Counts = (PortCounters, Vec<(SocketAddr, BackendCounters)>);

/// A kernel that balances what a test says.
#[derive(Debug, Default)]
struct FakeBalancing {
    counted: Mutex<BTreeMap<PortId, Counts>>,
    closed: Mutex<HashSet<SocketAddr>>,
    node: Mutex<Option<IpAddr>>,
}

impl Balancing for FakeBalancing {
    fn balance(&self, _: &Ports) -> anyhow::Result<Vec<Unbalanced>> {
        Ok(Vec::new())
    }

    fn set_node_addresses(&self, _: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        Ok(())
    }

    fn is_node_address(&self, address: IpAddr) -> bool {
        *self.node.lock().unwrap() == Some(address)
    }

    fn closed(&self) -> HashSet<SocketAddr> {
        self.closed.lock().unwrap().clone()
    }

    fn backend_counters(&self) -> Vec<CountedPort> {
        Vec::new()
    }

    fn counted(&self, id: &PortId) -> Option<Counts> {
        self.counted.lock().unwrap().get(id).cloned()
    }

    fn port_counters(&self) -> Vec<(Arc<PortId>, PortCounters)> {
        let counted = self.counted.lock().unwrap();
        let port = |(id, counts): (&PortId, &Counts)| (Arc::new(id.clone()), counts.0);
        counted.iter().map(port).collect()
    }

    fn flows_to_drain(&self) -> anyhow::Result<Vec<ClientFlow>> {
        Ok(Vec::new())
    }
}

/// Services as a test wants them.
#[derive(Debug)]
pub(super) struct FakeServices {
    kernel: Arc<FakeBalancing>,
    live: Arc<Live>,
    services: watch::Sender<Arc<Services>>,
    unbalanced: watch::Sender<Vec<Unbalanced>>,
    pub(super) proxied: watch::Sender<Arc<ProxiedPorts>>,
}

impl FakeServices {
    pub(super) fn new() -> Self {
        Self {
            kernel: Arc::default(),
            live: Arc::new(Live::new(Balancer::new(Chance::seeded(7)))),
            services: watch::Sender::default(),
            unbalanced: watch::Sender::default(),
            proxied: watch::Sender::default(),
        }
    }

    pub(super) fn sources(&self) -> ServiceSources {
        ServiceSources {
            services: self.services.subscribe(),
            live: self.live.clone(),
            unbalanced: self.unbalanced.subscribe(),
            proxied: self.proxied.subscribe(),
            kernel: self.kernel.clone(),
        }
    }

    /// Configures these services and balances them.
    pub(super) fn balance(&self, services: impl IntoIterator<Item = Service>) {
        let named = services.into_iter().map(|it| (it.name.clone(), it.into()));
        let services: Services = named.collect();
        self.live.with(|balancer, _| {
            balancer.pass(&Input {
                services: &services,
                health: &Health::new(),
                here: &here(),
                now: Duration::from_secs(1),
            });
            let known = |(id, port): (&PortId, &Arc<crate::model::balanced::Balanced>)| {
                let counters = BackendCounters {
                    open: 2,
                    picked: 9,
                    ..BackendCounters::default()
                };
                let targets = port.targets.iter().map(|it| (it.address, counters));
                let counts = PortCounters {
                    picks: 10,
                    refused: 1,
                };
                (id.clone(), (counts, targets.collect()))
            };
            *self.kernel.counted.lock().unwrap() = balancer.ports().iter().map(known).collect();
        });
        self.services.send_replace(Arc::new(services));
    }

    /// Says that a port is not balanced as configured.
    pub(super) fn fail(&self, service: &Service, why: &str) {
        let id = Arc::new(PortId {
            service: service.name.clone(),
            port: service.ports[0].number,
            protocol: service.ports[0].protocol,
        });
        let why = why.to_owned();
        self.unbalanced.send_replace(vec![Unbalanced { id, why }]);
    }

    /// Says where the last listener has closed.
    pub(super) fn close(&self, addresses: &[SocketAddr]) {
        *self.kernel.closed.lock().unwrap() = addresses.iter().copied().collect();
    }

    /// Says at which address node ports are balanced.
    pub(super) fn set_node(&self, address: IpAddr) {
        *self.kernel.node.lock().unwrap() = Some(address);
    }

    /// Forgets what the kernel was told.
    fn forget(&self) {
        self.kernel.counted.lock().unwrap().clear();
    }
}

pub(super) fn named(name: &str, mut service: Service) -> Service {
    service.name.name = name.to_owned();
    service
}

async fn one(served: &Served, name: &str) -> BalancedService {
    let path = format!("/v1/balancing/shop/{name}");
    let mut found: BalancedServices = served.json(&path).await;
    assert_eq!(found.schema, "underpass.dev/balancing/v1");
    assert_eq!(found.services.len(), 1);
    found.services.remove(0)
}

#[tokio::test]
async fn backends_are_shown_with_shares_counters_and_reasons() {
    let served = Served::start();
    let mut endpoints = vec![endpoint(1), endpoint(2), endpoint(3)];
    endpoints[0].weight = 3;
    endpoints[2].ready = false;
    served.services.balance([service(endpoints)]);
    let web = one(&served, "web").await;
    assert!(web.balanced && web.why_not.is_none());
    assert_eq!(web.kind, "ClusterIP");
    let port = &web.ports[0];
    assert_eq!((port.port, port.algorithm.as_str()), (80, "random"));
    assert_eq!((port.picks, port.refused), (10, 1));
    let of = |last: u8| {
        let address = IpAddr::from([10, 0, 0, last]);
        port.backends.iter().find(|it| it.address == address)
    };
    assert_eq!(of(1).unwrap().share, 0.75);
    assert_eq!(of(1).unwrap().picked, 9);
    let third = of(3).unwrap();
    assert_eq!((third.weight, third.picked), (0, 0));
    assert_eq!(third.why.as_ref().unwrap().to_string(), "not ready");
    assert_eq!(web.without_backend().count(), 0);
    // One question leaves the others out; all are the same.
    let all: BalancedServices = served.json("/v1/balancing").await;
    assert_eq!(all.services, [web]);
}

#[tokio::test]
async fn a_backend_that_nobody_listens_on_any_more_is_closed() {
    let served = Served::start();
    let mut endpoints = vec![endpoint(1), endpoint(2), endpoint(3), endpoint(4)];
    endpoints[0].weight = 2;
    endpoints[3].ready = false;
    let mut udp = named("names", service(vec![endpoint(1)]));
    udp.ports[0].protocol = Protocol::Udp;
    served.services.balance([service(endpoints), udp]);
    let at = |last: u8| {
        let backend = endpoint(last);
        SocketAddr::new(backend.address, backend.port)
    };
    let stands = |service: &BalancedService, last: u8| {
        let mut backends = service.ports[0].backends.iter();
        let it = backends.find(|it| it.address == at(last).ip()).unwrap();
        (it.health, it.weight, it.share, it.why.clone())
    };
    let gone = (EndpointHealth::Closed, 0, 0.0, Some(Why::Closed));
    served.services.close(&[at(1), at(4)]);
    let web = one(&served, "web").await;
    assert_eq!(stands(&web, 1), gone);
    assert_eq!(stands(&web, 2), (EndpointHealth::Ready, 1, 0.5, None));
    assert_eq!(stands(&web, 3), (EndpointHealth::Ready, 1, 0.5, None));
    let not_ready = (EndpointHealth::NotReady, 0, 0.0, Some(Why::NotReady));
    assert_eq!(stands(&web, 4), not_ready, "that came first");
    assert_eq!(web.without_backend().count(), 0);
    // Nobody counts who takes datagrams.
    let names = one(&served, "names").await;
    assert_eq!(stands(&names, 1).0, EndpointHealth::Ready);
    served.services.close(&[at(1), at(2), at(3)]);
    let web = one(&served, "web").await;
    assert_eq!(stands(&web, 2), gone);
    assert_eq!(web.without_backend().count(), 1);
    served.services.close(&[]);
    assert_eq!(stands(&one(&served, "web").await, 1).2, 0.5);
}

#[tokio::test]
async fn what_is_not_balanced_says_why() {
    let served = Served::start();
    let mut headless = named("db", service(vec![endpoint(1)]));
    headless.kind = ServiceKind::Headless;
    let mut external = named("mail", service(Vec::new()));
    external.kind = ServiceKind::ExternalName("mail.example".into());
    let failed = named("web", service(vec![endpoint(1)]));
    let all = [headless, external, failed.clone()];
    served.services.balance(all);
    served.services.fail(&failed, "no room");
    let why = async |name| {
        let service = one(&served, name).await;
        assert!(!service.balanced);
        service.why_not.unwrap()
    };
    let words = "headless: clients get the endpoints' addresses";
    assert_eq!(why("db").await, words);
    assert_eq!(
        why("mail").await,
        "an external name: clients dial mail.example themselves"
    );
    assert_eq!(why("web").await, "port 80/TCP: no room");
    served.services.unbalanced.send_replace(Vec::new());
    assert!(one(&served, "web").await.balanced);
    let mut nowhere = named("nowhere", service(vec![endpoint(1)]));
    nowhere.addresses.clear();
    served.services.balance([failed, nowhere]);
    served.services.forget();
    assert_eq!(
        why("web").await,
        "port 80/TCP: the kernel was not told of it yet"
    );
    assert_eq!(
        why("nowhere").await,
        "port 80/TCP: the service has no address: nobody can dial it"
    );
}

#[tokio::test]
async fn an_unknown_service_is_told_apart_from_one_without_backends() {
    let served = Served::start();
    served.services.balance([service(Vec::new())]);
    let web = one(&served, "web").await;
    assert!(web.balanced);
    assert_eq!(web.without_backend().count(), 1);
    let (status, body) = served.get("/v1/balancing/shop/basket").await;
    assert_eq!(status, 404);
    assert!(body.contains("there is no service shop/basket"), "{body}");
}

#[tokio::test]
async fn status_sums_up_and_a_port_that_the_kernel_refused_is_a_fault() {
    let served = Served::start();
    let mut headless = named("db", service(vec![endpoint(1)]));
    headless.kind = ServiceKind::Headless;
    let failed = named("failed", service(vec![endpoint(1)]));
    let all = [
        headless,
        failed.clone(),
        named("idle", service(Vec::new())),
        named("web", service(vec![endpoint(1)])),
    ];
    served.services.balance(all);
    let status: Status = served.json("/v1/status").await;
    assert_eq!(status.degraded, [""; 0], "nobody there is no fault of ours");
    served.services.fail(&failed, "no room");
    let status: Status = served.json("/v1/status").await;
    let summary = status.services;
    assert_eq!((summary.total, summary.balanced), (4, 2));
    assert_eq!((summary.not_in_force, summary.without_backend), (1, 1));
    assert_eq!(
        status.degraded,
        ["not balanced as configured: shop/failed port 80/TCP: no room"]
    );
    assert_eq!(status.dns.queries["answered"], 0);
}

#[tokio::test]
async fn ten_thousand_services_are_one_answer() {
    let served = Served::start();
    let many = (0..10_000).map(|number| {
        let name = format!("s{number:05}");
        named(&name, service(vec![endpoint(1), endpoint(2)]))
    });
    served.services.balance(many);
    let all: BalancedServices = served.json("/v1/balancing").await;
    assert_eq!(all.services.len(), 10_000);
    assert!(all.services.iter().all(|service| service.balanced));
    assert_eq!(one(&served, "s09999").await, all.services[9_999]);
}

#[tokio::test]
async fn the_data_path_is_told_of_and_its_trouble_degrades() {
    let served = Served::start();
    served.services.balance([service(vec![endpoint(1)])]);
    let of = |services: BalancedServices| services.services[0].ports[0].carried_by.clone();
    assert_eq!(of(served.json("/v1/balancing").await), "kernel");
    let status: Status = served.json("/v1/status").await;
    assert_eq!(
        (status.data_path.ports, status.data_path.problem),
        (0, None)
    );
    let id = PortId {
        service: served
            .services
            .services
            .borrow()
            .keys()
            .next()
            .unwrap()
            .clone(),
        port: 80,
        protocol: Protocol::Tcp,
    };
    let proxied = |clients| {
        let proxied = Proxied {
            when_agent_is_away: Fail::Closed,
            clients,
        };
        let ports: ProxiedPorts = [(id.clone(), proxied)].into();
        served.services.proxied.send_replace(Arc::new(ports));
    };
    proxied(Clients::Namespaces(["web".to_owned()].into()));
    assert_eq!(of(served.json("/v1/balancing").await), "both");
    proxied(Clients::All);
    assert_eq!(of(served.json("/v1/balancing").await), "agent");
    served.data_path.set_threads(2);
    served.data_path.set_listening(3);
    assert!(served.data_path.set_problem(Some("no such map".to_owned())));
    let status: Status = served.json("/v1/status").await;
    let shown = &status.data_path;
    assert_eq!(
        (shown.ports, shown.threads, shown.listening_workloads),
        (1, 2, 3)
    );
    let degraded = "no connection can be led to the agent: no such map";
    assert!(status.degraded.iter().any(|it| it == degraded));
}
