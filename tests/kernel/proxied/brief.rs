//! Captured clients' sockets without a state: they are as any other to the application and to the agent, and nothing stays of them.

use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use aya_obj::generated::bpf_attach_type::BPF_CGROUP_INET4_CONNECT;
use mesh_agent::model::balanced::Fail;
use mesh_agent::model::observed::KernelView as _;
use mesh_agent::model::workload::Acceleration;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::handover::{BRIEF_PLACES, Brief, CaptureCounters};
use mesh_common::limits;
use mesh_common::reason::Reason;
use mesh_common::redirect::SHORT_FLOWS_MIN;
use socket2::Socket;

use crate::ground::source;
use crate::services::peer;

use super::scene::{FORMS, Scene, all, id, pass};

/// Returns a scene whose client is not accelerated, so that its captured sockets need no state.
fn brief_scene() -> Option<Scene> {
    let scene = Scene::new()?;
    scene.serve(Some(all(Fail::Closed)));
    scene.ground.set_modes(Acceleration::Off);
    Some(scene)
}

/// Returns a socket that dialled and has no state: a few have one all the same.
fn dial_brief(scene: &mut Scene, dialled: SocketAddr) -> Socket {
    for _ in 0..1000 {
        let socket = scene.dial(dialled).unwrap();
        if scene.state(&socket).is_none() {
            return socket;
        }
        let (accepted, from) = scene.accept(dialled);
        assert!(scene.take(from).is_some());
        drop((socket, accepted));
    }
    panic!("all of them have a state");
}

#[test]
fn they_see_what_they_dialled_and_the_agent_is_told_once() {
    let Some(mut scene) = brief_scene() else {
        return;
    };
    let own = scene.ground.pods[0].addresses();
    for dialled in FORMS {
        let socket = dial_brief(&mut scene, dialled);
        assert_eq!(scene.ground.maps.briefs.count(), 1);
        assert_eq!(scene.counters().open, 1);
        let (accepted, from) = scene.accept(dialled);
        let name = socket.local_addr().unwrap().as_socket().unwrap();
        assert!(own.contains(&name.ip().to_canonical()), "{name}");
        assert_eq!(peer(&socket), dialled);
        let canonical = SocketAddr::new(dialled.ip().to_canonical(), 80);
        assert_eq!(scene.take(from), Some((id("web"), canonical)));
        assert_eq!(scene.take(from), None, "it is taken once");
        assert_eq!(peer(&socket), dialled, "after that, too");
        let socket = socket.into();
        pass(&socket, &accepted);
        pass(&accepted, &socket);
        drop((socket, accepted));
        scene.wait_for_nothing_left();
    }
    // Neither end is a flow: the agent's connection to the backend is.
    assert!(scene.ground.kernel.live_flows().unwrap().is_empty());
    scene
        .ground
        .records
        .drain(Duration::ZERO, |flow| panic!("{} is a flow", source(&flow)));
}

#[test]
fn where_flows_were_short_most_have_no_state_and_some_tell_how_long_they_are() {
    const FLOWS: u32 = 200;
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let mut reasons = Vec::new();
    for number in 0..FLOWS {
        let socket = scene.dial(FORMS[0]).unwrap();
        let (accepted, from) = scene.accept(FORMS[0]);
        assert!(scene.take(from).is_some());
        let state = scene.state(&socket);
        if number < SHORT_FLOWS_MIN {
            assert!(state.is_some(), "{number} are too few to tell");
        }
        if number > SHORT_FLOWS_MIN {
            reasons.push(state.map(|state| state.reason));
        }
        pass(&socket.into(), &accepted);
        drop(accepted);
        scene.wait_for_nothing_left();
    }
    let (with, without): (Vec<_>, Vec<_>) = reasons.into_iter().partition(Option::is_some);
    // One of sixteen, give or take.
    assert!((2..60).contains(&with.len()), "{with:?}");
    assert!(without.len() > 100, "{without:?}");
    assert!(
        with.iter()
            .all(|reason| *reason == Some(Reason::Short as u32))
    );
    // Once they are longer, all have one again.
    let is_long = |scene: &mut Scene| {
        let socket = scene.dial(FORMS[0]).unwrap();
        let (accepted, _) = scene.accept(FORMS[0]);
        let redirected = scene.state(&socket).is_some_and(|it| it.reason == 0);
        let socket = socket.into();
        (0..200).for_each(|_| pass(&socket, &accepted));
        redirected
    };
    assert!((0..500).any(|_| is_long(&mut scene)));
}

#[test]
fn whoever_is_observed_has_a_state() {
    let Some(mut scene) = brief_scene() else {
        return;
    };
    scene.ground.set_modes(Acceleration::Observe);
    for _ in 0..20 {
        let socket = scene.dial(FORMS[0]).unwrap();
        assert!(scene.state(&socket).is_some());
    }
}

#[test]
fn a_client_that_is_gone_leaves_nothing() {
    let Some(mut scene) = brief_scene() else {
        return;
    };
    for dialled in FORMS {
        let socket = dial_brief(&mut scene, dialled);
        // At once, by a reset.
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        drop(socket);
        assert_eq!(scene.ground.maps.briefs.count(), 0);
        let (_accepted, from) = scene.accept(dialled);
        assert_eq!(scene.take(from), None);
    }
    // And not before it is: what it has closed alone is still one.
    let socket = dial_brief(&mut scene, FORMS[0]);
    socket.shutdown(Shutdown::Write).unwrap();
    let (accepted, from) = scene.accept(FORMS[0]);
    assert!(scene.take(from).is_some());
    drop(accepted);
    scene.wait_for_nothing_left();
    // The port may be free before the descriptor is.
    assert_eq!(scene.counters().open, 0);
    drop(socket);
    assert_eq!(scene.counters(), CaptureCounters::default());
}

#[test]
fn a_socket_that_finds_no_place_gets_a_state() {
    let Some(mut scene) = brief_scene() else {
        return;
    };
    let own = scene.ground.pods[0].v4();
    let first = Brief::first_place(scene.netns, PortBe::new(4720));
    let places = (0..BRIEF_PLACES).map(|next| {
        let places = u32::try_from(limits::BRIEFS).unwrap();
        (first + next) % places
    });
    for place in places.clone() {
        let other = Brief {
            cookie: 1 << 40 | u64::from(place),
            netns: scene.netns,
            address: Addr::v4(own.octets()),
            port: PortBe::new(1),
            ..Brief::default()
        };
        scene.tables.brief(place, &other);
    }
    let socket = scene.socket(FORMS[0]);
    socket.bind(&SocketAddr::from((own, 4720)).into()).unwrap();
    socket.connect(&FORMS[0].into()).unwrap();
    assert!(scene.state(&socket).is_some());
    assert_eq!(scene.counters().open, 1);
    assert_eq!(peer(&socket), FORMS[0]);
    let (accepted, from) = scene.accept(FORMS[0]);
    assert_eq!(scene.take(from), Some((id("web"), FORMS[0])));
    drop((socket, accepted));
    for place in places {
        scene.tables.brief(place, &Brief::default());
    }
    scene.wait_for_nothing_left();
}

#[test]
fn a_socket_that_dials_again_is_what_it_dials_then() {
    let Some(mut scene) = brief_scene() else {
        return;
    };
    let server = scene.servers[0].local_addr().unwrap();
    let socket = dial_brief(&mut scene, FORMS[0]);
    let (accepted, from) = scene.accept(FORMS[0]);
    assert!(scene.take(from).is_some());
    drop(accepted);
    crate::sys::disconnect(&socket).unwrap();
    assert_eq!(scene.ground.maps.briefs.count(), 0);
    assert_eq!(scene.counters().open, 0);
    // A pod's own address is no service.
    socket.connect(&server.into()).unwrap();
    assert_eq!(peer(&socket), server);
    assert!(scene.state(&socket).is_some());
    let own = socket.local_addr().unwrap().as_socket().unwrap();
    assert!(scene.ground.live(own).is_some());
    drop(scene.servers[0].accept().unwrap());
    crate::sys::disconnect(&socket).unwrap();
    // And the other way, now that it has a state.
    socket.connect(&FORMS[0].into()).unwrap();
    assert_eq!(peer(&socket), FORMS[0]);
    let (_accepted, from) = scene.accept(FORMS[0]);
    assert_eq!(scene.take(from), Some((id("web"), FORMS[0])));
}

#[test]
fn beyond_the_bound_they_are_refused() {
    let Some(mut scene) = brief_scene() else {
        return;
    };
    let full = CaptureCounters {
        open: limits::CAPTURED as u64,
        ..CaptureCounters::default()
    };
    scene.ground.maps.captured.set(&0, &full).unwrap();
    for dialled in FORMS {
        assert_eq!(scene.dial(dialled).unwrap_err(), Some(libc::ENOBUFS));
    }
    assert_eq!(scene.counters(), CaptureCounters { refused: 3, ..full });
}

#[test]
fn a_dial_that_came_to_nothing_is_not_taken_for_the_next_one() {
    // Denied by another tool: "r0 = 0; exit".
    const DENIES: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let Some(mut scene) = brief_scene() else {
        return;
    };
    let program = crate::sys::load_connect4(&DENIES).unwrap();
    let cgroup = std::fs::File::open(scene.ground.pods[0].cgroup()).unwrap();
    let link = crate::sys::attach(program.as_fd(), cgroup.as_fd(), BPF_CGROUP_INET4_CONNECT);
    let sockets: Vec<_> = (0..32).map(|_| scene.socket(FORMS[0])).collect();
    for socket in &sockets {
        let error = socket.connect(&FORMS[0].into()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
    drop(link.unwrap());
    let server = scene.servers[0].local_addr().unwrap();
    for socket in sockets {
        socket.connect(&server.into()).unwrap();
        assert_eq!(peer(&socket), server);
        assert!(scene.state(&socket).is_some());
        drop(scene.servers[0].accept().unwrap());
    }
    scene.wait_for_nothing_left();
}
