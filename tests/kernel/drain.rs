//! Connected UDP sockets whose backend is removed, and sockets that are connected no more without a call that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use harness::wait_for;
use mesh_agent::balance::Balancing as _;
use mesh_agent::locate::reset::{ConnectedSocket, Connection, close};
use mesh_agent::model::balanced::{Balanced, ClientFlow, PortId, Target};
use mesh_agent::model::service::{Drain, Protocol, ServiceName};
use mesh_common::balance::Algorithm;
use mesh_common::service::{TCP, UDP};
use socket2::{SockRef, Socket};

use crate::ground::{Ground, netns};
use crate::services::{VIP, VIP6, client, open, receiver};
use crate::sys;
use crate::tables::Tables;

/// A UDP port of a service with this target, or with none.
fn service(vip: SocketAddr, target: Option<SocketAddr>) -> (PortId, Arc<Balanced>) {
    let id = PortId {
        service: ServiceName {
            namespace: "default".to_owned(),
            name: format!("drained-v{}", if vip.is_ipv4() { 4 } else { 6 }),
        },
        port: vip.port(),
        protocol: Protocol::Udp,
    };
    let balanced = Balanced {
        id: id.clone(),
        frontends: vec![vip],
        node_port: None,
        algorithm: Algorithm::Random,
        affinity: None,
        drops: false,
        drain: Drain::Now,
        targets: target
            .map(|address| Target {
                address,
                workload: None,
                weight: 1,
            })
            .into_iter()
            .collect(),
        resting: Vec::new(),
        candidates: Vec::new(),
        proxied: None,
    };
    (id, Arc::new(balanced))
}

fn connected(ground: &mut Ground, v6: bool, to: SocketAddr) -> UdpSocket {
    let socket = client(ground, Kind::Udp, v6);
    socket.connect(&to.into()).unwrap();
    socket.into()
}

fn cookie(socket: &UdpSocket) -> u64 {
    rustix::net::sockopt::socket_cookie(socket.as_fd()).unwrap()
}

/// Returns the backend number that a socket still counts for.
fn counts(ground: &Ground, socket: &UdpSocket) -> u32 {
    let dial = ground.dial(socket);
    dial.unwrap().backend_number
}

/// Names the socket as the agent does when it closes it.
fn named(flow: &ClientFlow) -> ConnectedSocket {
    ConnectedSocket {
        connection: Connection {
            local: flow.local,
            remote: flow.remote,
        },
        protocol: flow.protocol,
        cookie: flow.cookie,
        interface: flow.interface,
    }
}

/// The application hears of it, once, and has a socket that is not connected.
fn is_told(socket: &UdpSocket) {
    let error = socket.recv(&mut [0; 10]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED));
    let error = socket.send(b"lost").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EDESTADDRREQ));
}

#[test]
fn udp_sockets_that_dialled_a_removed_backend_are_closed_and_no_others() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    // This process stands for clients.
    Tables::new(&ground);
    let servers = ground.pods[1]
        .addresses()
        .map(|address| receiver(&mut ground.server, address));
    let [v4, v6] = servers.each_ref().map(|it| it.local_addr().unwrap());
    let vips = [(VIP, 53).into(), (VIP6, 53).into()];
    let set = |ground: &Ground, targets: [Option<SocketAddr>; 2]| {
        let all = vips.into_iter().zip(targets);
        let wanted: BTreeMap<_, _> = all.map(|(vip, target)| service(vip, target)).collect();
        assert_eq!(ground.kernel.balance(&wanted).unwrap(), []);
    };
    set(&ground, [Some(v4), Some(v6)]);
    let mapped = (VIP.to_ipv6_mapped(), 53).into();
    let dialled = [(false, vips[0]), (true, vips[1]), (true, mapped)]
        .map(|(is_v6, vip)| connected(&mut ground, is_v6, vip));
    // The kernel finds such a socket by its interface only.
    SockRef::from(&dialled[0])
        .bind_device(Some(b"eth0"))
        .unwrap();
    let direct = [(false, v4), (true, v6)].map(|(is_v6, at)| connected(&mut ground, is_v6, at));
    // Dissolved, it is nobody's to close; and it counts as open, for there is no hook.
    let dissolved = connected(&mut ground, false, vips[0]);
    sys::disconnect(&dissolved).unwrap();
    assert_ne!(counts(&ground, &dissolved), 0);
    assert_eq!(ground.kernel.flows_to_drain().unwrap(), []);
    set(&ground, [None, None]);
    let found = ground.kernel.flows_to_drain().unwrap();
    let cookies: BTreeSet<u64> = found.iter().map(|flow| flow.cookie).collect();
    assert_eq!(cookies, dialled.iter().map(cookie).collect());
    let own = netns(&ground.pods[0]);
    for socket in &dialled {
        let flow = found.iter().find(|flow| flow.cookie == cookie(socket));
        let local = socket.local_addr().unwrap();
        let remote = if flow.unwrap().local.is_ipv4() {
            v4
        } else {
            v6
        };
        let expected = ClientFlow {
            netns: own,
            cookie: cookie(socket),
            local: (local.ip().to_canonical(), local.port()).into(),
            remote,
            protocol: Protocol::Udp,
            interface: flow.unwrap().interface,
        };
        assert_eq!(flow, Some(&expected));
        let is_bound = expected.cookie == cookie(&dialled[0]);
        assert_eq!(expected.interface != 0, is_bound);
        close(&ground.pods[0].netns_path(), &named(&expected)).unwrap();
    }
    dialled.iter().for_each(is_told);
    for (socket, server) in direct.iter().zip(&servers) {
        socket.send(b"direct").unwrap();
        assert_eq!(server.recv(&mut [0; 10]).unwrap(), 6);
    }
    // All are connected no more, and counted off by the same look.
    wait_for("the sockets to be counted off", PATIENCE, || {
        assert_eq!(ground.kernel.flows_to_drain().unwrap(), []);
        let mut all = dialled.iter().chain([&dissolved]);
        all.all(|socket| counts(&ground, socket) == 0)
    })
    .unwrap();
    // The application connects anew, and is counted.
    set(&ground, [Some(v4), Some(v6)]);
    dialled[0].connect(vips[0]).unwrap();
    dialled[0].send(b"again").unwrap();
    assert_eq!(servers[0].recv(&mut [0; 10]).unwrap(), 5);
    assert_ne!(counts(&ground, &dialled[0]), 0);
    assert_eq!(ground.kernel.flows_to_drain().unwrap(), []);
}

#[test]
fn what_is_connected_no_more_is_counted_off_without_anything_to_drain() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let server = receiver(&mut ground.server, ground.pods[1].v4().into());
    let vip = (VIP, 1).into();
    // A broadcast that the socket may not send, and one that no stream goes to.
    let unreachable = [
        (UDP, (VIP, 2), libc::EACCES),
        (TCP, (VIP, 3), libc::ENETUNREACH),
    ];
    let served = tables.serve_at(vip, UDP, server.local_addr().unwrap());
    let kept = connected(&mut ground, false, vip);
    let dissolved = connected(&mut ground, false, vip);
    sys::disconnect(&dissolved).unwrap();
    assert_eq!(open(&ground, &served), [2]);
    // The call fails behind the hook.
    let mut failed = Vec::new();
    for (protocol, vip, expected) in unreachable {
        let nowhere = tables.serve_at(vip.into(), protocol, ([255; 4], 9).into());
        let kind = if protocol == TCP {
            Kind::Tcp
        } else {
            Kind::Udp
        };
        let socket: Socket = client(&mut ground, kind, false);
        let error = socket.connect(&SocketAddr::from(vip).into()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(expected));
        assert_eq!(open(&ground, &nowhere), [1]);
        failed.push((socket, nowhere));
    }
    wait_for("the sockets to be counted off", PATIENCE, || {
        assert_eq!(ground.kernel.flows_to_drain().unwrap(), []);
        let is_left = failed.iter().all(|(_, it)| open(&ground, it) == [0]);
        is_left && open(&ground, &served) == [1]
    })
    .unwrap();
    // Counted off once: their end takes nothing off any more.
    drop((dissolved, failed));
    assert_eq!(open(&ground, &served), [1]);
    drop(kept);
    assert_eq!(open(&ground, &served), [0]);
}

#[test]
fn a_socket_that_listens_instead_is_counted_off_and_what_it_accepts_is_not() {
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let mut tables = Tables::new(&ground);
    let vip = SocketAddr::from((VIP, 3));
    let nowhere = tables.serve_at(vip, TCP, ([255; 4], 9).into());
    let socket = client(&mut ground, Kind::Tcp, false);
    socket.connect(&vip.into()).unwrap_err();
    assert_eq!(open(&ground, &nowhere), [1]);
    socket
        .bind(&SocketAddr::from((ground.pods[0].v4(), 0)).into())
        .unwrap();
    socket.listen(1).unwrap();
    assert_eq!(open(&ground, &nowhere), [0]);
    let dialling = client(&mut ground, Kind::Tcp, false);
    dialling.connect(&socket.local_addr().unwrap()).unwrap();
    let (accepted, _) = socket.accept().unwrap();
    drop((accepted, dialling, socket));
    assert_eq!(open(&ground, &nowhere), [0]);
}
