//! A client whose connections to a service go through an agent, whose sockets this test holds.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use harness::wait_for;
use mesh_agent::balance::Balancing as _;
use mesh_agent::model::balanced::{
    Balanced, Carries, Clients, Fail, PortId, Proxied, Target, Upstream,
};
use mesh_agent::model::service::{Drain, Protocol, ServiceName};
use mesh_common::addr::PortBe;
use mesh_common::balance::Algorithm;
use mesh_common::handover::CaptureCounters;
use mesh_common::sock::SockState;
use socket2::Socket;

use crate::ground::{Ground, netns, socket};
use crate::services::{VIP, VIP6, client, listener};
use crate::tables::Tables;

/// Port of the agent's listeners.
pub(super) const PORT: u16 = 15_001;

/// The service of most tests: its IPv4 address, its IPv6 address, and the former as an IPv6 socket may write it.
pub(super) const FORMS: [SocketAddr; 3] = [
    SocketAddr::new(IpAddr::V4(VIP), 80),
    SocketAddr::new(IpAddr::V6(VIP6), 80),
    SocketAddr::new(IpAddr::V6(VIP.to_ipv6_mapped()), 80),
];

/// Dropped in this order.
pub(super) struct Scene {
    /// The agent's listeners in the client's pod, by family.
    pub(super) listeners: Vec<TcpListener>,
    /// The backends, by family.
    pub(super) servers: [TcpListener; 2],
    pub(super) netns: u64,
    pub(super) tables: Tables,
    pub(super) ground: Ground,
}

/// Everybody's connections go to the agent.
pub(super) fn all(when_agent_is_away: Fail) -> Proxied {
    Proxied {
        when_agent_is_away,
        clients: Clients::All,
    }
}

/// Those of clients in these namespaces do.
pub(super) fn of_namespaces(names: &[&str]) -> Proxied {
    Proxied {
        when_agent_is_away: Fail::Closed,
        clients: Clients::Namespaces(names.iter().map(|name| (*name).to_owned()).collect()),
    }
}

pub(super) fn id(name: &str) -> PortId {
    PortId {
        service: ServiceName {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        },
        port: 80,
        protocol: Protocol::Tcp,
    }
}

impl Scene {
    /// Returns one without a service, with the agent listening.
    pub(super) fn new() -> Option<Self> {
        let mut scene = Self::away()?;
        scene.listen();
        Some(scene)
    }

    /// Returns one whose agent is away.
    pub(super) fn away() -> Option<Self> {
        let mut ground = Ground::new()?;
        let tables = Tables::new(&ground);
        // This process is not in the pods' cgroup, which `Kernel::set_proxy_port` would find; those of its sockets that matter are.
        tables.control(&ground, |control| control.proxy_port = PortBe::new(PORT));
        let addresses = ground.pods[1].addresses();
        let servers = addresses.map(|address| listener(&mut ground.server, address));
        Some(Self {
            listeners: Vec::new(),
            servers,
            netns: netns(&ground.pods[0]),
            tables,
            ground,
        })
    }

    /// Opens the agent's listeners in the client's pod.
    pub(super) fn listen(&mut self) {
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let socket = self.bare_listener(address);
            self.ground.kernel.mark_listener(socket.as_fd()).unwrap();
            socket.listen(4096).unwrap();
            self.listeners.push(socket.into());
        }
    }

    /// Returns what could become a listener on the agent's port.
    pub(super) fn bare_listener(&mut self, address: IpAddr) -> Socket {
        let kind = Kind::Tcp;
        let socket = Socket::from(socket(&mut self.ground.client, kind, address.is_ipv6()));
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::new(address, PORT).into()).unwrap();
        socket
    }

    /// Makes this all that is balanced: the service of [`FORMS`].
    pub(super) fn serve(&self, proxied: Option<Proxied>) {
        self.balance([self.service(proxied)]);
    }

    pub(super) fn balance<const N: usize>(&self, all: [Balanced; N]) {
        let wanted: BTreeMap<PortId, Arc<Balanced>> = all
            .into_iter()
            .map(|balanced| (balanced.id.clone(), Arc::new(balanced)))
            .collect();
        assert_eq!(self.ground.kernel.balance(&wanted).unwrap(), []);
    }

    pub(super) fn service(&self, proxied: Option<Proxied>) -> Balanced {
        let target = |server: &TcpListener| Target {
            address: server.local_addr().unwrap(),
            workload: None,
            weight: 1,
        };
        Balanced {
            id: id("web"),
            frontends: vec![FORMS[0], FORMS[1]],
            node_port: None,
            algorithm: Algorithm::Random,
            affinity: None,
            proxied,
            drops: false,
            drain: Drain::Keep,
            targets: self.servers.iter().map(target).collect(),
            resting: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Returns a client's socket that can dial this address.
    pub(super) fn socket(&mut self, dialled: SocketAddr) -> Socket {
        client(&mut self.ground, Kind::Tcp, dialled.is_ipv6())
    }

    /// Dials, and returns the error's number where that fails.
    pub(super) fn dial(&mut self, dialled: SocketAddr) -> Result<Socket, Option<i32>> {
        let socket = self.socket(dialled);
        match socket.connect(&dialled.into()) {
            Ok(()) => Ok(socket),
            Err(error) => Err(error.raw_os_error()),
        }
    }

    /// Returns the agent's end of the next connection to this address, and who dialled.
    pub(super) fn accept(&self, dialled: SocketAddr) -> (TcpStream, SocketAddr) {
        let v6 = usize::from(dialled.ip().to_canonical().is_ipv6());
        self.listeners[v6].accept().unwrap()
    }

    /// Returns what the agent is told of a client.
    pub(super) fn take(&self, client: SocketAddr) -> Option<(PortId, SocketAddr)> {
        let (id, dialled) = self.ground.kernel.take_handover(self.netns, client)?;
        Some((id.as_ref().clone(), dialled))
    }

    /// Returns a socket of the agent in the client's pod that is marked for requests to this backend.
    pub(super) fn upstream(&mut self, dialled: SocketAddr, address: SocketAddr) -> Socket {
        self.upstream_for(dialled, address, Carries::Requests)
    }

    /// The same, for whatever it is to carry.
    pub(super) fn upstream_for(
        &mut self,
        dialled: SocketAddr,
        address: SocketAddr,
        carries: Carries,
    ) -> Socket {
        let socket = client(&mut self.ground, Kind::Tcp, address.is_ipv6());
        let web = id("web");
        let upstream = Upstream {
            service: &web,
            dialled,
            backend: &web,
            address,
            carries,
        };
        let kernel = &self.ground.kernel;
        kernel.mark_upstream(socket.as_fd(), &upstream).unwrap();
        socket
    }

    /// Returns what the programs know of one of this test's own sockets.
    pub(super) fn state(&self, socket: &impl std::os::fd::AsRawFd) -> Option<SockState> {
        let states = &self.ground.maps.sock_states;
        states.get(&socket.as_raw_fd()).unwrap()
    }

    pub(super) fn counters(&self) -> CaptureCounters {
        self.ground.kernel.capture_counters().unwrap()
    }

    /// Waits until nothing is left of captured connections.
    pub(super) fn wait_for_nothing_left(&self) {
        wait_for("captured connections to be forgotten", PATIENCE, || {
            let maps = &self.ground.maps;
            let places = maps.briefs.count();
            self.counters().open == 0 && maps.handovers.count().unwrap() == 0 && places == 0
        })
        .unwrap();
    }
}

/// Sends a few bytes through a connection.
pub(super) fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    from.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    to.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}
