//! Active checks between real network namespaces. Needs root and `ip`; fails without in CI, is skipped loudly elsewhere.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a test may fail by a panic, its helpers too"
)]

mod support;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_agent::health::{self, Inputs};
use mesh_agent::locate::inside::{Place, Places, inside};
use mesh_agent::locate::linux::Linux;
use mesh_agent::locate::registry::Registry;
use mesh_agent::model::endpoint::{Checked, Health};
use mesh_agent::model::labels::Labels;
use mesh_agent::model::service::{
    Balance, Distribution, Endpoint, HealthCheck, Port, Probe, Protocol, Service, ServiceKind,
    ServiceName, Services,
};
use mesh_agent::model::snapshot::Snapshot;
use mesh_agent::model::workload::{Acceleration, Location, Workload, WorkloadName};
use tokio::sync::watch;
use tokio::time::timeout;

use support::{Netns, ip, is_root, remove_leftovers};

/// Longer than anything here takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// Failures and successes in a row that count.
const UNHEALTHY: u32 = 3;
const HEALTHY: u32 = 2;

/// A namespace with an address that nobody else can reach.
fn pod(name: &str, address: &str) -> Netns {
    let netns = Netns::new(name);
    netns.address(&format!("{address}/32"));
    ip(&["-n", &netns.0, "link", "set", "lo", "up"]);
    netns
}

fn workload_name(name: &str) -> WorkloadName {
    WorkloadName {
        namespace: "shop".into(),
        name: name.into(),
    }
}

/// Finds workloads as the agent does.
fn places(pods: &[(&str, &Netns)]) -> Places {
    let workload = |(name, netns): &(&str, &Netns)| {
        Arc::new(Workload {
            name: workload_name(name),
            uid: None,
            labels: Labels::default(),
            service_account: "default".into(),
            addresses: Vec::new(),
            node: None,
            ready: true,
            terminating: false,
            ports: Vec::new(),
            location: Location::Netns(netns.path()),
            enrolled: true,
            started: true,
            containers: Vec::new(),
            acceleration: Acceleration::Off,
            origin: "test".into(),
        })
    };
    let mut registry = Registry::new(Linux::new(None).unwrap(), "this");
    registry.refresh(&Snapshot {
        generation: 1,
        workloads: pods.iter().map(workload).collect(),
        ..Snapshot::default()
    });
    registry.places()
}

/// A pod in which the workload `shop/a` is.
struct Alone {
    places: Places,
    _netns: Netns,
}

impl Alone {
    fn new(name: &str, address: &str) -> Self {
        let netns = pod(name, address);
        Self {
            places: places(&[("a", &netns)]),
            _netns: netns,
        }
    }

    fn listen(&self, address: &str) -> tokio::net::TcpListener {
        listen(&self.places[&workload_name("a")], address)
    }
}

fn listen(place: &Place, address: &str) -> tokio::net::TcpListener {
    let listener = inside(place, || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    tokio::net::TcpListener::from_std(listener.unwrap()).unwrap()
}

fn endpoint(address: &str, workload: Option<&str>) -> Endpoint {
    let address: SocketAddr = address.parse().unwrap();
    Endpoint {
        address: address.ip(),
        port: address.port(),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone: None,
        region: None,
        hints: None,
        weight: 1,
        priority: 0,
        workload: workload.map(workload_name).map(Arc::new),
        hostname: None,
        checked_elsewhere: false,
    }
}

fn service(name: &str, probe: Probe, endpoints: Vec<Endpoint>) -> Service {
    Service {
        name: service_name(name),
        kind: ServiceKind::ClusterIp,
        addresses: Vec::new(),
        external_addresses: Vec::new(),
        ports: vec![Port {
            name: None,
            number: 80,
            protocol: Protocol::Tcp,
            node_port: None,
            app_protocol: None,
            endpoints,
        }],
        portless: Vec::new(),
        affinity: None,
        local_only: false,
        distribution: Distribution::Any,
        publish_not_ready: false,
        balance: Balance {
            health_check: Some(HealthCheck {
                probe,
                interval: Duration::from_millis(20),
                timeout: Duration::from_secs(1),
                unhealthy: UNHEALTHY,
                healthy: HEALTHY,
            }),
            ..Balance::default()
        },
        origin: "test".into(),
    }
}

fn service_name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "shop".into(),
        name: name.into(),
    }
}

/// A running checker.
struct Checks {
    services: watch::Sender<Arc<Services>>,
    health: watch::Receiver<Arc<Health>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checks {
    fn start(places: Places, services: impl IntoIterator<Item = Service>) -> Self {
        let (_, places) = watch::channel(Some(Arc::new(places)));
        Self::start_with(places, services)
    }

    fn start_with(
        places: watch::Receiver<Option<Arc<Places>>>,
        services: impl IntoIterator<Item = Service>,
    ) -> Self {
        let (services_tx, services_rx) = watch::channel(Self::services(services));
        let (health_tx, health) = watch::channel(Arc::default());
        let inputs = Inputs {
            node: "n1".into(),
            services: services_rx,
            places,
        };
        Self {
            services: services_tx,
            health,
            task: tokio::spawn(health::run(inputs, health_tx)),
        }
    }

    fn services(services: impl IntoIterator<Item = Service>) -> Arc<Services> {
        let named = services.into_iter().map(|it| (it.name.clone(), it.into()));
        Arc::new(named.collect())
    }

    /// Waits until this endpoint's health is what is wanted, and returns it.
    async fn wait(&mut self, service: &str, address: &str, healthy: bool) -> Checked {
        let name = service_name(service);
        let address: SocketAddr = address.parse().unwrap();
        let find = |health: &Health| health.get(&name)?.get(&address).cloned();
        let is_so = |health: &Arc<Health>| find(health).is_some_and(|it| it.healthy == healthy);
        let waited = timeout(DEADLINE, self.health.wait_for(is_so)).await;
        let found = waited.map(|health| find(&health.unwrap()).unwrap());
        found.unwrap_or_else(|_| panic!("waited in vain for {service} to be {healthy}"))
    }
}

/// What a server answers, and what it was asked.
#[derive(Debug)]
struct Server {
    status: AtomicU16,
    asked: AtomicUsize,
}

impl Server {
    /// Serves HTTP/1.1 with whatever status is set.
    fn http(listener: tokio::net::TcpListener, status: u16) -> Arc<Self> {
        let server = Arc::new(Self {
            status: status.into(),
            asked: 0.into(),
        });
        let own = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                // Nobody else can be here.
                assert_eq!(peer.ip(), stream.local_addr().unwrap().ip());
                let server = own.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    let server = server.clone();
                    async move {
                        assert_eq!(request.uri(), "/ready?full=1");
                        server.asked.fetch_add(1, Ordering::SeqCst);
                        let status = server.status.load(Ordering::SeqCst);
                        let response = Response::builder().status(status);
                        Ok::<_, Infallible>(
                            response
                                .body(Full::<Bytes>::from("x".repeat(50_000)))
                                .unwrap(),
                        )
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), answer));
            }
        });
        server
    }

    /// Serves `grpc.health.v1`: the status that is set for the service `db`, and gRPC status 5 for any other.
    fn grpc(listener: tokio::net::TcpListener, status: u16) -> Arc<Self> {
        let server = Arc::new(Self {
            status: status.into(),
            asked: 0.into(),
        });
        let own = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = own.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http.serve_connection(TokioIo::new(stream), answer));
            }
        });
        server
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        use http_body_util::BodyExt as _;

        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        self.asked.fetch_add(1, Ordering::SeqCst);
        let response = Response::builder().header("content-type", "application/grpc");
        if asked[..] != [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b'] {
            let response = response.header("grpc-status", "5");
            return response.body(Full::default()).unwrap();
        }
        let status = u8::try_from(self.status.load(Ordering::SeqCst)).unwrap();
        let body = vec![0, 0, 0, 0, 2, 8, status];
        response.body(Full::from(body)).unwrap()
    }

    /// Sets the status and returns how often it was asked before.
    fn set(&self, status: u16) -> usize {
        self.status.store(status, Ordering::SeqCst);
        self.asked()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn http() -> Probe {
    Probe::Http {
        path: "/ready?full=1".into(),
    }
}

fn grpc(service: &str) -> Probe {
    Probe::Grpc {
        service: service.into(),
    }
}

/// Returns whether there is something to test with.
fn begin() -> bool {
    let test = std::thread::current();
    let is_root = is_root(test.name().unwrap_or("this"));
    if is_root {
        remove_leftovers();
    }
    is_root
}

#[tokio::test]
async fn an_http_endpoint_is_out_after_the_threshold_and_comes_back() {
    if !begin() {
        return;
    }
    let own = Alone::new("http", "10.77.0.1");
    let server = Server::http(own.listen("10.77.0.1:8080"), 200);
    let endpoint = endpoint("10.77.0.1:8080", Some("a"));
    let mut checks = Checks::start(own.places, [service("web", http(), vec![endpoint.clone()])]);
    assert_eq!(checks.wait("web", "10.77.0.1:8080", true).await.error, None);

    let before = server.set(500);
    let checked = checks.wait("web", "10.77.0.1:8080", false).await;
    assert_eq!(
        checked.error.as_deref(),
        Some("answered with HTTP status 500")
    );
    // One may have been answered with 200 after the count, before the status was set.
    assert!(server.asked() >= before + UNHEALTHY as usize);

    let before = server.set(302);
    checks.wait("web", "10.77.0.1:8080", true).await;
    assert!(
        server.asked() >= before + HEALTHY as usize,
        "a redirect is good"
    );

    // Somebody else checks it from now on: nothing is known, and it is asked no more.
    let elsewhere = Endpoint {
        checked_elsewhere: true,
        ..endpoint
    };
    let services = Checks::services([service("web", http(), vec![elsewhere])]);
    checks.services.send_replace(services);
    let unknown = timeout(DEADLINE, checks.health.wait_for(|health| health.is_empty()));
    drop(unknown.await.unwrap().unwrap());
}

#[tokio::test]
async fn a_check_is_made_in_the_workloads_own_namespace() {
    if !begin() {
        return;
    }
    // Two pods with one address: only their namespaces tell them apart.
    let (one, other) = (pod("own-a", "10.77.0.2"), pod("own-b", "10.77.0.2"));
    let places = places(&[("a", &one), ("b", &other)]);
    Server::http(listen(&places[&workload_name("a")], "10.77.0.2:80"), 200);
    Server::http(listen(&places[&workload_name("b")], "10.77.0.2:80"), 503);
    let of = |name| vec![endpoint("10.77.0.2:80", Some(name))];
    let services = [service("a", http(), of("a")), service("b", http(), of("b"))];
    let mut checks = Checks::start(places, services);
    checks.wait("a", "10.77.0.2:80", true).await;
    let checked = checks.wait("b", "10.77.0.2:80", false).await;
    assert_eq!(
        checked.error.as_deref(),
        Some("answered with HTTP status 503")
    );
}

#[tokio::test]
async fn a_registered_endpoint_is_known_by_its_address() {
    if !begin() {
        return;
    }
    let (one, other) = (pod("by-a", "10.77.0.7"), pod("by-b", "10.77.0.8"));
    let places = places(&[("a", &one), ("b", &other)]);
    Server::http(listen(&places[&workload_name("b")], "10.77.0.8:80"), 200);
    let unnamed = vec![endpoint("10.77.0.8:80", None)];
    let mut checks = Checks::start(places, [service("b", http(), unnamed)]);
    checks.wait("b", "10.77.0.8:80", true).await;
}

#[tokio::test]
async fn a_workload_that_is_found_late_is_not_asked_from_elsewhere() {
    if !begin() {
        return;
    }
    let own = Alone::new("late", "10.77.0.9");
    Server::http(own.listen("10.77.0.9:80"), 200);
    let endpoints = vec![endpoint("10.77.0.9:80", Some("a"))];
    let (later, places) = watch::channel(Some(Arc::default()));
    let mut checks = Checks::start_with(places, [service("web", http(), endpoints)]);
    later.send_replace(Some(Arc::new(own.places)));
    let first = timeout(
        DEADLINE,
        checks.health.wait_for(|health| !health.is_empty()),
    );
    let first = first.await.unwrap().unwrap().clone();
    let known = &first[&service_name("web")];
    assert!(known.values().all(|checked| checked.healthy), "{known:?}");
}

#[tokio::test]
async fn tcp_is_refused_until_somebody_listens() {
    if !begin() {
        return;
    }
    let own = Alone::new("tcp", "10.77.0.3");
    let endpoints = vec![endpoint("10.77.0.3:7000", Some("a"))];
    let mut checks = Checks::start(own.places.clone(), [service("tcp", Probe::Tcp, endpoints)]);
    let checked = checks.wait("tcp", "10.77.0.3:7000", false).await;
    let error = checked.error.unwrap();
    assert!(
        error.starts_with("no connection: Connection refused"),
        "{error}"
    );
    let listener = own.listen("10.77.0.3:7000");
    checks.wait("tcp", "10.77.0.3:7000", true).await;
    drop(listener);
    checks.wait("tcp", "10.77.0.3:7000", false).await;
}

#[tokio::test]
async fn grpc_endpoints_say_whether_they_serve() {
    if !begin() {
        return;
    }
    let own = Alone::new("grpc", "10.77.0.4");
    let server = Server::grpc(own.listen("10.77.0.4:50051"), 1);
    let endpoints = || vec![endpoint("10.77.0.4:50051", Some("a"))];
    let services = [
        service("db", grpc("db"), endpoints()),
        service("no", grpc("no"), endpoints()),
    ];
    let mut checks = Checks::start(own.places, services);
    checks.wait("db", "10.77.0.4:50051", true).await;
    let checked = checks.wait("no", "10.77.0.4:50051", false).await;
    assert_eq!(
        checked.error.as_deref(),
        Some("answered with gRPC status 5")
    );
    server.set(2);
    let checked = checks.wait("db", "10.77.0.4:50051", false).await;
    assert_eq!(checked.error.as_deref(), Some("answered NOT_SERVING"));
    server.set(1);
    checks.wait("db", "10.77.0.4:50051", true).await;
}

#[tokio::test]
async fn silence_and_other_protocols_are_no_answer() {
    if !begin() {
        return;
    }
    let own = Alone::new("silent", "10.77.0.5");
    // It accepts in the kernel, and nobody ever answers.
    let _silent = own.listen("10.77.0.5:80");
    Server::grpc(own.listen("10.77.0.5:81"), 1);
    let of = |address| vec![endpoint(address, Some("a"))];
    let services = [
        service("silent", http(), of("10.77.0.5:80")),
        service("other", http(), of("10.77.0.5:81")),
    ];
    let mut checks = Checks::start(own.places, services);
    let checked = checks.wait("silent", "10.77.0.5:80", false).await;
    assert_eq!(checked.error.as_deref(), Some("no answer within 1s"));
    let error = checks
        .wait("other", "10.77.0.5:81", false)
        .await
        .error
        .unwrap();
    assert!(error.starts_with("no valid answer"), "{error}");
}

#[tokio::test]
async fn endpoints_elsewhere_are_asked_from_where_clients_are() {
    if !begin() {
        return;
    }
    let own = Alone::new("client", "10.77.0.6");
    let _elsewhere = own.listen("10.77.0.6:9000");
    let of = |address| vec![endpoint(address, None)];
    let mut checks = Checks::start(
        own.places,
        [service("far", Probe::Tcp, of("10.77.0.6:9000"))],
    );
    checks.wait("far", "10.77.0.6:9000", true).await;
    drop(checks);

    // Without workloads, from the node's own namespace.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let near = service("near", Probe::Tcp, of(&address));
    let mut checks = Checks::start(Places::new(), [near]);
    checks.wait("near", &address, true).await;
}

#[test]
fn another_namespace_at_the_same_path_is_not_entered() {
    if !begin() {
        return;
    }
    let netns = Netns::new("replaced");
    let place = places(&[("a", &netns)])
        .remove(&workload_name("a"))
        .unwrap();
    assert!(inside(&place, || Ok(())).is_ok());
    let path: PathBuf = place.handle.clone();
    drop(netns);
    assert!(inside(&place, || Ok(())).is_err());
    let again = Netns::new("replaced");
    assert_eq!(again.path(), path);
    let error = inside(&place, || Ok(())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
