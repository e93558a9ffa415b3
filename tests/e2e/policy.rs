//! Policies as users write them, and what becomes of connections.

use std::fs;

use harness::manifest::Acceleration;
use harness::remote::errno;
use harness::remote::protocol::{Call, Kind, Piece};
use harness::wait::PATIENCE;
use harness::{Remote, wait_for};

use crate::world::{MIXED, World, exchange};

/// Lets nobody in but from an address that nobody has.
const CLOSED: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: closed\n  \
                      namespace: default\nspec:\n  podSelector: {}\n  policyTypes: [Ingress]\n  ingress:\n  - from:\n    - \
                      ipBlock:\n        cidr: 192.0.2.1/32\n";

/// Writes the policy at one stroke.
fn write(world: &World) {
    let draft = world.node.files().join("policy.draft");
    fs::write(&draft, CLOSED).unwrap();
    fs::rename(&draft, world.node.manifests().join("policy.yaml")).unwrap();
}

fn wait_for_dial(world: &World, expected: Option<i32>) {
    let listener = world.server.listen().unwrap();
    wait_for("the policy to reach the kernel", PATIENCE, || {
        let socket = world.client.connect(listener.local);
        let error = errno(&socket);
        if let Ok(socket) = socket {
            socket.close().unwrap();
        }
        error == expected
    })
    .unwrap();
}

#[test]
fn a_policy_denies_new_connections_and_resets_those_that_live() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let outside = world.node.pod("outside").unwrap();
    let outsider = Remote::start(&outside).unwrap();
    let (client, server) = world.join();
    let listener = world.server.listen_v6().unwrap();
    let (far, far_end) = outsider.join(&listener).unwrap();
    let pieces = (Piece::first(1, 1000), Piece::first(2, 1000));
    exchange((&client, &server), pieces, MIXED);
    exchange((&far, &far_end), pieces, MIXED);
    write(&world);
    wait_for_dial(&world, Some(libc::EPERM));
    // Whichever end is reset, the other hears of it.
    for (one, other) in [(&client, &server), (&far, &far_end)] {
        for end in [one, other] {
            let poll = Call::Poll {
                events: libc::POLLIN,
                timeout: 20_000,
            };
            let seen = end.call(poll).unwrap().count;
            assert_ne!(
                seen & u64::from(libc::POLLHUP.cast_unsigned()),
                0,
                "{}",
                end.local
            );
        }
    }
    let refused = outsider.connect(listener.local);
    assert_eq!(errno(&refused), Some(libc::ECONNREFUSED));
    // Datagrams, too.
    let socket = world.client.bare(Kind::Udp, false).unwrap();
    let send = Call::Send {
        bytes: vec![1],
        flags: 0,
        to: Some((world.pods[1].v4(), 9).into()),
    };
    assert_eq!(errno(&socket.call(send)), Some(libc::EPERM));
    // Without an agent, and with the next one.
    world.agent_mut().kill9().unwrap();
    wait_for_dial(&world, Some(libc::EPERM));
    assert_eq!(
        errno(&outsider.connect(listener.local)),
        Some(libc::ECONNREFUSED)
    );
    world.agent_mut().start_again().unwrap();
    wait_for_dial(&world, Some(libc::EPERM));
    fs::remove_file(world.node.manifests().join("policy.yaml")).unwrap();
    wait_for_dial(&world, None);
    outsider.connect(listener.local).unwrap();
}

#[test]
fn a_policy_closes_connected_udp_sockets_that_it_denies() {
    let Some(world) = World::new(Some(Acceleration::Off)) else {
        return;
    };
    let outside = world.node.pod("outside").unwrap();
    let send = || Call::Send {
        bytes: vec![1],
        flags: 0,
        to: None,
    };
    let connect = |to: std::net::IpAddr| {
        let socket = world
            .client
            .connect_from(None, (to, 9999).into(), Kind::Udp);
        socket.unwrap()
    };
    let denied = world.pods[1].addresses().map(connect);
    // The policy lets nobody in, and says nothing of who goes out.
    let allowed = outside.addresses().map(connect);
    write(&world);
    for socket in &denied {
        let poll = Call::Poll {
            events: libc::POLLERR,
            timeout: 20_000,
        };
        assert_ne!(socket.call(poll).unwrap().count, 0, "{}", socket.local);
        let receive = Call::Receive {
            length: 1,
            flags: libc::MSG_DONTWAIT,
        };
        assert_eq!(errno(&socket.call(receive)), Some(libc::ECONNABORTED));
        // It is connected to nobody now.
        assert_eq!(errno(&socket.call(send())), Some(libc::EDESTADDRREQ));
    }
    for socket in &allowed {
        let poll = Call::Poll {
            events: libc::POLLERR,
            timeout: 0,
        };
        assert_eq!(socket.call(poll).unwrap().count, 0, "{}", socket.local);
        assert_eq!(errno(&socket.call(send())), None);
    }
}

#[test]
fn the_machines_own_probes_pass() {
    let Some(world) = World::new(Some(Acceleration::Off)) else {
        return;
    };
    write(&world);
    wait_for_dial(&world, Some(libc::EPERM));
    for listener in [
        world.server.listen().unwrap(),
        world.server.listen_v6().unwrap(),
    ] {
        let probe = || std::net::TcpStream::connect(listener.local).map(drop);
        world.node.enter(probe).unwrap().unwrap();
    }
}
