//! A client, the data path and its upstreams, all on one thread.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{io, str};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::chance::Chance;
use crate::l7::cluster::policy::OutlierPolicy;
use crate::l7::cluster::{Cluster, ClusterPolicy};
use crate::l7::limit::shed::Shedder;
use crate::l7::route::{Input, Tables};
use crate::l7::session::SessionKey;
use crate::model::balanced::{PortId, Target, Upstream};
use crate::model::route::{
    Backend, BackendTarget, BadRef, HttpMatch, Parent, PathMatch, Route, RouteKind, RouteName,
    Rule, Rules,
};
use crate::model::service::{
    Balance, Distribution, Port, Protocol, Service, ServiceKind, ServiceName,
};
use crate::model::traffic::Traffic;
use crate::model::workload::WorkloadName;
use crate::proxy::exchange::{Config, Destination, Exchange, Governor, Limits, Room, Speaks};
use crate::proxy::h1;
use crate::proxy::life::Life;
use crate::proxy::pool::{self, Pool};
use crate::proxy::record::{Client, Observer};
use crate::proxy::shelf::Shelf;
use crate::proxy::socket::{Asked, Sockets};
use crate::proxy::stream::Stream;
use crate::proxy::tests::{Notes, Seen};

/// Nothing here takes longer unless it hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Sockets of this process.
pub(in crate::proxy) struct Plain;

impl Sockets for Plain {
    fn stream(&self, _: u64, v6: bool) -> Asked {
        Asked::done(socket(v6))
    }

    fn mark(&self, _: BorrowedFd<'_>, _: &Upstream<'_>) -> io::Result<()> {
        Ok(())
    }
}

fn socket(v6: bool) -> io::Result<OwnedFd> {
    let domain = if v6 {
        socket2::Domain::IPV6
    } else {
        socket2::Domain::IPV4
    };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// How a scene is set.
pub(super) struct Setting {
    /// Endpoints of `cart`, the service that is dialled, and of `other`.
    pub(super) endpoints: [usize; 2],
    /// What those are spoken to by.
    pub(super) speaks: [Speaks; 2],
    /// More endpoints of `cart`, of whatever kind.
    pub(super) more: Vec<SocketAddr>,
    pub(super) sockets: Arc<dyn Sockets>,
    pub(super) rules: Vec<Rule<HttpMatch>>,
    pub(super) traffic: Traffic,
    /// What policies say of `other`.
    pub(super) of_other: Traffic,
    pub(super) policy: ClusterPolicy,
    pub(super) limits: Limits,
    pub(super) h1: h1::Limits,
    pub(super) pool: pool::Limits,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            endpoints: [1, 1],
            speaks: [Speaks::Http1; 2],
            more: Vec::new(),
            sockets: Arc::new(Plain),
            rules: Vec::new(),
            traffic: Traffic::default(),
            of_other: Traffic::default(),
            policy: ClusterPolicy::default(),
            limits: Limits::default(),
            h1: h1::Limits::default(),
            pool: pool::Limits::default(),
        }
    }
}

/// The stage.
pub(in crate::proxy) struct Scene {
    pub(in crate::proxy) room: Arc<Room>,
    pub(super) notes: Arc<Notes>,
    pub(super) draining: Arc<AtomicBool>,
    /// Who listens, by service.
    pub(super) cart: Vec<TcpListener>,
    pub(super) other: Vec<TcpListener>,
    proxy: SocketAddr,
    h1: h1::Limits,
}

fn service(name: &str) -> ServiceName {
    ServiceName {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

/// Returns the port 80 of a service.
pub(in crate::proxy) fn port(name: &str) -> PortId {
    PortId {
        service: service(name),
        port: 80,
        protocol: Protocol::Tcp,
    }
}

/// Returns a rule with a prefix of the path, whose backend is a service.
pub(in crate::proxy) fn rule(prefix: &str, backend: &str) -> Rule<HttpMatch> {
    Rule {
        index: 0,
        name: None,
        matches: vec![HttpMatch {
            path: PathMatch::Prefix(prefix.trim_end_matches('/').to_owned()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        filters: Vec::new(),
        backends: vec![to(backend)],
        request_timeout: None,
        backend_timeout: None,
        retry: None,
        session: None,
    }
}

/// Returns a backend of weight 1; the service `gone` does not exist.
pub(super) fn to(name: &str) -> Backend {
    let to = match name {
        "gone" => BackendTarget::Invalid(
            BadRef::BackendNotFound,
            "there is no such service".to_owned(),
        ),
        name => BackendTarget::Port(port(name)),
    };
    Backend {
        weight: 1,
        to,
        filters: Vec::new(),
    }
}

/// Returns compiled tables.
pub(in crate::proxy) fn tables(rules: Vec<Rule<HttpMatch>>, traffic: Traffic) -> Tables {
    tables_of("http", rules, traffic)
}

/// Returns compiled tables, of a service that says that it speaks this.
pub(super) fn tables_of(speaks: &str, rules: Vec<Rule<HttpMatch>>, traffic: Traffic) -> Tables {
    let cart = Service {
        name: service("cart"),
        kind: ServiceKind::ClusterIp,
        addresses: Vec::new(),
        external_addresses: Vec::new(),
        ports: vec![Port {
            name: None,
            number: 80,
            protocol: Protocol::Tcp,
            node_port: None,
            app_protocol: Some(speaks.to_owned()),
            endpoints: Vec::new(),
        }],
        affinity: None,
        local_only: false,
        distribution: Distribution::default(),
        publish_not_ready: false,
        balance: Balance::default(),
        portless: Vec::new(),
        origin: String::new(),
    };
    let name = Arc::new(RouteName {
        kind: RouteKind::Http,
        namespace: "shop".to_owned(),
        name: "r".to_owned(),
    });
    let route = Route {
        name: Arc::clone(&name),
        created: None,
        parents: vec![Parent {
            service: service("cart"),
            ports: vec![80],
        }],
        rules: Rules::Http(rules.clone()),
        origin: String::new(),
    };
    let routes = match rules.is_empty() {
        true => BTreeMap::new(),
        false => [(name, Arc::new(route))].into_iter().collect(),
    };
    let input = Input {
        generation: 1,
        services: &[(service("cart"), Arc::new(cart))].into_iter().collect(),
        routes: &routes,
        traffic: &[(port("cart"), Arc::new(traffic))].into_iter().collect(),
        tls: &BTreeMap::new(),
    };
    Tables::compile(&input, &Tables::default())
}

/// Returns the workload behind an endpoint.
pub(in crate::proxy) fn behind(endpoint: &SocketAddr) -> WorkloadName {
    WorkloadName {
        namespace: "shop".to_owned(),
        name: format!("pod-{}", endpoint.port()),
    }
}

/// Returns a destination with these endpoints.
pub(in crate::proxy) fn destination(
    name: &str,
    policy: ClusterPolicy,
    endpoints: &[SocketAddr],
) -> (PortId, Arc<Destination>) {
    let cluster = Cluster::new(Arc::new(port(name)), policy);
    let target = |address: &SocketAddr| Target {
        address: *address,
        workload: Some(Arc::new(behind(address))),
        weight: 1,
    };
    let targets: Vec<_> = endpoints.iter().map(target).collect();
    cluster.set_endpoints(&targets, 0, &mut Chance::seeded(1));
    let destination = Destination {
        cluster: Arc::new(cluster),
        speaks: Speaks::Http1,
        wrap: None,
        traffic: None,
    };
    (port(name), Arc::new(destination))
}

/// Returns both services with their endpoints.
fn destinations(
    endpoints: [Vec<SocketAddr>; 2],
    speaks: [Speaks; 2],
    policy: &ClusterPolicy,
    traffic: [Traffic; 2],
) -> HashMap<PortId, Arc<Destination>> {
    let all = ["cart", "other"].into_iter().zip(endpoints);
    let all = all.zip(speaks.into_iter().zip(traffic));
    let one =
        |((name, endpoints), (speaks, traffic)): ((&str, Vec<SocketAddr>), (Speaks, Traffic))| {
            let (id, it) = destination(name, policy.clone(), &endpoints);
            let it = Destination {
                speaks,
                traffic: Some(Arc::new(traffic)),
                ..Destination::clone(&it)
            };
            (id, Arc::new(it))
        };
    all.map(one).collect()
}

/// Returns a policy by which one failure ejects, also the only endpoint.
pub(super) fn strict() -> ClusterPolicy {
    ClusterPolicy {
        outlier: Some(OutlierPolicy {
            consecutive_5xx: Some(1),
            ..OutlierPolicy::default()
        }),
        panic_percent: 0,
        ..ClusterPolicy::default()
    }
}

async fn listeners(count: usize) -> Vec<TcpListener> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    }
    all
}

fn addresses(of: &[TcpListener]) -> Vec<SocketAddr> {
    of.iter().map(|it| it.local_addr().unwrap()).collect()
}

/// Returns who the client with this address is.
pub(super) fn introduced(address: SocketAddr) -> Client {
    Client {
        workload: Arc::new(WorkloadName {
            namespace: "shop".to_owned(),
            name: "client".to_owned(),
        }),
        netns: 1,
        address,
        port: Arc::new(port("cart")),
        dialled: "10.0.0.1:80".parse().unwrap(),
    }
}

impl Scene {
    pub(super) async fn new(setting: Setting) -> Self {
        let cart = listeners(setting.endpoints[0]).await;
        let other = listeners(setting.endpoints[1]).await;
        let endpoints = [[addresses(&cart), setting.more].concat(), addresses(&other)];
        let traffic = [setting.traffic.clone(), setting.of_other];
        let destinations = destinations(endpoints, setting.speaks, &setting.policy, traffic);
        let governor = Governor::new(&Arc::new(setting.traffic.clone()), None);
        let config = Config {
            number: 1,
            tables: Arc::new(tables(setting.rules, setting.traffic)),
            destinations,
            governors: governor.map(|it| (port("cart"), it)).into_iter().collect(),
        };
        let notes = Arc::new(Notes::default());
        let room = Arc::new(Room {
            config: Arc::new(ArcSwap::from_pointee(config)),
            pool: Pool::new(setting.sockets, setting.pool),
            observer: Arc::clone(&notes) as Arc<dyn Observer>,
            shedder: Arc::new(Shedder::new(
                setting.limits.in_flight,
                setting.limits.kept_bytes,
            )),
            limits: setting.limits,
            sessions: SessionKey::new(&[7; 32]).ok(),
            epoch: Instant::now(),
            scratches: Shelf::default(),
        });
        let draining = Arc::new(AtomicBool::new(false));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let (of, by, h1) = (Arc::clone(&room), Arc::clone(&draining), setting.h1.clone());
        tokio::spawn(async move {
            loop {
                let (stream, address) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let client = introduced(address);
                let exchange = Exchange::new(Arc::clone(&of), client);
                let life = Life::new(Arc::clone(&by), Instant::now() + h1.max_age);
                let h1 = h1.clone();
                tokio::spawn(async move {
                    let stream = Stream::Plain(stream);
                    let kits = Shelf::default();
                    h1::serve(stream, BytesMut::new(), &exchange, &kits, &h1, &life).await;
                });
            }
        });
        Self {
            room,
            notes,
            draining,
            cart,
            other,
            proxy,
            h1: setting.h1,
        }
    }

    /// Returns one with nothing but the service and its endpoint.
    pub(in crate::proxy) async fn plain() -> Self {
        Self::new(Setting::default()).await
    }

    /// Returns one with these rules.
    pub(super) async fn routed(rules: Vec<Rule<HttpMatch>>) -> Self {
        Self::new(Setting {
            rules,
            ..Setting::default()
        })
        .await
    }

    /// Connects as a client.
    pub(super) async fn client(&self) -> Peer {
        Peer(TcpStream::connect(self.proxy).await.unwrap())
    }

    /// Connects as a client that takes no more than so many bytes before it reads.
    pub(super) fn narrow(&self, bytes: usize) -> DuplexStream {
        let (client, server) = tokio::io::duplex(bytes);
        let exchange = Exchange::new(Arc::clone(&self.room), introduced(self.proxy));
        let life = Life::new(Arc::clone(&self.draining), Instant::now() + self.h1.max_age);
        let (stream, h1) = (Stream::wrapped(server), self.h1.clone());
        tokio::spawn(async move {
            let kits = Shelf::default();
            h1::serve(stream, BytesMut::new(), &exchange, &kits, &h1, &life).await;
        });
        client
    }

    /// Takes a connection as the first endpoint of the service.
    pub(super) async fn upstream(&self) -> Peer {
        accept(&self.cart[0]).await
    }

    /// Puts another rule in the place of all.
    pub(super) fn rule(&self, rule: Rule<HttpMatch>) {
        let before = self.room.config.load_full();
        self.room.config.store(Arc::new(Config {
            number: before.number + 1,
            tables: Arc::new(tables(vec![rule], Traffic::default())),
            destinations: before.destinations.clone(),
            governors: HashMap::new(),
        }));
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Waits for the record of a request, and takes it.
    pub(super) async fn record(&self) -> Seen {
        let wait = async {
            loop {
                let first = {
                    let mut all = self.notes.0.lock().unwrap();
                    (!all.is_empty()).then(|| all.remove(0))
                };
                match first {
                    Some(record) => return record,
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("a record")
    }
}

/// Takes a connection.
pub(super) async fn accept(listener: &TcpListener) -> Peer {
    let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
    let (stream, _) = accepted.expect("a connection").unwrap();
    stream.set_nodelay(true).unwrap();
    Peer(stream)
}

/// One end of a connection.
pub(super) struct Peer(pub(super) TcpStream);

impl Peer {
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads as many bytes as are expected, which have to be these.
    pub(super) async fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut got = Vec::new();
        let read = async {
            while got.len() < expected.len() {
                let mut buffer = vec![0; expected.len() - got.len()];
                match self.0.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => got.extend_from_slice(&buffer[..read]),
                }
                if !expected.starts_with(&got) {
                    break;
                }
            }
        };
        let late = tokio::time::timeout(PATIENCE, read).await.is_err();
        let (got, expected) = (
            String::from_utf8_lossy(&got),
            String::from_utf8_lossy(expected),
        );
        assert!(!late || got == expected, "late: {got:?} of {expected:?}");
        assert_eq!(got, expected);
    }

    /// Reads to the end, clean or not.
    pub(super) async fn rest(&mut self) -> (String, bool) {
        let mut got = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut got)).await;
        let clean = read.expect("an end").is_ok();
        (String::from_utf8_lossy(&got).into_owned(), clean)
    }

    /// Reads heads until one begins so; false if none does.
    pub(super) async fn rest_of(&mut self, start: &str) -> bool {
        loop {
            let head = self.head().await;
            if head.starts_with(start) || head.is_empty() {
                return !head.is_empty();
            }
        }
    }

    /// Expects a clean end.
    pub(super) async fn end(&mut self) {
        assert_eq!(self.rest().await, (String::new(), true));
    }

    /// Reads up to the end of a head.
    pub(super) async fn head(&mut self) -> String {
        let mut got = Vec::new();
        let read = async {
            while !got.ends_with(b"\r\n\r\n") {
                match self.0.read_u8().await {
                    Ok(byte) => got.push(byte),
                    Err(_) => break,
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, read).await.is_ok();
        let got = String::from_utf8_lossy(&got).into_owned();
        assert!(in_time, "late: {got:?}");
        got
    }

    /// Returns whether nothing comes for a moment, and no end either.
    pub(super) async fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let wait = Duration::from_millis(50);
        tokio::time::timeout(wait, self.0.read(&mut byte))
            .await
            .is_err()
    }

    /// Closes with a reset.
    pub(super) fn reset(self) {
        self.0.set_zero_linger().unwrap();
    }
}

/// A response without body whose bytes are known.
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n";
/// The same as the client gets it.
pub(super) const GOT: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n";
