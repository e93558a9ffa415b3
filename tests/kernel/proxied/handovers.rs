//! What the agent is told of a connection: its own, once, and while there is a connection to tell of.

use std::collections::HashMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;

use aya_obj::generated::bpf_attach_type::BPF_CGROUP_INET4_CONNECT;
use harness::wait::PATIENCE;
use harness::wait_for;
use mesh_agent::model::balanced::Fail;
use mesh_common::close::CloseReason;
use mesh_common::handover::CaptureCounters;
use mesh_common::limits;

use crate::sys;

use super::scene::{FORMS, Scene, all, id};

#[test]
fn each_of_400_connections_at_once_finds_its_own() {
    const CLIENTS: u16 = 400;
    const THREADS: usize = 8;
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let vip = |number: u16| {
        SocketAddr::from((Ipv4Addr::new(10, 96, 1, u8::try_from(number).unwrap()), 80))
    };
    let services: [_; 8] = std::array::from_fn(|number| {
        let number = u16::try_from(number).unwrap();
        let mut service = scene.service(Some(all(Fail::Closed)));
        service.id = id(&format!("s{number}"));
        service.frontends = vec![vip(number)];
        service
    });
    scene.balance(services);
    let sockets: Vec<_> = (0..CLIENTS)
        .map(|number| (vip(number % 8), scene.socket(FORMS[0])))
        .collect();
    std::thread::scope(|scope| {
        for part in sockets.chunks(sockets.len() / THREADS) {
            scope.spawn(move || {
                for (dialled, socket) in part {
                    socket.connect(&(*dialled).into()).unwrap();
                }
            });
        }
        let mut told = HashMap::new();
        let mut kept = Vec::new();
        for _ in 0..CLIENTS {
            let (accepted, from) = scene.accept(FORMS[0]);
            // There before it could be accepted.
            let (service, dialled) = scene.take(from).unwrap();
            assert_eq!(
                service,
                id(&format!(
                    "s{}",
                    dialled.ip().to_string().rsplit('.').next().unwrap()
                ))
            );
            told.insert(from.port(), dialled);
            kept.push(accepted);
        }
        for (dialled, socket) in &sockets {
            let own = socket.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(told.get(&own.port()), Some(dialled));
        }
    });
    assert_eq!(scene.counters().open, u64::from(CLIENTS));
    drop(sockets);
    scene.wait_for_nothing_left();
    assert_eq!(scene.counters(), CaptureCounters::default());
}

#[test]
fn nothing_stays_of_a_client_that_is_gone_before_it_was_accepted() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    for dialled in FORMS {
        let socket = scene.dial(dialled).unwrap();
        assert_eq!(scene.ground.maps.handovers.count().unwrap(), 1);
        // At once, by a reset.
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(socket);
        assert_eq!(scene.ground.maps.handovers.count().unwrap(), 0);
        assert_eq!(scene.counters().open, 0);
        let (_accepted, from) = scene.accept(dialled);
        assert_eq!(scene.take(from), None);
    }
    // In another namespace nobody has dialled.
    let _socket = scene.dial(FORMS[0]).unwrap();
    let (_accepted, from) = scene.accept(FORMS[0]);
    let other = crate::ground::netns(&scene.ground.pods[1]);
    assert_eq!(scene.ground.kernel.take_handover(other, from), None);
    assert!(scene.take(from).is_some());
}

#[test]
fn who_dials_the_agents_port_itself_has_dialled_nothing() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let listener = scene.listeners[0].local_addr().unwrap();
    let _socket = scene.dial(listener).unwrap();
    let (_accepted, from) = scene.accept(listener);
    assert_eq!(scene.take(from), None);
}

#[test]
fn a_connect_that_comes_to_nothing_gives_its_place_back() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    // Captured, and denied by another tool: "r0 = 0; exit".
    const DENIES: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let program = sys::load_connect4(&DENIES).unwrap();
    let cgroup = File::open(scene.ground.pods[0].cgroup()).unwrap();
    let link = sys::attach(program.as_fd(), cgroup.as_fd(), BPF_CGROUP_INET4_CONNECT).unwrap();
    let (socket, other) = (scene.socket(FORMS[0]), scene.socket(FORMS[0]));
    for _ in 0..2 {
        for socket in [&socket, &other] {
            let error = socket.connect(&FORMS[0].into()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        }
        assert_eq!(scene.counters().open, 2);
    }
    assert_eq!(scene.ground.maps.handovers.count().unwrap(), 0);
    drop(link);
    let server = scene.servers[0].local_addr().unwrap();
    socket.connect(&server.into()).unwrap();
    assert_eq!(scene.counters().open, 1);
    drop(other);
    assert_eq!(scene.counters().open, 0);
}

#[test]
fn beyond_the_bound_a_connect_is_refused_and_counted() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Open)));
    let full = CaptureCounters {
        open: limits::CAPTURED as u64,
        ..CaptureCounters::default()
    };
    let map = &scene.ground.maps.captured;
    map.set(&0, &full).unwrap();
    for dialled in FORMS {
        assert_eq!(scene.dial(dialled).unwrap_err(), Some(libc::ENOBUFS));
    }
    assert_eq!(scene.counters(), CaptureCounters { refused: 3, ..full });
    let mut closes = Vec::new();
    wait_for("the records", PATIENCE, || {
        let records = &mut scene.ground.records;
        records.drain(std::time::Duration::ZERO, |flow| closes.push(flow.close));
        closes.len() == 3
    })
    .unwrap();
    assert_eq!(closes, [CloseReason::AgentBusy as u8; 3]);
    let one_left = CaptureCounters {
        open: full.open - 1,
        ..full
    };
    scene.ground.maps.captured.set(&0, &one_left).unwrap();
    let socket = scene.dial(FORMS[0]).unwrap();
    assert_eq!(scene.dial(FORMS[0]).unwrap_err(), Some(libc::ENOBUFS));
    let dial = scene.ground.dial(&socket).unwrap();
    assert_ne!(dial.counted, 0);
    // Who closes makes room.
    let (accepted, _) = scene.accept(FORMS[0]);
    drop((socket, accepted));
    wait_for("room", PATIENCE, || scene.counters().open == one_left.open).unwrap();
    scene.dial(FORMS[0]).unwrap();
}
