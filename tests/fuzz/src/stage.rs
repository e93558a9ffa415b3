//! The data path between real sockets: one data thread, an upstream that gives back what it gets, and room for one that does not.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_agent::chance::Chance;
use mesh_agent::l7::cluster::{Cluster, ClusterPolicy};
use mesh_agent::model::balanced::{PortId, Target, Upstream};
use mesh_agent::model::service::{Protocol, ServiceName};
use mesh_agent::model::workload::WorkloadName;
use mesh_agent::proxy::exchange::{Config, Destination, Speaks};
use mesh_agent::proxy::record::{Client, Observer, RelayRecord, RequestRecord};
use mesh_agent::proxy::socket::{Asked, Sockets};
use mesh_agent::proxy::worker::{Outside, Settings, Workers};
use tokio::time::Instant;

/// What the upstream takes of a body.
const BODY_MOST: usize = 1 << 20;

/// Panics of the data thread, which otherwise cost one connection each and nobody hears of.
static PANICS: AtomicU32 = AtomicU32::new(0);

static STAGE: LazyLock<Stage> =
    LazyLock::new(|| Stage::start().expect("sockets on loopback and two threads"));

/// The data path, and what it leads to.
pub(crate) struct Stage {
    workers: Workers,
    listener: Mutex<TcpListener>,
    /// Whose endpoint is another one for each input.
    other: Arc<Destination>,
    epoch: Instant,
}

/// Which service a connection is to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To {
    /// The one that gives back what it gets, by HTTP/1.1.
    Echo,
    /// The one whose endpoint was [set](Stage::set_endpoint), by HTTP/2.
    Other,
}

impl To {
    fn port(self) -> PortId {
        let name = match self {
            Self::Echo => "echo",
            Self::Other => "other",
        };
        PortId {
            service: ServiceName {
                namespace: "shop".to_owned(),
                name: name.to_owned(),
            },
            port: 80,
            protocol: Protocol::Tcp,
        }
    }
}

impl Stage {
    /// Returns the one of this process.
    pub(crate) fn get() -> &'static Self {
        &STAGE
    }

    fn start() -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let is_data = thread.name().is_some_and(|name| name.starts_with("data-"));
            PANICS.fetch_add(u32::from(is_data), Ordering::Relaxed);
            before(info);
        }));
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let epoch = Instant::now();
        let at = echo.local_addr()?;
        std::thread::Builder::new()
            .name("echo".to_owned())
            .spawn(move || serve(echo))?;
        let other = destination(To::Other, Speaks::Http2);
        let echo = destination(To::Echo, Speaks::Http1);
        set(&echo, at, 0);
        let all = [
            (To::Echo.port(), echo),
            (To::Other.port(), Arc::clone(&other)),
        ];
        let config = Config {
            number: 1,
            destinations: all.into_iter().collect(),
            ..Config::default()
        };
        let mut settings = Settings::default();
        settings.threads.count = 1;
        let outside = Outside {
            config: Arc::new(ArcSwap::from_pointee(config)),
            sockets: Arc::new(Plain),
            observer: Arc::new(|| Arc::new(Deaf)),
            sessions: None,
            epoch,
        };
        Ok(Self {
            workers: Workers::start(&settings, &outside)?,
            listener: Mutex::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?),
            other,
            epoch,
        })
    }

    /// Returns a client's end of a connection that the data path serves.
    pub(crate) fn connect(&self, to: To) -> io::Result<TcpStream> {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, address) = listener.accept()?;
        drop(listener);
        let client = Client {
            workload: Arc::new(WorkloadName::default()),
            netns: 1,
            address,
            port: Arc::new(to.port()),
            dialled: address,
        };
        assert!(self.workers.give(far, client), "the data thread is full");
        Ok(near)
    }

    /// Sets the endpoint of the service [`To::Other`].
    pub(crate) fn set_endpoint(&self, address: SocketAddr) {
        let now = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        set(&self.other, address, now);
    }

    /// Fails if the data thread has panicked.
    pub(crate) fn check(&self) {
        let panics = PANICS.swap(0, Ordering::Relaxed);
        assert_eq!(panics, 0, "the data thread panicked");
    }
}

fn destination(to: To, speaks: Speaks) -> Arc<Destination> {
    let policy = ClusterPolicy {
        outlier: None,
        ..ClusterPolicy::default()
    };
    Arc::new(Destination {
        cluster: Arc::new(Cluster::new(Arc::new(to.port()), policy)),
        speaks,
        wrap: None,
        traffic: None,
    })
}

fn set(destination: &Destination, address: SocketAddr, now: u64) {
    let target = Target {
        address,
        workload: None,
        weight: 1,
    };
    let mut chance = Chance::seeded(1);
    destination
        .cluster
        .set_endpoints(&[target], now, &mut chance);
}

/// Gives back what it gets, for ever.
fn serve(listener: TcpListener) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        listener.set_nonblocking(true).expect("a socket");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let service = service_fn(|request: Request<Incoming>| async move {
                let body = Limited::new(request.into_body(), BODY_MOST).collect().await;
                let body = body.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
                Ok::<_, Infallible>(Response::new(Full::new(body)))
            });
            tokio::spawn(async move {
                let server = hyper::server::conn::http1::Builder::new();
                let served = server.serve_connection(TokioIo::new(stream), service);
                // However it ends: the agent may close at any time.
                served.await.ok();
            });
        }
    });
}

/// Sockets of this process.
struct Plain;

impl Sockets for Plain {
    fn stream(&self, _: u64, v6: bool) -> Asked {
        let domain = match v6 {
            true => socket2::Domain::IPV6,
            false => socket2::Domain::IPV4,
        };
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None);
        let ready = socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        Asked::done(ready.map(Into::into))
    }

    fn mark(&self, _: BorrowedFd<'_>, _: &Upstream<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// Hears of nothing.
struct Deaf;

impl Observer for Deaf {
    fn request(&self, _: &RequestRecord<'_>) {}

    fn relayed(&self, _: &RelayRecord<'_>) {}

    fn refused(&self, _: &Client, _: StatusCode, _: &'static str) {}
}
