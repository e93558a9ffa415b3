//! The data path alone, between a port and an upstream, for profiles: `proxy LISTEN UPSTREAM [THREADS]`.
//!
//! No kernel program, no root: every connection is taken for one of the same workload to the same service.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use http::StatusCode;
use mesh_agent::chance::Chance;
use mesh_agent::l7::cluster::{Cluster, ClusterPolicy};
use mesh_agent::l7::route::Tables;
use mesh_agent::model::balanced::{PortId, Target, Upstream};
use mesh_agent::model::service::{Protocol, ServiceName};
use mesh_agent::model::workload::WorkloadName;
use mesh_agent::proxy::exchange::{Config, Destination, Speaks};
use mesh_agent::proxy::record::{Client, Observer, RequestRecord};
use mesh_agent::proxy::socket::{Asked, Sockets};
use mesh_agent::proxy::worker::{Introduce, Outside, Settings, Workers};

struct Plain;

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

struct Deaf;

impl Observer for Deaf {
    fn relayed(&self, _: &mesh_agent::proxy::record::RelayRecord<'_>) {}

    fn request(&self, _: &RequestRecord<'_>) {}

    fn refused(&self, _: &Client, _: StatusCode, _: &'static str) {}
}

struct Anyone(Arc<PortId>);

impl Introduce for Anyone {
    fn netns(&self) -> u64 {
        1
    }

    fn client(&self, peer: SocketAddr) -> Option<Client> {
        Some(Client {
            workload: Arc::new(WorkloadName::default()),
            netns: 1,
            address: peer,
            port: Arc::clone(&self.0),
            dialled: peer,
        })
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().context(what);
    let listen: SocketAddr = next("where to listen")?.parse()?;
    let upstream: SocketAddr = next("an upstream")?.parse()?;
    let threads: usize = next("").map_or(Ok(1), |it| it.parse())?;
    let id = Arc::new(PortId {
        service: ServiceName {
            namespace: "default".to_owned(),
            name: "upstream".to_owned(),
        },
        port: upstream.port(),
        protocol: Protocol::Tcp,
    });
    let cluster = Cluster::new(Arc::clone(&id), ClusterPolicy::default());
    let target = Target {
        address: upstream,
        workload: None,
        weight: 1,
    };
    cluster.set_endpoints(&[target], 0, &mut Chance::random());
    let destination = Destination {
        cluster: Arc::new(cluster),
        speaks: Speaks::Http1,
        wrap: None,
        traffic: None,
    };
    let config = Config {
        number: 1,
        tables: Arc::new(Tables::default()),
        destinations: [(PortId::clone(&id), Arc::new(destination))].into(),
        ..Config::default()
    };
    let mut settings = Settings::default();
    settings.threads.count = threads;
    let outside = Outside {
        config: Arc::new(ArcSwap::from_pointee(config)),
        sockets: Arc::new(Plain),
        observer: Arc::new(|| Arc::new(Deaf)),
        sessions: None,
        epoch: tokio::time::Instant::now(),
    };
    let workers = Workers::start(&settings, &outside)?;
    workers.listen(0, TcpListener::bind(listen)?, Arc::new(Anyone(id)));
    // Until somebody ends the input.
    io::copy(&mut io::stdin(), &mut io::sink())?;
    workers.drain(Duration::from_secs(1), Duration::from_secs(5));
    Ok(())
}
