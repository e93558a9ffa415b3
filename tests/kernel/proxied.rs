//! What dials a service that needs the agent gets the agent, and sees nothing of it; without an agent, what the service says.

mod brief;
mod handovers;
mod legs;
mod rooms;
mod scene;

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use harness::remote::protocol::Kind;
use harness::wait::PATIENCE;
use harness::wait_for;
use mesh_agent::balance::Balancing as _;
use mesh_agent::model::balanced::{Carries, Fail};
use mesh_agent::model::observed::KernelView as _;
use mesh_common::addr::PortBe;
use mesh_common::close::CloseReason;
use mesh_common::service::SERVICE_PROXIED;
use mesh_common::workload::Control;
use rustix::event::{PollFd, PollFlags, poll};

use crate::ground::source;
use crate::services::{client, peer};

use scene::{FORMS, PORT, Scene, all, id, of_namespaces, pass};

#[test]
fn of_every_family_the_agent_gets_it_and_the_client_sees_what_it_dialled() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let own = scene.ground.pods[0].addresses();
    for dialled in FORMS {
        let socket = scene.dial(dialled).unwrap();
        let (accepted, from) = scene.accept(dialled);
        let name = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(peer(&socket), dialled);
        assert!(own.contains(&name.ip().to_canonical()), "{name}");
        assert_eq!(name.is_ipv6(), dialled.is_ipv6());
        // The agent sees the loopback address that it has, which the client does not.
        assert!(from.ip().is_loopback(), "{from}");
        assert_eq!(from.port(), name.port());
        let canonical = SocketAddr::new(dialled.ip().to_canonical(), 80);
        assert_eq!(scene.take(from), Some((id("web"), canonical)));
        assert_eq!(scene.take(from), None, "it is taken once");
        pass(&socket.into(), &accepted);
        scene.wait_for_nothing_left();
    }
}

#[test]
fn a_connect_that_does_not_wait_is_captured_too() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    for dialled in FORMS {
        let socket = scene.socket(dialled);
        socket.set_nonblocking(true).unwrap();
        let begun = socket.connect(&dialled.into()).unwrap_err();
        assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
        let patience = rustix::event::Timespec::try_from(PATIENCE).unwrap();
        let mut waiting = [PollFd::new(&socket, PollFlags::OUT)];
        assert_eq!(poll(&mut waiting, Some(&patience)).unwrap(), 1);
        assert!(socket.take_error().unwrap().is_none());
        let (_accepted, from) = scene.accept(dialled);
        assert_eq!(peer(&socket), dialled);
        assert!(scene.take(from).is_some());
    }
}

#[test]
fn multipath_tcp_and_fast_open_are_captured_too() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let own = scene.ground.pods[0].addresses();
    for dialled in FORMS {
        let multipath = client(&mut scene.ground, Kind::Mptcp, dialled.is_ipv6());
        multipath.connect(&dialled.into()).unwrap();
        let name = multipath.local_addr().unwrap().as_socket().unwrap();
        assert!(own.contains(&name.ip().to_canonical()), "{name}");
        let (accepted, from) = scene.accept(dialled);
        assert!(scene.take(from).is_some());
        pass(&multipath.into(), &accepted);
        let fast = scene.socket(dialled);
        let sent = fast.send_to_with_flags(b"early", &dialled.into(), libc::MSG_FASTOPEN);
        assert_eq!(sent.unwrap(), 5);
        let (mut accepted, from) = scene.accept(dialled);
        assert!(scene.take(from).is_some());
        let mut early = [0; 5];
        accepted.read_exact(&mut early).unwrap();
        assert_eq!(&early, b"early");
        pass(&fast.into(), &accepted);
    }
    scene.wait_for_nothing_left();
}

#[test]
fn a_socket_that_is_bound_keeps_its_name() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let [v4, v6] = scene.ground.pods[0].addresses();
    for (dialled, own, port) in [
        (FORMS[0], v4, 4711),
        (FORMS[1], v6, 4712),
        (FORMS[0], v4, 0),
    ] {
        let socket = scene.socket(dialled);
        socket.bind(&SocketAddr::new(own, port).into()).unwrap();
        let bound = socket.local_addr().unwrap().as_socket().unwrap();
        socket.connect(&dialled.into()).unwrap();
        assert_eq!(socket.local_addr().unwrap().as_socket(), Some(bound));
        let (_accepted, from) = scene.accept(dialled);
        assert_eq!(from, bound);
        assert!(scene.take(from).is_some());
    }
    // Bound to a port alone it keeps that, and is captured.
    let socket = scene.socket(FORMS[0]);
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4713));
    socket.bind(&any.into()).unwrap();
    socket.connect(&FORMS[0].into()).unwrap();
    let (_accepted, from) = scene.accept(FORMS[0]);
    assert_eq!(from.port(), 4713);
    let name = socket.local_addr().unwrap().as_socket();
    assert_eq!(name, Some(SocketAddr::new(v4, 4713)));
    assert!(scene.take(from).is_some());
}

#[test]
fn a_socket_bound_to_a_device_is_never_captured() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    for dialled in FORMS {
        scene.serve(Some(all(Fail::Open)));
        let v6 = usize::from(dialled.ip().to_canonical().is_ipv6());
        let socket = scene.socket(dialled);
        socket.bind_device(Some(b"eth0")).unwrap();
        socket.connect(&dialled.into()).unwrap();
        assert_eq!(peer(&socket), dialled);
        let (server, _) = scene.servers[v6].accept().unwrap();
        pass(&socket.into(), &server);
        scene.serve(Some(all(Fail::Closed)));
        let socket = scene.socket(dialled);
        socket.bind_device(Some(b"eth0")).unwrap();
        let error = socket.connect(&dialled.into()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTDOWN));
    }
    assert_eq!(scene.counters().open, 0);
}

#[test]
fn without_the_agent_a_service_fails_as_it_says() {
    let Some(mut scene) = Scene::away() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    for dialled in FORMS {
        assert_eq!(scene.dial(dialled).unwrap_err(), Some(libc::EHOSTDOWN));
    }
    assert_eq!(scene.counters().away, 3);
    let client = scene.ground.id(&scene.ground.pods[0]);
    let mut seen = Vec::new();
    let id = id("web");
    wait_for("three records", PATIENCE, || {
        scene.ground.records.drain(Duration::ZERO, |flow| {
            let to = SocketAddr::new(flow.destination.into(), flow.destination_port.number());
            seen.push((flow.source_id, to.ip(), flow.close, flow.service));
        });
        seen.len() >= 3
    })
    .unwrap();
    for ((source, to, close, service), dialled) in seen.into_iter().zip(FORMS) {
        assert_eq!((source, to), (client, dialled.ip().to_canonical()));
        assert_eq!(close, CloseReason::AgentAway as u8);
        let named = scene.ground.kernel.service_name(service).unwrap();
        assert_eq!(*named, id);
    }
    scene.serve(Some(all(Fail::Open)));
    for dialled in FORMS {
        let v6 = usize::from(dialled.ip().to_canonical().is_ipv6());
        let socket = scene.dial(dialled).unwrap();
        assert_eq!(peer(&socket), dialled);
        let (server, _) = scene.servers[v6].accept().unwrap();
        pass(&socket.into(), &server);
    }
    assert_eq!(scene.counters().open, 0);
}

#[test]
fn only_the_agents_own_listener_is_taken_for_it() {
    let Some(mut scene) = Scene::away() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let foreign = scene.bare_listener(Ipv4Addr::LOCALHOST.into());
    foreign.listen(16).unwrap();
    assert_eq!(scene.dial(FORMS[0]).unwrap_err(), Some(libc::EHOSTDOWN));
    drop(foreign);
    scene.listen();
    scene.dial(FORMS[0]).unwrap();
    let set_port = |scene: &Scene, port| {
        let set = |control: &mut Control| control.proxy_port = PortBe::new(port);
        scene.tables.control(&scene.ground, set);
    };
    set_port(&scene, 0);
    assert_eq!(scene.dial(FORMS[0]).unwrap_err(), Some(libc::EHOSTDOWN));
    set_port(&scene, PORT);
    scene.listeners.clear();
    assert_eq!(scene.dial(FORMS[0]).unwrap_err(), Some(libc::EHOSTDOWN));
}

#[test]
fn an_agent_whose_sockets_the_hooks_do_not_see_captures_nothing() {
    let Some(mut scene) = Scene::away() else {
        return;
    };
    let inside = UdpSocket::from(client(&mut scene.ground, Kind::Udp, false));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket2::SockRef::from(&inside)
        .bind(&address.into())
        .unwrap();
    assert!(scene.ground.kernel.sees(&inside).unwrap());
    let outside = UdpSocket::bind(address).unwrap();
    assert!(!scene.ground.kernel.sees(&outside).unwrap());
    let error = scene.ground.kernel.set_proxy_port(PORT + 1).unwrap_err();
    assert!(error.to_string().contains("--cgroup"), "{error}");
    let port = |scene: &Scene| {
        scene
            .ground
            .maps
            .control
            .get(&0)
            .unwrap()
            .unwrap()
            .proxy_port
    };
    assert_eq!(port(&scene), PortBe::new(PORT));
    scene.ground.kernel.set_proxy_port(0).unwrap();
    assert_eq!(port(&scene), PortBe(0));
}

#[test]
fn what_a_captured_socket_dials_after_a_failure_is_its_own() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Open)));
    let socket = scene.dial(FORMS[0]).unwrap();
    let (accepted, from) = scene.accept(FORMS[0]);
    assert!(scene.take(from).is_some());
    // Reset, so that the socket can dial anew.
    socket2::SockRef::from(&accepted)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(accepted);
    wait_for("the reset", PATIENCE, || {
        socket.take_error().unwrap().is_some()
    })
    .unwrap();
    scene.wait_for_nothing_left();
    scene.listeners.clear();
    let server = scene.servers[0].local_addr().unwrap();
    for to in [server, FORMS[0]] {
        crate::sys::disconnect(&socket).unwrap();
        socket.connect(&to.into()).unwrap();
        assert_eq!(peer(&socket), to);
        drop(scene.servers[0].accept().unwrap());
    }
    assert_eq!(scene.counters().open, 0);
}

#[test]
fn consumers_of_one_namespace_are_captured_and_no_others() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let goes_to_agent = |scene: &mut Scene, names: &[&str]| {
        scene.serve(Some(of_namespaces(names)));
        let socket = scene.dial(FORMS[0]).unwrap();
        let captured = scene.counters().open == 1;
        if captured {
            drop(scene.accept(FORMS[0]));
        } else {
            drop(scene.servers[0].accept().unwrap());
        }
        drop(socket);
        scene.wait_for_nothing_left();
        captured
    };
    assert!(goes_to_agent(&mut scene, &["default"]));
    assert!(!goes_to_agent(&mut scene, &["other"]));
    assert!(!goes_to_agent(&mut scene, &[]));
    assert!(goes_to_agent(&mut scene, &["other", "default"]));
    assert_eq!(scene.ground.maps.captures.count().unwrap(), 4);
    // Another agent knows them, and takes them away.
    scene.ground.restart();
    scene
        .tables
        .control(&scene.ground, |control| control.agent_tgid = 0);
    scene
        .ground
        .set_modes(mesh_agent::model::workload::Acceleration::On);
    assert!(goes_to_agent(&mut scene, &["default"]));
    assert_eq!(scene.ground.maps.captures.count().unwrap(), 2);
    scene.balance([]);
    wait_for("what is gone to be forgotten", PATIENCE, || {
        scene.ground.kernel.tick().unwrap();
        scene.ground.maps.captures.count().unwrap() == 0
    })
    .unwrap();
}

#[test]
fn datagrams_and_the_agents_own_connections_are_not_captured() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let udp = client(&mut scene.ground, Kind::Udp, false);
    udp.connect(&FORMS[0].into()).unwrap();
    assert_eq!(peer(&udp), FORMS[0]);
    // By its mark, whoever connects it.
    let server = scene.servers[0].local_addr().unwrap();
    let marked = scene.upstream(FORMS[0], server);
    marked.connect(&server.into()).unwrap();
    assert_eq!(peer(&marked), server);
    drop(scene.servers[0].accept().unwrap());
    // Even where the backend's address is a service's.
    let loops = scene.upstream(FORMS[0], FORMS[0]);
    loops.set_nonblocking(true).unwrap();
    let begun = loops.connect(&FORMS[0].into()).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
    // By its process.
    let own = std::process::id();
    scene
        .tables
        .control(&scene.ground, |control| control.agent_tgid = own);
    let unmarked = scene.socket(FORMS[0]);
    unmarked.set_nonblocking(true).unwrap();
    let begun = unmarked.connect(&FORMS[0].into()).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
    assert_eq!(scene.counters().open, 0);
    scene.listeners[0].set_nonblocking(true).unwrap();
    let nobody = scene.listeners[0].accept().unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
}

#[test]
fn no_connect_fails_while_a_service_changes_between_both_ways() {
    const CONNECTS: u32 = 3000;
    const CONNECTS_PER_WAY: u32 = 100;
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(None);
    let sockets: Vec<_> = (0..CONNECTS).map(|_| scene.socket(FORMS[0])).collect();
    for listener in [&scene.listeners[0], &scene.servers[0]] {
        listener.set_nonblocking(true).unwrap();
    }
    let over = AtomicBool::new(false);
    let changes = AtomicU32::new(0);
    let (mut by_agent, mut direct) = (0, 0);
    std::thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            for (number, socket) in (0..).zip(&sockets) {
                // Some in each way at least, however the threads are scheduled.
                while changes.load(Ordering::SeqCst) < number / CONNECTS_PER_WAY {
                    std::thread::yield_now();
                }
                socket.connect(&FORMS[0].into()).unwrap();
                assert_eq!(peer(socket), FORMS[0]);
                socket.shutdown(std::net::Shutdown::Both).unwrap();
            }
            over.store(true, Ordering::SeqCst);
        });
        let ways = [
            Some(all(Fail::Closed)),
            None,
            Some(of_namespaces(&["default"])),
            Some(all(Fail::Open)),
            Some(of_namespaces(&["other"])),
        ];
        for way in ways.iter().cycle() {
            scene.serve(way.clone());
            changes.fetch_add(1, Ordering::SeqCst);
            // Not all of them, or one way would hold as long as they come.
            for _ in 0..100 {
                let Ok((accepted, from)) = scene.listeners[0].accept() else {
                    break;
                };
                assert_eq!(scene.take(from), Some((id("web"), FORMS[0])));
                // Not earlier: the client has closed its end, and would be gone.
                drop(accepted);
                by_agent += 1;
            }
            while scene.servers[0].accept().is_ok() {
                direct += 1;
            }
            if over.load(Ordering::SeqCst) {
                break;
            }
        }
        dialling.join().unwrap();
    });
    assert!(by_agent > 0 && direct > 0, "{by_agent} {direct}");
    drop(sockets);
    scene.wait_for_nothing_left();
}

#[test]
fn what_carries_requests_is_told_from_what_is_passed_on_and_from_what_is_not_captured() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let server = scene.servers[0].local_addr().unwrap();
    let mut kept = Vec::new();
    // Requests twice, bytes three times, directly once: as many messages each.
    for (carries, times) in [(Carries::Requests, 2), (Carries::Bytes, 3)] {
        let socket = scene.upstream_for(FORMS[0], server, carries);
        socket.connect(&server.into()).unwrap();
        kept.push((socket, times));
    }
    let direct = scene.socket(server);
    direct.connect(&server.into()).unwrap();
    kept.push((direct, 1));
    for (socket, times) in kept {
        let (served, _) = scene.servers[0].accept().unwrap();
        let socket = socket.into();
        for _ in 0..times {
            pass(&socket, &served);
        }
    }
    let client = scene.ground.id(&scene.ground.pods[0]);
    let counted = |requests: u8, is_service: bool| {
        scene.ground.kernel.live_flows().unwrap();
        let rows = scene.ground.kernel.pairs().unwrap();
        let of = rows.iter().filter(|(key, _)| {
            key.source_id == client && key.requests == requests && (key.service != 0) == is_service
        });
        of.fold((0, 0), |(opened, messages), (_, row)| {
            (opened + row.opened, messages + row.tx_messages)
        })
    };
    wait_for("all to be counted", PATIENCE, || {
        counted(0, false) == (1, 1)
    })
    .unwrap();
    assert_eq!(counted(1, true), (1, 2));
    assert_eq!(counted(0, true), (1, 3));
    assert_eq!(counted(1, false), (0, 0));
}

#[test]
fn the_agents_connection_is_the_workloads_flow_and_the_captured_one_is_none() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let server = scene.servers[0].local_addr().unwrap();
    let socket = scene.dial(FORMS[0]).unwrap();
    let (accepted, from) = scene.accept(FORMS[0]);
    assert!(scene.take(from).is_some());
    let upstream = scene.upstream(FORMS[0], server);
    upstream.connect(&server.into()).unwrap();
    let own = upstream.local_addr().unwrap().as_socket().unwrap();
    let (served, seen) = scene.servers[0].accept().unwrap();
    assert_eq!((own, own.ip()), (seen, scene.ground.pods[0].v4().into()));
    let counted = |scene: &Scene| {
        let (_, backends) = scene.ground.kernel.counted(&id("web")).unwrap();
        let own = backends
            .iter()
            .find(|(address, _)| *address == server)
            .unwrap()
            .1;
        (own.open, own.picked)
    };
    assert_eq!(counted(&scene), (1, 1));
    let (socket, upstream) = (socket.into(), upstream.into());
    pass(&socket, &accepted);
    pass(&upstream, &served);
    let live = scene.ground.kernel.live_flows().unwrap();
    assert_eq!(live.iter().map(source).collect::<Vec<_>>(), [own]);
    drop((socket, accepted, upstream, served));
    let mut flows = Vec::new();
    let client = scene.ground.id(&scene.ground.pods[0]);
    let backend = scene.ground.id(&scene.ground.pods[1]);
    scene.wait_for_nothing_left();
    wait_for("the flow's record", PATIENCE, || {
        scene
            .ground
            .records
            .drain(Duration::ZERO, |flow| flows.push(flow));
        !flows.is_empty()
    })
    .unwrap();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    let flow = flows[0];
    assert_eq!(source(&flow), own);
    assert_eq!((flow.source_id, flow.destination_id), (client, backend));
    assert_eq!(IpAddr::from(flow.destination), server.ip());
    assert_eq!((flow.tx_bytes, flow.rx_bytes), (5, 0));
    let named = scene.ground.kernel.service_name(flow.service).unwrap();
    assert_eq!(*named, id("web"));
    assert_eq!(counted(&scene), (0, 1));
    let number = flow.service;
    let entry = scene.ground.maps.services.get(number).unwrap();
    assert_eq!(
        (entry.turn, entry.flags & SERVICE_PROXIED),
        (1, SERVICE_PROXIED)
    );
}
