//! Both legs of a connection through the agent are accelerated, each by the word of the one application that is at its end.

use std::net::TcpStream;
use std::time::Duration;

use harness::wait::PATIENCE;
use harness::wait_for;
use mesh_agent::model::balanced::Fail;
use mesh_agent::model::observed::KernelView as _;
use mesh_agent::model::workload::Acceleration;
use mesh_common::reason::Reason;
use mesh_common::sock::{FLAG_AGENT, FLAG_CAPTURED, FLAG_MEMBER, FLAG_PEER_AGENT};

use super::scene::{FORMS, Scene, all, pass};

/// The four sockets of a connection through the agent, from client to server.
struct Chain([TcpStream; 4]);

impl Chain {
    fn new(scene: &mut Scene, form: usize) -> Self {
        let dialled = FORMS[form];
        let v6 = usize::from(dialled.ip().to_canonical().is_ipv6());
        let server = scene.servers[v6].local_addr().unwrap();
        let client = scene.dial(dialled).unwrap();
        let (accepted, from) = scene.accept(dialled);
        assert!(scene.take(from).is_some());
        let upstream = scene.upstream(dialled, server);
        upstream.connect(&server.into()).unwrap();
        let (served, _) = scene.servers[v6].accept().unwrap();
        let chain = Self([client.into(), accepted, upstream.into(), served]);
        // `accept` may return while the handshake's end is still being dealt with on another core.
        // An end that accepted has no state of its own where the other is out, nor has a captured one that is.
        let is_in = |socket| scene.state(socket).map(|it| it.flags & FLAG_MEMBER != 0);
        let is_out = |socket| {
            let state = scene.state(socket);
            state.is_some_and(|it| it.reason != Reason::None as u32)
        };
        wait_for("all ends to be in or out", PATIENCE, || {
            let [client, accepted, upstream, served] = &chain.0;
            let decided = |socket| is_in(socket) == Some(true) || is_out(socket);
            let leg = |dialled, taken| {
                let stateless = is_in(taken).is_none() && is_out(dialled);
                decided(dialled) && (decided(taken) || stateless)
            };
            let is_brief = scene.state(client).is_none() && is_in(accepted).is_none();
            (is_brief || leg(client, accepted)) && leg(upstream, served)
        })
        .unwrap();
        chain
    }

    /// Sends something each way through all of it, some times.
    fn talk(&self, times: u32) {
        let [client, accepted, upstream, served] = &self.0;
        for _ in 0..times {
            pass(client, accepted);
            pass(upstream, served);
            pass(served, upstream);
            pass(accepted, client);
        }
    }

    /// Returns how many messages each socket has sent by redirect.
    fn redirected(&self, scene: &Scene) -> [u64; 4] {
        let own = |socket| {
            let state = scene.state(socket);
            state.map_or(0, |it| it.redirect_tx_messages)
        };
        self.0.each_ref().map(own)
    }

    fn reasons(&self, scene: &Scene) -> [Option<Reason>; 4] {
        let own = |socket| {
            let state = scene.state(socket)?;
            Reason::from_number(u8::try_from(state.reason).unwrap())
        };
        self.0.each_ref().map(own)
    }
}

#[test]
fn every_message_of_both_legs_is_redirected() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    for form in 0..FORMS.len() {
        let chain = Chain::new(&mut scene, form);
        let flags = chain.0.each_ref().map(|socket| {
            let flags = scene.state(socket).unwrap().flags;
            flags & (FLAG_AGENT | FLAG_PEER_AGENT | FLAG_CAPTURED | FLAG_MEMBER)
        });
        assert_eq!(
            flags,
            [
                FLAG_MEMBER | FLAG_CAPTURED | FLAG_PEER_AGENT,
                FLAG_MEMBER | FLAG_AGENT,
                FLAG_MEMBER | FLAG_AGENT,
                FLAG_MEMBER | FLAG_PEER_AGENT,
            ]
        );
        chain.talk(20);
        assert_eq!(chain.redirected(&scene), [20; 4]);
    }
}

#[test]
fn each_leg_goes_by_the_word_of_its_own_application() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let none = Some(Reason::None);
    for (client, server, expected) in [
        (Acceleration::Off, Acceleration::On, [0, 0, 5, 5]),
        (Acceleration::On, Acceleration::Off, [5, 5, 0, 0]),
        (Acceleration::Off, Acceleration::Off, [0; 4]),
    ] {
        let [one, other] = &scene.ground.pods;
        scene
            .ground
            .apply(&[(one, "1", client), (other, "1", server)]);
        let chain = Chain::new(&mut scene, 0);
        chain.talk(5);
        assert_eq!(chain.redirected(&scene), expected);
        let reasons = chain.reasons(&scene);
        for (reason, messages) in reasons.iter().zip(expected) {
            if messages > 0 {
                assert_eq!(*reason, none);
            } else {
                assert!(
                    matches!(reason, None | Some(Reason::ModeOff)),
                    "{reasons:?}"
                );
            }
        }
    }
    // Also on a connection that lives.
    scene.ground.set_modes(Acceleration::On);
    let chain = Chain::new(&mut scene, 0);
    chain.talk(5);
    let [one, other] = &scene.ground.pods;
    scene.ground.apply(&[
        (one, "1", Acceleration::Off),
        (other, "1", Acceleration::On),
    ]);
    chain.talk(5);
    assert_eq!(chain.redirected(&scene), [5, 5, 10, 10]);
    scene.ground.kernel.set_redirect(false).unwrap();
    chain.talk(5);
    assert_eq!(chain.redirected(&scene), [5, 5, 10, 10]);
}

#[test]
fn what_the_agent_does_is_not_held_against_the_workload() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    scene.ground.set_modes(Acceleration::Observe);
    let chain = Chain::new(&mut scene, 0);
    let [client, accepted, upstream, _served] = &chain.0;
    // Blocking calls, and options that redirect does not honour.
    chain.talk(3);
    for socket in [accepted, upstream] {
        let lowat = 2i32.to_ne_bytes();
        crate::sys::set_option(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &lowat).unwrap();
    }
    let id = scene.ground.id(&scene.ground.pods[0]);
    let seen = |scene: &Scene| scene.ground.maps.admissions.get(id).unwrap();
    assert_eq!(seen(&scene).reads, 3, "the client's own");
    let rcvlowat = mesh_common::behaviour::RCVLOWAT;
    assert_eq!(seen(&scene).behaviours & rcvlowat, 0);
    assert_ne!(scene.state(accepted).unwrap().behaviours & rcvlowat, 0);
    let lowat = 2i32.to_ne_bytes();
    crate::sys::set_option(client, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &lowat).unwrap();
    assert_ne!(seen(&scene).behaviours & rcvlowat, 0);
}

#[test]
fn captured_connections_that_are_too_short_to_gain_stay_on_tcp() {
    const FLOWS: u32 = mesh_common::redirect::SHORT_FLOWS_MIN + 2;
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    for _ in 0..FLOWS {
        let chain = Chain::new(&mut scene, 0);
        chain.talk(1);
        drop(chain);
        scene.wait_for_nothing_left();
        wait_for("the flow to end", PATIENCE, || {
            let mut ended = false;
            scene.ground.records.drain(Duration::ZERO, |_| ended = true);
            ended
        })
        .unwrap();
    }
    let chain = Chain::new(&mut scene, 0);
    chain.talk(5);
    assert_eq!(chain.redirected(&scene), [0; 4]);
    assert!(matches!(
        chain.reasons(&scene)[0],
        None | Some(Reason::Short)
    ));
    assert_eq!(chain.reasons(&scene)[2], Some(Reason::Short));
    assert_eq!(scene.ground.kernel.live_flows().unwrap().len(), 1);
}
