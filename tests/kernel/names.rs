//! Name queries go to the agent's listener in the workload's network namespace, while there is one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use mesh_common::addr::PortBe;
use mesh_common::service::{DNS_SERVICE, UDP};
use mesh_common::workload::WORKLOAD_DNS;
use socket2::Socket;

use crate::ground::{Ground, netns, socket};
use crate::services::{VIP, VIP6, ask, client, peer, receiver};
use crate::tables::Tables;

/// Port of the agent's listener.
const PORT: u16 = 15_053;

/// A ground whose client has its name queries taken.
fn ground() -> Option<(Ground, Tables)> {
    let ground = Ground::new()?;
    let tables = Tables::new(&ground);
    tables.control(&ground, |control| control.dns_port = PortBe::new(PORT));
    let key = netns(&ground.pods[0]);
    let mut entry = ground.maps.workloads.get(&key).unwrap().unwrap();
    entry.flags |= WORKLOAD_DNS;
    ground.maps.workloads.set(&key, &entry).unwrap();
    Some((ground, tables))
}

fn listen(ground: &mut Ground, kind: Kind, address: IpAddr) -> Socket {
    let socket = Socket::from(socket(&mut ground.client, kind, address.is_ipv6()));
    socket.bind(&SocketAddr::new(address, PORT).into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    if kind == Kind::Tcp {
        socket.listen(16).unwrap();
    }
    socket
}

const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

#[test]
fn queries_of_every_kind_reach_the_listener_and_keep_the_servers_name() {
    let Some((mut ground, _tables)) = ground() else {
        return;
    };
    let tcp = LOOPBACKS.map(|address| listen(&mut ground, Kind::Tcp, address));
    let udp = LOOPBACKS.map(|address| UdpSocket::from(listen(&mut ground, Kind::Udp, address)));
    let mapped = IpAddr::from(VIP.to_ipv6_mapped());
    for (index, server) in [(0, VIP.into()), (1, IpAddr::from(VIP6)), (0, mapped)] {
        let server = SocketAddr::new(server, 53);
        let one = client(&mut ground, Kind::Tcp, server.is_ipv6());
        one.connect(&server.into()).unwrap();
        let (_, from) = tcp[index].accept().unwrap();
        assert!(from.as_socket().unwrap().ip().is_loopback());
        assert_eq!(peer(&one), server);
        let connected = client(&mut ground, Kind::Udp, server.is_ipv6());
        connected.connect(&server.into()).unwrap();
        assert_eq!(peer(&connected), server);
        let dial = ground.dial(&connected);
        assert_eq!(dial.unwrap().service, DNS_SERVICE);
        let any = UdpSocket::from(client(&mut ground, Kind::Udp, server.is_ipv6()));
        assert_eq!(ask(&any, server, &udp[index]), server);
        // What is no query goes its way.
        let other = client(&mut ground, Kind::Udp, server.is_ipv6());
        other
            .connect(&SocketAddr::new(server.ip(), 54).into())
            .unwrap();
        assert_eq!(ground.dial(&other), None);
    }
}

#[test]
fn a_name_server_that_is_a_service_is_asked_itself() {
    let Some((mut ground, mut tables)) = ground() else {
        return;
    };
    let _listener = listen(&mut ground, Kind::Udp, LOOPBACKS[0]);
    let server = receiver(&mut ground.server, ground.pods[1].v4().into());
    tables.serve_at((VIP, 53).into(), UDP, server.local_addr().unwrap());
    let any = UdpSocket::from(client(&mut ground, Kind::Udp, false));
    assert_eq!(ask(&any, (VIP, 53).into(), &server), (VIP, 53).into());
    let connected = client(&mut ground, Kind::Udp, false);
    connected
        .connect(&SocketAddr::from((VIP, 53)).into())
        .unwrap();
    let dial = ground.dial(&connected);
    assert_ne!(dial.unwrap().service, DNS_SERVICE);
}

#[test]
fn without_a_listener_a_query_goes_where_it_was_sent() {
    let Some((mut ground, _tables)) = ground() else {
        return;
    };
    let at = SocketAddr::from((ground.pods[1].v4(), 53));
    let server = Socket::from(socket(&mut ground.server, Kind::Udp, false));
    server.bind(&at.into()).unwrap();
    let server = UdpSocket::from(server);
    let any = UdpSocket::from(client(&mut ground, Kind::Udp, false));
    assert_eq!(ask(&any, at, &server), at);
    // With one for UDP only, TCP goes its way; with one, UDP of another socket is taken.
    let listener = UdpSocket::from(listen(&mut ground, Kind::Udp, LOOPBACKS[0]));
    assert_eq!(ask(&any, at, &listener), at);
    let tcp = client(&mut ground, Kind::Tcp, false);
    tcp.set_nonblocking(true).unwrap();
    tcp.connect(&at.into()).unwrap_err();
    assert_eq!(ground.dial(&tcp), None);
    // The listener goes, and the server is there again for the same socket.
    drop(listener);
    assert_eq!(ask(&any, at, &server), at);
}

#[test]
fn a_query_to_loopback_or_through_a_device_or_of_another_workload_is_left_alone() {
    let Some((mut ground, _tables)) = ground() else {
        return;
    };
    let _listener = listen(&mut ground, Kind::Udp, LOOPBACKS[0]);
    let local = client(&mut ground, Kind::Udp, false);
    local
        .connect(&SocketAddr::from(([127, 0, 0, 53], 53)).into())
        .unwrap();
    let to_device = client(&mut ground, Kind::Udp, false);
    to_device.bind_device(Some(b"eth0")).unwrap();
    to_device
        .connect(&SocketAddr::from((VIP, 53)).into())
        .unwrap();
    let other = Socket::from(socket(&mut ground.server, Kind::Udp, false));
    other.connect(&SocketAddr::from((VIP, 53)).into()).unwrap();
    for socket in [local, to_device, other] {
        assert_eq!(ground.dial(&socket), None);
    }
}
