//! A service's address leads to a backend, and the application never sees it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use harness::remote::protocol::{Kind, Piece};
use harness::wait::PATIENCE;
use harness::{Remote, wait_for};
use mesh_common::balance::Algorithm;
use mesh_common::close::CloseReason;
use mesh_common::pair::{PairCounters, PairKey};
use mesh_common::service::{SERVICE_DROPS, TCP, UDP};
use socket2::{SockAddr, Socket};

use crate::ground::{Ground, socket};
use crate::sys;
use crate::tables::{Served, Tables};

/// The address of a service that nobody has.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// As [`VIP`].
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10);

/// How an application can dial an address: whether of an IPv6 socket, and how it is written.
type Form = (bool, fn(u16) -> SocketAddr);

const FORMS: [Form; 3] = [
    (false, |port| (VIP, port).into()),
    (true, |port| (VIP6, port).into()),
    (true, |port| (VIP.to_ipv6_mapped(), port).into()),
];

/// A socket in the client's pod.
pub(crate) fn client(ground: &mut Ground, kind: Kind, v6: bool) -> Socket {
    Socket::from(socket(&mut ground.client, kind, v6))
}

/// A listener in a pod, at the address of this family.
pub(crate) fn listener(remote: &mut Remote, address: IpAddr) -> TcpListener {
    let socket = Socket::from(socket(remote, Kind::Tcp, address.is_ipv6()));
    socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

/// A UDP socket in a pod, at the address of this family.
pub(crate) fn receiver(remote: &mut Remote, address: IpAddr) -> UdpSocket {
    let socket = Socket::from(socket(remote, Kind::Udp, address.is_ipv6()));
    socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The server's address of the same family as what is dialled.
fn family(ground: &Ground, dialled: SocketAddr) -> IpAddr {
    let [v4, v6] = ground.pods[1].addresses();
    if dialled.ip().to_canonical().is_ipv4() {
        v4
    } else {
        v6
    }
}

/// Returns whom the application thinks that it is connected to.
pub(crate) fn peer(socket: &Socket) -> SocketAddr {
    socket.peer_addr().unwrap().as_socket().unwrap()
}

/// Sends a datagram to `to`, has it answered by `server`, and returns whom the answer seems to come from.
pub(crate) fn ask(socket: &UdpSocket, to: SocketAddr, server: &UdpSocket) -> SocketAddr {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"question", to).unwrap();
    let mut buffer = [0; 100];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    server.send_to(b"answer", from).unwrap();
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"answer");
    from
}

#[test]
fn tcp_of_every_family_reaches_the_backend_and_keeps_the_name_it_dialled() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    for (v6, form) in FORMS {
        let dialled = form(80);
        let address = family(&ground, dialled);
        let listener = listener(&mut ground.server, address);
        tables.serve_at(dialled, TCP, listener.local_addr().unwrap());
        let socket = client(&mut ground, Kind::Tcp, v6);
        socket.connect(&dialled.into()).unwrap();
        assert_eq!(peer(&socket), dialled);
        let own = socket.local_addr().unwrap().as_socket().unwrap();
        let (mut server, seen) = listener.accept().unwrap();
        assert_eq!(seen.ip(), own.ip().to_canonical());
        assert!(ground.pods[0].addresses().contains(&seen.ip()), "{seen}");
        assert_eq!(server.peer_addr().unwrap(), seen);
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }
}

#[test]
fn udp_of_every_family_reaches_the_backend_and_keeps_the_name_it_dialled() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    for (v6, form) in FORMS {
        let dialled = form(53);
        let address = family(&ground, dialled);
        let server = receiver(&mut ground.server, address);
        tables.serve_at(dialled, UDP, server.local_addr().unwrap());
        let connected = client(&mut ground, Kind::Udp, v6);
        connected.connect(&dialled.into()).unwrap();
        assert_eq!(peer(&connected), dialled);
        let connected = UdpSocket::from(connected);
        connected.set_read_timeout(Some(PATIENCE)).unwrap();
        connected.send(b"question").unwrap();
        let mut buffer = [0; 100];
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(b"answer", from).unwrap();
        assert_eq!(connected.recv_from(&mut buffer).unwrap(), (6, dialled));
        // The same with an address at each send, on a connected socket and on one that is not.
        assert_eq!(ask(&connected, dialled, &server), dialled);
        let unconnected = UdpSocket::from(client(&mut ground, Kind::Udp, v6));
        assert_eq!(ask(&unconnected, dialled, &server), dialled);
    }
}

#[test]
fn what_is_no_service_is_left_alone() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let address = ground.pods[1].v4().into();
    let tcp = listener(&mut ground.server, address);
    let to = tcp.local_addr().unwrap();
    // The same address and port as a service's, of the other protocol.
    tables.serve_at(to, UDP, (ground.pods[1].v4(), 9).into());
    let socket = client(&mut ground, Kind::Tcp, false);
    socket.connect(&to.into()).unwrap();
    assert_eq!(peer(&socket), to);
    assert_eq!(ground.dial(&socket), None);
    let udp = receiver(&mut ground.server, address);
    let socket = UdpSocket::from(client(&mut ground, Kind::Udp, false));
    let to = udp.local_addr().unwrap();
    assert_eq!(ask(&socket, to, &udp), to);
}

#[test]
fn the_agents_own_connections_are_left_alone() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let written = ground.maps.control.get(&0).unwrap().unwrap().agent_tgid;
    assert_eq!(written, std::process::id());
    let mut tables = Tables::new(&ground);
    let server = receiver(&mut ground.server, ground.pods[1].v4().into());
    let served = tables.serve_at((VIP, 80).into(), UDP, server.local_addr().unwrap());
    tables.control(&ground, |control| control.agent_tgid = written);
    let socket = client(&mut ground, Kind::Udp, false);
    socket.connect(&SocketAddr::from((VIP, 80)).into()).unwrap();
    assert_eq!(ground.dial(&socket), None);
    assert_eq!(ground.maps.services.get(served.number).unwrap().turn, 0);
}

#[test]
fn a_connection_to_a_service_is_accelerated_and_its_flow_names_the_service() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let listener = ground.server.listen().unwrap();
    let vip = SocketAddr::from((VIP, 80));
    let served = tables.serve_at(vip, TCP, listener.local);
    let one = ground.client.connect(vip).unwrap();
    let other = listener.accept().unwrap();
    let (up, down) = (Piece::first(1, 100_000), Piece::first(2, 50_000));
    for (piece, from, to) in [(up, &one, &other), (down, &other, &one)] {
        let writing = from.start_write(piece, (1, 3000)).unwrap();
        assert_eq!(to.read(piece, (1, 5000)).unwrap(), piece.length);
        writing.wait(PATIENCE).unwrap();
    }
    assert_eq!(open(&ground, &served), [1]);
    one.close().unwrap();
    other.close().unwrap();
    let flow = ground.ended(one.local);
    assert_eq!((flow.tx_bytes, flow.rx_bytes), (100_000, 50_000));
    assert_eq!(
        (flow.redirect_tx_bytes, flow.redirect_rx_bytes),
        (100_000, 50_000),
        "{flow:#?}"
    );
    assert_eq!(flow.service, served.number);
    assert_eq!(
        SocketAddr::new(flow.destination.into(), flow.destination_port.number()),
        listener.local
    );
    assert_eq!(
        (flow.protocol, flow.close),
        (TCP, CloseReason::SourceClosed as u8)
    );
    assert_eq!(pair(&ground, &served).closed, 1);
    assert_eq!(open(&ground, &served), [0]);
}

/// Returns the open flows of each backend.
pub(crate) fn open(ground: &Ground, served: &Served) -> Vec<u64> {
    let entry = |number: &u32| ground.maps.backends.get(*number).unwrap().open;
    served.backends.iter().map(entry).collect()
}

/// Returns what was counted of all pairs with this service.
fn pair(ground: &Ground, served: &Served) -> PairCounters {
    let mut sum = PairCounters::ZERO;
    let add = |key: &PairKey, cpus: &[PairCounters]| {
        if key.service == served.number {
            cpus.iter().for_each(|cpu| sum.add(cpu));
        }
    };
    ground.maps.pairs.for_each(add).unwrap();
    sum
}

/// Returns the picks of each backend.
pub(crate) fn picked(ground: &Ground, served: &Served) -> Vec<u64> {
    let entry = |number: &u32| ground.maps.backends.get(*number).unwrap().picked;
    served.backends.iter().map(entry).collect()
}

#[test]
fn a_service_without_backends_refuses_and_says_so() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let mut records = Vec::new();
    for (kind, protocol) in [(Kind::Tcp, TCP), (Kind::Udp, UDP)] {
        let served = tables.serve(Algorithm::Random, &[]);
        let served = Served {
            entry: mesh_common::service::ServiceEntry::default(),
            ..served
        };
        tables.set_service(&served);
        for (v6, form) in FORMS {
            let vip = form(80);
            tables.frontend(vip, protocol, served.number);
            let socket = client(&mut ground, kind, v6);
            let refused = socket.connect(&vip.into()).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED), "{vip}");
        }
        assert_eq!(ground.maps.services.get(served.number).unwrap().refused, 3);
        ground
            .records
            .drain(Duration::ZERO, |flow| records.push(flow));
        let named = |flow: &&mesh_common::flow::FlowRecord| flow.service == served.number;
        let own: Vec<_> = records.iter().filter(named).collect();
        assert_eq!(own.len(), 3, "{records:#?}");
        for flow in own {
            assert_eq!(
                (flow.close, flow.protocol),
                (CloseReason::NoBackend as u8, protocol)
            );
            assert_eq!(flow.source_id, ground.id(&ground.pods[0]));
            assert_eq!(flow.destination_port.number(), 80);
        }
        assert_eq!(pair(&ground, &served).failed, 3);
    }
    // A datagram is refused as well, but makes no record.
    let socket = UdpSocket::from(client(&mut ground, Kind::Udp, false));
    let refused = socket.send_to(b"x", (VIP, 80)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    ground
        .records
        .drain(Duration::ZERO, |flow| panic!("{flow:#?}"));
}

#[test]
fn a_service_that_drops_is_left_unanswered() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let mut served = tables.serve(Algorithm::Random, &[]);
    served.entry.set = 0;
    served.entry.flags = SERVICE_DROPS;
    tables.set_service(&served);
    let vip = SocketAddr::from((VIP, 80));
    tables.frontend(vip, TCP, served.number);
    let socket = client(&mut ground, Kind::Tcp, false);
    socket.set_nonblocking(true).unwrap();
    let error = socket.connect(&vip.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    assert_eq!(ground.maps.services.get(served.number).unwrap().refused, 1);
}

#[test]
fn a_node_port_is_balanced_at_the_addresses_of_nodes_alone() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    tables.control(&ground, |control| control.node_ports = [30_000, 32_767]);
    let addresses = ground.pods[1].addresses();
    let nodes: [IpAddr; 2] = [
        [192, 0, 2, 1].into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    ];
    for (address, node) in addresses.into_iter().zip(nodes) {
        let listener = listener(&mut ground.server, address);
        let port = if address.is_ipv4() { 30_080 } else { 30_081 };
        let served = tables.serve(Algorithm::Random, &[(listener.local_addr().unwrap(), 1)]);
        tables.node_port(port, TCP, served.number);
        tables.node_address(node);
        let socket = client(&mut ground, Kind::Tcp, address.is_ipv6());
        let dialled = SocketAddr::new(node, port);
        socket.connect(&dialled.into()).unwrap();
        assert_eq!(peer(&socket), dialled);
        // Not at a port beyond the range, nor at an address that is no node's.
        tables.node_port(20_000, TCP, served.number);
        let strange = if address.is_ipv4() {
            IpAddr::from(VIP)
        } else {
            VIP6.into()
        };
        for elsewhere in [
            SocketAddr::new(node, 20_000),
            SocketAddr::new(strange, port),
        ] {
            let socket = client(&mut ground, Kind::Tcp, address.is_ipv6());
            socket.set_nonblocking(true).unwrap();
            socket.connect(&elsewhere.into()).unwrap_err();
            assert_eq!(ground.dial(&socket), None);
        }
        assert_eq!(picked(&ground, &served), [1]);
    }
}

#[test]
fn a_workload_may_be_its_own_backend() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    for (v6, form) in FORMS {
        let vip = form(80);
        let [v4, six] = ground.pods[0].addresses();
        let own = if vip.ip().to_canonical().is_ipv4() {
            v4
        } else {
            six
        };
        let listener = listener(&mut ground.client, own);
        tables.serve_at(vip, TCP, listener.local_addr().unwrap());
        let socket = client(&mut ground, Kind::Tcp, v6);
        socket.connect(&vip.into()).unwrap();
        assert_eq!(peer(&socket), vip);
        let (mut server, seen) = listener.accept().unwrap();
        assert_eq!(seen.ip(), own);
        server.write_all(b"x").unwrap();
        TcpStream::from(socket).read_exact(&mut [0]).unwrap();
        let server = receiver(&mut ground.client, own);
        tables.serve_at(form(81), UDP, server.local_addr().unwrap());
        let socket = UdpSocket::from(client(&mut ground, Kind::Udp, v6));
        assert_eq!(ask(&socket, form(81), &server), form(81));
    }
}

#[test]
fn a_socket_may_be_bound_before_or_not_wait() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let listener = listener(&mut ground.server, ground.pods[1].v4().into());
    let vip = SocketAddr::from((VIP, 80));
    tables.serve_at(vip, TCP, listener.local_addr().unwrap());
    let own = SocketAddr::from((ground.pods[0].v4(), 4567));
    let bound = client(&mut ground, Kind::Tcp, false);
    bound.bind(&own.into()).unwrap();
    bound.connect(&vip.into()).unwrap();
    assert_eq!(listener.accept().unwrap().1, own);
    assert_eq!(peer(&bound), vip);
    let to_device = client(&mut ground, Kind::Tcp, false);
    to_device.bind_device(Some(b"eth0")).unwrap();
    to_device.connect(&vip.into()).unwrap();
    assert_eq!(peer(&to_device), vip);
    listener.accept().unwrap();
    let hasty = client(&mut ground, Kind::Tcp, false);
    hasty.set_nonblocking(true).unwrap();
    let error = hasty.connect(&vip.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    listener.accept().unwrap();
    wait_for("the connection", PATIENCE, || hasty.peer_addr().is_ok()).unwrap();
    assert_eq!(peer(&hasty), vip);
}

#[test]
fn fast_open_and_multipath_tcp_are_balanced_too() {
    const MSG_FASTOPEN: i32 = 0x2000_0000;
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let listener = listener(&mut ground.server, ground.pods[1].v4().into());
    let vip = SocketAddr::from((VIP, 80));
    let served = tables.serve_at(vip, TCP, listener.local_addr().unwrap());
    let early = client(&mut ground, Kind::Tcp, false);
    early
        .send_to_with_flags(b"early", &vip.into(), MSG_FASTOPEN)
        .unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(peer(&early), vip);
    let multipath = ground.client.bare(Kind::Mptcp, false);
    if harness::remote::errno(&multipath) == Some(libc::EPROTONOSUPPORT) {
        eprintln!("SKIPPED: no multipath TCP on this kernel");
        return;
    }
    let multipath = client(&mut ground, Kind::Mptcp, false);
    multipath.connect(&vip.into()).unwrap();
    listener.accept().unwrap();
    // The hook saw the subflow, and `getpeername` asks the socket above it.
    assert_eq!(peer(&multipath), listener.local_addr().unwrap());
    drop((multipath, early));
    assert_eq!(picked(&ground, &served), [2]);
    wait_for("both to be closed", PATIENCE, || {
        open(&ground, &served) == [0]
    })
    .unwrap();
}

#[test]
fn a_udp_socket_that_connects_elsewhere_forgets() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let server = receiver(&mut ground.server, ground.pods[1].v4().into());
    let backend = server.local_addr().unwrap();
    let (one, other) = (SocketAddr::from((VIP, 80)), SocketAddr::from((VIP, 81)));
    let first = tables.serve_at(one, UDP, backend);
    let second = tables.serve_at(other, UDP, backend);
    let socket = client(&mut ground, Kind::Udp, false);
    let connect = |to: SocketAddr| {
        socket.connect(&SockAddr::from(to)).unwrap();
        assert_eq!(peer(&socket), to);
        [open(&ground, &first), open(&ground, &second)].concat()
    };
    assert_eq!(connect(one), [1, 0]);
    assert_eq!(connect(other), [0, 1]);
    // Directly to the backend that it had: nothing of the service is left.
    assert_eq!(connect(backend), [0, 0]);
    assert_eq!(connect(one), [1, 0]);
    sys::disconnect(&socket).unwrap();
    socket.peer_addr().unwrap_err();
    let socket = UdpSocket::from(socket);
    assert_eq!(ask(&socket, backend, &server), backend);
    assert_eq!(ask(&socket, other, &server), other);
    drop(socket);
    assert_eq!(open(&ground, &first), [0]);
}

#[test]
fn one_udp_socket_talks_to_many_services() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let address = ground.pods[1].v4().into();
    let servers: Vec<_> = (0..10)
        .map(|_| receiver(&mut ground.server, address))
        .collect();
    let vip = |index: usize| SocketAddr::from((VIP, u16::try_from(100 + index).unwrap()));
    for (index, server) in servers.iter().enumerate() {
        tables.serve_at(vip(index), UDP, server.local_addr().unwrap());
    }
    let socket = UdpSocket::from(client(&mut ground, Kind::Udp, false));
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // All of eight questions are out before the first is answered, the first asked answered last.
    let mut buffer = [0; 100];
    for index in 0..8 {
        socket.send_to(b"question", vip(index)).unwrap();
    }
    for index in (0..8).rev() {
        let (_, from) = servers[index].recv_from(&mut buffer).unwrap();
        servers[index].send_to(b"answer", from).unwrap();
        assert_eq!(socket.recv_from(&mut buffer).unwrap().1, vip(index));
    }
    // More of them push out the ones used longest ago, one after the other.
    for (index, server) in servers.iter().enumerate() {
        assert_eq!(ask(&socket, vip(index), server), vip(index));
    }
    let (_, client) = (
        socket.send_to(b"x", vip(9)).unwrap(),
        servers[9].recv_from(&mut buffer).unwrap().1,
    );
    servers[9].send_to(b"late", client).unwrap();
    assert_eq!(socket.recv_from(&mut buffer).unwrap().1, vip(9));
    servers[0].send_to(b"late", client).unwrap();
    assert_eq!(
        socket.recv_from(&mut buffer).unwrap().1,
        servers[0].local_addr().unwrap()
    );
}

#[test]
fn a_udp_socket_sticks_to_its_backend_until_that_is_gone() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let address = ground.pods[1].v4().into();
    let servers = [0, 1].map(|_| receiver(&mut ground.server, address));
    let backends = servers
        .each_ref()
        .map(|server| (server.local_addr().unwrap(), 1));
    let mut served = tables.serve(Algorithm::RoundRobin, &backends);
    let vip = SocketAddr::from((VIP, 80));
    tables.frontend(vip, UDP, served.number);
    let socket = UdpSocket::from(client(&mut ground, Kind::Udp, false));
    (0..5).for_each(|_| assert_eq!(ask(&socket, vip, &servers[0]), vip));
    assert_eq!(picked(&ground, &served), [1, 0]);
    assert_eq!(open(&ground, &served), [0, 0]);
    // The first one goes: the number is no longer usable, and no table names it.
    let mut gone = ground.maps.backends.get(served.backends[0]).unwrap();
    gone.usable = 0;
    served.entry.set = tables.table(Algorithm::RoundRobin, &served.backends[1..], &[1]);
    tables.set_service(&served);
    tables.set_backend(served.backends[0], &gone);
    (0..5).for_each(|_| assert_eq!(ask(&socket, vip, &servers[1]), vip));
    // The number gets a new owner: a socket that knew the old one does not stick to it.
    gone.usable = 1;
    gone.generation += 1;
    tables.set_backend(served.backends[0], &gone);
    assert_eq!(ask(&socket, vip, &servers[1]), vip);
    assert_eq!(picked(&ground, &served), [1, 1]);
}
